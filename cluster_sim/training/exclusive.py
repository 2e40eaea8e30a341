"""Which work of a step never has to share, whatever else runs: it needs no engine.

Model: a resource cannot fill up while all who could use it at a time at their rates alone fit into
its capacity. Users are stages (one operation at a time), sends over a boundary in a direction (one
at a time if each is done before the next can begin, and is never slowed), and the collective lane
of a stage (one bucket at a time). Optimizers run when all others have ended. A stage's lane starts
only at the end of one of its operations, so that an operation that starts beside an idle lane has
none beside it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cluster_sim.engine.fluid_loops import TIE
from cluster_sim.training.schedule import (
    BACKWARD,
    FORWARD,
    PAIR,
    WEIGHT,
    WHOLE_BACKWARD,
    Node,
)
from cluster_sim.training.step_work import Phases, StepWork
from cluster_sim.work import Activity

_User = tuple[str, int]
Does = tuple[int, int]  # what a node does, on which virtual stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """What never shares: nodes always, nodes while the lane of their stage is idle, and sends by
    kind and boundary.
    """

    always: frozenset[Does] = frozenset()
    beside_idle_lane: frozenset[Does] = frozenset()
    sends: frozenset[tuple[str, int]] = frozenset()


def exclusive(
    work: StepWork, phases: Mapping[Does, Phases], seconds: Mapping[Does, float]
) -> Exclusive:
    """What never shares in a step; ``phases`` are those of what nodes do, ``seconds`` their sums.

    Sends that may be slowed may overlap themselves, and then use more. That can slow others: until
    no more are found.
    """
    home = work.schedule.home
    sends = _sends(work)
    steady = {key for key, send in sends.items() if send.alone_s <= _apart_s(work, key, seconds)}
    while True:
        rates = _rates(work, phases, sends, steady)
        kept = {key for key in steady if _clear(work, rates, sends[key].resources, None)}
        if kept == steady:
            break
        steady = kept
    always, idle = set(), set()
    for does, some in phases.items():
        used = [r for phase in some for r in phase.activity.resources]
        if _clear(work, rates, used, None):
            always.add(does)
        elif _clear(work, rates, used, ("lane", home(does[1])[0])):
            idle.add(does)
    return Exclusive(
        always=frozenset(always), beside_idle_lane=frozenset(idle), sends=frozenset(steady)
    )


def phases_of(work: StepWork, node: Node) -> Phases:
    """What a node does."""
    v = node.virtual
    if node.doing == FORWARD:
        return work.forward[v]
    if node.doing == BACKWARD:
        return work.backward[v]
    if node.doing == WEIGHT:
        return work.weight[v]
    if node.doing == WHOLE_BACKWARD:
        return work.backward[v] + work.weight[v]
    if work.forward_backward is not None:
        return work.forward_backward[v]
    other = work.schedule.virtual(node.stage, node.ops[1].chunk)
    return work.forward[v] + work.backward[other] + work.weight[other]


def _sends(work: StepWork) -> dict[_User, Activity]:
    """The sends that leave their stage, by kind and boundary."""
    return {
        (kind, boundary): activity
        for kind, sends in (("F", work.send_forward), ("B", work.send_backward))
        for boundary, activity in enumerate(sends or ())
        if activity is not None and work.schedule.crosses(boundary)
    }


def _apart_s(work: StepWork, send: _User, seconds: Mapping[Does, float]) -> float:
    """The least time between two sends over a boundary: that of the shortest sender."""
    kind, boundary = send
    if kind == "F":
        senders = [(FORWARD, boundary), (PAIR, boundary)]
    else:
        senders = [(BACKWARD, boundary + 1), (WHOLE_BACKWARD, boundary + 1)]
        if work.schedule.v_shaped:
            senders.append((PAIR, work.schedule.virtual_stages - boundary - 2))
    return min((seconds[does] for does in senders if does in seconds), default=math.inf)


def _rates(
    work: StepWork,
    phases: Mapping[Does, Phases],
    sends: Mapping[_User, Activity],
    steady: Collection[_User],
) -> dict[int, dict[_User, float]]:
    """The highest rate of each user of each resource."""
    home = work.schedule.home
    rates: dict[int, dict[_User, float]] = {}

    def note(user: _User, activities: Iterable[Activity]) -> None:
        for activity in activities:
            for r, demand in zip(activity.resources, activity.demand, strict=True):
                users = rates.setdefault(r, {})
                users[user] = max(users.get(user, 0.0), demand / activity.alone_s)

    for (_, virtual), some in phases.items():
        note(("stage", home(virtual)[0]), [phase.activity for phase in some])
    for send, activity in sends.items():
        if send in steady:
            note(send, [activity])
        else:
            for r, most in _most(work, activity).items():
                rates.setdefault(r, {})[send] = most
    for buckets_of in (work.gradients, work.gathers):
        for virtual, buckets in enumerate(buckets_of or ()):
            note(("lane", home(virtual)[0]), buckets)
    return rates


def _most(work: StepWork, activity: Activity) -> dict[int, float]:
    """The rates of any number of these at a time: what their other resources let through."""
    pairs = list(zip(activity.resources, activity.demand, strict=True))
    return {
        r: min(
            (work.capacity[q] * demand / other for q, other in pairs if q != r), default=math.inf
        )
        for r, demand in pairs
    }


def _clear(
    work: StepWork,
    rates: Mapping[int, Mapping[_User, float]],
    resources: Iterable[int],
    ignored: _User | None,
) -> bool:
    """Whether these resources cannot fill up."""
    return all(
        sum(rate for user, rate in rates[r].items() if user != ignored)
        <= work.capacity[r] * (1 + TIE)
        for r in resources
    )
