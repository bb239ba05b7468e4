"""The state-space experiments at tiny sizes: rows, claims, tables and figures."""

import numpy as np
import pytest

from experiments import catalog, commands
from experiments.ssm import (
    basis,
    discretisation,
    kernel_cost,
    memory,
    streaming,
    structure,
)

TINY = {
    "memory": [
        *("--measures", "legs", "fous", "legt", "fout", "--sizes", "4", "8"),
        *("--bands", "2", "--length", "64"),
    ],
    "discretisation": ["--lengths", "64", "128", "256", "--tail", "512", "--tail-window", "8"],
    "basis": ["--sizes", "8", "16", "--shown", "8", "--points", "60"],
    "structure": ["--sizes", "4", "8", "--length", "32", "--dt", "0.03"],
    "streaming": [
        *("--mixers", "s4", "s5", "rtf", "--length", "40", "--prompt", "9"),
        *("--channels", "2", "--size", "4", "--layers", "1"),
    ],
    "rtf_ablation": [
        *("--inits", "zeros", "montel", "--sizes", "2", "8", "--length", "24", "--lag", "5"),
        *("--steps", "150", "--batch", "4", "--channels", "2", "--tests", "4"),
    ],
    "transfer": [
        *("--sizes", "1", "5", "--draws", "1", "--length", "40", "--steps", "0.3"),
        *("--orders", "2", "8", "--reduced_length", "80"),
    ],
    "kernel_cost": [
        *("--lengths", "32", "64", "--sizes", "4", "8", "--channels", "2", "--rounds", "1")
    ],
}


@pytest.mark.sample(1)
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
    elif name == "basis":
        assert record.rows[1]["smooth"] < record.rows[0]["smooth"]
    elif name == "structure":
        assert record.result["roots_2l_fixed"] > 1e-2 > 1e-10 > record.result["roots_2l_by_sign"]
        assert record.result["points_l"] > 1e-2
    elif name == "streaming":
        assert record.result["largest_float64"] < 1e-12
    elif name == "rtf_ablation":
        error = {(r["n"], r["init"], r["constraint"]): r["rmse"] for r in record.rows}
        assert error[8, "zeros", "none"] < 0.5 * error[2, "zeros", "none"]
        assert all(r["outside"] == 0 for r in record.rows if r["constraint"] == "l1")
    elif name == "transfer":
        assert record.result["largest_12"] < 1e-12
        assert record.rows[-1]["own"] < 1e-3
    elif name == "kernel_cost":
        assert len(record.rows) == 2 * (1 + 5 * 2)
        assert all(row["milliseconds"] > 0 for row in record.rows)
        rows = [r["mebibytes"] for r in record.rows if (r["kernel"], r["length"]) == ("rtf", 64)]
        assert rows[0] == rows[1]
    else:
        order = {(r["measure"], r["method"]): r["order"] for r in record.rows}
        assert order["legt", "trapezoid"] > 1.8 and order["legt", "bilinear"] < 1.2


def test_the_exact_states_of_the_cubic_agree_with_many_small_steps():
    for measure in discretisation.METHODS:
        error = discretisation._error(measure, "trapezoid", 4096, 4)
        assert error < 3e-6  # 2.3e-6 as XLA optimises it


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


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (discretisation.Config, {"lengths": (8, 16)}, "lengths, n: expected three lengths"),
        (basis.Config, {"sizes": (8, 9)}, "sizes, shown: expected even numbers of at least 8"),
        (basis.Config, {"horizon": 0.0}, "sizes, horizon, points: expected two sizes"),
        (structure.Config, {"sizes": (4,)}, "sizes, kernel_size: expected two sizes"),
        (structure.Config, {"dt": 0.0}, "length, dt: expected at least 8 samples"),
        (streaming.Config, {"mixers": ("s6",)}, "mixers: expected some of s4, .*got 's6'"),
        (streaming.Config, {"prompt": 8192}, "prompt: expected 1 to 8191 of the 8192 steps"),
        (streaming.Config, {"size": 3}, "size: expected an even number"),
        (kernel_cost.Config, {"kernels": ("s6",)}, "kernels: expected some of floor, .*got 's6'"),
        (kernel_cost.Config, {"sizes": (3,)}, "sizes: expected even numbers"),
        (kernel_cost.Config, {"lengths": ()}, "lengths, sizes: expected numbers of at least 2"),
    ],
)
def test_impossible_configurations_of_the_others(config, change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)
