"""Bad input is refused: no traceback, no hang, no memory eaten, no half-written file, nothing
absurd accepted. A small sample always, 3,000 cases with ``-m slow``.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_cases import Case, cases
from fuzz_child import MOST_RSS, Outcome, run_child

import cluster_sim
from cluster_sim.specs.collective_fits import load_collective_fits
from cluster_sim.specs.load import load_economics, load_topology, load_workload
from cluster_sim.specs.load_training import load_training

SAMPLE, ALL = 60, 3_000
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# A cell of a result that is no number, or none that anything measurable could have.
NO_NUMBER = re.compile(r"(?:^|,)(?:nan|-?inf|-?[\d.]+e\+(?:[3-9]\d|\d{3}))(?=,|$)", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """All modules and the validators of all specs, so that children need not make them."""
    for module in pkgutil.walk_packages(cluster_sim.__path__, "cluster_sim."):
        if "torch" not in module.name:
            importlib.import_module(module.name)
    load_topology("h100_superpod")
    load_collective_fits("h100_sxm")
    load_workload("llama8b")
    load_training("llama3_8b_train")
    load_economics([])
    gc.freeze()


def faults(case: Case, found: Outcome, folder: Path) -> Iterator[str]:
    """What is wrong with how a case ended."""
    said = found.out + found.err
    if found.killed:
        yield found.killed
    elif found.code not in (0, 2):
        yield f"exit code {found.code}"
    if "Traceback (most recent call last)" in said:
        yield "traceback: " + found.err.strip().splitlines()[-1][:160]
    if "please report this" in said or "RuntimeWarning" in said:
        yield "internal: " + found.err.strip().splitlines()[-1][:160]
    if found.code == 2 and not found.err.strip():
        yield "refused without a word"
    if found.rss > MOST_RSS:
        yield f"took {found.rss >> 20:,} MiB"
    if found.code == 0 and case.absurd:
        yield "accepted"
    if found.code == 0 and "csv" in case.arguments and NO_NUMBER.search(found.out):
        yield f"a result that is no number: {NO_NUMBER.search(found.out)}"
    for path in (folder / "results").glob("*"):
        names = [path] if not path.is_dir() else [path, *path.iterdir()]
        if any(one.name.startswith(".") or one.suffix == ".tmp" for one in names):
            yield f"left {path.name}"
        elif path.is_dir() and not {"summary.csv", "replay.csv"} & {one.name for one in names}:
            yield f"half a result in {path.name}"


def tried(count: int, seed: int, folder: Path) -> list[str]:
    """The cases that went wrong, each with what it was and how it can be seen again."""
    wrong, ends = [], Counter[object]()
    for number, case in enumerate(cases(count, seed)):
        place = folder / f"case{number}"
        place.mkdir()
        for name, data in case.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        found = run_child(case.arguments, place)
        ends[found.killed or found.code] += 1
        bad = list(faults(case, found, place))
        if bad:
            wrong.append(f"{number} ({seed}) {case.name}: {'; '.join(bad)}: {case.arguments}")
            print(wrong[-1], flush=True)
        shutil.rmtree(place, ignore_errors=True)
    print(f"{count} cases, {len(wrong)} faults, exit codes {dict(ends)}")
    return wrong


def test_a_sample_of_bad_input(tmp_path: Path) -> None:
    assert tried(SAMPLE, 7, tmp_path) == []


@pytest.mark.slow
def test_bad_input_of_every_kind(tmp_path: Path) -> None:
    assert tried(int(os.environ.get("FUZZ_CASES", ALL)), 1, tmp_path) == []
