"""Sizes that are no whole numbers, and arguments of other kinds, are refused by name."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
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


def test_lengths_are_whole_numbers_up_to_the_stored_one():
    for value in (1, np.int32(8), jnp.asarray(3)):
        checks.length(value, 8)
    for value, said in (
        (3.0, "a whole number, got 3.0"),
        (np.array(3.0), "a whole number"),
        (True, "a whole"),
        (9, "at least 1 and at"),
    ):
        with pytest.raises(ValueError, match=f"length: expected {said}"):
            checks.length(value, 8)
    config = CONFIGS["s4"]()
    system = s4.system(s4.init(jax.random.key(0), config), config)
    with pytest.raises(ValueError, match=r"length: expected a whole number, got 3\.0"):
        inspect.unwrap(s4.kernel)(system, 3.0)


@pytest.mark.parametrize(
    ("module", "fields"), [(s4, {}), (dss, {"normalization": "softmax"}), (rtf, {})]
)
def test_sequences_beyond_the_stored_length_are_refused_with_the_way_out(module, fields):
    config = CONFIGS[module.__name__.removeprefix("ssm.")](**fields)
    system = module.system(module.init(jax.random.key(0), config), config)
    with pytest.raises(ValueError, match="stored length of 8, got 9; `prefill`"):
        module.apply(system, jnp.ones((1, 9, 4)))


@pytest.mark.parametrize("module", [s4, s4d, s5, dss, rtf])
def test_parameters_and_systems_in_the_place_of_others_are_refused(module):
    config = CONFIGS[module.__name__.removeprefix("ssm.")]()
    params = module.init(jax.random.key(0), config)
    system = module.system(params, config)
    u, state = jnp.ones((1, 3, 4)), module.init_state(system, 1)
    wrong = r"system: expected ssm\.\w+\.System, got dict; of parameters: system\(params, config\)"
    rest = {"kernel": (3,), "apply": (u,), "prepare": (), "prefill": (u, state)}
    for name, arguments in rest.items():
        function = inspect.unwrap(getattr(module, name))
        function(system, *arguments)
        with pytest.raises(ValueError, match=wrong):
            function(params, *arguments)
    for name in ("init", "system"):
        with pytest.raises(ValueError, match=r"config: expected ssm\.\w+\.Config, got "):
            inspect.unwrap(getattr(module, name))(config, params)
    for given in (params, system):
        with pytest.raises(ValueError, match=r"prepared: expected ssm\.\w+\.Step, got .*prepare\("):
            inspect.unwrap(module.step)(given, state, u[:, 0])
