"""Plays a run in an empty folder, with a clock that stands still, and returns all that it left.

Time taken is the one thing on a page that is another one each time; with a clock that stands still
it is printed as nothing, and the page breaks its lines in the same places.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from .runs import RUNS

INPUTS = Path(__file__).resolve().parent / "inputs"
LOG = "run.log"  # names host and Python
WITHOUT_FOLDER = ("collective", "fit")  # their CSV is what they print if asked
VARIABLES = ("COLUMNS", "CLUSTER_SIM_PATH")  # that change what is printed or found


@dataclass(frozen=True)
class Output:
    """What a run printed and the bytes of the files that it wrote, by their path."""

    page: str
    notes: str
    files: dict[str, bytes]


def play(name: str) -> Output:
    """Play a run of the table."""
    words = shlex.split(RUNS[name])
    with tempfile.TemporaryDirectory() as folder, _away(Path(folder)):
        if name.startswith("refused"):
            page, notes = _refused(words), ""
        else:
            page, notes = _script(words[1]) if words[0] == "python" else _command(words)
        files = {path: data for path, data in _written(Path()) if path != LOG}
        if words[0] in WITHOUT_FOLDER:
            files["printed.csv"] = _command([*words, "--format", "csv"])[0].encode()
    return Output(page, notes, files)


@contextlib.contextmanager
def _away(folder: Path) -> Iterator[None]:
    """In a folder with the inputs, without the variables, while the clock stands still."""
    shutil.copytree(INPUTS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*"))
    with contextlib.chdir(folder), patch.dict(os.environ), patch("time.perf_counter", lambda: 0.0):
        for variable in VARIABLES:
            os.environ.pop(variable, None)
        yield


def _command(words: list[str]) -> tuple[str, str]:
    from cluster_sim.cli import cli

    done = CliRunner().invoke(cli, words)
    if done.exit_code:
        raise RuntimeError(f"{' '.join(words)}: {done.output}{done.exception}") from done.exception
    return done.stdout, done.stderr


def _refused(words: list[str]) -> str:
    from cluster_sim.cli import cli
    from cluster_sim.errors import ClusterSimError

    done = CliRunner().invoke(cli, words)
    if not isinstance(done.exception, ClusterSimError):
        raise RuntimeError(f"{' '.join(words)}: not refused: {done.output}{done.exception}")
    return f"{done.exception}\n"


def _script(name: str) -> tuple[str, str]:
    page, notes = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(notes):
        runpy.run_path(name)
    return page.getvalue(), notes.getvalue()


def _written(folder: Path) -> Iterator[tuple[str, bytes]]:
    inputs = {path.name for path in INPUTS.iterdir()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parts[0] not in inputs and path.name != LOG:
            yield path.as_posix(), path.read_bytes()


def main() -> None:
    """Play runs and write all that each left below a folder: FOLDER NAME ..."""
    for name in sys.argv[2:]:
        folder = Path(sys.argv[1]).resolve() / name
        folder.mkdir(parents=True)
        try:
            found = play(name)
        except Exception as error:  # the other runs are compared all the same
            (folder / "failed").write_text(f"{error}\n", encoding="utf-8")
            continue
        texts = {"page": found.page.encode(), "notes": found.notes.encode()}
        for path, data in {**texts, **found.files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


if __name__ == "__main__":
    main()
