"""The first signal ends a command like Ctrl-C, a later one ends the process; codes are 128 and the
number of the signal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import os, signal, sys, time
from cluster_sim.interrupts import held_back, hold_back, interruptible, run_command, was_interrupted

def send(name="SIGTERM"):
    os.kill(os.getpid(), getattr(signal, name))
"""


def ran(command: str, *, ignoring: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that consists of these lines."""
    lines = textwrap.indent(textwrap.dedent(command), "    ")

    def ignore() -> None:
        for name in ignoring:
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}\ndef command():\n{lines}\nrun_command(command)"],
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=ignore,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_code_is_that_of_the_signal(name: str, code: int) -> None:
    assert ran(f"send('{name}')\nprint('not reached')") == (code, "", "Interrupted.\n")
    keeps = f"""
        try:
            send('{name}')
        except KeyboardInterrupt:
            print('kept')
            sys.exit(130)
    """
    assert ran(keeps) == (code, "kept\n", "")


def test_other_ends_stay_what_they_are() -> None:
    assert ran("print('done')") == (0, "done\n", "")
    assert ran("sys.exit(2)") == (2, "", "")
    assert ran("sys.exit(130)") == (130, "", "")
    code, _, text = ran("raise ValueError('ours')")
    assert code == 1
    assert "ValueError: ours" in text


def test_ignored_signals_stay_ignored() -> None:
    assert ran("send('SIGHUP')\nprint('on')", ignoring=("SIGHUP",)) == (0, "on\n", "")


def test_interrupts_wait_while_they_are_held_back() -> None:
    held = """
        try:
            with held_back():
                with held_back():
                    send()
                print('whole')
        except KeyboardInterrupt:
            print('then')
        print(was_interrupted())
    """
    assert ran(held) == (0, "whole\nthen\nFalse\n", "")


def test_what_is_beside_the_result_may_be_interrupted() -> None:
    beside = """
        hold_back()
        print(interruptible(lambda: 1), interruptible(send), interruptible(lambda: 2))
        print(was_interrupted())
        hold_back()
    """
    assert ran(beside) == (0, "1 None 2\nFalse\n", "")
    waits = """
        hold_back()
        send()
        print(interruptible(lambda: print('not reached')), was_interrupted())
    """
    assert ran(waits) == (0, "None False\n", "")
    assert ran("hold_back()\nsend()\nprint(was_interrupted())\nsys.exit(130)")[0] == 143


def test_a_later_signal_ends_the_process_where_it_is() -> None:
    busy = """
        hold_back()
        send('SIGINT')
        time.sleep(0.3)
        send('SIGTERM')
        print('not reached')
    """
    assert ran(busy) == (143, "", "")


def test_a_signal_that_is_sent_twice_at_once_counts_once() -> None:
    twice = """
        try:
            send()
        except KeyboardInterrupt:
            send()
            print('kept')
            sys.exit(130)
    """
    assert ran(twice) == (143, "kept\n", "")


def test_what_breaks_after_an_interrupt_is_no_fault() -> None:
    broken = """
        try:
            send()
        except KeyboardInterrupt:
            raise ImportError('cut short')
    """
    assert ran(broken) == (143, "", "Interrupted.\n")


def test_an_interrupt_where_python_drops_exceptions_is_raised_again() -> None:
    dropped = """
        class Held:
            def __del__(self):
                send('SIGINT')
                for _ in range(10):
                    pass
        held = Held()
        del held
        for _ in range(1000):
            time.sleep(0.01)
        print('not reached')
    """
    assert ran(dropped) == (130, "", "Interrupted.\n")


def test_an_interrupt_through_exec_of_a_text_does_not_end_python_by_sigint() -> None:
    assert ran("exec('send()')")[0] == 143


def test_little_is_imported_before_signals_are_taken_over() -> None:
    code = "import sys, cluster_sim.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert not {"typing", "contextlib", "click", "cluster_sim.cli"} & set(done.stdout.split())
