"""Verdicts: the interval decides, and nothing is rounded in our favour."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.harness.ledger import Claim, Measurement, brief, judge, markdown, row
from experiments.harness.run import Record
from experiments.report import summary


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
    one = row("a/b", claim(), None, "command")
    assert one["verdict"] == "inconclusive" and one["ours"] is None and one["seeds"] is None
    assert "not run" in markdown([one]) and "not run" in brief([one])
    assert "not in quick" in brief([{**one, "scale": "quick"}])


@pytest.mark.parametrize(
    ("config", "seeds"),
    [
        ({}, None),
        ({"training": {"seed": 3}}, 1),
        ({"training": {"seed": 0}, "comparison": {"seeds": 5, "tuning_seeds": 9}}, 5),
        ({"seeds": [0, 1, 2]}, 3),
    ],
)
def test_seeds_are_counted_from_the_configuration(config, seeds):
    record = Record(Path(), {"preset": "cpu", "config": config}, [])
    assert row("a/b", claim(), record, "command")["seeds"] == seeds


def test_a_brief_report_is_aligned_and_says_what_has_to_be_exceeded():
    found = replace(claim("ordering"), measure=lambda _: Measurement(2.0, 1.5, 2.5))
    record = Record(Path(), {"preset": "cpu", "config": {}}, [])
    rows = [row("a/b", found, record, "c"), row("a/b", replace(found, id="longer"), record, "c")]
    first, *lines = brief(rows).splitlines()
    assert all(line.index("> 1") == first.index("source says") for line in lines)
    assert lines[0].endswith("2 [1.5, 2.5]  matches")


def test_a_summary_counts_verdicts_by_package():
    found = replace(claim("ordering"), measure=lambda _: 2.0)
    record = Record(Path(), {"preset": "cpu", "config": {}}, [])
    rows = [row("a/b", found, record, "c"), row("c/d", claim("value"), record, "c")]
    assert "| a | 1 | 1 | 0 | 0 | 0 |" in summary(rows)
    assert "| all | 2 | 1 | 0 | 0 | 1 |" in summary(rows)
