"""Ctrl-C and other signals keep what is finished, marked partial; before that nothing is
written.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cluster_sim import simulation
from cluster_sim.cli import cli
from cluster_sim.interrupts import Interrupts
from cluster_sim.output import results, timeline
from cluster_sim.serving import replica
from cluster_sim.studies import band

LINE = "run --topo h200_nvl8 --workload llama70b --requests 2000"
SHORT = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 60"


def interrupt_after(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """Raise KeyboardInterrupt inside the given segment of the run."""
    original, seen = replica.FastReplica.begin, []

    def begin(self: replica.FastReplica, horizon_s: float) -> None:
        seen.append(1)
        if len(seen) == segments:
            raise KeyboardInterrupt
        original(self, horizon_s)

    monkeypatch.setattr(replica.FastReplica, "begin", begin)


def test_finished_requests_are_written(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 3000)
    result = runner.invoke(cli, [*LINE.split(), "--rate", "10"])
    assert result.exit_code == 130
    assert "partial" in result.stdout
    folder = next(Path("results").iterdir())
    row = next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert row["partial"] == "true"
    assert 0 < int(row["finished"]) < 2000
    assert json.loads((folder / "manifest.json").read_text())["run_id"] == row["run_id"]


def test_turns_that_have_not_come_are_no_requests_of_the_window(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 1500)
    line = "run --topo h200_nvl8 --workload mixed --requests 1500 --rate 4"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 130, result.output
    folder = next(Path("results").iterdir())
    rows = list(csv.DictReader((folder / "requests.csv").read_text().splitlines()))
    waiting = [row for row in rows if not row["arrival_s"]]
    assert waiting
    assert all(row["status"] == "running" and int(row["after"]) >= 0 for row in waiting)
    row = next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert 0 < float(row["slo_attainment"]) <= 1


@pytest.mark.parametrize("segments", [100, 3000])
def test_an_interrupted_search_writes_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    interrupt_after(monkeypatch, segments)
    result = runner.invoke(cli, LINE.replace(" --requests 2000", "").split())
    assert result.exit_code == 130
    assert "nothing to write" in result.stderr
    assert not list(Path.cwd().rglob("summary.csv"))


def test_an_interrupted_run_does_not_replace_a_complete_one(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 300"
    assert runner.invoke(cli, line.split()).exit_code == 0
    (whole,) = Path("results").iterdir()
    before = (whole / "summary.csv").read_bytes()
    interrupt_after(monkeypatch, 300)
    assert runner.invoke(cli, line.split()).exit_code == 130
    assert (whole / "summary.csv").read_bytes() == before
    names = {path.name for path in Path("results").iterdir()}
    assert names == {whole.name, f"{whole.name}-partial"}


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals do in this process what they do in a command."""
    before, hook = {n: signal.getsignal(n) for n in (2, 15, 1)}, sys.unraisablehook
    Interrupts().install()
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


def with_signal(function: Callable[..., object]) -> Callable[..., object]:
    """The function, behind a SIGTERM."""

    def signalled(*args: object, **options: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return function(*args, **options)

    return signalled


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def summary() -> dict[str, str]:
    (folder,) = Path("results").iterdir()
    return next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("module", "name"),
    [(simulation, "summarise_run"), (results, "publish"), (results, "csv_of_columns")],
)
def test_what_is_simulated_is_written_before_a_signal_acts(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(module, name, with_signal(getattr(module, name)))
    result = runner.invoke(cli, [*SHORT.split(), "--seeds", "3"])
    assert result.exit_code == 130
    assert "Interrupted: what is finished is written." in result.stderr
    assert "seeds 0" in result.stdout
    assert summary()["partial"] == "false"


def test_seeds_that_are_finished_are_shown(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.invoke(cli, SHORT.split()).exit_code == 0
    original, seen = simulation.play, []

    def play(*args: object, **options: object) -> object:
        seen.append(1)
        return interrupted() if len(seen) == 3 else original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation, "play", play)
    result = runner.invoke(cli, [*SHORT.split(), "--seeds", "3", "--format", "csv"])
    assert result.exit_code == 130
    assert [row["seed"] for row in csv.DictReader(result.stdout.splitlines())] == ["0", "1"]
    assert "what is finished is written" in result.stderr


@pytest.mark.parametrize(
    ("option", "module", "name"),
    [("--timeline", timeline, "timeline"), ("--band", band, "band_study")],
)
def test_what_an_interrupt_leaves_out_stays_of_an_earlier_run(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, option: str, module: object, name: str
) -> None:
    line = [*SHORT.split(), option]
    if option == "--band":
        monkeypatch.setattr(band, "REPLICATIONS", 2)
    assert runner.invoke(cli, line).exit_code == 0
    (folder,) = Path("results").iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"}
    monkeypatch.setattr(module, name, interrupted)
    result = runner.invoke(cli, line)
    assert result.exit_code == 130
    assert f"{option} is left out" in result.stderr
    assert runner.invoke(cli, SHORT.split()).exit_code == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"}
    assert after == before


def test_a_run_that_is_not_yet_held_against_saturation_is_partial(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "find_saturation", interrupted)
    line = SHORT.replace("--rate 8", "--rate 100 --slo ttft=1ms")
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 130
    assert summary()["partial"] == "true"
    assert summary()["finished"] == "60"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_program(tmp_path: Path, name: str, code: int) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --rate 10 --requests 1000000 --quiet"
    with subprocess.Popen(
        [sys.executable, "-m", "cluster_sim", *line.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(0.5)
        process.send_signal(getattr(signal, name))
        _, text = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Interrupted" in text
    assert "Traceback" not in text
