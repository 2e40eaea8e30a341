"""The options --timeline and --live."""

from __future__ import annotations

import gzip
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_interrupt import interrupt_after

from cluster_sim.cli import cli

RUN = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 60"


def traces() -> list[Path]:
    return sorted(Path("results").glob("*/timeline.json.gz"))


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def names(trace: dict[str, Any]) -> set[str]:
    return {event["name"] for event in trace["traceEvents"]}


def test_same_inputs_same_bytes_on_both_paths(runner: CliRunner) -> None:
    seen = []
    for extra in ([], [], ["--step-by-step"]):
        result = runner.invoke(cli, [*RUN.split(), "--timeline", *extra])
        assert result.exit_code == 0, result.output
        assert "timeline.json.gz, every step is drawn" in result.stderr
        seen.append(traces()[0].read_bytes())
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][4:8] == bytes(4)  # no clock time in the header
    trace = content(traces()[0])
    assert trace["otherData"]["requests_drawn"] == 60
    assert {"replica 3", "gemm_weights", "decode 1", "queued", "power"} <= names(trace) | {
        event["args"]["name"]
        for event in trace["traceEvents"]
        if event["ph"] == "M"
        if "name" in event["args"]
    }


def test_without_the_option_there_is_no_file_and_the_same_page(runner: CliRunner) -> None:
    plain = runner.invoke(cli, [*RUN.split(), "--format", "csv"])
    assert not traces()
    drawn = runner.invoke(cli, [*RUN.split(), "--format", "csv", "--timeline"])
    assert plain.stdout == drawn.stdout
    assert len(traces()) == 1


def test_every_seed_has_its_file(runner: CliRunner) -> None:
    result = runner.invoke(cli, [*RUN.split(), "--timeline", "--seeds", "2"])
    assert result.exit_code == 0, result.output
    assert [content(path)["otherData"]["seed"] for path in traces()] in ([0, 1], [1, 0])


def test_a_window(runner: CliRunner) -> None:
    runner.invoke(cli, [*RUN.split(), "--timeline", "--timeline-window", "2s..3000 ms"])
    trace = content(traces()[0])
    assert trace["otherData"]["span_s"] == [2.0, 3.0]
    steps = [e["ts"] for e in trace["traceEvents"] if e["name"].startswith(("decode ", "prefill "))]
    assert steps
    assert 2e6 <= min(steps) <= max(steps) < 3e6
    result = runner.invoke(cli, [*RUN.split(), "--timeline", "--timeline-window", "2h..3h"])
    assert result.exit_code == 0
    assert "before this window" in result.stderr


def test_an_interrupted_run_has_a_timeline(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 150)
    result = runner.invoke(cli, [*RUN.split(), "--timeline"])
    assert result.exit_code == 130
    trace = content(traces()[0])
    assert trace["otherData"]["partial"] is True
    states = [e["args"]["status"] for e in trace["traceEvents"] if "status" in e.get("args", {})]
    assert {"running", "finished"} == set(states)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--timeline-window 1s..2s", "no effect without --timeline"),
        ("--timeline --timeline-window 1s", "write two times such as 10s..20s (got 1s)"),
        ("--timeline --timeline-window 1..2", "a bare number has no unit"),
        ("--timeline --timeline-window 2s..1s", "end after it begins (got 2s..1s)"),
        ("--live --quiet", "--live and --quiet exclude each other"),
    ],
)
def test_what_has_no_effect_is_refused(runner: CliRunner, options: str, says: str) -> None:
    result = runner.invoke(cli, [*RUN.split(), *options.split()])
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert not Path("results").exists()


def test_live_without_a_terminal_says_so(runner: CliRunner) -> None:
    plain = runner.invoke(cli, [*RUN.split(), "--format", "csv"])
    live = runner.invoke(cli, [*RUN.split(), "--format", "csv", "--live"])
    assert live.exit_code == 0
    assert "--live needs a terminal" in live.stderr
    assert live.stdout == plain.stdout


@pytest.mark.parametrize("extra", [[], ["--step-by-step"]])
def test_live_on_a_terminal(tmp_path: Path, extra: list[str]) -> None:
    mine, theirs = pty.openpty()
    program = [sys.executable, "-c", "from cluster_sim.cli import main; main()"]
    done = subprocess.run(
        [*program, *RUN.split(), "--live", "--format", "csv", *extra],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        text=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(mine, 65_536):
            shown += part
    except OSError:  # the terminal is closed
        pass
    finally:
        os.close(mine)
    assert b"of 60 requests arrived" in shown
    assert b"KV cache" in shown
    assert len(done.stdout.splitlines()) == 2


def test_chips_of_unknown_power_have_no_power_counter(runner: CliRunner) -> None:
    line = "run --topo 8xascend_950dt --workload llama70b --rate 8 --requests 20 --timeline"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    assert "kv_cache" in names(content(traces()[0]))
    assert "power" not in names(content(traces()[0]))
