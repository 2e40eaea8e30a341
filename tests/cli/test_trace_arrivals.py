"""Traces on the command line: how their requests come, and what is said of what they lack."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload

RUN = "run --topo h200_nvl8 --workload llama8b --tp 8 --quiet --trace mine.jsonl"


def write(rows: list[dict[str, Any]], name: str = "mine.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"input_length": 100 + i, "output_length": 20} | more for i in range(count)]


def run(runner: CliRunner, more: str = "", line: str = RUN) -> Result:
    return runner.invoke(cli, [*line.split(), *more.split()])


def requests_of_the_run() -> list[dict[str, str]]:
    (folder,) = Path("results").iterdir()
    return list(csv.DictReader((folder / "requests.csv").read_text().splitlines()))


def test_rows_without_times_come_as_the_workload_has_it(runner: CliRunner) -> None:
    write(rows_of(60))
    done = run(runner)
    assert done.exit_code == 0, done.output
    assert "70 % of closed form" in " ".join(done.stdout.split())
    assert "the rows of the trace in order" in " ".join(done.stdout.split())
    found = requests_of_the_run()
    assert [int(row["isl"]) for row in found] == list(range(100, 160))
    arrivals = [float(row["arrival_s"]) for row in found]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] > 0


def test_rows_without_times_at_a_rate(runner: CliRunner) -> None:
    write(rows_of(400))
    done = run(runner, "--rate 20 --duration 10s --seed 3")
    assert done.exit_code == 0, done.output
    arrivals = [float(row["arrival_s"]) for row in requests_of_the_run()]
    assert len(arrivals) == pytest.approx(200, rel=0.25)
    assert max(arrivals) <= 10


def test_rows_without_times_in_a_closed_loop(runner: CliRunner) -> None:
    write(rows_of(40))
    done = run(runner, "--concurrency 4")
    assert done.exit_code == 0, done.output
    assert "4 clients in a closed loop" in done.stdout
    found = requests_of_the_run()
    spans = [
        (float(row["arrival_s"]), float(row["arrival_s"]) + float(row["e2e_ms"]) / 1e3)
        for row in found
    ]
    inside = [sum(a <= at < b for a, b in spans) for at, _ in spans]
    assert max(inside) == 4


def test_a_trace_with_times_excludes_other_ways_to_come(runner: CliRunner) -> None:
    write(rows_of(3, timestamp=5))
    for more in ("--rate 5", "--concurrency 4"):
        done = run(runner, more)
        assert done.exit_code == 2
        assert "exclude each other" in done.output
    write(rows_of(3))
    assert "exclude each other" in run(runner, "--rate 5 --concurrency 4").output


def test_python_says_how_rows_come() -> None:
    Path("mine.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "90,5\n" * 30)
    machine = load_topology("h200_nvl8")

    def job(arrivals: str) -> Any:
        return load_workload("llama8b", [f"workload.arrivals={arrivals}"])

    for arrivals, load in (
        ("{kind: closed, concurrency: 2, trace: mine.csv}", "closed"),
        ("{kind: offline, trace: mine.csv}", "offline"),
        ("{kind: open, rate: 5 requests/s, trace: mine.csv}", "open"),
    ):
        found = simulate(machine, job(arrivals))
        assert (found.summary["load"], found.summary["requests"]) == (load, 30)
        assert found.manifest["trace_sha256"]
    with pytest.raises(SpecError, match="have no times; say how they come: --rate, --concurrency"):
        simulate(machine, job("{kind: trace, trace: mine.csv}"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_turn_thinks_its_delay_after_the_former_end(runner: CliRunner) -> None:
    write(
        [
            {"session_id": "a", "timestamp": 0, "input_length": 90, "output_length": 20},
            {"session_id": "a", "delay": 1500, "input_length": 200, "output_length": 20},
            {"session_id": "b", "timestamp": 700, "input_length": 90, "output_length": 20},
        ]
    )
    done = run(runner)
    assert done.exit_code == 0, done.output
    rows = requests_of_the_run()
    (turn,) = (row for row in rows if row["isl"] == "200")
    first = rows[int(turn["after"])]
    end = float(first["arrival_s"]) + float(first["e2e_ms"]) / 1e3
    assert float(turn["arrival_s"]) == pytest.approx(end + 1.5, abs=2e-3)


def test_what_was_assumed_is_said_on_the_page_in_the_manifest_and_by_explain(
    runner: CliRunner,
) -> None:
    Path("mine.jsonl").write_text(
        json.dumps(
            [
                {
                    "conversations": [{"from": "human", "value": "a" * 400}]
                    + 3 * [{"from": "gpt", "value": "b" * 80}]
                }
            ]
            * 20
        )
    )
    done = run(runner, "--concurrency 4")
    assert done.exit_code == 0, done.output
    assert "estimated from the texts, 4 bytes a token (assumed" in " ".join(done.stdout.split())
    (folder,) = Path("results").iterdir()
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert any("4 bytes a token" in note for note in notes)
    told = run(runner, "--concurrency 4", RUN.replace("run ", "explain ").replace("--quiet ", ""))
    assert "4 bytes a token" in told.stdout


def test_answers_come_from_the_workload_where_the_trace_has_none(runner: CliRunner) -> None:
    write([{"timestamp": 100 * i, "input_length": 90} for i in range(20)])
    line = [*RUN.split(), "--set", "workload.osl={fixed: 7}"]
    done = runner.invoke(cli, line)
    assert done.exit_code == 0, done.output
    assert {row["osl"] for row in requests_of_the_run()} == {"7"}
    write(rows_of(3, timestamp=5))
    assert (
        "--set workload.osl: has no effect: the trace says how long"
        in runner.invoke(cli, line).output
    )
    write([{"timestamp": 0, "input_length": 90}])
    Path("bare.yaml").write_text(
        "title: bare\nmodel: llama3.1-8b\ntraffic: mine\n"
        "arrivals: {kind: trace, trace: mine.jsonl}\n"
    )
    with pytest.raises(SpecError, match="bare has no 'osl' of its own; give one with --set"):
        simulate("h200_nvl8", load_workload("./bare.yaml"))


def test_a_workload_without_lengths_replays_a_trace() -> None:
    write(rows_of(30, timestamp=0))
    Path("bare.yaml").write_text(
        "title: bare\nmodel: llama3.1-8b\ntraffic: mine\n"
        "arrivals: {kind: trace, trace: mine.jsonl}\n"
    )
    assert simulate("h200_nvl8", load_workload("./bare.yaml")).summary["finished"] == 30


def test_gzipped_and_plain_are_the_same_run() -> None:
    write(rows_of(30, timestamp=0))
    Path("mine.gz").write_bytes(gzip.compress(Path("mine.jsonl").read_bytes()))
    machine, found = load_topology("h200_nvl8"), []
    for name in ("mine.jsonl", "mine.gz"):
        arrivals = f"workload.arrivals={{kind: trace, trace: {name}}}"
        found.append(simulate(machine, load_workload("llama8b", [arrivals])))
    assert found[0].manifest["trace_sha256"] == found[1].manifest["trace_sha256"]
    assert found[0].summary["ttft_mean_ms"] == found[1].summary["ttft_mean_ms"]


@pytest.mark.parametrize(
    ("arrivals", "says"),
    [
        ("{kind: closed, concurrency: 2, trace_block_tokens: 16}", "give one"),
        ("{kind: trace, trace: mine.jsonl, trace_block_tokens: 0}", "trace_block_tokens: must be"),
        ("{kind: trace, trace: mine.jsonl, trace_time_unit: min}", "trace_time_unit: "),
        ("{kind: open, rate: 5 requests/s, trace: mine.jsonl, time_scale: 2}", "belong to trace"),
    ],
)
def test_what_says_something_of_a_trace(arrivals: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load_workload("llama8b", [f"workload.arrivals={arrivals}"])


def test_there_are_no_rates_where_nothing_came_in_the_steady_part(runner: CliRunner) -> None:
    """The first of two requests is done before it begins, the second comes at its end."""
    rows = zip(rows_of(2), (0, 10_535), (52, 26), strict=True)
    write(
        [
            row | {"input_length": 655, "timestamp": at, "output_length": osl}
            for row, at, osl in rows
        ]
    )
    done = run(runner, line=RUN.replace("--tp 8", "--tp 1"))
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "no token came in the" in said
    assert "All 2 requests" in said
    assert "At 0 requests/s" not in said
