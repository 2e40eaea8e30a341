"""The timeline of a replay, as a trace that Perfetto opens: a process a rank, with lanes for
compute, communication and host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cluster_sim.output.timeline import MAX_SLICES, Timeline
from cluster_sim.output.trace_events import (
    Event,
    lane_events,
    pack,
    process_events,
    slice_event,
    ticks,
)
from cluster_sim.training.replay_rows import Span

NAMES = ("compute", "communication", "host")
LANES_OF_A_KIND = 1000  # numbers kept for the lanes of a kind; more at once are drawn on the last


def replay_timeline(spans: Sequence[Span], ranks: Sequence[int]) -> Timeline:
    """The slices of as many ranks as the file has room for, in order of rank.

    Slices of a kind that run at the same time lie on lanes of their own.
    """
    by_rank: dict[int, list[Span]] = {rank: [] for rank in ranks}
    for span in spans:
        by_rank[span.rank].append(span)
    drawn: dict[int, list[Span]] = {}
    room = MAX_SLICES
    for rank, mine in by_rank.items():
        if len(mine) > room and drawn:
            break
        drawn[rank] = sorted(mine, key=lambda span: span.start_s)[:room]
        room -= len(drawn[rank])
    slices = MAX_SLICES - room
    about = {"ranks": len(by_rank), "ranks_drawn": len(drawn), "slices": len(spans)}
    about["slices_drawn"] = slices
    note = f"{slices:,} slices"
    if slices < len(spans):
        note += f" of {len(spans):,}, the first {len(drawn):,} of {len(by_rank):,} ranks"
    return Timeline(events=_events(drawn), about=about, note=note)


def _events(drawn: dict[int, list[Span]]) -> Iterator[Event]:
    for process, (rank, spans) in enumerate(drawn.items(), 1):
        yield from process_events(process, f"rank {rank}")
        for kind, name in enumerate(NAMES):
            mine = [span for span in spans if span.lane == kind]
            starts = ticks(np.array([span.start_s for span in mine])).tolist()
            ends = ticks(np.array([span.end_s for span in mine])).tolist()
            lanes = pack(starts, ends)
            first = kind * LANES_OF_A_KIND + 1
            numbers = [first + min(lane, LANES_OF_A_KIND - 1) for lane in lanes]
            for number in sorted(set(numbers)):
                more = f" {number - first + 1}" if number > first else ""
                yield from lane_events(process, number, name + more)
            for span, start, end, number in zip(mine, starts, ends, numbers, strict=True):
                if end > start:
                    yield slice_event(process, number, span.name, start, end)
