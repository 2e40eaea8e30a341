"""The program: ``cluster-sim`` and ``python -m cluster_sim``.

Signals are taken over before the commands are imported, which takes longer than many of them run.
"""

from __future__ import annotations

from cluster_sim.interrupts import run_command


def main() -> None:
    """Run the command that the arguments name."""

    def command() -> None:
        from cluster_sim.cli import run_commands

        run_commands()

    run_command(command)


if __name__ == "__main__":
    main()
