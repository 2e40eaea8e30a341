"""The command line. Only this package prints; every command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from cluster_sim.cli.calibrate import calibrate
from cluster_sim.cli.check import check
from cluster_sim.cli.collective import collective
from cluster_sim.cli.compare import compare
from cluster_sim.cli.inspect import explain, list_names, schema, show
from cluster_sim.cli.measure import measure
from cluster_sim.cli.replay import replay
from cluster_sim.cli.run import run
from cluster_sim.cli.validate import validate
from cluster_sim.interrupts import EXIT_INTERRUPTED, run_command


class _Commands(click.Group):
    """Keeps commands in the order in which users meet them."""

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
    """Run the command of the arguments: user errors end as one block on stderr, exit code 2."""
    # One thread: the arrays here are small, and starting a pool costs more than it saves.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from cluster_sim.errors import ClusterSimError, SimulationError

    _show_old_forms()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ClusterSimError as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(1 if isinstance(error, SimulationError) else 2)


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
