"""One command in a child process of its own, under a limit of time and of memory."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10.0  # of processor time; a machine that others use too is slow on the clock
WAITING_S = 60.0  # on the clock
MOST_RSS = 1 << 30
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code (None if it was killed for time or memory), what it
    printed, its wall seconds and its largest resident bytes.
    """

    code: int | None
    out: str
    err: str
    wall_s: float
    rss: int
    cpu_s: float
    killed: str = ""


def run_child(arguments: Sequence[str], folder: Path, seconds: float = SECONDS) -> Outcome:
    """Run ``cluster-sim`` with these arguments in a folder; what the modules hold is inherited, so
    that a case costs no start of Python.
    """
    out, err = folder / ".out", folder / ".err"
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(arguments, folder, out, err)
    killed = ""
    largest = 0
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        largest = max(largest, _resident(pid))
        if _processor_s(pid) > seconds:
            killed = f"worked for over {seconds:g} s"
        elif time.monotonic() - began > WAITING_S:
            killed = f"took over {WAITING_S:g} s"
        elif largest > MOST_RSS:
            killed = f"took over {MOST_RSS >> 20:,} MiB"
        if killed:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(_POLL_S)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(
        code=None if killed else code,
        out=out.read_text(errors="replace"),
        err=err.read_text(errors="replace"),
        wall_s=time.monotonic() - began,
        rss=max(largest, usage.ru_maxrss * 1024 if code == 0 else largest),
        cpu_s=usage.ru_utime + usage.ru_stime,
        killed=killed,
    )


def _child(arguments: Sequence[str], folder: Path, out: Path, err: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        for path, number in ((out, 1), (err, 2)):
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, number)
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        sys.argv = ["cluster-sim", *arguments]
        warnings.resetwarnings()
        from cluster_sim.cli import main

        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _processor_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
