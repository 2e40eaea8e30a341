"""A priced step as events: what is played of it, what repeats, and its books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster_sim.engine.cluster import Process
from cluster_sim.training.closed import (
    STEADY,
    Step,
    books,
    middle_round,
    played_rounds,
    round_p2p_s,
    run_of,
)
from cluster_sim.training.events import PlayedStep, play
from cluster_sim.training.jitter import straggler_s
from cluster_sim.training.machine_use import Seen, seen
from cluster_sim.training.priced import Priced, schedule_of
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_loads import work_of
from cluster_sim.training.step_work import Record


def played_step(priced: Priced, *, whole: bool = False) -> tuple[Step, PlayedStep]:
    """Play a step on the clock, and close its books.

    Of many micro-batches the first are played, and what they repeat is counted on, unless the
    ``whole`` step is wanted; a pipeline that does not repeat is always played whole.
    """
    job = priced.job
    rounds, extra = (job.micro_batches, 0) if whole else played_rounds(job)
    plan = schedule_of(job, rounds)
    played = play(work_of(priced, plan))
    middle = _middle(priced, plan, played) if extra else None
    if extra and middle is None:
        plan = schedule_of(job)
        played = play(work_of(priced, plan))
    end_s, spent = played.end_s, _spent(played)
    if middle is not None:
        again = extra / plan.stages
        end_s += again * middle.round_s
        for own, slowed_s, p2p_s in zip(spent, middle.slowed_s, middle.p2p_s, strict=True):
            own["dp"] += again * slowed_s
            own["pp"] += again * p2p_s
    return _closed(priced, plan, end_s, spent), played


def shared_step(priced: Priced, processes: Sequence[Process]) -> tuple[Step, Seen]:
    """Play a step beside processes of a user, and close its books: what a stage spends is the mean
    of its replicas.
    """
    found = seen(priced, processes)
    plan = schedule_of(priced.job)
    spent: list[dict[str, float]] = [{} for _ in range(plan.stages)]
    for replicas, played in zip(found.columns, found.steps, strict=True):
        share = len(replicas) / priced.job.dp
        for total, own in zip(spent, _spent(played), strict=True):
            for owner, seconds in own.items():
                total[owner] = total.get(owner, 0.0) + share * seconds
    return _closed(priced, plan, found.steps[0].end_s, spent), found


def _spent(played: PlayedStep) -> list[dict[str, float]]:
    """What each stage spends beside its passes."""
    return [
        {
            "dp": seconds.gather_exposed_s
            + seconds.gradient_exposed_s
            + seconds.norm_s
            + seconds.slowed_s,
            "pp": seconds.p2p_exposed_s,
            "optimizer": seconds.optimizer_s,
        }
        for seconds in played.stages
    ]


def _closed(
    priced: Priced, plan: Schedule, end_s: float, spent: Sequence[Mapping[str, float]]
) -> Step:
    job = priced.job
    sigma, seed = job.case.job.jitter, job.case.job.seed
    if sigma is None:
        straggler = priced.spread * (end_s + priced.host_s)
    else:
        straggler = straggler_s(priced, sigma, seed)
    return books(priced, plan, end_s, straggler, spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Middle:
    """A round of p micro-batches in the middle of a step: how long it takes, and of each stage what
    its passes were slowed and what of its sends showed.
    """

    round_s: float
    slowed_s: list[float]
    p2p_s: list[float]


def _middle(priced: Priced, plan: Schedule, played: PlayedStep) -> Middle | None:
    """The round that repeats; None where rounds before and after took another time, or the first
    and the last part of the model do not agree.
    """
    p, last = plan.stages, middle_round(plan)
    parts = (0, plan.virtual_stages - 1)
    ends: dict[tuple[int, int], float] = {}
    slowed = [0.0] * p
    for record in played.records:
        if record.lane != "compute" or record.micro_batch < 0:
            continue
        part = plan.virtual(record.stage, record.chunk)
        if record.kind == "F" and part in parts:
            ends[part, record.micro_batch] = record.end_s
        if last - p < record.micro_batch <= last:
            slowed[record.stage] += record.end_s - record.start_s - _alone_s(priced, plan, record)
    steps = [
        ends[part, after] - ends[part, before]
        for part in parts
        for before, after in pairwise((last - 2 * p, last - p, last, last + p))
    ]
    if max(steps) - min(steps) > STEADY * max(steps):
        return None
    alone, _ = run_of(priced, plan.micro_batches)
    p2p_s = round_p2p_s(priced, plan, alone).tolist()
    return Middle(round_s=steps[1], slowed_s=slowed, p2p_s=p2p_s)


def _alone_s(priced: Priced, plan: Schedule, record: Record) -> float:
    """Seconds of an operation when nobody else is there."""
    part = plan.virtual(record.stage, record.chunk) % len(priced.stages)
    if record.kind == "F":
        return priced.forward[part].seconds
    if record.kind == "W":
        return priced.weight[part].seconds
    whole = 0.0 if plan.split else priced.weight[part].seconds
    return priced.backward[part].seconds + whole
