"""The fluid engine: worked examples, phases of steps, named resources, wrong input."""

from __future__ import annotations

import doctest
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import simpy

from cluster_sim.engine import cluster as cluster_module
from cluster_sim.engine.cluster import Cluster
from cluster_sim.engine.fluid import FluidEngine, Handle
from cluster_sim.engine.fluid_few import Few
from cluster_sim.engine.fluid_fold import fold
from cluster_sim.engine.fluid_play import Play, play
from cluster_sim.engine.fluid_solver import certify, problem_of, solve
from cluster_sim.errors import ClusterSimError
from cluster_sim.work import Activity, Phase, kernel, pause, traffic


def rates_of(activities: list[Activity], capacity: list[float]) -> list[float]:
    """Use of the first resource of each activity, per second."""
    problem = problem_of(activities, capacity)
    rates = solve(problem)
    assert certify(problem, rates) == []
    return [float(r * a.demand[0]) for r, a in zip(rates, activities, strict=True)]


def flow(nic: float, amount: float = 1.0, *links: int) -> Activity:
    return traffic(amount / nic, dict.fromkeys(links or (0,), amount))


def record(handle: Handle, times: dict[str, float], name: str) -> Handle:
    assert handle.callbacks is not None
    handle.callbacks.append(lambda _: times.__setitem__(name, handle.env.now))
    return handle


def at(env: simpy.Environment, at_s: float, action: Callable[[], object]) -> None:
    def process() -> Iterator[simpy.Event]:
        yield env.timeout(at_s)
        action()

    env.process(process())


def test_flows_share_a_link_up_to_their_nics() -> None:
    assert rates_of([flow(50), flow(100)], [100]) == [50, 50]
    assert rates_of([flow(30), flow(100)], [100]) == [30, 70]
    # unequal sizes: fairness counts bytes, so both get the same bytes per second
    assert rates_of([flow(100, 1.0), flow(100, 7.0)], [100]) == pytest.approx([50, 50])


def test_a_folded_flow_counts_as_many() -> None:
    three = Activity(
        kind="traffic", alone_s=0.01, size=3.0, weight=3.0, resources=(0,), demand=(3.0,)
    )
    assert rates_of([three, flow(100)], [100]) == pytest.approx([75, 25])


def test_two_kernels_on_one_chip_run_at_half_speed() -> None:
    gemm = kernel(1.0, {0: 1.0})
    assert list(solve(problem_of([gemm, gemm], [1.0]))) == [0.5, 0.5]


def test_kernels_get_what_traffic_leaves() -> None:
    assert rates_of([kernel(1.0, {0: 1.0}), traffic(1.0, {1: 5.0}, {0: 0.25})], [1.0, 5.0]) == [
        0.75,
        5.0,
    ]
    assert rates_of([kernel(1.0, {0: 1.0}), traffic(1.0, {0: 9.0})], [1.0]) == [0.0, 1.0]


def test_the_parking_lot() -> None:
    """One long flow over three links, one short on each; the middle link is half as wide."""
    long, *short = [flow(100, 1.0, 0, 1, 2), *(flow(100, 1.0, link) for link in range(3))]
    assert rates_of([long, *short], [100, 50, 100]) == pytest.approx([25, 75, 25, 75])


def test_the_certificate_names_what_is_wrong() -> None:
    problem = problem_of([flow(50), flow(100)], [100])
    assert certify(problem, solve(problem)) == []
    both = solve(problem)
    assert "resource 0" in certify(problem, both * 1.01)[0]
    assert "held by nobody" in certify(problem, both * [0.9, 1.1])[0]


def test_alone_is_one_event_and_no_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Few, "settle", None)
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    times: dict[str, float] = {}
    record(engine.start(flow(10, 7.0)), times, "flow")
    record(engine.start(kernel(0.3, {1: 0.3})), times, "kernel")
    record(engine.start(pause(0.1)), times, "pause")
    assert len(env._queue) == 3
    env.run()
    assert times == {"flow": 0.7, "kernel": 0.3, "pause": 0.1}
    assert not env._queue


