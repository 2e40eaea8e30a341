"""docs/reference.md names every command, option and column, and no others."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import fields
from fnmatch import fnmatch
from typing import get_args

from conftest import ROOT

from cluster_sim import load_workload, simulate
from cluster_sim.cli import cli
from cluster_sim.cli.calibrate import calibrate
from cluster_sim.cli.collective import collective
from cluster_sim.cli.compare import compare
from cluster_sim.cli.fit import fit
from cluster_sim.cli.measure import measure
from cluster_sim.cli.replay import replay
from cluster_sim.cli.run import run
from cluster_sim.cli.validate import validate
from cluster_sim.columns import SUMMARY_COLUMNS
from cluster_sim.output.validate_text import CASE_COLUMNS
from cluster_sim.specs.campaign import Campaign, Checkpoint, Failures, FleetName
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.training import Lora, Offload, Routing, TrainingPlan, TrainingWorkload
from cluster_sim.specs.training_software import AttentionKernel, ExpertKernels, TrainingSoftware
from cluster_sim.studies.collective import Row
from cluster_sim.studies.compare_runs import NEW, compare_runs, flat_rows
from cluster_sim.studies.measure_cases import OP_COLUMNS, SHAPES, STEP_COLUMNS
from cluster_sim.studies.memory_grid import FitRow
from cluster_sim.studies.validate_cases import KINDS
from cluster_sim.train import MEMORY_USES
from cluster_sim.training.closed import OWNERS
from cluster_sim.training.replay_rows import REPLAY_COLUMNS, CollectiveRow, RankRow
from cluster_sim.training.traces import FORMATS


def table(heading: str) -> list[str]:
    """The code words in the first column of the table under a heading."""
    text = (
        (ROOT / "docs" / "reference.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    )
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_every_command() -> None:
    assert sorted(table("Commands")) == sorted(cli.commands)


def test_every_option() -> None:
    options = {option for parameter in run.params for option in parameter.opts}
    assert set(table("Options of run")) - {"--help"} == options


def test_every_option_of_collective() -> None:
    options = {option for parameter in collective.params for option in parameter.opts}
    words = {word for word in table("Options of collective") if word.startswith("--")}
    assert words - {"--help"} == options


def test_every_option_and_column_of_replay() -> None:
    words = table("Options of replay")
    options = {option for parameter in replay.params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given - {"--help"} == options - {"files"}
    columns = {field.name for kind in (RankRow, CollectiveRow) for field in fields(kind)}
    assert {*FORMATS, *columns, *REPLAY_COLUMNS} == set(words) - given


def test_every_option_and_column_of_compare() -> None:
    words = table("Options of compare")
    options = {option for parameter in compare.params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given - {"--help"} == options - {"paths"}
    row = dict.fromkeys(SUMMARY_COLUMNS, "")
    runs, _ = compare_runs([row, row])
    added = set(flat_rows(runs, [[]])[0]) - {*SUMMARY_COLUMNS, *NEW}
    assert added
    for column in added:
        assert [word for word in words if fnmatch(column, word)], column
    for word in words:
        if re.fullmatch(r"[a-z_*]+", word):
            assert [column for column in added if fnmatch(column, word)], word


def test_every_option_of_calibrate() -> None:
    options = {option for parameter in calibrate.params for option in parameter.opts}
    words = {word for word in table("Options of calibrate") if word.startswith("--")}
    assert words - {"--help"} == options


def test_every_column_of_collective() -> None:
    words = {word for word in table("Options of collective") if not word.startswith("--")}
    assert words == {field.name for field in dataclasses.fields(Row)}


def test_every_option_and_column_of_fit() -> None:
    words = table("Options of fit")
    options = {option for parameter in fit.params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given - {"--help"} == options
    assert set(words) - given == {field.name for field in fields(FitRow)}


def test_every_option_of_validate() -> None:
    options = {option for parameter in validate.params for option in parameter.opts}
    words = table("Options of validate")
    assert {word for word in words if word.startswith("--")} - {"--help"} == options
    assert set(CASE_COLUMNS) <= set(words)


def test_every_column_of_measured_cases() -> None:
    text = (ROOT / "docs" / "reference.md").read_text().split("### Measured cases\n")[1]
    words = set(re.findall(r"`([^`]+)`", text.split("\n## ")[0]))
    for kind in KINDS[:4]:
        for column in kind.columns:
            stage, _, rest = column.partition("_")
            known = stage in ("prefill", "decode") and rest in (*words, "workers")
            assert column in words or known, column


def test_every_option_and_column_of_measure() -> None:
    words = table("Options of measure")
    options = {option for parameter in measure.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} - {"--help"} == options
    assert {word for word in words if not word.startswith("--")} == {*OP_COLUMNS, *STEP_COLUMNS}
    text = (ROOT / "docs" / "reference.md").read_text()
    assert all(f"`{op}`" in text for op in SHAPES)


def test_every_column() -> None:
    patterns = table("Columns of summary.csv")
    for column in SUMMARY_COLUMNS:
        assert [p for p in patterns if fnmatch(column, p)], column
    for pattern in patterns:
        assert [c for c in SUMMARY_COLUMNS if fnmatch(c, pattern)], pattern


def test_every_key_of_a_run() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    tables = text.split("## Run of a training workload\n")[1].split("\n## ")[0].split("\n### ")
    for part, kind in zip(tables, (Campaign, Checkpoint, Failures), strict=True):
        keys = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
        assert sorted(keys) == sorted(field.name for field in dataclasses.fields(kind))
    assert all(f"`{name}`" in tables[2] for name in get_args(FleetName))


def keys(heading: str) -> set[str]:
    """The code words in the first column of the table under a heading of any level."""
    text = (ROOT / "docs" / "reference.md").read_text().split(f"# {heading}\n")[1]
    lines = re.split(r"\n##", text)[0].splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_every_key_of_training() -> None:
    for heading, kind in (
        ("Training workloads", TrainingWorkload),
        ("Plan of a training workload", TrainingPlan),
        ("Training software", TrainingSoftware),
    ):
        assert keys(heading) == {field.name for field in fields(kind)}
    text = (ROOT / "docs" / "reference.md").read_text()
    for kind in (Routing, Offload, Lora, AttentionKernel, ExpertKernels):
        named = {field.name for field in fields(kind)} - {"source"}
        assert all(re.search(rf"\b{name}\b", text) for name in named)


def test_every_column_of_steps() -> None:
    owners = {f"{owner}_s" for owner in OWNERS}
    uses = {f"{use}_gib" for use in MEMORY_USES}
    text = (ROOT / "docs" / "reference.md").read_text().split("| column of steps.csv |")[1]
    cells = [line.split("|")[1] for line in text.split("\n\n")[0].splitlines()[1:]]
    words = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert words == {"step", "stage", "step_time_s", *owners, *uses}


def test_every_column_of_requests(h200: TopologyInput) -> None:
    text = (ROOT / "docs" / "reference.md").read_text().split("| column of requests.csv |")[1]
    cells = [line.split("|")[1] for line in text.split("\n\n")[0].splitlines()[1:]]
    words = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    few = ["workload.requests=40", "workload.arrivals={kind: open, rate: 2 requests/s}"]
    job = load_workload("mixed", few)  # classes and sessions: every column
    assert words == set(simulate(h200, job).requests)
