"""The replay command: page, folder, formats, map, timeline, interrupt, messages."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from trace_files import COMP, LAYER, node, recv, reduce_, send, workload, write

from cluster_sim.cli import cli
from cluster_sim.engine.fluid import FluidEngine, Running
from cluster_sim.work import Activity

LINE = LAYER.format(dp="ALLREDUCE 1000")


def run(runner: CliRunner, *arguments: object, topo: str = "h100_nvl8") -> Result:
    return runner.invoke(cli, ["replay", "--topo", topo, *map(str, arguments)])


def traced() -> list[Path]:
    nodes = [node(0, COMP, micros=40, name="gemm"), reduce_(1, [0]), node(2, COMP, [1], micros=9)]
    return write(Path(), dict.fromkeys(range(4), nodes), "step")


def folder() -> Path:
    (found,) = Path("results").iterdir()
    return found


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder() / name).read_text().splitlines()))


def test_prints_a_page_and_writes_a_folder(runner: CliRunner) -> None:
    result = run(runner, *traced())
    assert result.exit_code == 0, result.output
    assert "step (chakra) on h100_nvl8: 4 ranks, 12 nodes" in result.stdout
    assert "times of the trace" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()[:-1]) <= 80
    (row,) = rows("replay.csv")
    assert row["run_id"] == folder().name
    assert float(row["makespan_s"]) == pytest.approx(49e-6 + 18.02e-6, rel=1e-3)
    assert [one["rank"] for one in rows("ranks.csv")] == ["0", "1", "2", "3"]
    assert [one["operation"] for one in rows("collectives.csv")] == ["all_reduce"]
    manifest = json.loads((folder() / "manifest.json").read_text())
    assert sorted(manifest["traces"]) == [f"step.{rank}.et" for rank in range(4)]
    assert manifest["summary"]["run_id"] == row["run_id"]


def test_other_formats_agree(runner: CliRunner) -> None:
    paths = traced()
    (row,) = csv.DictReader(run(runner, *paths, "--format", "csv").stdout.splitlines())
    entry = json.loads(run(runner, *paths, "--format", "json").stdout)
    assert row["step_s"] == repr(entry["step_s"])
    assert list(row) == list(entry)


def test_the_order_of_the_files_does_not_matter_and_bytes_are_the_same(runner: CliRunner) -> None:
    paths = traced()
    seen = []
    for order in (paths, paths[::-1], [*paths[2:], *paths[:2]]):
        assert run(runner, *order, "--timeline").exit_code == 0
        names = sorted(file.name for file in folder().iterdir() if file.name != "run.log")
        seen.append([(name, (folder() / name).read_bytes()) for name in names])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 5


def test_the_timeline_shows_lanes_of_every_rank(runner: CliRunner) -> None:
    result = run(runner, *traced(), "--timeline")
    assert "Timeline:" in result.stderr
    tree = json.loads(gzip.decompress((folder() / "timeline.json.gz").read_bytes()))
    events = tree["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {f"rank {rank}" for rank in range(4)}
    slices = [event for event in events if event["ph"] == "X"]
    assert sorted({event["name"] for event in slices}) == ["gemm", "node1", "node2"]
    assert tree["otherData"]["slices_drawn"] == len(slices) == 12
    lanes = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert lanes == {"compute", "communication"}


def test_a_map_places_the_ranks(runner: CliRunner) -> None:
    nodes = {0: [send(0, 1)], 1: [recv(0, 0)]}
    paths = write(Path(), nodes)
    options = ["--chips", 16, "--format", "json"]
    near = json.loads(run(runner, *paths, *options, topo="h100_superpod").stdout)
    Path("map").write_text("# two hosts\n0 0\n1, 8\n")
    far = json.loads(run(runner, *paths, *options, "--map", "map", topo="h100_superpod").stdout)
    assert far["makespan_s"] > 2 * near["makespan_s"]
    assert far["run_id"] != near["run_id"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0\n0 1\n", "map:2: rank 0 is placed twice"),
        ("0 3\n1 3\n", "map:2: device 3 has a rank already"),
        ("0 first\n", "map:1: write 'rank device'"),
        ("0 0\n", "map: no device for rank 1; there are 4 ranks"),
        ("0 0\n1 1\n2 2\n3 99\n", "device 99: the machine has devices 0 to 7"),
    ],
)
def test_bad_maps(runner: CliRunner, text: str, message: str) -> None:
    Path("map").write_text(text)
    result = run(runner, *traced(), "--map", "map")
    assert isinstance(result.exception, Exception)
    assert message in str(result.exception)
    assert not Path("results").exists()


def test_a_text_workload_and_its_pipeline(runner: CliRunner) -> None:
    Path("gpt.txt").write_text(workload([LINE] * 4, pp=2, ga=2, ranks=16, more=" pp_comm 1048576"))
    result = run(runner, "gpt.txt", "--chips", 16, topo="h100_superpod")
    assert result.exit_code == 0, result.output
    assert "16 ranks, one played for all" in result.stdout
    assert "with the pipeline that the file only names: bubble" in result.stdout
    (row,) = rows("replay.csv")
    parts = [float(row[name]) for name in ("makespan_s", "bubble_s", "stage_sends_s")]
    assert float(row["step_s"]) == pytest.approx(sum(parts))


def test_an_interrupt_keeps_what_was_played(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = FluidEngine.start, []

    def start(self: FluidEngine, activity: Activity, *more: float) -> Running:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return original(self, activity, *more)

    monkeypatch.setattr(FluidEngine, "start", start)
    result = run(runner, *traced())
    assert result.exit_code == 130
    assert "Interrupted: the results are partial." in result.stderr
    assert "PARTIAL" in result.stdout
    (row,) = rows("replay.csv")
    assert row["partial"] == "true"
    assert float(row["makespan_s"]) == pytest.approx(49e-6 - 9e-6 + 18.02e-6, rel=1e-3)


def test_an_interrupt_before_that_writes_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster_sim.training.replay.link_ranks", stop)
    result = run(runner, *traced())
    assert result.exit_code == 130
    assert "nothing to write" in result.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.et"], "none.et: cannot be read: No such file"),
        (["step.0.et", "--ranks", "9", "--repeat"], "9 ranks need as many devices, there are 8"),
        (["step.0.et", "--unfold"], "--unfold has no effect on Chakra traces"),
        (["step.0.et", "gpt.txt"], "files of several formats"),
        (["gpt.txt", "--cut"], "--cut has no effect on text workloads"),
        (["step.0.et", "--groups", "gpt.txt"], "gpt.txt:1: not valid JSON"),
        (["step.0.et", "step.1.et", "--library", "ncll"], "no library named 'ncll'"),
        (["step.0.et", "--trace-format", "simai"], "not a text file"),
    ],
)
def test_bad_input(runner: CliRunner, arguments: list[str], message: str) -> None:
    traced()
    Path("gpt.txt").write_text(workload([LINE]))
    Path("step.0.et").write_bytes(Path("step.0.et").read_bytes())
    result = run(runner, *arguments)
    assert message in str(result.exception), result.output
    assert not Path("results").exists()


def test_more_chips_than_a_board_has(runner: CliRunner) -> None:
    result = run(runner, *traced(), "--chips", 9)
    assert result.exit_code == 2
    assert "--chips 9: h100_nvl8 has 8 chips" in result.output


def test_gzipped_traces_are_those_that_they_hold(runner: CliRunner) -> None:
    paths = traced()
    plain = run(runner, *paths).stdout
    for path in paths:
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = run(runner, *(f"{path}.gz" for path in paths))
    assert packed.exit_code == 0, packed.exception
    assert packed.stdout.splitlines()[:3] == plain.splitlines()[:3]
    Path("mine.txt.gz").write_bytes(gzip.compress(workload([LINE]).encode()))
    assert run(runner, "mine.txt.gz").stdout.startswith("mine (simai) on h100_nvl8")
