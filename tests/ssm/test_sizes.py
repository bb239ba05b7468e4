"""Sizes that are no whole numbers are refused by name, whatever the mixer."""

from types import SimpleNamespace

import numpy as np
import pytest

from ssm import checks, dss, gated, rtf, s4, s4d, s5, selective, ssd, stack

CONFIGS = {
    "s4": lambda **sizes: s4.Config(**{"channels": 4, "length": 8, **sizes}),
    "s4d": lambda **sizes: s4d.Config(**{"channels": 4, "modes": 2, **sizes}),
    "s5": lambda **sizes: s5.Config(**{"channels": 4, "modes": 2, **sizes}),
    "dss": lambda **sizes: dss.Config(**{"channels": 4, "length": 8, **sizes}),
    "rtf": lambda **sizes: rtf.Config(**{"channels": 4, "length": 8, "size": 4, **sizes}),
    "gated": lambda **sizes: gated.Config(**{"channels": 4, "length": 8, "size": 4, **sizes}),
    "mamba": lambda **sizes: selective.Config(**{"channels": 4, **sizes}),
    "mamba2": lambda **sizes: ssd.Config(**{"channels": 4, "head_dim": 4, **sizes}),
    "stack": lambda **sizes: stack.Config(**{"channels": 4, "outputs": 1, **sizes}),
}
OTHERS = {"s4": "length", "s4d": "modes", "s5": "blocks", "dss": "modes", "gated": "width"}


@pytest.mark.parametrize("value", [0, -1, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_are_whole_and_positive(name, value):
    CONFIGS[name]()
    for size in ("channels", OTHERS.get(name, "channels")):
        with pytest.raises(ValueError, match=f"{size}: expected a whole number of at least 1, got"):
            CONFIGS[name](**{size: value})


@pytest.mark.parametrize("value", [2.5, 4.0, "4", [4]])
def test_other_types_are_refused(value):
    """Apart from a configuration, whose annotations are enforced in the tests and not elsewhere."""
    checks.sizes(SimpleNamespace(a=1, b=None, c=np.int64(3)), "a", "b", "c")
    with pytest.raises(ValueError, match="b: expected a whole number of at least 1, got"):
        checks.sizes(SimpleNamespace(a=1, b=value), "a", "b")
