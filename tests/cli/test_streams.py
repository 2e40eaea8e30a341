"""The ends of the program that are nobody's mistake: pipes that close, disks that are full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from cluster_sim.cli import main; main()"]
MANY = "from cluster_sim.cli import main, cli; cli.command('many')(lambda: print('x' * 10**6)); "


def ended(
    arguments: list[str], *, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> tuple[int, str]:
    """Exit code, and what stands on stderr if it is read."""
    done = subprocess.run(arguments, stdout=stdout, stderr=stderr, text=True)
    return done.returncode, done.stderr or ""


@pytest.fixture
def closed() -> int:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("words", ["list", "--help", "schema fits"])
def test_a_closed_pipe_is_no_fault(closed: int, words: str) -> None:
    assert ended([*PROGRAM, *words.split()], stdout=closed) == (141, "")


def test_a_closed_pipe_is_no_fault_where_nothing_was_flushed(closed: int) -> None:
    program = [sys.executable, "-c", MANY.replace("10**6", "10") + "main()", "many"]
    assert ended(program, stdout=closed) == (141, "")


def test_a_pipe_that_closes_halfway(tmp_path: Path) -> None:
    program = [sys.executable, "-c", MANY + "main()", "many"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.read(10)
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == (b"", 141)


def test_errors_that_nobody_reads(closed: int) -> None:
    assert ended([*PROGRAM, "check", "nothing"], stderr=closed) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_output() -> None:
    with open("/dev/full", "w") as full:
        code, told = ended([*PROGRAM, "list"], stdout=full.fileno())
        assert (code, told) == (
            2, "Error: the output cannot be written: No space left on device\n",
        )  # fmt: skip
        assert ended([*PROGRAM, "list"], stdout=full.fileno(), stderr=full.fileno())[0] == 2


def test_without_any_output(tmp_path: Path) -> None:
    command = "exec " + " ".join(f"'{word}'" for word in PROGRAM) + " list >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PROGRAM, "list"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    says = "Error: the working directory: No such file or directory; change to another\n"
    assert (done.returncode, done.stderr.endswith(says)) == (2, True), done.stderr
