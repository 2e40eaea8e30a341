"""The errors that users see. User errors end as one block on stderr with exit code 2; ours ask for
a report.
"""

from __future__ import annotations

import difflib
import warnings
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
        hint = meant(name, known) or "."
        super().__init__(
            f"no {family} named '{name}'{hint} List them with 'cluster-sim list {plural(family)}'."
        )


class DoesNotFitError(ClusterSimError):
    """The plan cannot be placed: what, needed, available, and the smallest change that helps."""


class SimulationError(ClusterSimError):
    """An invariant of the simulation broke: our fault, never the user's."""

    def __init__(self, message: str, at_s: float) -> None:
        super().__init__(f"{message} (at {at_s:.6f} s of simulated time); please report this")


class OldFormWarning(FutureWarning):
    """What was written works in this version and will not in the next."""


def warn(text: str) -> None:
    """Tell the user of an old form; the command line shows it in a line."""
    warnings.warn(text, OldFormWarning, stacklevel=2)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that are closest to a misspelt one, best first; one that it begins counts as
    close.
    """
    candidates, wanted = list(known), name.lower()
    begun = sorted((full for full in candidates if wanted and full.startswith(wanted)), key=len)
    return begun[:3] or difflib.get_close_matches(wanted, candidates, n=3, cutoff=0.5)


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'a' or 'b'?``: all of the nearest names that a misspelt one begins, else the
    nearest; empty if none is near.

    >>> meant("h200", ["h200_sxm", "h200_nvl", "h100_sxm"])
    "; did you mean 'h200_sxm' or 'h200_nvl'?"
    """
    near = nearest(name, known)
    begun = [full for full in near if name and full.startswith(name.lower())]
    words = [f"'{full}'" for full in begun or near[:1]]
    if not words:
        return ""
    return f"; did you mean {' or '.join([', '.join(words[:-1]), words[-1]][len(words) == 1 :])}?"


def plural(family: str) -> str:
    """The plural that ``cluster-sim list`` takes: topology -> topologies, chip -> chips; software
    and training stay.
    """
    if family in ("software", "training"):
        return family
    return family[:-1] + "ies" if family.endswith("y") else family + "s"


def counted(number: float, one: str, many: str = "") -> str:
    """A number with its noun: 1 request, 2 requests, 1,000 requests.

    >>> counted(1, "request"), counted(2, "replica"), counted(1000, "query", "queries")
    ('1 request', '2 replicas', '1,000 queries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
