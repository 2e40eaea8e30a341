"""The cases that come with the program are those of their sources, row by row."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from conftest import ROOT
from validation.pack_cases import AS_PUBLISHED, FILES, licence_of, packed_rows

from cluster_sim.output.validate_text import short_row
from cluster_sim.studies.validate import prepare
from cluster_sim.studies.validate_cases import Case, read_cases
from cluster_sim.studies.validate_jobs import SkippedError, job_of


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return read_cases([])


def packaged(kind: str) -> list[dict[str, str]]:
    text = gzip.decompress((ROOT / "cases" / f"{kind}.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("kind", FILES)
def test_rows_are_those_of_the_source(shared: Path, kind: str) -> None:
    assert packaged(kind) == packed_rows(kind, shared / "ground_truth")


def test_packaged_and_full_serving_rows_give_the_same_runs(shared: Path, cases: list[Case]) -> None:
    """What was taken out of notes is all that a replay needs of them."""
    full = {case.case_id: case for case in read_cases([shared / "ground_truth/serving_cases.csv"])}

    def said(case_id: str, file: dict[str, object]) -> object:
        try:
            return job_of(file[case_id])  # type: ignore[arg-type]
        except SkippedError as skip:
            return skip.args

    short = {case.case_id: case for case in cases if case.kind == "serving"}
    assert list(short) == list(full)
    for case_id in full:
        assert said(case_id, dict(short)) == said(case_id, dict(full))


def test_files_stay_small_and_name_source_and_licence() -> None:
    files = sorted((ROOT / "cases").glob("*.csv.gz"))
    assert [file.name.split(".")[0] for file in files] == sorted(FILES)
    assert all(file.stat().st_size < 1_000_000 for file in files)
    for kind in FILES:
        rows = packaged(kind)
        assert all(row["source"] and row["licence"] for row in rows)
        assert "note" not in rows[0]


def test_a_source_without_a_licence_is_marked() -> None:
    assert licence_of("mlcommons/inference_results_v5.1") == "Apache-2.0"
    assert licence_of("somebody's blog") == AS_PUBLISHED


def test_most_packaged_cases_are_replayed(cases: list[Case]) -> None:
    assert f"{len(cases):,} values" in (ROOT / "docs" / "accuracy.md").read_text()
    prepared = prepare(cases)
    replayed = sum(len(mine) for mine in prepared.tasks.values())
    assert len(cases) > 19_000
    assert replayed > 0.85 * len(cases)


def test_the_short_table_has_every_serving_case_that_is_replayed(cases: list[Case]) -> None:
    """No mode and no metric of the program is left out of the table that the README shows."""
    played = [case for mine in prepare(cases).tasks.values() for case in mine]
    serving = [case for case in played if case.kind == "serving"]
    left_out = {(case.text("mode"), case.text("metric")) for case in serving if not short_row(case)}
    assert serving
    assert not left_out
