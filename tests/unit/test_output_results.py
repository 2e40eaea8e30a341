"""Result folders appear whole or not at all, with the same bytes for the same inputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cluster_sim import read_results
from cluster_sim.errors import SpecError
from cluster_sim.output import csv_text, results
from cluster_sim.output.csv_text import cell, format_csv
from cluster_sim.output.results import ResultWriter, check_writable, read_summary
from cluster_sim.result import Result

FILES = {"summary.csv", "requests.csv", "manifest.json", "run.log"}


def stub(run_id: str = "w@t-123456", rate: float = 0.1 + 0.2) -> Result:
    summary = {
        "run_id": run_id,
        "workload": "w",
        "topology": "t",
        "slo": "ttft=2000ms,tpot=50ms",
        "partial": False,
        "requests_per_s": rate,
        "usd_per_m_output_tokens": None,
        "schema": 1,
    }
    requests = {"request": [0, 1], "ttft_ms": [1 / 3, float("nan")], "within_slo": [True, False]}
    return Result(summary, requests, {"b": 1, "a": [1.5, None]}, False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"}


def test_floats_survive_the_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    folder = ResultWriter(tmp_path).write(stub())
    assert float(read_summary(folder)[0]["requests_per_s"]) == 0.1 + 0.2
    rows = list(csv.DictReader((folder / "requests.csv").read_text().splitlines()))
    assert float(rows[0]["ttft_ms"]) == 1 / 3
    assert rows[1] == {"request": "1", "ttft_ms": "", "within_slo": "false"}
    assert json.loads((folder / "manifest.json").read_text()) == {"a": [1.5, None], "b": 1}


def test_cells_with_commas_are_quoted(tmp_path: Path) -> None:
    folder = ResultWriter(tmp_path).write(stub())
    assert read_summary(folder)[0]["slo"] == "ttft=2000ms,tpot=50ms"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (float("nan"), ""), (True, "true"), (0.1, "0.1"), (1e22, "1e+22"), (3, "3")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_the_folder_does_not_change_the_bytes(tmp_path: Path) -> None:
    one, two = (ResultWriter(tmp_path / name).write(stub()) for name in ("one", "a/b/two"))
    assert contents(one) == contents(two)
    assert not any(str(tmp_path).encode() in data for data in contents(one).values())


def test_files_of_an_older_run_are_replaced_and_those_of_others_stay(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    folder = writer.write(stub(rate=1.0))
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    assert writer.write(stub(rate=2.0)) == folder
    assert {path.name for path in folder.iterdir()} == {*FILES, "notes.txt", "plots"}
    assert read_summary(folder)[0]["requests_per_s"] == "2.0"
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_file_of_that_name_is_not_destroyed(tmp_path: Path) -> None:
    (tmp_path / "w@t-123456").write_text("mine")
    with pytest.raises(SpecError, match="cannot write"):
        ResultWriter(tmp_path).write(stub())
    assert (tmp_path / "w@t-123456").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_older_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    writer = ResultWriter(tmp_path)
    before = contents(writer.write(stub(rate=1.0)))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(results, "csv_of_columns", fail)
    with pytest.raises((SpecError, KeyboardInterrupt)):
        writer.write(stub(rate=2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["w@t-123456"]
    assert contents(tmp_path / "w@t-123456") == before


def test_looking_whether_a_folder_is_writable_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for bad in ("file", "file/below"):
        with pytest.raises(SpecError, match="choose another folder"):
            check_writable(tmp_path / bad)


def test_blocks_of_rows_join_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = stub()
    result.requests.clear()
    result.requests.update({"request": list(range(7)), "status": ["finished"] * 7})
    monkeypatch.setattr(csv_text, "ROWS_AT_ONCE", 3)
    lines = (ResultWriter(tmp_path).write(result) / "requests.csv").read_text().splitlines()
    assert lines == ["request,status", *(f"{i},finished" for i in range(7))]


def test_read_results_finds_runs(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    first = writer.write(stub("w@t-000001", 1.0))
    writer.write(stub("w@t-000002", 2.0))
    assert list(read_results(tmp_path)["requests_per_s"]) == [1.0, 2.0]
    assert len(read_results(first)) == len(read_results(first / "summary.csv")) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"no summary\.csv here"):
        read_results(tmp_path / "empty")


def test_several_rows_share_one_header() -> None:
    lines = format_csv([stub().summary, stub("x").summary]).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("run_id,workload,topology")
