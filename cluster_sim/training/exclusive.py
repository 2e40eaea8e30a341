"""Which work of a step has its resources to itself, whatever else runs.

Such work takes its time alone, so that it needs no engine. Work has a resource to itself if only
one thing at a time can ever use it: the operations of a stage come one after the other, and so do
the sends over a boundary if each is done before the next can begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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

_SHARED = ("shared", -1)
_User = tuple[str, int]


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
    assert node.doing == PAIR
    if work.forward_backward is not None:
        return work.forward_backward[v]
    other = work.schedule.virtual(node.stage, node.ops[1].chunk)
    return work.forward[v] + work.backward[other] + work.weight[other]


def exclusive_nodes(
    work: StepWork, phases: Mapping[tuple[int, int], Phases]
) -> dict[tuple[int, int], bool]:
    """Whether nodes that do this on a virtual stage have their resources to themselves."""
    users = _users(work, phases)
    return {
        (doing, virtual): _has_all(
            work, users, ("stage", work.schedule.home(virtual)[0]), _activities(some)
        )
        for (doing, virtual), some in phases.items()
    }


def exclusive_sends(
    work: StepWork,
    phases: Mapping[tuple[int, int], Phases],
    seconds: Mapping[tuple[int, int], float],
) -> dict[tuple[str, int], bool]:
    """Whether sends of a kind over a boundary have their resources to themselves; ``seconds`` are
    those of what nodes do, between two of which a stage sends.
    """
    users, plan = _users(work, phases), work.schedule
    exclusive = {}
    for kind, sends in (("F", work.send_forward), ("B", work.send_backward)):
        for boundary, activity in enumerate(sends or ()):
            if activity is None or not plan.crosses(boundary):
                continue
            if kind == "F":
                senders = [(FORWARD, boundary), (PAIR, boundary)]
            else:
                v, partner = boundary + 1, plan.virtual_stages - boundary - 2
                senders = [(BACKWARD, v), (WHOLE_BACKWARD, v)]
                senders += [(PAIR, partner)] if plan.v_shaped else []
            apart_s = min(seconds[key] for key in senders if key in seconds)
            exclusive[kind, boundary] = activity.alone_s <= apart_s and _has_all(
                work, users, (kind, boundary), [activity]
            )
    return exclusive


def _has_all(
    work: StepWork, users: Mapping[int, _User], user: _User, activities: Sequence[Activity]
) -> bool:
    """Whether nobody else uses these resources, and their capacity is enough."""
    return all(
        users[r] == user and demand <= work.capacity[r] * activity.alone_s
        for activity in activities
        for r, demand in zip(activity.resources, activity.demand, strict=True)
    )


def _users(work: StepWork, phases: Mapping[tuple[int, int], Phases]) -> dict[int, _User]:
    """The only user of each resource."""
    users: dict[int, _User] = {}

    def note(user: _User, activities: Iterable[Activity | None]) -> None:
        for activity in activities:
            for r in activity.resources if activity is not None else ():
                if users.setdefault(r, user) != user:
                    users[r] = _SHARED

    for (_, virtual), some in phases.items():
        note(("stage", work.schedule.home(virtual)[0]), _activities(some))
    for kind, sends in (("F", work.send_forward), ("B", work.send_backward)):
        for boundary, activity in enumerate(sends or ()):
            if work.schedule.crosses(boundary):
                note((kind, boundary), [activity])
    for buckets_of in (work.gradients, work.gathers):
        for virtual, buckets in enumerate(buckets_of or ()):
            note(("lane", work.schedule.home(virtual)[0]), buckets)
    for stage, activity in enumerate(work.optimizer or ()):
        note(("optimizer", stage), [activity])
    return users


def _activities(phases: Phases) -> Sequence[Activity]:
    return [phase.activity for phase in phases]
