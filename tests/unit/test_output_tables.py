"""Figures and tables as text."""

from __future__ import annotations

import pytest

from cluster_sim.output.tables import grid, labelled, number
from cluster_sim.output.wrapping import WIDTH


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
