"""The command line. Only this package prints; every command imports what it needs when it runs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from cluster_sim.cli.calibrate import calibrate
from cluster_sim.cli.check import check
from cluster_sim.cli.collective import collective
from cluster_sim.cli.compare import compare
from cluster_sim.cli.fit import fit
from cluster_sim.cli.inspect import explain, list_names, schema, show
from cluster_sim.cli.measure import measure
from cluster_sim.cli.replay import replay
from cluster_sim.cli.run import run
from cluster_sim.cli.validate import validate
from cluster_sim.interrupts import EXIT_INTERRUPTED, run_command

CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended: 128 + 13
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _ReaderGone(Exception):
    """Nobody reads the output any more."""


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Let a closed pipe pass click, which would end the program as if it had failed."""
    try:
        yield
    except BrokenPipeError:
        raise _ReaderGone from None


class _Commands(click.Group):
    """Keeps commands in the order in which users meet them."""

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        """See click; this is where help and version are printed."""
        with _own_end():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        with _own_end():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of definition."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cluster-sim", message="cluster-sim %(version)s")
def cli() -> None:
    """Simulate AI datacenter clusters: throughput, latency, cost and energy of a workload.

    Begin with: cluster-sim run --topo h200_nvl8 --workload llama70b
    """


for command in (
    run,
    collective,
    replay,
    list_names,
    show,
    check,
    explain,
    fit,
    compare,
    measure,
    calibrate,
    validate,
    schema,
):
    cli.add_command(command)


def main() -> None:
    """Entry point for those who import it; ``cluster_sim.__main__`` takes signals over earlier."""
    run_command(run_commands)


def run_commands() -> None:
    """Run the command of the arguments: user errors end as one block on stderr with exit code 2, a
    reader of the output that goes away with 141, without a word.
    """
    # One thread: the arrays here are small, and starting a pool costs more than it saves.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = _called()
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed from the start
            stream.flush()
    except (_ReaderGone, BrokenPipeError):
        _mute(sys.stdout, sys.stderr)
        sys.exit(CLOSED_PIPE)
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        with contextlib.suppress(OSError):
            click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
        _mute(sys.stdout, sys.stderr)
        sys.exit(2)
    sys.exit(code)


def _called() -> int | str | None:
    """Run the command that was asked for; the exit code."""
    from cluster_sim.errors import ClusterSimError, SimulationError

    _show_old_forms()
    try:
        os.getcwd()
    except OSError as error:
        click.echo(f"Error: the working directory: {error.strerror}; change to another", err=True)
        return 2
    try:
        cli.main(standalone_mode=False)
    except SystemExit as stop:
        return stop.code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MemoryError:
        if "--debug" in sys.argv:
            raise
        click.echo("Error: this machine has no memory left for that; ask for less.", err=True)
        return 2
    except ClusterSimError as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"Error: {error}", err=True)
        return 1 if isinstance(error, SimulationError) else 2
    return 0


def _mute(*streams: Any) -> None:
    """Send what is left in streams nowhere: the interpreter would complain of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def _show_old_forms() -> None:
    """Print warnings about old forms in a line; --quiet leaves them out."""
    import warnings

    from cluster_sim.errors import OldFormWarning

    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, OldFormWarning):
            show(message, category, *rest, **more)
        elif "--quiet" not in sys.argv:
            click.echo(f"Warning: {message}", err=True)

    warnings.showwarning = note
