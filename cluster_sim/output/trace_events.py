"""Events of the Trace Event Format, which Perfetto and other trace viewers open.

Times lie on a grid of 1/8 microsecond: binary fractions, so that the ends of slices that follow or
contain each other are equal numbers in every reader, in microseconds and in nanoseconds. Viewers
drop slices that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

TICKS_PER_S = 8_000_000
_TICKS_PER_US = 8
LANES_PER_PROCESS = 100_000  # thread numbers are unique over all processes: viewers ask for it

Event = dict[str, Any]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def ticks(at_s: FloatArray) -> IntArray:
    """Times (s) on the grid."""
    return np.rint(np.asarray(at_s) * TICKS_PER_S).astype(np.int64)


def lane(process: int, number: int) -> int:
    """The thread number of a process's lane."""
    return process * LANES_PER_PROCESS + number


def slice_event(
    process: int, number: int, name: str, start: int, end: int, args: dict[str, Any] | None = None
) -> Event:
    """A slice of a lane from tick to tick."""
    event: Event = {
        "ph": "X",
        "pid": process,
        "tid": lane(process, number),
        "name": name,
        "ts": start / _TICKS_PER_US,
        "dur": (end - start) / _TICKS_PER_US,
    }
    if args:
        event["args"] = args
    return event


def counter_event(process: int, name: str, unit: str, at: int, value: float) -> Event:
    """The value that a counter has from a tick on."""
    return {
        "ph": "C",
        "pid": process,
        "tid": lane(process, 1),
        "name": name,
        "ts": at / _TICKS_PER_US,
        "args": {unit: value},
    }


def process_events(process: int, name: str) -> list[Event]:
    """Name and place of a process."""
    about = {"ph": "M", "pid": process, "tid": lane(process, 1)}
    return [
        {**about, "name": "process_name", "args": {"name": name}},
        {**about, "name": "process_sort_index", "args": {"sort_index": process}},
    ]


def lane_events(process: int, number: int, name: str) -> list[Event]:
    """Name and place of a lane."""
    about = {"ph": "M", "pid": process, "tid": lane(process, number)}
    return [
        {**about, "name": "thread_name", "args": {"name": name}},
        {**about, "name": "thread_sort_index", "args": {"sort_index": number}},
    ]


def pack(starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Lanes 0, 1, ... for intervals in order of start, so that none overlap on a lane: each takes
    the lowest that is free.
    """
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    lanes, used = [], 0
    for start, end in zip(starts, ends, strict=True):
        while busy and busy[0][0] <= start:
            heappush(free, heappop(busy)[1])
        if not free:
            free, used = [used], used + 1
        number = heappop(free)
        heappush(busy, (end, number))
        lanes.append(number)
    return lanes


def depth(starts: IntArray, ends: IntArray) -> int:
    """The most intervals that are open at one time."""
    if not len(starts):
        return 0
    at = np.concatenate([ends, starts])
    change = np.concatenate([np.full(len(ends), -1), np.ones(len(starts), dtype=np.int64)])
    order = np.argsort(at, kind="stable")  # at equal times ends come first
    return int(np.cumsum(change[order]).max())
