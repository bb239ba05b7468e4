"""Verdicts: the interval decides, and nothing is rounded in our favour."""

import math

import pytest

from experiments.harness.ledger import Claim, Measurement, judge, markdown, rows


def claim(kind="identity", paper=1.0, tolerance=0.1):
    return Claim("c", "s", "src", lambda _: None, paper, tolerance, kind)


@pytest.mark.parametrize(
    ("kind", "measured", "scale", "verdict"),
    [
        ("identity", (1.0, 0.95, 1.05), "quick", "matches"),
        ("identity", (1.2, 1.15, 1.25), "quick", "differs"),
        ("identity", (1.08, 1.0, 1.2), "quick", "inconclusive"),
        ("identity", (1.0, 0.0, 2.0), "quick", "inconclusive"),
        ("identity", (1.11, 1.11, 1.11), "quick", "differs"),
        ("ordering", (1.5, 1.01, 2.0), "quick", "matches"),
        ("ordering", (1.5, 0.99, 2.0), "quick", "inconclusive"),
        ("ordering", (0.5, 0.2, 1.0), "cpu", "differs"),
        ("ordering", (1.0, 1.0, 1.0), "cpu", "inconclusive"),
        ("value", (1.0, 1.0, 1.0), "cpu", "not comparable at this scale"),
        ("value", (1.0, 1.0, 1.0), "paper", "matches"),
        ("value", (math.nan, math.nan, math.nan), "paper", "inconclusive"),
    ],
)
def test_verdicts(kind, measured, scale, verdict):
    assert judge(claim(kind), Measurement(*measured), scale) == verdict


def test_a_value_of_the_papers_scale_needs_no_number_to_be_out_of_reach():
    assert judge(claim("value"), None, "cpu") == "not comparable at this scale"
    assert judge(claim("value"), None, "paper") == "inconclusive"
    assert judge(claim("value"), None, None) == "inconclusive"


def test_a_claim_without_a_run_is_inconclusive_and_shown_as_not_run():
    table = rows([claim()], None, "command")
    assert table[0]["verdict"] == "inconclusive" and table[0]["ours"] is None
    assert "not run" in markdown(table)
