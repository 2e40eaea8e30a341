"""A training step in closed form: the pipeline by max-plus, gradients on a lane beside it.

Model: operations as in ``pipeline``; a stage reduces the gradients of a part layer by layer while
the last backward pass over it runs, after what its lane has still to do; the step ends when the
last stage has updated its weights. Of many micro-batches the first are played, the rest repeat: a
pipeline of equal micro-batches is periodic. Limits: nothing contends; ``events`` plays that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cluster_sim.training.job import Job
from cluster_sim.training.pipeline import FloatArray, Played, Times, play
from cluster_sim.training.priced import (
    Pass,
    Priced,
    forward_node,
    last_gradients,
    player_of,
)
from cluster_sim.training.schedule import Schedule

WHOLE = ("gpipe", "dualpipe")  # schedules that do not repeat micro-batch by micro-batch
STEADY = 1e-9  # relative difference of rounds that are alike
MOST_ROUNDS = 8  # of p micro-batches that are played; more repeat
# Of a step: what it is spent on.
OWNERS = (
    *("compute", "tp", "cp", "ep", "pp", "dp", "bubble", "recompute"),
    *("optimizer", "offload", "host", "straggler"),
)
_OF_PART = {"tp": "tp", "cp": "cp", "ep": "ep", "dp": "dp", "host": "host", "offload": "offload"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step: seconds, and where they go, as means over the stages (``owners`` add up to it);
    ``parts`` are the seconds that kernels and collectives of one kind take on a mean stage.
    """

    seconds: float
    owners: Mapping[str, float]
    parts: Mapping[str, float]
    per_stage: tuple[Mapping[str, float], ...]


def step_of(priced: Priced) -> Step:
    """Play a step in closed form."""
    job = priced.job
    rounds, extra = played_rounds(job)
    first, plan = run_of(priced, rounds)
    period = _period_s(plan, first) if extra else 0.0
    if period is None:
        first, plan = run_of(priced, job.micro_batches)
        period, extra = 0.0, 0
    p2p_s = first.p2p_exposed_s
    if extra:
        p2p_s = p2p_s + extra / plan.stages * round_p2p_s(priced, plan, first)
    end, stages = _finish(priced, plan, first, p2p_s)
    return _close(priced, plan, end + period * extra, stages)


def played_rounds(job: Job) -> tuple[int, int]:
    """Micro-batches to play, and how many more there are."""
    p, m = job.plan.pp, job.micro_batches
    most = MOST_ROUNDS * p
    if m <= most or job.schedule.startswith(WHOLE):
        return m, 0
    rounds = most + m % p
    return rounds, m - rounds


def _period_s(plan: Schedule, played: Played) -> float | None:
    """Seconds that each further micro-batch adds, in the middle of a long step: from a forward pass
    to that of p micro-batches later. None where the first and the last part of the model do not
    agree on it, or rounds before and after took another time: the pipeline is not periodic yet.
    """
    p, later = plan.stages, middle_round(plan)
    steps = []
    for part in (0, plan.virtual_stages - 1):
        ends = [
            float(played.end_s[forward_node(plan, part, micro_batch)])
            for micro_batch in (later - 2 * p, later - p, later, later + p)
        ]
        steps += [after - before for before, after in pairwise(ends)]
    if max(steps) - min(steps) > STEADY * max(steps):
        return None
    return steps[1] / p


def middle_round(plan: Schedule) -> int:
    """The last micro-batch of a round in the middle of a step."""
    return plan.micro_batches // 2 // plan.stages * plan.stages + plan.stages - 1


def round_p2p_s(priced: Priced, plan: Schedule, played: Played) -> FloatArray:
    """Seconds that the sends of a round of p micro-batches in the middle show on each stage."""
    laid_out = player_of(priced.job, plan.micro_batches)
    last = middle_round(plan)
    ours = (laid_out.micro_batch > last - plan.stages) & (laid_out.micro_batch <= last)
    waited = played.on_way_s[ours]
    found = np.zeros(plan.stages)
    np.add.at(found, laid_out.stage[ours], waited)
    return found


def times_of(priced: Priced, plan: Schedule) -> Times:
    """The times of operations and sends by virtual stage."""
    count, parts = plan.virtual_stages, len(priced.stages)

    def each(passes: tuple[Pass, ...]) -> list[float]:
        return [passes[v % parts].seconds for v in range(count)]

    sends = [priced.sends[v % parts].seconds if (v + 1) % parts else 0.0 for v in range(count - 1)]
    return Times(
        forward_s=each(priced.forward),
        backward_s=each(priced.backward),
        weight_s=each(priced.weight),
        send_forward_s=sends,
        send_backward_s=sends,
    )


def run_of(priced: Priced, micro_batches: int) -> tuple[Played, Schedule]:
    """So many micro-batches of a step, played without contention, and their schedule."""
    laid_out = player_of(priced.job, micro_batches)
    return play(laid_out, times_of(priced, laid_out.plan)), laid_out.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """When a stage had computed all, and had all gradients; what gathers held it up; how much its
    kernels were slowed by collectives beside them; its update.
    """

    last_s: float
    reduced_s: float
    gather_s: float
    slowed_s: float
    p2p_s: float
    optimizer_s: float


