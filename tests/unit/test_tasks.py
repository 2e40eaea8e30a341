"""The player of task graphs: dependencies, lanes, phases, deadlocks."""

from __future__ import annotations

import pytest
from simpy.core import Environment

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.tasks import Graph, Player, Task
from cluster_sim.errors import SimulationError
from cluster_sim.work import Phase, pause, traffic


def lasting(seconds: float, **more: object) -> Task:
    phases = (Phase(name="wait", activity=pause(seconds)),)
    return Task(phases=phases, alone_s=seconds, **more)  # type: ignore[arg-type]


def sending(size: float, **more: object) -> Task:
    phases = (Phase(name="send", activity=traffic(size, {0: size})),)
    return Task(phases=phases, alone_s=size, **more)  # type: ignore[arg-type]


def play(graph: Graph) -> Player:
    env = Environment()
    player = Player(FluidEngine(env, [1.0]), graph)
    player.begin()
    env.run()
    return player


def test_tasks_wait_for_each_other_and_share() -> None:
    graph = Graph(tasks=[], after=[])
    first = graph.add(lasting(1.0))
    both = [graph.add(sending(1.0), [first]) for _ in range(2)]
    graph.add(Task(), both)
    played = play(graph)
    played.check()
    assert played.start_s == [0.0, 1.0, 1.0, 3.0]
    assert played.end_s == [1.0, 3.0, 3.0, 3.0]
    assert played.ended == [0, 1, 2, 3]


def test_a_lane_goes_in_order_of_readiness() -> None:
    graph = Graph(tasks=[], after=[], groups=1)
    late = graph.add(lasting(1.0))
    graph.add(lasting(2.0, group=0, lane=True), [late])
    graph.add(lasting(3.0, group=0, lane=True))
    played = play(graph)
    assert played.start_s == [0.0, 3.0, 0.0]


def test_phases_follow_each_other_and_a_task_can_be_held_back() -> None:
    phases = tuple(Phase(name="part", activity=pause(seconds)) for seconds in (1.0, 2.0))
    graph = Graph(tasks=[Task(phases=phases)], after=[()], not_before_s={0: 5.0})
    played = play(graph)
    assert (played.start_s, played.end_s) == ([5.0], [8.0])


def test_what_never_shares_is_an_instant() -> None:
    """Beside a quiet group: at once; else it shares."""
    graph = Graph(tasks=[], after=[], groups=1)
    graph.add(sending(1.0, quiet=(0,)))
    graph.add(sending(1.0, group=0))
    graph.add(sending(1.0, quiet=(0,)))
    assert play(graph).end_s == [1.0, 2.0, 2.0]


def test_a_deadlock_names_the_circle() -> None:
    graph = Graph(tasks=[], after=[], name=lambda number: "abc"[number])
    graph.add(lasting(1.0))
    graph.add(lasting(1.0), [0, 2])
    graph.add(lasting(1.0), [1])
    with pytest.raises(SimulationError, match="2 tasks never started; these wait .*: b, c"):
        play(graph).check()
