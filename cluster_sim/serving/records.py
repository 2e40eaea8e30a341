"""Recorded facts of a run: what happened to each request and what each replica's steps consisted
of.

Counts are integers wherever they can be, so that sums do not depend on how steps were grouped.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

from cluster_sim.serving.requests import Requests

NEVER = float("nan")


class Status(IntEnum):
    """Where a request stands at the end of a run."""

    RUNNING = 0
    FINISHED = 1
    REJECTED_CONTEXT = 2
    REJECTED_KV = 3
    REJECTED_SESSION = 4


class Outcomes:
    """Per request: lengths (tokens), arrival, first token and finish times (s, NaN if never),
    replica and the batch in it (rank), ``others`` (the unfinished requests that it found there),
    preemptions, status.
    """

    __slots__ = (
        "arrival_s",
        "finish_s",
        "finished",
        "first_s",
        "isl",
        "osl",
        "others",
        "preemptions",
        "priority",
        "rank",
        "replica",
        "status",
    )

    def __init__(self, requests: Requests) -> None:
        count = len(requests)
        self.isl = array("i", requests.isl.tolist())
        self.osl = array("i", requests.osl.tolist())
        self.arrival_s = array("d", requests.arrival_s.tobytes())
        self.first_s = array("d", [NEVER]) * count
        self.finish_s = array("d", [NEVER]) * count
        self.replica = array("i", [-1]) * count
        self.rank = array("i", [0]) * count
        self.others = array("i", [0]) * count
        self.preemptions = array("i", [0]) * count
        self.priority = (
            array("i", requests.priority.tolist()) if requests.priority is not None else None
        )
        self.status = [Status.RUNNING] * count
        self.finished = 0


@dataclass(slots=True)
class StepLog:
    """Steps of one replica in order: end time (s), tokens emitted, and how many of them follow the
    previous step's.

    With drafts a sequence may get several tokens of a step: one of them is chained or lone, the
    others are the step's ``together``.

    ``lone_gaps`` holds (token time, gap) of tokens whose predecessor was not emitted by the step
    before: after a preemption, or when decoding was held. ``prompt_tokens`` of prompts (those that
    came from the prefix cache too, recomputed ones not again) were done by the step that ended at
    ``prompt_s``.
    """

    end_s: array[float] = field(default_factory=lambda: array("d"))
    emitted: array[int] = field(default_factory=lambda: array("i"))
    chained: array[int] = field(default_factory=lambda: array("i"))
    lone_gaps: list[tuple[float, float]] = field(default_factory=list)
    together: array[int] = field(default_factory=lambda: array("i"))
    prompt_s: array[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: array[int] = field(default_factory=lambda: array("i"))


@dataclass(slots=True)
class StepCounts:
    """What a replica's steps add up to; with a StepPrice it gives the seconds of every operator
    family.

    ``pure[B]`` counts steps of B decodes and nothing else; of the mixed ones ``mixed_tokens[T]``,
    ``mixed_sequences[R]``, ``mixed_decodes[B]`` count tokens, sequences and decodes. ``context``
    sums the tokens of context read by decode attention, ``local_context`` those inside the windows
    of local layers, ``prefill_s`` the seconds of prompt attention, ``swapped`` the tokens moved to
    or from the host. ``refused_s`` are seconds in which somebody waited because of a limit, by its
    name.
    """

    pure: Counter[int] = field(default_factory=Counter)
    mixed_tokens: Counter[int] = field(default_factory=Counter)
    mixed_sequences: Counter[int] = field(default_factory=Counter)
    mixed_decodes: Counter[int] = field(default_factory=Counter)
    decode_tokens: int = 1  # a decoding sequence has in a step
    context: int = 0
    local_context: int = 0
    prefill_steps: int = 0
    prefill_s: float = 0.0
    swapped: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    blocks_taken: int = 0
    blocks_returned: int = 0
    blocks_peak: int = 0
    refused_s: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        decodes: int,
        context: int,
        near: int,
        tokens: int,
        prompts: int,
        prefill_s: float,
        swapped: int,
    ) -> None:
        """Count one step; ``near`` of the context lies inside the windows of local layers."""
        self.context += context
        self.local_context += near
        self.swapped += swapped
        if tokens == 0:
            self.pure[decodes] += 1
            return
        self.mixed_tokens[decodes * self.decode_tokens + tokens] += 1
        self.mixed_sequences[decodes + prompts] += 1
        self.mixed_decodes[decodes] += 1
        self.prefill_steps += 1
        self.prefill_s += prefill_s
        self.prompt_tokens += tokens

    @property
    def steps(self) -> int:
        """Engine steps in all."""
        return sum(self.pure.values()) + sum(self.mixed_tokens.values())


class Refusal:
    """What keeps requests out of a batch now, and since when; times add up in its counts."""

    __slots__ = ("counts", "limit", "since_s")

    def __init__(self, counts: StepCounts) -> None:
        self.counts, self.since_s = counts, 0.0
        self.limit: str | None = None

    def note(self, limit: str | None, at_s: float) -> None:
        """From a time on it is another limit (None: nobody waits)."""
        if self.limit is not None:
            refused_s = self.counts.refused_s
            refused_s[self.limit] = refused_s.get(self.limit, 0.0) + (at_s - self.since_s)
        self.limit, self.since_s = limit, at_s
