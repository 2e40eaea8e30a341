"""What signals do to a command: the first one ends it like Ctrl-C, so that it keeps what it has; a
later one ends the process.

Imports nothing that takes time, typing and contextlib included, as long as Python itself takes to
start: signals that come before this module is loaded are Python's, which shows a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # what type checkers take for typing's
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, TypeVar

    Made = TypeVar("Made")

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
EXIT_INTERRUPTED = 130  # of commands after KeyboardInterrupt: 128 and the number of SIGINT
BY_SIGNAL = 128  # plus its number: the exit code of what a signal ended
REPEATED_S = 0.2  # `timeout` sends its signal to the process and at once to its group, too
AGAIN_S = 0.002
SHOW_CURSOR = b"\x1b[?25h"


class Interrupt(KeyboardInterrupt):
    """A KeyboardInterrupt that a signal raised; where it passes through exec of a text, which data
    classes are made by, Python does not end itself by SIGINT at exit, as it does after a plain one.
    """


class Interrupts:
    """The handler of ``SIGNALS`` while a command runs; signals that are ignored stay so.

    The first signal raises KeyboardInterrupt in the main thread, at once or, where interrupts are
    held back, when they are let through. A later one ends the process where it is.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._first_s = 0.0
        self._held = 0
        self._due = False

    def install(self) -> None:
        """Take the signals over."""
        sys.unraisablehook = self._on_unraisable
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._first_s = number, now
            self._interrupt()
        elif now - self._first_s > REPEATED_S:
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, SHOW_CURSOR)  # a progress bar hides it
            os._exit(BY_SIGNAL + number)

    def hold_back(self) -> None:
        """Interrupts wait from here on."""
        self._held += 1

    def let_through(self) -> None:
        """Undo ``hold_back``; raises KeyboardInterrupt if an interrupt waits."""
        self._held -= 1
        if self._due and not self._held:
            self._due = False
            raise Interrupt

    def _interrupt(self) -> None:
        if self._held:
            self._due = True
        else:
            raise Interrupt

    def _on_unraisable(self, lost: Any) -> None:
        """Where Python drops exceptions (finalizers, callbacks of weak references), an interrupt is
        not dropped but raised again a little later.
        """
        if lost.exc_type is not Interrupt or not hasattr(signal, "setitimer"):
            sys.__unraisablehook__(lost)
            return
        signal.signal(signal.SIGALRM, lambda *_: self._interrupt())
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def _installed() -> Interrupts | None:
    """The handler of the running command; None where cluster-sim is used as a library."""
    for number in SIGNALS:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, Interrupts):
            return owner
    return None


def hold_back() -> None:
    """From here on there is something to lose: interrupts wait until ``let_through``.

    Without effect outside a command of the command line, whose caller decides about signals.
    """
    installed = _installed()
    if installed is not None:
        installed.hold_back()


def let_through() -> None:
    """Undo ``hold_back``; raises KeyboardInterrupt if an interrupt came meanwhile."""
    installed = _installed()
    if installed is not None:
        installed.let_through()


def was_interrupted() -> bool:
    """Undo ``hold_back``, and say whether an interrupt came meanwhile."""
    try:
        let_through()
    except KeyboardInterrupt:
        return True
    return False


def interruptible(work: Callable[[], Made]) -> Made | None:
    """What work gives that is done while interrupts are held back, and that they may end: then
    None.
    """
    try:
        let_through()
        made = work()
        hold_back()
    except KeyboardInterrupt:
        hold_back()
        return None
    return made


class held_back:
    """Interrupts wait until the block is left."""

    def __enter__(self) -> None:
        hold_back()

    def __exit__(self, *_: object) -> None:
        let_through()


def run_command(command: Callable[[], None]) -> None:
    """Run a command and leave with its exit code; of one that a signal ended it is 128 and the
    number of the signal (130 SIGINT, 143 SIGTERM, 129 SIGHUP).

    What breaks after an interrupt, such as an import that was cut short, is no fault to report.
    """
    interrupts = Interrupts()
    try:
        try:
            interrupts.install()
            command()
        finally:
            interrupts.hold_back()  # till the process ends
    except SystemExit as stop:
        if stop.code != EXIT_INTERRUPTED or interrupts.first is None:
            raise
    except BaseException:
        if interrupts.first is None or "--debug" in sys.argv:
            raise
        print("Interrupted.", file=sys.stderr)
    else:
        return
    sys.exit(BY_SIGNAL + (interrupts.first or signal.SIGINT))
