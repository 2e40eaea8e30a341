"""Laws of the fluid engine: fair rates, conservation, and the same answer by every way."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import simpy
from fluid_reference import Change, History, naive_rates, naive_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.engine import fluid, fluid_few, fluid_pool
from cluster_sim.engine.fluid import FluidEngine, Running
from cluster_sim.engine.fluid_few import Few
from cluster_sim.engine.fluid_fold import activities_of, fold
from cluster_sim.engine.fluid_loops import compiled_fill, fill_loops
from cluster_sim.engine.fluid_play import Play, play
from cluster_sim.engine.fluid_pool import Pool
from cluster_sim.engine.fluid_solver import (
    Floats,
    Ints,
    certify,
    fill_rounds,
    problem_of,
    solve,
)
from cluster_sim.work import Activity, Phase, pause, traffic

AMOUNTS = (1.0, 1.0, 2.0, 3.0, 0.1, 7.3, 1e-4, 1e4)
needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


def random_activity(rng: random.Random, resources: int) -> Activity:
    chosen = rng.sample(range(resources), rng.randint(1, min(resources, 5)))
    exact = rng.random() < 0.5
    demand = [rng.choice(AMOUNTS) if exact else 10 ** rng.uniform(-2, 2) for _ in chosen]
    kind = rng.choice(("traffic", "traffic", "kernel"))
    alone_s = rng.choice((0.1, 1.0, 1.0, 2.5, 10 ** rng.uniform(-1, 1)))
    return Activity(
        kind=kind,
        alone_s=alone_s,
        size=max(demand) if kind == "traffic" else alone_s,
        resources=tuple(chosen),
        demand=tuple(demand),
        weight=rng.choice((1.0, 1.0, 3.0)),
    )


def random_capacity(rng: random.Random, resources: int) -> list[float]:
    kinds = (0.0, 1.0, 1.0, 2.0, 5.0, 10 ** rng.uniform(-1, 3))
    return [rng.choice(kinds) for _ in range(resources)]


def random_problem(seed: int, most: int = 40) -> tuple[list[Activity], list[float]]:
    rng = random.Random(seed)
    resources = rng.choice((1, 2, 5, 12, 40))
    count = rng.randint(1, most)
    activities = [random_activity(rng, resources) for _ in range(count)]
    if rng.random() < 0.3:  # many alike
        activities = [rng.choice(activities[:3]) for _ in range(count)]
    return activities, random_capacity(rng, resources)


def plain_loops(
    start: Ints, column: Ints, per_level: Floats, ceiling: Floats, free: Floats
) -> Floats:
    level = np.zeros(len(ceiling))
    floats, ints = np.zeros((3, len(free))), np.zeros(len(free), np.int64)
    flags, rows = np.zeros(len(free), np.bool_), np.zeros(len(ceiling), np.int64)
    fill_loops(start, column, per_level, ceiling, free.copy(), level, *floats, flags, ints, rows)
    return level


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_rates_hold_the_certificate_and_are_those_of_plain_filling(seed: int) -> None:
    activities, capacity = random_problem(seed)
    problem = problem_of(activities, capacity)
    rates = solve(problem)
    assert certify(problem, rates) == []
    assert rates == pytest.approx(naive_rates(activities, capacity), rel=1e-9, abs=0)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_certificate_rejects_every_other_rate(seed: int) -> None:
    activities, capacity = random_problem(seed, most=12)
    problem = problem_of(activities, capacity)
    rates = solve(problem)
    at = seed % len(rates)
    if rates[at] > 0:
        for factor in (1 - 1e-6, 1 + 1e-6):
            other = rates.copy()
            other[at] *= factor
            assert certify(problem, other)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_arrays_and_loops_give_the_same_bits(seed: int) -> None:
    activities, capacity = random_problem(seed)
    wanted = lowlevel(activities, capacity, fill_rounds)
    assert lowlevel(activities, capacity, plain_loops).tobytes() == wanted.tobytes()


@needs_numba
@pytest.mark.filterwarnings("ignore")
def test_compiled_loops_give_the_same_bits() -> None:
    fill = compiled_fill()
    for seed in range(300):
        activities, capacity = random_problem(seed, most=200)
        wanted = lowlevel(activities, capacity, fill_rounds)
        assert lowlevel(activities, capacity, fill).tobytes() == wanted.tobytes(), seed


def lowlevel(activities: list[Activity], capacity: list[float], fill: fluid_pool.Fill) -> Floats:
    """Levels of all activities in one round, straight from the filling."""
    problem = problem_of(activities, capacity)
    ceiling = problem.size / (problem.alone_s * problem.weight)
    per_level = problem.per_level
    return fill(problem.start, problem.resource, per_level, ceiling, problem.capacity)


@given(st.integers(0, 2**32), st.floats(0, 3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_more_capacity_everywhere_never_lowers_the_least_level(
    seed: int, more: float, scaled: bool
) -> None:
    activities, capacity = random_problem(seed)
    activities = [a for a in activities if a.kind == "traffic"] or [traffic(1.0, {0: 1.0})]
    wider = [c * (1 + more) if scaled else c + more for c in capacity]

    def least(capacity: list[float]) -> float:
        problem = problem_of(activities, capacity)
        return float((solve(problem) * problem.size / problem.weight).min())

    assert least(wider) >= least(capacity) * (1 - 1e-9)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_one_flow_on_one_link_meets_the_closed_form(
    amount: float, nic: float, capacity: float
) -> None:
    env = simpy.Environment()
    engine = FluidEngine(env, [capacity])
    env.run(engine.start(traffic(amount / nic, {0: amount})))
    assert env.now == pytest.approx(max(amount / nic, amount / capacity), rel=1e-12)


def random_script(seed: int, most: int) -> tuple[list[Change], list[float]]:
    """Starts, cancels and changes of capacity, often at one instant, that all end."""
    rng = random.Random(seed)
    resources = rng.choice((1, 3, 8, 30))
    capacity = random_capacity(rng, resources)
    now, starts, changes = 0.0, 0, []
    for _ in range(rng.randint(1, most)):
        now += rng.choice((0.0, 0.0, 0.125, 0.5, rng.random()))
        roll = rng.random()
        if roll < 0.65 or not starts:
            changes.append(Change(now, start=random_activity(rng, resources)))
            starts += 1
        elif roll < 0.8:
            now += 1e-3 * rng.random()  # not at the instant of an end
            changes.append(Change(now, cancel=rng.randrange(starts)))
        else:
            value = rng.choice((0.0, 1.0, 3.0, 10 ** rng.uniform(-1, 2)))
            changes.append(Change(now, capacity=(rng.randrange(resources), value)))
    if rng.random() < 0.7:  # else some may stall for ever
        changes += [Change(now + 1, capacity=(r, 2.0)) for r in range(resources)]
    return changes, capacity


def engine_run(
    changes: list[Change], capacity: list[float], compiled: bool = False
) -> tuple[History, FluidEngine]:
    env = simpy.Environment()
    engine = FluidEngine(env, capacity, compiled=compiled)
    handles: list[Running] = []
    ends: dict[int, float] = {}
    done: dict[int, float] = {}

    def user():
        for change in changes:
            yield env.timeout(max(0.0, change.at_s - env.now))  # sums of gaps may round up
            if change.start is not None:
                handle, number = engine.start(change.start), len(handles)
                handle.callbacks.append(lambda _, number=number: ends.update({number: env.now}))
                handles.append(handle)
            if change.cancel is not None and not handles[change.cancel].triggered:
                done.setdefault(change.cancel, handles[change.cancel].cancel())
            if change.capacity is not None:
                engine.set_capacity(*change.capacity)

    env.process(user())
    env.run()
    counters = engine.counters()
    end_s = [ends.get(number) for number in range(len(handles))]
    columns = (counters.carried, counters.busy_s, counters.utilisation_s)
    return History(end_s, done, *(column.tolist() for column in columns)), engine


def check_against_reference(seed: int, most: int) -> None:
    changes, capacity = random_script(seed, most)
    mine, engine = engine_run(changes, capacity)
    naive = naive_run(changes, capacity)
    assert [e is None for e in mine.end_s] == [e is None for e in naive.end_s]
    assert [e or 0.0 for e in mine.end_s] == pytest.approx(
        [e or 0.0 for e in naive.end_s], rel=1e-9
    )
    assert mine.done == pytest.approx(naive.done, rel=1e-9, abs=1e-9)
    for name in ("carried", "utilisation_s"):
        assert getattr(mine, name) == pytest.approx(getattr(naive, name), rel=1e-9, abs=1e-9), name
    assert (engine.counters().peak <= 1 + 1e-9).all()
    booked = np.zeros(len(capacity))
    starts = [change.start for change in changes if change.start is not None]
    for number, activity in enumerate(starts):
        share = 1.0 if mine.end_s[number] is not None else mine.done.get(number)
        if share is None:
            return  # it stalls
        booked[list(activity.resources)] += share * np.array(activity.demand)
    assert mine.carried == pytest.approx(booked.tolist(), rel=1e-9, abs=1e-12)
    assert mine.busy_s == pytest.approx(naive.busy_s, rel=1e-9, abs=1e-9)


@given(st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_a_run_is_that_of_solving_everything_at_every_change(seed: int) -> None:
    check_against_reference(seed, 25)


def test_a_run_is_the_same_where_few_become_many_and_few_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fluid_few, "FEW_ENTRIES", 8)
    moves = []
    fitting = fluid_few.fitting

    def watched(pool: Few | Pool, now_s: float) -> Few | Pool:
        other = fitting(pool, now_s)
        if other is not pool:
            moves.append(type(other))
        return other

    monkeypatch.setattr(fluid, "fitting", watched)
    for seed in range(60):
        check_against_reference(seed, 25)
    assert moves.count(Pool) > 20
    assert moves.count(Few) > 20


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_a_long_run_is_that_of_solving_everything_at_every_change(seed: int) -> None:
    check_against_reference(seed, 150)


def random_step(rng: random.Random, resources: int) -> tuple[Phase, ...]:
    activities = [random_activity(rng, resources) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.3:
        activities.append(pause(rng.choice((0.0, 0.2))))
    return tuple(Phase(name=str(i), activity=a) for i, a in enumerate(activities))


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_plays_carry_what_their_steps_demand(seed: int) -> None:
    """Whoever comes, goes or changes a capacity: what is complete is carried in full, and what is
    cancelled in part; and nobody is left on a resource.
    """
    rng = random.Random(seed)
    env = simpy.Environment()
    resources = rng.choice((2, 6, 20))
    engine = FluidEngine(env, [rng.choice((1.0, 5.0, 50.0)) for _ in range(resources)])
    plays: list[tuple[Play, list[tuple[Phase, ...]]]] = []
    booked = np.zeros(resources)

    def book(activity: Activity, share: float) -> None:
        booked[list(activity.resources)] += share * np.array(activity.demand)

    def user():
        for _ in range(rng.randint(1, 6)):
            steps = [random_step(rng, resources)] * rng.randint(1, 3)
            steps.append(random_step(rng, resources))
            plays.append((play(engine, steps), steps))
            yield env.timeout(rng.choice((0.0, 0.3, rng.random())))
            visitor = random_activity(rng, resources)
            engine.start(visitor)
            book(visitor, 1.0)
            yield env.timeout(rng.choice((0.0, 0.5, 2 * rng.random())))
            engine.set_capacity(rng.randrange(resources), rng.choice((0.5, 3.0)))
            if rng.random() < 0.3:
                visitor = random_activity(rng, resources)
                handle = engine.start(visitor)
                yield env.timeout(rng.random())
                book(visitor, handle.cancel())

    env.process(user())
    env.run()
    for steps_played, steps in plays:
        assert steps_played.processed
        assert len(steps_played.ends_s) == len(steps)
        assert steps_played.ends_s == sorted(steps_played.ends_s)
        for step in steps:
            for phase in step:
                book(phase.activity, 1.0)
    counters = engine.counters()
    assert counters.carried == pytest.approx(booked, rel=1e-9, abs=1e-9)
    assert (counters.utilisation_s <= counters.busy_s * (1 + 1e-9)).all()
    assert (counters.peak <= 1 + 1e-9).all()
    assert set(engine.claims) == {0}
    assert set(engine.owner) == {None}
    assert not env._queue


def test_the_same_run_gives_the_same_bits() -> None:
    for seed in range(20):
        first, again = (engine_run(*random_script(seed, 60))[0] for _ in range(2))
        assert repr(first) == repr(again)


@needs_numba
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_gives_the_same_bits() -> None:
    for seed in range(20):
        script = random_script(seed, 60)
        assert repr(engine_run(*script)[0]) == repr(engine_run(*script, compiled=True)[0])


class Member:
    row = -1

    def __init__(self, activity: Activity) -> None:
        self.activity = activity


@pytest.mark.parametrize("growth", [0.05, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_changes_one_by_one_give_what_a_full_solve_gives(
    seed: int, growth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With growth to 5 % and its fall-back, and growth to 40 %."""
    monkeypatch.setattr(fluid_pool, "GROWTH_SHARE", growth)
    monkeypatch.setattr(fluid_pool, "LONGEST_BACK_OFF", 1)
    grown = []
    grow = Pool._grow
    monkeypatch.setattr(
        Pool, "_grow", lambda pool, *a: (grown.append(grow(pool, *a)), grown[-1])[1]
    )
    rng = random.Random(seed)
    resources = rng.choice((40, 120, 300))
    capacity = [rng.choice((1.0, 2.0, 10.0 * rng.random() + 1)) for _ in range(resources)]
    pool = Pool(np.array(capacity), fill_rounds)
    inside: list[Member] = []
    for step in range(150):
        for _ in range(60 if step == 0 else 1):
            inside.append(Member(random_activity(rng, resources)))
            pool.add(inside[-1], 1.0, 0.0)
        if step % 3:
            pool.remove(inside.pop(rng.randrange(len(inside))).row)
        if step % 10 == 0:
            resource = rng.randrange(resources)
            capacity[resource] = rng.choice((0.0, 1.0, 4.0))
            pool.resize(resource, capacity[resource])
        pool.settle(0.0)
        problem = problem_of([member.activity for member in inside], capacity)
        rates = pool.pace[[member.row for member in inside]] / problem.alone_s
        assert rates == pytest.approx(solve(problem), rel=1e-9, abs=0), step
        assert certify(problem, rates) == []
    assert any(columns is not None for columns in grown)


