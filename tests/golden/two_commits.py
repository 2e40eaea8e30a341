"""Compares the very bytes that two commits give: ``python -m tests.golden.two_commits OLD [NEW]``.

Both run the table of runs that lies here, in the same Python, each with its own package; without
NEW the working tree is compared. Exit code 1: something differs.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import click

from .runs import RUNS
from .tables import without_hashes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SIDES = ("old", "new")
GZIP = b"\x1f\x8b"
BEFORE, SHOWN = 25, 50  # signs before the first that differs, and of each side
TREES = ("cluster_sim", "topologies", "workloads", "cases")


@click.command()
@click.option("--but-hashes", is_flag=True, help="Hashes and ids of runs may differ.")
@click.argument("old")
@click.argument("new", required=False)
@click.option("--run", "names", multiple=True, type=click.Choice(list(RUNS)), help="Only this.")
def two_commits(old: str, new: str | None, names: Sequence[str], but_hashes: bool) -> None:
    """Say of each run whether all its files and its page have the same bytes in both commits."""
    names = names or list(RUNS)
    with tempfile.TemporaryDirectory() as folder:
        sides = [Path(folder) / side for side in SIDES]
        for side, commit in zip(sides, (old, new), strict=True):
            _check_out(commit, side)
        started = [_start(side, names) for side in sides]
        for process in started:
            if process.wait():
                raise click.ClickException("the runs ended with an error")
        different = 0
        for name in names:
            found = _differ(*(side / "out" / name for side in sides), but_hashes=but_hashes)
            different += bool(found)
            click.echo(f"{name}: {'; '.join(found) if found else 'same'}")
    click.echo(f"{different} of {len(names)} runs differ")
    sys.exit(bool(different))


def _check_out(commit: str | None, side: Path) -> None:
    """The package and data of a commit, or of the working tree, and the runs that lie here."""
    if commit is None:
        for tree in TREES:
            shutil.copytree(ROOT / tree, side / tree)
    else:
        command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, *TREES]
        packed = subprocess.run(command, capture_output=True, check=False)
        if packed.returncode:
            raise click.ClickException(packed.stderr.decode().strip())
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(side, filter="data")
    shutil.copytree(HERE, side / "golden", ignore=shutil.ignore_patterns("kept", "__pycache__"))


def _start(side: Path, names: Sequence[str]) -> subprocess.Popen[bytes]:
    """The runs with the package of a side; -P, so that no other package is in the way."""
    command = [sys.executable, "-P", "-m", "golden.play", str(side / "out"), *names]
    return subprocess.Popen(command, cwd=side, env={**os.environ, "PYTHONPATH": str(side)})


def _differ(old: Path, new: Path, *, but_hashes: bool) -> list[str]:
    """What differs between the outputs of a run, by file."""
    before, after = (_contents(side, but_hashes) for side in (old, new))
    found = [
        f"failed in {side}"
        for side, files in zip(SIDES, (before, after), strict=True)
        if "failed" in files
    ]
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            found.append(f"{name} in {SIDES[name in after]} alone")
        elif before[name] != after[name]:
            found.append(f"{name} {_first(b''.join(before[name]), b''.join(after[name]))}")
    return found


def _first(old: bytes, new: bytes) -> str:
    """Where two texts begin to differ, and what stands there; of packed ones only that they do."""
    if old.startswith(GZIP) and new.startswith(GZIP):
        return "differs"
    lines = [text.decode(errors="replace").splitlines() for text in (old, new)]
    for place, (a, b) in enumerate(zip_longest(*lines, fillvalue=""), 1):
        if a != b:
            start = max(len(os.path.commonprefix([a, b])) - BEFORE, 0)
            parts = [repr(text[start : start + SHOWN]) for text in (a, b)]
            return f"line {place}: {' -> '.join(parts)}"
    return "ends its lines in another way"


def _contents(folder: Path, but_hashes: bool) -> dict[str, list[bytes]]:
    """Bytes by path; two folders whose names are alike but for a hash are listed together."""
    files: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, data = path.relative_to(folder).as_posix(), path.read_bytes()
            if but_hashes:
                data = gzip.decompress(data) if name.endswith(".gz") else data
                name, data = without_hashes(name), without_hashes(data.decode()).encode()
            files.setdefault(name, []).append(data)
    return {name: sorted(found) for name, found in files.items()}


if __name__ == "__main__":
    two_commits(prog_name="python -m tests.golden.two_commits")
