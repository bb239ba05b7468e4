"""The state-space experiments at tiny sizes: rows, claims, tables and figures."""

import numpy as np
import pytest

from experiments import catalog, commands
from experiments.ssm import discretisation, memory

TINY = {
    "memory": [
        *("--measures", "legs", "fous", "legt", "fout", "--sizes", "4", "8"),
        *("--bands", "2", "--length", "64"),
    ],
    "discretisation": ["--lengths", "64", "128", "256", "--tail", "512", "--tail-window", "8"],
}


@pytest.mark.parametrize("name", TINY)
def test_a_run_has_rows_table_figure_and_measured_claims(name, tmp_path):
    record = commands.run(f"ssm/{name}", "quick", TINY[name], tmp_path / name)
    assert record.rows and all(np.isfinite(v) for v in record.result.values() if np.isscalar(v))
    assert (record.directory / "figure.png").stat().st_size > 0
    assert (record.directory / "table.md").read_text().startswith("| ")
    for claim in catalog.get(f"ssm/{name}").module.CLAIMS:
        measured = claim.measure(record)  # None where a tiny run does not cover it
        assert measured is None or np.isfinite(getattr(measured, "value", measured))
    if name == "memory":
        error = {(r["measure"], r["band"], r["n"]): r["error"] for r in record.rows}
        assert error["legs", 2, 8] < error["legs", 2, 4]
        assert all(r["best"] <= r["error"] * (1 + 1e-9) for r in record.rows)
    else:
        order = {(r["measure"], r["method"]): r["order"] for r in record.rows}
        assert order["legt", "trapezoid"] > 1.8 and order["legt", "bilinear"] < 1.2


def test_the_exact_states_of_the_cubic_agree_with_many_small_steps():
    for measure in discretisation.METHODS:
        error = discretisation._error(measure, "trapezoid", 4096, 4)
        assert error < 2e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": ("lagt",)}, "measures: expected some of legs, .*got 'lagt'"),
        ({"sizes": (0,)}, "sizes, bands: expected integers >= 1"),
        ({"length": 1}, "length: expected at least 2 samples, got 1"),
        ({"window": 1.5}, r"window: expected a fraction in \(0, 1\], got 1.5"),
    ],
)
def test_impossible_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        memory.Config(**change)
    with pytest.raises(ValueError, match="lengths, n: expected three lengths"):
        discretisation.Config(lengths=(8, 16))
