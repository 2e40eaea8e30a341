"""Rows of measurements are added whole, whatever ends the one who adds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_disk import no_file_over

from cluster_sim.errors import SpecError
from cluster_sim.output.measured import appending, finished

COLUMNS = ("case_id", "op", "value")


def row(name: str) -> dict[str, object]:
    return {"case_id": name, "op": 'gemm, "large"', "value": 0.5}


def test_a_row_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "ops.csv"
    with appending(file, COLUMNS) as add:
        add(row("a"))
        before = file.read_bytes()
        with (
            no_file_over(len(before) + 5),
            pytest.raises(SpecError, match="--out: cannot write to"),
        ):
            add(row("b"))
    assert file.read_bytes() == before
    assert finished(file, COLUMNS) == {"a"}
    with appending(file, COLUMNS) as add:
        add(row("b"))
    assert finished(file, COLUMNS) == {"a", "b"}
    assert file.read_text().splitlines()[-1] == 'b,"gemm, ""large""",0.5'


def test_a_line_that_was_cut_off_goes(tmp_path: Path) -> None:
    file = tmp_path / "ops.csv"
    for cut in ("case_id,o", "case_id,op,value\n", "case_id,op,value\na,gemm,1\nb,ge"):
        file.write_text(cut)
        with appending(file, COLUMNS) as add:
            add(row("c"))
        lines = file.read_text().splitlines()
        assert lines[0] == "case_id,op,value"
        assert lines[-1].startswith("c,")
        assert not any(line.startswith("b") for line in lines)


@pytest.mark.parametrize("name", ["a" * 300, "a\nb"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(SpecError, match="--out: "),
        appending(tmp_path / name, COLUMNS),
    ):
        pytest.fail("opened")
