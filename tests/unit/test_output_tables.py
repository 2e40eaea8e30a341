"""Figures and tables as text."""

from __future__ import annotations

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.output.tables import WIDTH, grid, labelled, number
from cluster_sim.studies.compare import METRICS, MUST_AGREE, check_runs, compare_runs


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.6012, "0.601"),
        (17.35, "17.4"),
        (744.4, "744"),
        (5949.7, "5,950"),
        (29021.0, "29,021"),
        (-2.5, "-2.50"),
        (1.5e200, "1.5e+200"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_paragraphs_keep_to_the_page() -> None:
    lines = labelled("Limits", "a word " * 60).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("Limits     a word")
    assert all(line.startswith(" " * 11) for line in lines[1:])


def test_grids_align() -> None:
    assert grid([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"


def run(**changes: str) -> dict[str, str]:
    row = dict.fromkeys((*METRICS, *MUST_AGREE), "2.0")
    return row | {"workload": "w", "topology": "t", "plan": "tp2x4"} | changes


def test_ratios_are_to_the_first_run() -> None:
    table, warnings = compare_runs([run(), run(ttft_mean_ms="3.0"), run(ttft_mean_ms="")])
    line = next(line for line in table if line[0] == "ttft_mean_ms")
    assert line == ["ttft_mean_ms", "2", "3", "1.50", "", ""]
    assert not warnings


def test_a_ratio_to_zero_stays_empty() -> None:
    table, _ = compare_runs([run(ttft_mean_ms="0.0"), run()])
    assert next(line for line in table if line[0] == "ttft_mean_ms")[3] == ""


@pytest.mark.parametrize("column", MUST_AGREE)
def test_unlike_runs_are_named(column: str) -> None:
    _, warnings = compare_runs([run(), run(**{column: "other"})])
    assert [text for text in warnings if text.startswith(MUST_AGREE[column])]


def test_a_bad_file_is_named_with_all_its_problems() -> None:
    broken = run(ttft_mean_ms="fast", j_per_output_token="?")
    del broken["slo"]
    with pytest.raises(SpecError) as caught:
        check_runs("a.csv", [broken])
    assert str(caught.value).splitlines() == [
        "a.csv: no column slo",
        "a.csv:2: ttft_mean_ms: must be a number (got fast)",
        "a.csv:2: j_per_output_token: must be a number (got ?)",
    ]