def _finish(
    priced: Priced, plan: Schedule, played: Played, p2p_s: FloatArray
) -> tuple[float, list[Ends]]:
    """The end of the step after gradients, norm, updates and the host, and each stage's ends."""
    sms = priced.job.case.kernels.software.comm_sms
    found, spans = [], _last_backward(plan, played)
    for stage in range(plan.stages):
        parts = [plan.virtual(stage, chunk) for chunk in range(plan.chunks)]
        last_s = float(played.last_end_s[stage])
        gather_s, hidden_s = _gathers(priced, parts)
        lane_s, beside_s = _lane(priced, spans, parts)
        slowed_s = sms * (hidden_s + beside_s)
        found.append(
            Ends(
                last_s=last_s,
                reduced_s=max(last_s, lane_s),
                gather_s=gather_s,
                slowed_s=slowed_s,
                p2p_s=float(p2p_s[stage]),
                optimizer_s=sum(priced.optimizer_s[v % len(priced.stages)] for v in parts),
            )
        )
    reduced = max(end.reduced_s + end.gather_s + end.slowed_s for end in found)
    return reduced + priced.barrier_s + max(end.optimizer_s for end in found), found


def _gathers(priced: Priced, parts: list[int]) -> tuple[float, float]:
    """Seconds that gathers of parameters show before the first pass, and those that run beside it.

    Model: layer by layer ahead of the first micro-batch; the first layer's shows, and what is
    longer than the pass. Without overlap all of it.
    """
    plan, count = priced.job.plan, len(priced.stages)
    total = sum(priced.stages[v % count].gather.seconds for v in parts)
    if not plan.overlap_gather:
        return total, 0.0
    first = priced.stages[parts[0] % count]
    layers = max(1, first.content.layers)
    pass_s = priced.forward[parts[0] % count].seconds
    own = first.gather.seconds
    shown = max(own / layers, own - pass_s * (layers - 1) / layers)
    return shown, total - shown


def _lane(
    priced: Priced, last: Mapping[int, tuple[float, float]], parts: list[int]
) -> tuple[float, float]:
    """When a stage's lane has reduced all gradients, and the seconds of it beside kernels."""
    count, overlap = len(priced.stages), priced.job.plan.overlap_gradients
    ready: list[tuple[float, float]] = []
    end_s = max(last[v][1] for v in parts)
    for v in parts:
        stage, (start, end) = priced.stages[v % count], last[v]
        total = stage.gradients.seconds
        if not total:
            continue
        layers = max(1, stage.content.layers)
        if not overlap:
            ready.append((end_s, total))
            continue
        ready += [
            (start + (end - start) * (layer + 1) / layers, total / layers)
            for layer in range(layers)
        ]
    lane, busy = 0.0, 0.0
    for at, seconds in sorted(ready):
        begin = max(lane, at)
        lane = begin + seconds
        busy += max(0.0, min(lane, end_s) - begin)
    return lane, busy


def _last_backward(plan: Schedule, played: Played) -> dict[int, tuple[float, float]]:
    """Start and end of the last pass that adds to the gradients of each virtual stage."""
    return {
        v: (float(played.start_s[number]), float(played.end_s[number]))
        for v, number in last_gradients(plan)
    }


def _close(priced: Priced, plan: Schedule, end_s: float, ends: list[Ends]) -> Step:
    spent = [
        {
            "dp": end.gather_s + end.reduced_s - end.last_s + priced.barrier_s + end.slowed_s,
            "pp": end.p2p_s,
            "optimizer": end.optimizer_s,
        }
        for end in ends
    ]
    return books(priced, plan, end_s, priced.spread * (end_s + priced.host_s), spent)


def books(
    priced: Priced,
    plan: Schedule,
    end_s: float,
    straggler_s: float,
    spent: Sequence[Mapping[str, float]],
) -> Step:
    """Where the time of a step goes, stage by stage: passes, what each stage ``spent`` beside them,
    host and stragglers; what no owner has is the bubble.
    """
    total = end_s + priced.host_s + straggler_s
    beside = {"host": priced.host_s, "straggler": straggler_s}
    rows, of_stages = [], []
    for stage, own in enumerate(spent):
        held = _held(priced, plan, stage)
        parts = _seconds_of(priced, held)
        row = dict.fromkeys(OWNERS, 0.0)
        for part, seconds in parts.items():
            row[_OF_PART.get(part, "compute")] += seconds
        row["recompute"] += (redone := _redone_s(priced, held))
        row["compute"] -= redone
        for seconds_by_owner in (own, beside):
            for owner, seconds in seconds_by_owner.items():
                row[owner] += seconds
        row["bubble"] = total - sum(row.values())
        rows.append(row)
        of_stages.append(parts)
    return Step(
        seconds=total,
        owners={owner: sum(row[owner] for row in rows) / len(rows) for owner in OWNERS},
        parts={
            part: sum(parts.get(part, 0.0) for parts in of_stages) / len(rows)
            for part in {part: None for parts in of_stages for part in parts}
        },
        per_stage=tuple(rows),
    )


def _seconds_of(priced: Priced, held: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Seconds of all passes of a stage by kind of kernel or collective."""
    found: dict[str, float] = {}
    for v, share in held:
        for passes in (priced.forward[v], priced.backward[v], priced.weight[v]):
            for part, seconds in passes.parts.items():
                found[part] = found.get(part, 0.0) + share * seconds
    return found


def _redone_s(priced: Priced, held: Sequence[tuple[int, float]]) -> float:
    """Seconds in which a stage's kernels compute again what was not kept."""
    return sum(
        share * seconds
        for v, share in held
        for part, seconds in priced.stages[v].recompute.inputs.items()
        if part not in _OF_PART
    )


def _held(priced: Priced, plan: Schedule, stage: int) -> list[tuple[int, float]]:
    """Parts of the model that a stage works on, and the micro-batches that pass each there; parts
    that are alike as one.
    """
    count = len(priced.stages)
    micro_batches = priced.job.micro_batches / plan.copies
    alike: dict[int, list[int]] = {}
    for chunk in range(plan.chunks):
        v = plan.virtual(stage, chunk) % count
        alike.setdefault(id(priced.stages[v]), []).append(v)
    return [(same[0], micro_batches * len(same)) for same in alike.values()]
