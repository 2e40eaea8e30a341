"""Absolute-time scheduling on a SimPy environment.

``env.timeout(t - now)`` rounds twice, so a step that ends at ``t`` could be seen at a neighbouring
float. Here an event is put on the queue AT the float. Ties are broken by rank, then by order of
scheduling: arrivals come first, then what ends at this instant in order of replica, then what
starts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappush

from simpy.core import Environment
from simpy.events import Event

ARRIVAL_RANK = 0
END_RANK = 1
START_RANK = 1 << 30


def instant(
    env: Environment, at_s: float, rank: int, then: Callable[[Event], None] | None = None
) -> Event:
    """An event that happens at the simulated time ``at_s`` exactly, and what is called ``then``;
    among equal times lower ranks go first.

    Raises ValueError when ``at_s`` lies before the current time.
    """
    if at_s < env.now:
        raise ValueError(f"at_s(={at_s}) must not be before now(={env.now})")
    event = Event(env)
    event._ok = True
    event._value = None
    event.callbacks = [] if then is None else [then]
    # The environment's own queue layout (time, priority, sequence, event); a test holds it to the
    # installed SimPy.
    queue: list[tuple[float, int, int, Event]] = env._queue  # type: ignore[assignment]
    heappush(queue, (at_s, rank, next(env._eid), event))
    return event


def call_at(env: Environment, at_s: float, rank: int, action: Callable[[], None]) -> None:
    """Run ``action`` at the simulated time ``at_s`` exactly."""
    instant(env, at_s, rank, lambda _: action())


def drop(env: Environment, events: Collection[Event]) -> None:
    """Take events off the queue, so that they never happen and the clock does not run on to
    them.
    """
    queue: list[tuple[float, int, int, Event]] = env._queue  # type: ignore[assignment]
    queue[:] = [entry for entry in queue if entry[3] not in events]
    heapify(queue)
