"""Engine steps on a timeline: a lane a rank, and the operator families inside each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster_sim.errors import counted
from cluster_sim.output.trace_events import (
    Event,
    FloatArray,
    IntArray,
    lane_events,
    slice_event,
    ticks,
)
from cluster_sim.perf.family import Family, family_s
from cluster_sim.serving.tape import RankSteps, Tape, starts_of, steps_of

Windows = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSteps:
    """The steps of a replica: when each starts and ends (s), the tokens of all ranks in it, and
    what each rank did; a decoding sequence has ``decode_tokens`` in each.
    """

    starts_s: FloatArray
    ends_s: FloatArray
    all_tokens: IntArray
    ranks: tuple[RankSteps, ...]
    decode_tokens: int


def replica_steps(tape: Tape, ranks: int, families: Sequence[Family]) -> ReplicaSteps:
    """What a tape says about the completed steps.

    A rank without requests takes no part in a step, unless the ranks share operators: then it has
    empty ones, since its devices do what is shared.
    """
    each = tuple(steps_of(tape, rank) for rank in range(ranks))
    ends_s = np.array(tape.log.end_s)
    if any(family.shared_s is not None for family in families):
        each = tuple(_filled(steps, len(ends_s)) for steps in each)
    tokens = np.zeros(len(ends_s), dtype=np.int64)
    width = families[0].decode_tokens if families else 1
    for steps in each:
        tokens[steps.number] += steps.decodes * width + steps.prefill_tokens
    return ReplicaSteps(
        starts_s=starts_of(tape),
        ends_s=ends_s,
        all_tokens=tokens,
        ranks=each,
        decode_tokens=width,
    )


def _filled(steps: RankSteps, count: int) -> RankSteps:
    """The steps with empty ones in between, so that there are ``count``."""
    columns = {}
    for name in RankSteps.__slots__:
        values = getattr(steps, name)
        columns[name] = np.zeros(count, dtype=values.dtype)
        columns[name][steps.number] = values
    return RankSteps(**{**columns, "number": np.arange(count, dtype=np.int64)})


def step_name(decodes: int, prompts: int, tokens: int) -> str:
    """What a step is, in words."""
    if not tokens:
        return f"decode {decodes:,}" if decodes else "no requests"
    text = f"prefill {counted(prompts, 'prompt')}, {counted(tokens, 'token')}"
    return f"{text} + {counted(decodes, 'decode')}" if decodes else text


def inside(at_s: FloatArray, windows: Windows) -> Any:
    """Which times lie in one of the windows (their ends excluded)."""
    mask = np.zeros(len(at_s), dtype=bool)
    for start_s, end_s in windows:
        mask |= (at_s >= start_s) & (at_s < end_s)
    return mask


def step_events(
    process: int,
    replica: ReplicaSteps,
    families: Sequence[Family],
    windows: Windows,
    rest: Windows,
    rank_name: str,
) -> Iterator[Event]:
    """The lanes of a replica: every step in ``windows`` with its families, runs of equal steps in
    ``rest``.
    """
    whole = inside(replica.starts_s, windows)
    coarse = inside(replica.starts_s, rest) & ~whole
    for rank, steps in enumerate(replica.ranks):
        name = rank_name if len(replica.ranks) == 1 else f"{rank_name} {rank}"
        yield from lane_events(process, 1 + rank, name)
        yield from _detailed(
            process, 1 + rank, replica, steps.take(np.flatnonzero(whole[steps.number])), families
        )
        yield from _overview(
            process, 1 + rank, replica, steps.take(np.flatnonzero(coarse[steps.number]))
        )
        if len(replica.ranks) > 1:
            yield from _pauses(process, 1 + rank, replica, steps, whole | coarse)


def _detailed(
    process: int, number: int, replica: ReplicaSteps, steps: RankSteps, families: Sequence[Family]
) -> Iterator[Event]:
    """Steps one by one, each with its families as children that fill it."""
    names, parts = step_parts(replica, steps, families)
    starts, ends = ticks(replica.starts_s)[steps.number], ticks(replica.ends_s)[steps.number]
    total = parts.sum(axis=0) if len(parts) else np.zeros(len(steps))
    upto = np.cumsum(parts, axis=0)
    # Shares of the step, not seconds: the last child ends where the step does, to the tick.
    shares = np.divide(upto, upto[-1:], out=np.zeros_like(upto), where=total > 0)
    bounds = (starts + np.rint((ends - starts) * shares).astype(np.int64)).T.tolist()
    columns = [
        column.tolist()
        for column in (starts, ends, steps.decodes, steps.prompts, steps.prefill_tokens)
    ]
    more = [column.tolist() for column in (steps.context, steps.swapped, steps.blocks)]
    seconds = parts.T.tolist()
    for i, (start, end, decodes, prompts, tokens) in enumerate(zip(*columns, strict=True)):
        context, swapped, blocks = (column[i] for column in more)
        args: dict[str, Any] = {
            "tokens": decodes * replica.decode_tokens + tokens,
            "decodes": decodes,
            "context": context,
            "kv_blocks": blocks,
            "seconds": {
                name: round(part, 9) for name, part in zip(names, seconds[i], strict=True) if part
            },
        }
        if tokens:
            args.update(prompts=prompts, prompt_tokens=tokens)
        if swapped:
            args["swapped_tokens"] = swapped
        yield slice_event(process, number, step_name(decodes, prompts, tokens), start, end, args)
        at = start
        for name, bound in zip(names, bounds[i] if total[i] > 0 else (), strict=False):
            if bound > at:
                yield slice_event(process, number, name, at, bound)
                at = bound


def step_parts(
    replica: ReplicaSteps, steps: RankSteps, families: Sequence[Family]
) -> tuple[list[str], FloatArray]:
    """The parts that steps of a rank consist of, in order, and their seconds, shape (parts, steps).

    A rank does its own operators, waits for the slowest rank, then all do what they share.
    """
    own = [family for family in families if family.shared_s is None]
    shared = [family for family in families if family.shared_s is not None]
    names = [family.name for family in own]
    seconds = [family_s(family, steps, replica.all_tokens[steps.number]) for family in own]
    after = [family_s(family, steps, replica.all_tokens[steps.number]) for family in shared]
    if families and len(replica.ranks) > 1:
        took = (replica.ends_s - replica.starts_s)[steps.number]
        names.append("wait")
        seconds.append(np.maximum(took - sum(seconds) - sum(after), 0.0))
    names += [family.name for family in shared]
    seconds += after
    return names, np.array(seconds).reshape(len(names), len(steps))


def _overview(
    process: int, number: int, replica: ReplicaSteps, steps: RankSteps
) -> Iterator[Event]:
    """One slice a step with a prompt, one a run of equal decode-only steps."""
    firsts = np.flatnonzero(new_runs(replica, steps))
    counts = np.diff([*firsts.tolist(), len(steps)]).tolist()
    starts = ticks(replica.starts_s)[steps.number[firsts]].tolist()
    ends = ticks(replica.ends_s)[steps.number[firsts + counts - 1]].tolist() if counts else []
    chosen = steps.take(firsts)
    columns = (chosen.decodes, chosen.prompts, chosen.prefill_tokens, chosen.context)
    rows = zip(starts, ends, counts, *(column.tolist() for column in columns), strict=True)
    for start, end, count, decodes, prompts, tokens, context in rows:
        name = step_name(decodes, prompts, tokens) + (f" x {count:,} steps" if count > 1 else "")
        many = decodes * replica.decode_tokens + tokens
        args = {"steps": count, "tokens": many, "decodes": decodes, "context": context}
        yield slice_event(process, number, name, start, end, args)


def new_runs(replica: ReplicaSteps, steps: RankSteps) -> Any:
    """Which steps do not go on with decoding as the step before did."""
    first = np.ones(len(steps), dtype=bool)
    numbers, pure = steps.number, steps.prefill_tokens == 0
    follows = numbers[1:] == numbers[:-1] + 1
    follows &= replica.starts_s[numbers[1:]] == replica.ends_s[numbers[:-1]]
    first[1:] = ~(follows & pure[1:] & pure[:-1] & (steps.decodes[1:] == steps.decodes[:-1]))
    return first


def _pauses(
    process: int, number: int, replica: ReplicaSteps, steps: RankSteps, drawn: Any
) -> Iterator[Event]:
    """``wait`` while other ranks work and this one has nothing to do."""
    absent = drawn.copy()
    absent[steps.number] = False
    alone = np.flatnonzero(absent)
    if not len(alone):
        return
    breaks = (np.diff(alone) > 1) | (replica.starts_s[alone[1:]] > replica.ends_s[alone[1:] - 1])
    firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    lasts = np.concatenate([firsts[1:], [len(alone)]]) - 1
    starts = ticks(replica.starts_s)[alone[firsts]].tolist()
    ends = ticks(replica.ends_s)[alone[lasts]].tolist()
    counts = (lasts - firsts + 1).tolist()
    for start, end, count in zip(starts, ends, counts, strict=True):
        yield slice_event(process, number, "wait", start, end, {"steps": count})
