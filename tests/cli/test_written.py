"""What commands write: whole or not at all, where asked, and refused before the work if that cannot
be.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from full_disk import no_file_over

from cluster_sim import read_results, simulation, train
from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.studies import collective, validate
from cluster_sim.training import replay

RUN = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 40 --quiet"
REPLAY = "replay --topo h100_nvl8 {trace} --quiet"
PICTURES = {
    "a.svg": "collective --topo h200_nvl8 --bytes 1MiB..4MiB --plot {file}",
    "a.html": "show topology h200_nvl8 --draw {file}",
    "a.json": "show topology h200_nvl8 --export {file}",
    "a.csv": "validate --against mine.csv --workers 1 --quiet --out {file}",
}

CASES = "case_id,chip,op,dtype,m,n,k,metric,value\na,h200_sxm,gemm,bf16,64,4096,4096,time_us,9\n"


def ran(runner: CliRunner, line: str) -> Result:
    return runner.invoke(cli, line.split())


def no_work(*_: object, **__: object) -> None:
    pytest.fail("the work was begun")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def replayed(name: str) -> str:
    """A line that replays a small trace of that name."""
    Path(name).write_text(
        "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 2 ep: 1 pp: 1 vpp: 1 ga: 1 "
        "all_gpus: 2 checkpoints: 0 checkpoint_initiates: 0\n1\n"
        "layer -1 1000 ALLREDUCE 1048576 1000 NONE 0 1000 NONE 0 100\n"
    )
    return REPLAY.format(trace=name)


@pytest.mark.parametrize("file", PICTURES)
def test_a_full_disk_leaves_the_old_file(runner: CliRunner, file: str) -> None:
    Path(file).write_text("old")
    Path("mine.csv").write_text(CASES)
    line = PICTURES[file].format(file=file)
    assert ran(runner, line).exit_code == 0
    whole = Path(file).read_bytes()
    with no_file_over(len(whole) - 1):
        result = ran(runner, line)
    assert isinstance(result.exception, SpecError)
    assert str(result.exception).startswith(f"--{line.split()[-2][2:]}: cannot write to '{file}': ")
    assert Path(file).read_bytes() == whole
    assert set(os.listdir()) == {file, "mine.csv"}


@pytest.mark.parametrize("file", PICTURES)
@pytest.mark.parametrize("place", ["none/", "", "file/"])
def test_a_place_for_a_file_is_looked_at_before_the_work(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, file: str, place: str
) -> None:
    monkeypatch.setattr(collective, "sweep_sizes", no_work)
    monkeypatch.setattr(validate, "play", no_work)
    Path("file").write_text("")
    Path("mine.csv").write_text(CASES)
    Path(file).mkdir()
    result = ran(runner, PICTURES[file].format(file=place + file))
    assert result.exit_code
    assert "cannot write" in str(result.exception) or "must be a file" in result.stderr


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_is_an_error_of_the_run(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    assert ran(runner, RUN).exit_code == 0
    (folder,) = Path("results").iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with no_file_over(10_000):
        if not full:  # as the run begins
            monkeypatch.setattr("cluster_sim.output.files.PROBE_BYTES", 10)
        result = ran(runner, RUN)
    assert "cannot write to 'results': File too large" in str(result.exception)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir("results") == [folder.name]


def test_requests_that_find_no_room_are_refused(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "play", no_work)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e6}))
    result = ran(runner, RUN.replace("40", "40000"))
    assert "--out: 'results' has room for 1 MB" in str(result.exception)


@pytest.mark.parametrize(
    ("stem", "says"), [("a" * 240, "a file's has at most 255"), ("a\nb", "control characters")]
)
def test_names_are_refused_before_the_simulation(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, stem: str, says: str
) -> None:
    for module, name in ((simulation, "play"), (train, "train"), (replay, "replay")):
        monkeypatch.setattr(module, name, no_work)
    for base in ("llama70b", "llama3_8b_train"):
        Path(f"{stem}.yaml").write_text(f"extends: {base}\n")
        line = ["run", "--topo", "h200_nvl8", "--workload", f"{stem}.yaml"]
        result = runner.invoke(cli, line)
        assert says in str(result.exception), result.output
    result = runner.invoke(cli, [*RUN.split(), "--out", f"{stem}{stem}"])
    assert str(result.exception).startswith("--out: ")
    assert says in str(result.exception)


def test_the_name_of_a_replay_is_refused_before_it_is_played(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = replayed(f"{'a' * 240}.txt")
    monkeypatch.setattr(replay, "replay", no_work)
    assert "a file's has at most 255" in str(ran(runner, line).exception)


def test_results_go_through_a_link_and_beside_what_others_put_there(runner: CliRunner) -> None:
    Path("disk").mkdir()
    Path("results").symlink_to("disk")
    assert ran(runner, RUN).exit_code == 0
    (folder,) = Path("disk").iterdir()
    (folder / "notes.txt").write_text("mine")
    folder.rename("moved")
    folder.symlink_to(Path("moved").absolute())
    for more in ("--timeline", "", "--format csv"):
        assert ran(runner, f"{RUN} {more}").exit_code == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert (Path("moved") / "timeline.json.gz").exists()
    assert len(read_results("results")) == 1


def test_an_interrupted_replay_stands_beside_the_whole_one(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = replayed("small.txt")
    assert ran(runner, line).exit_code == 0
    (whole,) = Path("results").iterdir()
    before = (whole / "replay.csv").read_bytes()
    monkeypatch.setattr(
        replay.Environment, "run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert ran(runner, line).exit_code == 130
    assert (whole / "replay.csv").read_bytes() == before
    assert set(os.listdir("results")) == {whole.name, f"{whole.name}-partial"}


def test_a_class_may_be_called_anything(runner: CliRunner) -> None:
    Path("mine.yaml").write_text(
        "extends: mixed\n"
        "classes:\n"
        '  - {name: "chat, long", share: 50%, isl: {fixed: 100}, osl: {fixed: 10}}\n'
        "  - {name: 'say \"hi\"', share: 50%, isl: {fixed: 100}, osl: {fixed: 10}}\n"
    )
    result = ran(runner, RUN.replace("llama70b", "mine.yaml"))
    assert result.exit_code == 0, result.exception
    (folder,) = Path("results").iterdir()
    with (folder / "requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    classes = {"chat, long", 'say "hi"'}
    assert {row["class"] for row in rows} == classes
    assert set(pd.read_csv(folder / "requests.csv")["class"]) == classes
    assert all(None not in row for row in rows)