def test_beside_a_play_that_is_elsewhere_is_no_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come on the link, but is not there while the visitor is."""
    monkeypatch.setattr(Few, "settle", None)
    env, times = simpy.Environment(), {}
    engine = FluidEngine(env, [1.0, 100.0])
    step = (
        Phase(name="gemm", activity=kernel(2.0, {0: 2.0})),
        Phase(name="comm", activity=flow(100, 100.0, 1)),
    )
    record(play(engine, [step]), times, "play")
    at(env, 0.5, lambda: record(engine.start(flow(100, 10.0, 1)), times, "visitor"))
    env.run()
    assert times == {"visitor": 0.6, "play": pytest.approx(3.0)}
    assert engine.counters().carried == pytest.approx([2.0, 110.0])


def test_changes_at_one_instant_are_one_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    settle = Few.settle
    monkeypatch.setattr(Few, "settle", lambda p, now: (solved.append(now), settle(p, now)))
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0])
    for amount in (100.0, 100.0, 100.0, 200.0):
        engine.start(flow(100, amount))
    at(env, 1.0, lambda: engine.set_capacity(0, 200.0))
    at(env, 1.0, lambda: engine.start(flow(100, 50.0)))
    env.run()
    assert solved[:2] == [0.0, 1.0]
    assert len(solved) == len(set(solved))


def test_a_newcomer_halves_the_link_and_leaves() -> None:
    env, times = simpy.Environment(), {}
    engine = FluidEngine(env, [100.0])
    record(engine.start(flow(100, 100.0)), times, "first")
    at(env, 0.5, lambda: record(engine.start(flow(100, 20.0)), times, "second"))
    env.run()
    assert times == {"second": pytest.approx(0.9), "first": pytest.approx(1.2)}
    counters = engine.counters()
    assert counters.carried[0] == 120
    assert counters.busy_s[0] == pytest.approx(1.2)
    assert counters.utilisation_s[0] == pytest.approx(1.2)
    assert counters.peak[0] == pytest.approx(1.0)


@pytest.mark.parametrize("neighbours", [0, 1])
def test_a_link_that_is_down_stalls_and_a_degraded_one_slows(neighbours: int) -> None:
    env, times = simpy.Environment(), {}
    engine = FluidEngine(env, [100.0])
    for i in range(1 + neighbours):
        record(engine.start(flow(100, 100.0)), times, str(i))
    at(env, 0.5, lambda: engine.set_capacity(0, 0.0))
    at(env, 2.5, lambda: engine.set_capacity(0, 25.0))
    env.run(2.0)
    assert engine.counters().carried[0] == pytest.approx(50.0)
    env.run()
    left = 100.0 * (1 + neighbours) - 50.0
    assert list(times.values()) == pytest.approx([2.5 + left / 25] * (1 + neighbours))
    assert env.now == max(times.values())
    counters = engine.counters()
    assert counters.utilisation_s[0] == pytest.approx(0.5 + left / 25)
    assert counters.peak[0] == pytest.approx(1.0)


def test_the_rest_goes_another_way() -> None:
    env, times = simpy.Environment(), {}
    engine = FluidEngine(env, [100.0, 50.0])
    first = engine.start(flow(100, 100.0, 0))
    record(first, times, "first")

    def reroute() -> None:
        engine.set_capacity(0, 0.0)
        done = first.cancel()
        assert done == pytest.approx(0.25)
        assert first.cancel() == done
        other = engine.start(flow(50, 100.0, 1), share=1 - done)
        record(other, times, "second")
        assert other.done == 0.0

    at(env, 0.25, reroute)
    env.run()
    assert times == {"second": pytest.approx(0.25 + 75 / 50)}
    assert list(engine.counters().carried) == pytest.approx([25.0, 75.0])
    assert engine.claims == [0, 0]
    assert engine.owner == [None, None]


def test_a_stalled_activity_may_start_on_a_link_that_is_down() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [0.0])
    handle = engine.start(flow(100, 10.0))
    env.run(5.0)
    assert handle.done == 0.0
    engine.set_capacity(0, 100.0)
    env.run(handle)
    assert env.now == 5.1


def test_what_no_longer_counts_does_not_hold_up_the_clock() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0])
    long = [engine.start(flow(1, 1000.0)) for _ in range(3)]
    at(env, 1.0, lambda: [handle.cancel() for handle in long])
    env.run()
    assert env.now == 1.0
    many = [engine.start(flow(1, 1000.0)) for _ in range(100)]
    for handle in many:
        handle.cancel()
    assert len(env._queue) < 10


def step_of(share: float, link: int = 0, sm: int = 1) -> tuple[Phase, ...]:
    """A second of computing and sending at the rate of a link of 100."""
    return (
        Phase(name="compute", activity=kernel(1 - share, {sm: 1 - share})),
        Phase(name="send", activity=traffic(share, {link: 100 * share})),
    )


def test_a_step_alone_is_one_event() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    step = (*step_of(0.25), Phase(name="host", activity=pause(0.5)))
    steps = play(engine, [step] * 3)
    assert len(env._queue) == 1
    env.run(steps)
    assert steps.ends_s == [1.5, 3.0, 4.5]
    counters = engine.counters()
    assert list(counters.carried) == [75.0, 2.25]
    assert list(counters.busy_s) == [0.75, 2.25]
    assert list(counters.peak) == [1.0, 1.0]


@pytest.mark.parametrize("alternations", [8, 80])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_a_step_that_shares_its_link_by_half_takes_its_share_longer(
    share: float, alternations: int
) -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0], alternations=alternations)
    engine.start(flow(50, 50.0 * 100))
    steps = play(engine, [step_of(share)] * 2)
    env.run(steps)
    assert steps.ends_s == pytest.approx([1 + share, 2 * (1 + share)], rel=1e-9)


@pytest.mark.parametrize("come_s", [0.0, 0.1, 0.77, 1.0, 1.3])
def test_what_is_left_of_a_step_shares_from_the_moment_that_another_comes(come_s: float) -> None:
    """It comes and stays: what is left of the steps takes (1 + share) times as long."""
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    steps = play(engine, [step_of(0.4)] * 2)
    at(env, come_s, lambda: engine.start(flow(50, 50.0 * 100)))
    env.run(steps)
    assert env.now == pytest.approx(come_s + (2 - come_s) * 1.4, rel=1e-9)


def visited(alternations: int, share: float, visits: list[tuple[float, float]]) -> Play:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0], alternations=alternations)
    steps = play(engine, [step_of(share)] * 5)
    for come_s, last_s in visits:
        at(env, come_s, lambda last_s=last_s: engine.start(flow(50, 50.0 * last_s)))
    env.run()
    assert engine.counters().carried[0] == pytest.approx(
        500 * share + sum(50 * last_s for _, last_s in visits), rel=1e-9
    )
    assert engine.counters().busy_s[1] == pytest.approx(5 * (1 - share), rel=1e-9)
    assert set(engine.claims) == {0}
    return steps


def test_eight_alternations_are_enough() -> None:
    rng = random.Random(1)
    for _ in range(12):
        visits = [(rng.uniform(0, 5), rng.uniform(0.05, 1)) for _ in range(2)]
        share = rng.uniform(0.05, 0.6)
        few, many = (visited(n, share, visits) for n in (8, 80))
        assert few.ends_s == pytest.approx(many.ends_s, rel=0.01)


def test_steps_run_alone_again_when_the_visitor_has_left() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    steps = play(engine, [step_of(0.5)] * 100)
    at(env, 1.5, lambda: engine.start(flow(50, 10.0)))
    env.run(3.0)
    assert engine.owner == [steps, steps]
    assert len(env._queue) - len(engine.stale) == 2  # the play and the end of this run
    env.run()
    assert len(steps.ends_s) == 100


def test_two_plays_that_share_a_chip_are_each_slowed() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [1.0])
    step = (Phase(name="compute", activity=kernel(1.0, {0: 1.0})),)
    one, other = play(engine, [step]), play(engine, [step] * 2)
    env.run()
    assert one.ends_s == pytest.approx([2.0])
    assert other.ends_s == pytest.approx([2.0, 3.0])


@pytest.mark.parametrize("visit", [False, True])
def test_a_play_is_cancelled_with_what_it_did(visit: bool) -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    steps = play(engine, [step_of(0.5)] * 4)
    if visit:
        engine.start(flow(50, 50.0))
    env.run(2.25)
    done = steps.cancel()
    carried = engine.counters().carried
    env.run()
    assert not steps.triggered
    assert done == pytest.approx(2.25 / 4) if not visit else done < 2.25 / 4
    assert carried[0] - 50 * visit + 100 * carried[1] == pytest.approx(done * 4 * 100)
    assert steps.cancel() == done
    assert set(engine.claims) == {0}


def test_a_play_feels_a_degraded_link() -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [100.0, 1.0])
    steps = play(engine, [step_of(0.5)] * 2)
    at(env, 1.0, lambda: engine.set_capacity(0, 25.0))
    env.run()
    assert steps.ends_s == pytest.approx([1.0, 1.0 + 0.5 + 4 * 0.5])


def test_a_users_process_delays_the_chip_that_it_is_on_and_no_other() -> None:
    """Half of the HBM bandwidth for a second: a step that needs all of it does half a second's work
    in that second.
    """
    env = simpy.Environment()
    cluster = Cluster(env, {f"host0/gpu{i}/hbm": 4e12 for i in range(4)})
    engine, ends = cluster.engine, {}
    decode = [(Phase(name="decode", activity=kernel(0.1, {i: 0.4e12})),) for i in range(4)]
    plays = [play(engine, [decode[i]] * 50) for i in range(4)]
    for i, steps in enumerate(plays):
        record(steps, ends, str(i))

    def user() -> Iterator[simpy.Event]:
        yield env.timeout(1.234)
        yield cluster.use("host0/gpu2/hbm", 1.0, share=0.5)
        ends["user"] = env.now

    env.process(user())
    env.run()
    assert ends.pop("2") == pytest.approx(5.5, rel=1e-9)
    assert ends.pop("user") == pytest.approx(2.234, rel=1e-12)
    assert set(ends.values()) == {plays[0].ends_s[-1]}
    assert plays[0].ends_s[-1] == pytest.approx(5.0)
    assert list(cluster.engine.counters().carried) == pytest.approx([20e12, 20e12, 22e12, 20e12])


def test_the_example_of_the_cluster() -> None:
    assert doctest.testmod(cluster_module).failed == 0


def test_names_that_are_not_there() -> None:
    cluster = Cluster(simpy.Environment(), {"leaf2->spine1": 50e9, "host3/gpu5/hbm": 4e12})
    assert cluster.index("host3/gpu5/hbm") == 1
    with pytest.raises(ClusterSimError, match=r"'leaf2->spine2'; did you mean 'leaf2->spine1'"):
        cluster.index("leaf2->spine2")
    cluster.set_capacity("leaf2->spine1", 0.0)
    for arguments, message in [
        ({}, "either share or amount"),
        ({"share": 0.5, "amount": 1.0}, "either share or amount"),
        ({"share": 1.5}, r"share must be > 0 and <= 1 \(got 1.5\)"),
        ({"share": 0.5}, "it is down"),
        ({"amount": -1.0}, "must be > 0"),
    ]:
        with pytest.raises(ClusterSimError, match=message):
            cluster.use("leaf2->spine1", 1.0, **arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alone_s": -1.0}, r"alone_s\(=-1.0\)"),
        ({"alone_s": math.nan}, r"alone_s\(=nan\)"),
        ({"alone_s": 0.0}, "must be > 0"),
        ({"size": 0.0}, r"size\(=0.0\)"),
        ({"weight": math.inf}, r"weight\(=inf\)"),
        ({"demand": (1.0, 0.0)}, "leave out zeros"),
        ({"demand": (1.0,)}, "as many amounts"),
        ({"resources": (1, 1)}, "distinct"),
        ({"resources": (-1, 1)}, "not negative"),
    ],
)
def test_activities_without_meaning(wrong: dict[str, object], message: str) -> None:
    fields = {
        "kind": "traffic",
        "alone_s": 1.0,
        "size": 1.0,
        "resources": (0, 1),
        "demand": (1.0, 1.0),
    }
    with pytest.raises(ValueError, match=message):
        Activity(**{**fields, **wrong})


def test_wrong_calls_of_the_engine() -> None:
    env = simpy.Environment()
    with pytest.raises(ValueError, match=r"capacity\(=-1.0\) of resource 1"):
        FluidEngine(env, [1.0, -1.0])
    engine = FluidEngine(env, [1.0])
    for call in (
        lambda: engine.start(flow(1.0, 1.0, 3)),
        lambda: engine.start(flow(1.0), share=0.0),
        lambda: engine.set_capacity(0, math.inf),
        lambda: play(engine, []),
        lambda: play(engine, [step_of(0.5, 0, 7)]),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
    assert engine.claims == [0]


def test_equal_rings_fold_to_one_and_a_degraded_link_splits_them() -> None:
    rings = [flow(50, 10.0, *range(8 * ring, 8 * ring + 8)) for ring in range(16)]
    capacity = [50.0] * 128
    folding = fold(problem_of(rings, capacity))
    assert folding.activities.tolist() == [16]
    assert folding.resources.tolist() == [128]
    capacity[11] = 20.0
    folding = fold(problem_of(rings, capacity))
    assert folding.activities.tolist() == [15, 1]
    assert folding.activity_class.tolist() == [0, 1, *[0] * 14]
    assert folding.resources.tolist() == [120, 7, 1]
    rates = folding.unfold(solve(folding.problem))
    assert rates.tolist() == [5.0, 2.0, *[5.0] * 14]
    assert fold(problem_of(rings, [50.0] * 128), marks=[0, 1] * 8).activities.tolist() == [8, 8]


def test_folded_flows_on_one_link_keep_their_number() -> None:
    folding = fold(problem_of([flow(100, 5.0, 0, 1 + i) for i in range(4)], [100.0] * 6))
    assert folding.activities.tolist() == [4]
    assert folding.resource_class.tolist() == [0, 1, 1, 1, 1, -1]
    assert folding.problem.demand.tolist() == [20.0, 5.0]
    assert solve(folding.problem).tolist() == [5.0]


def test_numba_is_imported_only_where_asked_for() -> None:
    code = (
        "import sys, simpy; from cluster_sim.engine.fluid import FluidEngine;"
        "import cluster_sim; FluidEngine(simpy.Environment(), [1.0]); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_numba_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster_sim.engine.fluid_loops import compiled_fill

    compiled_fill.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ClusterSimError, match=r"install 'cluster-sim\[fast\]'"):
        FluidEngine(simpy.Environment(), [1.0], compiled=True)
