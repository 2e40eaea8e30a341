"""Routers: which replica takes an arriving request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Router = Callable[[int, Sequence[int]], int]


def round_robin(arrival: int, outstanding: Sequence[int]) -> int:
    """Replica number ``arrival`` modulo the number of replicas."""
    return arrival % len(outstanding)


def least_outstanding(arrival: int, outstanding: Sequence[int]) -> int:
    """The replica with the fewest unfinished requests; the lowest number among equals."""
    return outstanding.index(min(outstanding))


ROUTERS: dict[str, Router] = {"round_robin": round_robin, "least_outstanding": least_outstanding}
READS_LOAD = frozenset({"least_outstanding"})  # routers that look at ``outstanding``
