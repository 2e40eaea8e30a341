"""The errors that users see. User errors end as one block on stderr with exit code 2; ours ask for
a report.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ClusterSimError(Exception):
    """Base of everything that cluster-sim raises on purpose."""


class SpecError(ClusterSimError):
    """A user's file or option is wrong; ``problems`` holds one ``path:line: key: problem`` line
    each.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class UnknownNameError(ClusterSimError):
    """No such topology, workload, model, chip or profile; the message carries the nearest names."""

    def __init__(self, family: str, name: str, known: Iterable[str]) -> None:
        self.family, self.name = family, name
        near = nearest(name, known)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        super().__init__(
            f"no {family} named '{name}'{hint} List them with 'cluster-sim list {plural(family)}'."
        )


class DoesNotFitError(ClusterSimError):
    """The plan cannot be placed: what, needed, available, and the smallest change that helps."""


class OldNameWarning(FutureWarning):
    """A name that still works for one version: where, and what to write instead."""


class SimulationError(ClusterSimError):
    """An invariant of the simulation broke: our fault, never the user's."""

    def __init__(self, message: str, at_s: float) -> None:
        super().__init__(f"{message} (at {at_s:.6f} s of simulated time); please report this")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that are closest to a misspelt one, best first; one that it begins counts as
    close.
    """
    candidates, wanted = list(known), name.lower()
    begun = sorted((full for full in candidates if wanted and full.startswith(wanted)), key=len)
    return begun[:3] or difflib.get_close_matches(wanted, candidates, n=3, cutoff=0.5)


def plural(family: str) -> str:
    """The plural that ``cluster-sim list`` takes: topology -> topologies, chip -> chips; software
    and training stay.
    """
    if family in ("software", "training"):
        return family
    return family[:-1] + "ies" if family.endswith("y") else family + "s"
