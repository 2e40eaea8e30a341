"""Which work of a step never has to share, whatever else runs: it needs no engine.

Model: a resource cannot fill up while all who could use it at a time at their rates alone fit into
its capacity. Users are stages (one operation at a time), the sends of a stage or over a boundary
(one at a time if each is done before the next can begin, and is never slowed), and the collective
lane of a stage (one bucket at a time). Optimizers run when all others have ended. A stage's lane
starts only at the end of an operation or of a part of one, so that what starts beside an idle lane
and is done by then has none beside it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    """What never shares: nodes, sends by kind and boundary, and both while the lane of their stage
    is idle; sends then only if none of the stage is still on its way that could have been slowed.
    """

    always: frozenset[Does] = frozenset()
    beside_idle_lane: frozenset[Does] = frozenset()
    sends: frozenset[tuple[str, int]] = frozenset()
    sends_beside_idle_lane: frozenset[tuple[str, int]] = frozenset()


def exclusive(
    work: StepWork, phases: Mapping[Does, Phases], seconds: Mapping[Does, float]
) -> Exclusive:
    """What never shares in a step; ``phases`` are those of what nodes do, ``seconds`` their sums.

    Sends that may be slowed may overlap themselves, and then use more. That can slow others: until
    no more are found.
    """
    home = work.schedule.home
    sends = _sends(work)
    apart_s = _stages_apart_s(work, seconds)
    steady = {key for key, send in sends.items() if send.alone_s <= _apart_s(work, key, seconds)}
    while True:
        users = _users(work, sends, steady, apart_s)
        rates = _rates(work, phases, sends, users)
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
        always=frozenset(always),
        beside_idle_lane=frozenset(idle),
        sends=frozenset(steady),
        sends_beside_idle_lane=_beside_idle_lane(work, rates, sends, steady, apart_s),
    )


def _beside_idle_lane(
    work: StepWork,
    rates: Mapping[int, Mapping[_User, float]],
    sends: Mapping[_User, Activity],
    steady: Collection[_User],
    apart_s: Sequence[float],
) -> frozenset[_User]:
    """The sends that are clear beside an idle lane, all sends of their stage being as alone."""
    found: set[_User] = set()
    for stage in range(work.schedule.stages):
        mine = {key: send for key, send in sends.items() if _sender(work, key) == stage}
        parts = _most_parts(work, stage)
        if all(key in steady for key in mine) or any(
            send.alone_s * parts > apart_s[stage] for send in mine.values()
        ):
            continue
        users = _users(work, mine, mine, apart_s)
        own = _rates(replace(work, gradients=None, gathers=None), {}, mine, users)
        hidden = {("lane", stage), ("out", stage), *mine}
        for key, send in mine.items():
            if all(
                sum(rate for user, rate in rates[r].items() if user not in hidden)
                + sum(own[r].values())
                <= work.capacity[r] * (1 + TIE)
                for r in send.resources
            ):
                found.add(key)
    return frozenset(found)


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


def _sender(work: StepWork, send: _User) -> int:
    kind, boundary = send
    return work.schedule.home(boundary if kind == "F" else boundary + 1)[0]


def _stages_apart_s(work: StepWork, seconds: Mapping[Does, float]) -> list[float]:
    """The least time between the ends of two operations of a stage."""
    apart_s = [math.inf] * work.schedule.stages
    for (_, virtual), takes_s in seconds.items():
        stage = work.schedule.home(virtual)[0]
        apart_s[stage] = min(apart_s[stage], takes_s)
    return apart_s


def _most_parts(work: StepWork, stage: int) -> int:
    """The most parts that an operation of a stage has."""
    buckets = []
    if work.gradients is not None and work.gradients_ready == "during":
        buckets.append(work.gradients)
    if work.gathers is not None and work.gathers_needed == "during":
        buckets.append(work.gathers)
    of_stage = [v for v in range(work.schedule.virtual_stages) if work.schedule.home(v)[0] == stage]
    return max((len(some[v]) for some in buckets for v in of_stage), default=1) or 1


def _users(
    work: StepWork,
    sends: Mapping[_User, Activity],
    steady: Collection[_User],
    apart_s: Sequence[float],
) -> dict[_User, _User]:
    """As whose the steady sends count: as their stage's, where these come one after the other. A
    pair of operations sends twice at its end.
    """
    users = {key: key for key in sends if key in steady}
    if work.schedule.v_shaped:
        return users
    late = {
        _sender(work, key)
        for key, send in sends.items()
        if key not in steady or send.alone_s > apart_s[_sender(work, key)]
    }
    return {
        key: key if _sender(work, key) in late else ("out", _sender(work, key)) for key in users
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
    users_of: Mapping[_User, _User],
) -> dict[int, dict[_User, float]]:
    """The highest rate of each user of each resource; ``users_of``: as whose steady sends count."""
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
        if send in users_of:
            note(users_of[send], [activity])
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