def symmetric_problem(seed: int, most: int) -> tuple[list[Activity], list[float], list[int]]:
    """Rings over equal hosts, with or without something that breaks the symmetry."""
    rng = random.Random(seed)
    ranks = rng.choice([n for n in (2, 4, 8, 16, 32, 64) if n <= most])
    ring = rng.choice([n for n in (2, 4, 8, 16) if n <= ranks])
    rails, spines = rng.choice((1, 2)), rng.choice((1, 2, 4))
    capacity = [50.0] * (2 * ranks) + [rng.choice((50.0, 100.0))] * spines + [1.0] * ranks
    activities = []
    for first in range(ranks // ring):
        links: dict[int, float] = {}
        for k in range(ring):
            a, b = first * ring + k, first * ring + (k + 1) % ring
            spine = 2 * ranks + (rng.randrange(spines) if rails == 2 else (a % spines))
            for link in (a, ranks + b, spine):
                links[link] = links.get(link, 0.0) + 10.0
        activities.append(traffic(10.0 / 50.0, links))
    for rank in range(ranks):
        sm = 2 * ranks + spines + rank
        activities.append(
            Activity(kind="kernel", alone_s=1.0, size=1.0, resources=(sm,), demand=(0.7,))
        )
        activities.append(traffic(0.5, {rank: 5.0}, {sm: 0.1}))
    breaking = rng.choice(("nothing", "link", "jitter", "user"))
    if breaking == "link":
        capacity[rng.randrange(len(capacity))] /= 3
    elif breaking == "jitter":
        activities[rng.randrange(len(activities))] = traffic(0.21, {0: 10.0})
    elif breaking == "user":
        activities.append(traffic(1.0, {2 * ranks + spines + rng.randrange(ranks): 0.5}))
    return activities, capacity, [ranks, breaking == "nothing"]


def check_folding(seed: int, most: int) -> None:
    activities, capacity, _ = symmetric_problem(seed, most)
    problem = problem_of(activities, capacity)
    folding = fold(problem)
    assert folding.unfold(solve(folding.problem)) == pytest.approx(solve(problem), rel=1e-9)
    assert folding.activities.sum() == len(activities)

    def ends(activities: list[Activity], capacity: list[float]) -> list[float]:
        env = simpy.Environment()
        engine = FluidEngine(env, capacity)
        ends = [0.0] * len(activities)
        for i, activity in enumerate(activities):
            callbacks = engine.start(activity).callbacks
            callbacks.append(lambda _, i=i: ends.__setitem__(i, env.now))
        env.run()
        return ends

    whole = ends(activities, capacity)
    folded = np.array(ends(activities_of(folding.problem), folding.problem.capacity.tolist()))
    assert folding.unfold(folded) == pytest.approx(whole, rel=1e-9)


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_folded_is_unfolded(seed: int) -> None:
    check_folding(seed, 16)


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_folded_is_unfolded_up_to_64_ranks(seed: int) -> None:
    check_folding(seed, 64)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_problem_folded_is_unfolded(seed: int) -> None:
    problem = problem_of(*random_problem(seed))
    folding = fold(problem)
    assert folding.unfold(solve(folding.problem)) == pytest.approx(solve(problem), rel=1e-9, abs=0)
