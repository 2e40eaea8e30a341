"""Signals at random moments: no finished result is lost, and nothing half-written counts as one."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT

from cluster_sim import read_results
from cluster_sim.errors import SpecError
from cluster_sim.output.folders import holds_all

SEED, SIGNALS = 14, 200
NAMES = ("SIGINT", "SIGTERM", "SIGKILL", "SIGHUP")
SERVE = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 400 --quiet"
COMMANDS = {
    "run": SERVE,
    "run csv": f"{SERVE} --format csv",
    "run timeline": f"{SERVE} --timeline",
    "run band": f"{SERVE} --band",
    "run seeds": f"{SERVE} --seeds 3",
    "search": "run --topo h200_nvl8 --workload llama8b --quiet",
    "train": "run --topo h100_nvl8 --workload llama3_8b_train --quiet --timeline",
    "train until": "run --topo h100_nvl8 --workload llama3_8b_train --quiet --until 1T",
    "replay": "replay --topo h100_nvl8 trace.txt --quiet",
    "validate": "validate --against mine.csv --quiet --out cases.csv --workers 2",
    "plot": "collective --topo h200_nvl8 --plot curve.svg",
    "draw": "show topology h100_superpod --draw picture.svg",
    "export": "show topology h100_superpod --export net.json",
    "compare": "compare results",
}
TRACE = (
    "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 8 ep: 1 pp: 1 vpp: 1 ga: 1 "
    "all_gpus: 8 checkpoints: 0 checkpoint_initiates: 0\n400\n"
) + "layer -1 1000 ALLREDUCE 1048576 1000 NONE 0 1000 NONE 0 100\n" * 400
CASES = "case_id,chip,op,dtype,m,n,k,metric,value\n" + "".join(
    f"{number},h200_sxm,gemm,bf16,{number},4096,4096,time_us,9\n" for number in range(1, 2000)
)


@dataclass
class Seen:
    """What was finished, file by file, and how the commands ended."""

    files: dict[Path, bytes] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text, strict=True))
    assert all(None not in row and None not in row.values() for row in rows), file
    return rows


def finished(work: Path) -> dict[Path, bytes]:
    """The files of what counts as finished, checked to be whole; logs tell when they were made."""
    found = {}
    for folder in (work / "results").glob("[!.]*"):
        last = next((f for f in ("summary.csv", "replay.csv") if (folder / f).exists()), None)
        if last is None:
            continue
        (row,) = table(folder / last)
        json.loads((folder / "manifest.json").read_text())
        assert row["run_id"] == folder.name.removesuffix("-partial")
        if (folder / "requests.csv").exists():
            requests = table(folder / "requests.csv")
            assert len(requests) == int(row["requests"])
            done = sum(request["status"] == "finished" for request in requests)
            assert done == int(row["finished"])
        assert last != "summary.csv" or {"requests.csv", "steps.csv"} & set(os.listdir(folder))
        if row["partial"] == "false":
            files = [file for file in folder.iterdir() if file.name != "run.log"]
            found.update({file: file.read_bytes() for file in files})
    for name in ("curve.svg", "picture.svg", "net.json", "cases.csv"):
        if (work / name).exists():
            text = (work / name).read_text()
            ends = {"svg": "</svg>", "json": "}", "csv": ""}[name.rpartition(".")[2]]
            assert text.rstrip().endswith(ends)
            assert text.endswith("\n")
            found[work / name] = text.encode()
    for name in ("cases.csv", "cases-partial.csv"):
        rows = table(work / name) if (work / name).exists() else []
        assert len(rows) in (0, 1999)
        if any(row["reason"] == "interrupted" for row in rows):
            found.pop(work / name, None)
    return found


def lost(was: dict[Path, bytes], now: dict[Path, bytes]) -> set[Path]:
    """Files that are gone or hold something else; a manifest may gain a band or a run."""
    gone = {file for file, content in was.items() if now.get(file) != content}
    return {
        file
        for file in gone
        if file not in now
        or file.name != "manifest.json"
        or not holds_all(json.loads(now[file]), json.loads(was[file]))
    }


def started(work: Path, line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster_sim", *line.split()],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_taken_over(process: subprocess.Popen[str]) -> None:
    """Until the program handles SIGTERM: what comes while Python starts is Python's business."""
    taken, status = 1 << (signal.SIGTERM - 1), Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) & taken:
            return
        time.sleep(0.001)


def one(work: Path, seen: Seen, chance: random.Random) -> None:
    """A command that gets a signal, or two, at some moment of its life."""
    what = chance.choice(list(COMMANDS))
    name = chance.choice(NAMES)
    moment = chance.uniform(0.0, 1.1 * seen.seconds[what])
    if chance.random() < 0.3:  # while it writes, near its end
        moment = seen.seconds[what] * chance.uniform(0.85, 1.0)
    process = started(work, COMMANDS[what])
    wait_until_taken_over(process)
    time.sleep(moment)
    to = os.killpg if chance.random() < 0.5 else os.kill
    codes = {0, 2} if what == "compare" else {0}  # fewer than two results
    if process.poll() is None:
        to(process.pid, getattr(signal, name))
        number = int(getattr(signal, name))
        codes |= {128 + number, -number}
        if chance.random() < 0.2:
            time.sleep(0.25)
            if process.poll() is None:
                to(process.pid, signal.SIGTERM)
                codes |= {128 + signal.SIGTERM, -signal.SIGTERM}
    _, text = process.communicate(timeout=120)
    place = f"{what}, {name} after {moment:.3f} s: {process.returncode} {text}"
    assert process.returncode in codes, place
    assert "Traceback" not in text, place
    assert "Exception ignored" not in text, place
    seen.ends[process.returncode] = seen.ends.get(process.returncode, 0) + 1
    now = finished(work)
    assert not lost(seen.files, now), f"{place} lost {lost(seen.files, now)}"
    seen.files |= now


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_signals_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    chance, seen, whole = random.Random(SEED), Seen(), tmp_path / "whole"
    whole.mkdir()
    (whole / "trace.txt").write_text(TRACE)
    (whole / "mine.csv").write_text(CASES)
    for what, line in COMMANDS.items():
        begun = time.perf_counter()
        process = started(whole, line)
        _, text = process.communicate(timeout=300)
        assert process.returncode == 0, f"{what}: {text}"
        seen.seconds[what] = time.perf_counter() - begun
    assert len({file.parent if "results" in file.parts else file for file in finished(whole)}) >= 9
    for round_ in range(SIGNALS // 20):
        work = tmp_path / str(round_)
        # Half of the rounds begin with everything finished, the others with nothing.
        made = shutil.ignore_patterns("results", "curve*", "picture*", "net*", "cases*")
        shutil.copytree(whole, work, ignore=made if round_ % 2 else None)
        seen.files = finished(work)
        for _ in range(20):
            one(work, seen, chance)
        if not seen.files:
            with pytest.raises(SpecError):
                read_results(work / "results")
    print(f"\n{SIGNALS} signals, exit codes {dict(sorted(seen.ends.items()))}")
    assert sum(seen.ends.values()) == SIGNALS
