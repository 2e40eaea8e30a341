"""Counts, numbers and quantities are refused where they enter, with their range."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner

from cluster_sim import cli as command_line
from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError, SpecError
from cluster_sim.memory_need import check_collective_memory, needed_bytes, run_needs
from cluster_sim.simulation import simulate
from cluster_sim.specs.constraints import MOST_CHIPS, Count, Number
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.kinds import FORMS
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.schema import KINDS, json_schema
from cluster_sim.specs.training import TrainingPlan
from cluster_sim.specs.workload import Economics
from cluster_sim.training.memory import _changes
from cluster_sim.units import RANGES, UNITS, Quantity, parse_quantity

RUN = "run --topo h200_nvl8 --workload llama70b --rate 5 --requests 20"
POD = "run --topo h100_superpod --workload llama3_405b_train"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{RUN} --requests 100000000", "from 1 to 10,000,000, or auto"),
        (f"{RUN} --requests 1_0", "from 1 to 10,000,000, or auto"),
        (f"{RUN} --seed 8_0", "must be a whole number (got 8_0)"),
        (f"{RUN} --rate 1_0", "not a number"),
        (f"{RUN} --rate 1e-12", "rate: must lie between 1e-06 and 1e+09 requests/s"),
        (f"{RUN} --chips 1000000000", "is not in the range 1<=x<=100000"),
        (f"{RUN} --set topology.chips=1000000000", "topology.chips: must be at most 100,000"),
        (f"{RUN} --set topology.chips=8_0", "topology.chips: must be a whole number (got 8_0)"),
        (f"{RUN} --set topology.chips=8.0", "topology.chips: must be a whole number (got 8.0)"),
        (f"{RUN} --set topology.chips=true", "must be a whole number (got True)"),
        (f"{RUN} --set topology.chips='8'", "must be a whole number (got 8)"),
        (f"{RUN} --set engine.max_num_seqs=1000000000", "must be at most 100,000"),
        (f"{RUN} --set engine.max_num_batched_tokens=3", "must be at least 16"),
        (f"{RUN} --set workload.arrivals.cv=1e300", "cv: must be at most 100 (got 1e+300)"),
        (f"{RUN} --set workload.arrivals.cv=1e-300", "cv: must be at least 0.01 (got 1e-300)"),
        (f"{RUN} --set economics.usd_per_chip_hour=inf", "not a quantity"),
        (f"{RUN} --set economics.usd_per_chip_hour=.inf", "usd_per_chip_hour"),
        (f"{RUN} --set economics.usd_per_chip_hour={'9' * 99}", "must be finite"),
        (f"{RUN} --set economics.life_years=1e-300", "must lie between 0.01 and 1000 years"),
        (f"{RUN} --duration 1e11s", "must lie between 1e-12 and 1e+10 s"),
        (f"{RUN} --slo ttft=1e-300s", "ttft: must lie between"),
        (f"{RUN} --max-memory 30MB", "of memory"),
        (f"{RUN} --max-memory nan", "not a quantity"),
        (f"{POD} --global-batch 16777216", "is not in the range 1<=x<=200000"),
        (f"{POD} --set workload.machine_rate=1e300", "machine_rate: must be at most 1,000"),
        (
            f"{POD} --plan meta_8192 --until 1T --set workload.run.failures.factor=1e5",
            "factor: must be at most 1,000",
        ),
        ("collective --topo h100_nvl8 --op moe_dispatch --imbalance nan", "not a number"),
        ("collective --topo h100_nvl8 --chips ٨", "must be a whole number"),
        ("collective --topo h100_superpod --chips 16384 --op all_to_all", "GiB of memory"),
        ("replay none.et --topo h100_nvl8 --ranks 1000000", "is not in the range"),
    ],
)
def test_what_is_beyond_a_limit(line: str, says: str, runner: CliRunner) -> None:
    result = runner.invoke(cli, line.replace("'8'", '"8"').split())
    text = " ".join((result.output + str(result.exception)).split())
    assert result.exit_code == 2 or isinstance(result.exception, ClusterSimError)
    assert says in text


def test_bandwidth_next_to_nothing(runner: CliRunner) -> None:
    slow = ["--set", "chip.memory.bandwidth=1e-300 B/s"]
    result = runner.invoke(cli, [*RUN.split(), *slow])
    assert "bandwidth: must lie between 100000 and 1e+25 B/s (got 1e-300 B/s)" in str(
        result.exception
    )


def _numbers(kind: type[Any], seen: set[type[Any]]) -> Iterator[tuple[str, Any]]:
    """All int and float fields of a dataclass and those in it, with what bounds them."""
    if kind in seen:
        return
    seen.add(kind)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if not name.startswith("__"):
            yield from _parts(f"{kind.__name__}.{name}", hint, seen)


def _parts(where: str, hint: Any, seen: set[type[Any]]) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(hint):
        yield from _numbers(hint, seen)  # type: ignore[arg-type]
    elif hint in (int, float):
        yield where, None
    elif getattr(hint, "__metadata__", None) and hint.__origin__ in (int, float):
        yield where, hint.__metadata__
    else:
        for part in getattr(hint, "__args__", ()):
            yield from _parts(where, part, seen)


def test_every_number_of_every_family_has_a_range() -> None:
    seen: set[type[Any]] = set()
    kinds = [form.kind for form in FORMS] + [Economics]
    found = [pair for kind in kinds for pair in _numbers(kind, seen)]
    assert len(found) > 150
    unbounded = [
        where
        for where, bounds in found
        if not any(isinstance(one, Count | Number | Quantity) for one in bounds or ())
    ]
    assert unbounded == []


def test_schemas_hold_the_limits() -> None:
    assert f"'maximum': {MOST_CHIPS}" in str([json_schema(family) for family in KINDS])
    arrivals = json_schema("workload")["$defs"]["Arrivals"]["properties"]
    assert (arrivals["cv"]["minimum"], arrivals["cv"]["maximum"]) == (0.01, 100)


def test_ranges_of_units() -> None:
    assert set(RANGES) == set(UNITS)
    assert parse_quantity("143,771 MiB", "bytes") == parse_quantity("143_771 MiB", "bytes")
    for text, kind in (("1,5 GB", "bytes"), ("8_0 GB", "bytes"), ("٥ GB", "bytes")):
        with pytest.raises(ValueError, match="not a quantity"):
            parse_quantity(text, kind)
    for text in ("1e-300 B/s", "1e300 B/s"):
        with pytest.raises(ValueError, match="must lie between"):
            parse_quantity(text, "bandwidth")
    assert parse_quantity("0 B/s", "bandwidth") == 0


def test_a_run_says_what_it_would_need(h200: TopologyInput) -> None:
    job = load_workload("llama70b", ["workload.requests=9000000"])
    with pytest.raises(SpecError) as caught:
        simulate(h200, job, most_bytes=2**30)
    assert "about 4.7 GiB of memory (9,000,000 requests of 550 bytes)" in str(caught.value)
    assert "run fewer with --requests, or allow more with --max-memory" in str(caught.value)


def test_pairs_of_ranks_count() -> None:
    check_collective_memory(4096, "all_to_all", 4 * 2**30)
    check_collective_memory(16384, "all_reduce", 4 * 2**30)
    with pytest.raises(SpecError, match="268,435,456 pairs of ranks of 32 bytes"):
        check_collective_memory(16384, "all_to_all", 4 * 2**30)


MEASURE = (
    "import resource, sys; from cluster_sim.cli import cli;"
    "cli(sys.argv[1:], standalone_mode=False);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "requests", "steps", "record"),
    [
        ("llama70b --rate 1 --requests 20000", 20_000, 4.05e6, False),
        ("llama70b --rate 20 --requests 40000", 40_000, 6.2e5, False),
        ("llama70b_offline --requests 40000", 40_000, 0, False),
        ("llama70b --rate 5 --requests 20000 --timeline", 20_000, 1.24e6, True),
    ],
)
def test_estimates_against_peaks(
    line: str, requests: int, steps: float, record: bool, runner: CliRunner
) -> None:
    command = ["run", "--topo", "h200_nvl8", "--quiet", "--format", "csv", "--workload"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command, *line.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(done.stdout.splitlines()[-1])
    estimate = needed_bytes(run_needs(requests, steps, record=record))
    assert peak / 2 < estimate < peak * 2


CALLS = """[rank0 ~ rank7]
comm_type,comm_group,comm_group_size,msg_size,stage,dst,src,additional,_elapsed_time,count
CommType.all_reduce,CommGroup.tp_group,2,1024,forward,None,None,,None,{}
"""
ROWS = "arrival_s,isl,osl\n0,50,20\n{},50,20\n"
SHARES = '{"0": {"input_tokens": "{50: 1.0}", "output_tokens": "{5: 1.0}"}}'


@pytest.mark.parametrize(
    ("line", "files", "says"),
    [
        ("replay calls.csv --topo h100_nvl8", {"calls.csv": CALLS.format(10**6)}, "calls in all"),
        (
            "replay calls.csv --topo h100_nvl8",
            {"calls.csv": CALLS.format("1,(" + '"' * 200_001)},
            "calls.csv:3: ",
        ),
        (
            "run --topo h200_nvl8 --workload llama8b --trace far.csv",
            {"far.csv": ROWS.format("2e10")},
            "the last request comes 2e+10 s after the first; at most 1e+09 s",
        ),
        (
            "run --topo h200_nvl8 --workload llama8b --trace mix",
            {"mix/chunk-0-trace.csv": "0,1e9,1,,,\n", "mix/chunk-0-dataset.json": SHARES},
            "make more than 10,000,000 requests in all",
        ),
        ("collective --topo h100_nvl8 --background flows:100000000", {}, "at most 10,000 flows"),
        ("collective --topo h100_nvl8 --ranks 0-99999999999", {}, "has devices 0 to 7"),
        ("run --topo h200_nvl8 --workload llama8b --rate 1e6 --duration 1e9s", {}, "can hold"),
    ],
)
def test_what_files_and_options_ask_for(
    line: str, files: dict[str, str], says: str, runner: CliRunner
) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    result = runner.invoke(cli, line.split())
    assert isinstance(result.exception, SpecError), result.output
    assert says in str(result.exception)


def test_a_clock_late_in_a_run_is_no_fault(runner: CliRunner) -> None:
    """Steps after ten years end on floats 60 ns apart."""
    Path("late.csv").write_text(ROWS.format("3e8"))
    line = "run --topo h200_nvl8 --workload llama8b --trace late.csv --quiet"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 0, result.exception


def test_what_would_fit_without_what_other_recomputation_reads() -> None:
    """Modules belong to selective recomputation; a plan with full has none."""
    plan = TrainingPlan(recompute="selective", recompute_modules=("norm",))
    full = dict(_changes(plan))["recompute=full"]
    assert full.recompute_modules == ("core_attention",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["failures.factor=300", "replications=500"], "are more than the 200,000 that are played"),
        (
            ["failures={slow_hosts: {per_1000_host_days: 1e5, slowdown: 1.1, repair: 60 s}}"],
            "200,000",
        ),
    ],
)
def test_failures_that_are_too_many_to_play(
    changes: list[str], says: str, runner: CliRunner
) -> None:
    line = ["run", *["--topo", "h100_superpod", "--plan", "meta_8192", "--until", "15T"]]
    sets = [word for change in changes for word in ("--set", f"workload.run.{change}")]
    result = runner.invoke(cli, [*line, "--workload", "llama3_405b_train", *sets])
    assert isinstance(result.exception, SpecError), result.output
    assert says in str(result.exception)


def test_no_memory_left_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(command_line.cli, "main", nothing)
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert "no memory left" in capsys.readouterr().err
