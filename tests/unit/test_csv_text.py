"""What is written as CSV is read back as it was, by Python and by pandas."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cluster_sim.output.csv_text import cell, csv_of_columns, format_csv

# All that a name may hold in a YAML or JSON file, line ends and quotes more often.
MARKS = st.sampled_from(list(",\"'\n\r\t ;|#\\"))
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
PLAIN = st.text(MARKS | LETTERS, max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | PLAIN
HEADERS = st.lists(PLAIN.filter(bool), min_size=1, max_size=4, unique=True)


def by_pandas(text: str) -> list[list[str]]:
    frame = pd.read_csv(
        io.StringIO(text), dtype=str, keep_default_na=False, header=None, skip_blank_lines=False
    )
    return frame.to_numpy().tolist()  # type: ignore[no-any-return]


def by_python(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


@given(st.data())
def test_rows_survive(data: Any) -> None:
    header = data.draw(HEADERS)
    count = data.draw(st.integers(1, 4))
    rows = [{name: data.draw(VALUES) for name in header} for _ in range(count)]
    cells = [header, *([cell(value) for value in row.values()] for row in rows)]
    text = format_csv(rows)
    assert by_python(text) == cells
    assert by_pandas(text) == cells


@given(st.data())
def test_columns_survive_as_rows_do(data: Any) -> None:
    count = data.draw(st.integers(1, 4))
    kinds = [PLAIN, st.none() | PLAIN, st.integers(0, 9), st.booleans(), st.floats()]
    kinds += [st.none() | st.integers(0, 9), st.none() | st.floats()]
    columns = {
        name: data.draw(st.lists(data.draw(st.sampled_from(kinds)), min_size=count, max_size=count))
        for name in data.draw(HEADERS)
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert "".join(csv_of_columns(columns)) == format_csv(rows)
    arrays = {
        name: np.array(values) if isinstance(values[0], float) else values
        for name, values in columns.items()
    }
    assert "".join(csv_of_columns(arrays)) == format_csv(rows)


def test_a_table_without_rows_has_its_header() -> None:
    assert format_csv([], ["rank", "makespan_s"]) == "rank,makespan_s\n"
    assert "".join(csv_of_columns({"request": []})) == "request\n"
