"""Laws of pipeline schedules and of the step in closed form: bubbles, order, memory, monotony."""

from __future__ import annotations

import doctest
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.errors import SpecError
from cluster_sim.training import pipeline as pipeline_module
from cluster_sim.training import schedule as schedule_module
from cluster_sim.training.orders import Op
from cluster_sim.training.pipeline import Played, Times, play, player
from cluster_sim.training.schedule import SCHEDULES, Schedule, schedule

ROUNDING = 1e-9


def step(plan: Schedule, **times: object) -> Played:
    return play(player(plan), Times(**times))  # type: ignore[arg-type]


@st.composite
def schedules(draw: st.DrawFn, names: tuple[str, ...] = SCHEDULES) -> Schedule:
    name = draw(st.sampled_from(names))
    p = draw(st.integers(1, 7))
    m = draw(st.integers(1, 12))
    if name == "interleaved":
        v, group = draw(st.integers(1, 4)), draw(st.integers(p, p + 3))
        rest = draw(st.sampled_from([0, *range(p, group)]))
        return schedule(name, p, draw(st.integers(1, 3)) * group + rest, v, group)
    if name == "dualpipe":
        p = 2 * draw(st.integers(1, 4))
        return schedule(name, p, 2 * p + 2 * draw(st.integers(0, 4)))
    if name == "dualpipe_v":
        return schedule(name, p, 2 * p + draw(st.integers(0, 5)))
    return schedule(name, p, m)


seconds = st.integers(1, 40).map(lambda eighths: eighths / 8)  # sums without rounding


@settings(deadline=None)
@given(schedules(("gpipe", "1f1b")), seconds, seconds, seconds)
def test_gpipe_and_1f1b_wait_for_a_fill_and_a_drain(
    plan: Schedule, f: float, b: float, w: float
) -> None:
    played = step(plan, forward_s=f, backward_s=b, weight_s=w)
    assert (played.bubble_s == (plan.stages - 1) * (f + b + w)).all()


@settings(deadline=None)
@given(schedules(("interleaved",)), seconds, seconds)
def test_chunks_divide_the_bubble(plan: Schedule, f: float, b: float) -> None:
    """F and B of the whole stage are v of a chunk, so that (p-1)(F+B)/v is this."""
    played = step(plan, forward_s=f, backward_s=b)
    assert (played.bubble_s == (plan.stages - 1) * (f + b)).all()


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 9), seconds, seconds, seconds)
def test_zb_h1_fills_the_drain_with_weight_gradients(
    p: int, more: int, f: float, b: float, w: float
) -> None:
    """(p-1)(F + B - 2W) with B = b + w, where weight gradients fit between the others; longer ones
    leave more.
    """
    played = step(schedule("zb_h1", p, p + more), forward_s=f, backward_s=b, weight_s=w)
    published = (p - 1) * (f + (b + w) - 2 * w)
    if w <= min(f, b):
        assert (played.bubble_s == published).all()
    else:
        assert (played.bubble_s >= published).all()


def bidirectional(p: int, more: int, v_shaped: bool) -> tuple[Schedule, list[int], int]:
    """A schedule, the distance of each stage from its end, and the depth of half a pipeline."""
    if v_shaped:
        return schedule("dualpipe_v", p, 2 * p + more), list(range(p)), p
    distance = [min(s, 2 * p - 1 - s) for s in range(2 * p)]
    return schedule("dualpipe", 2 * p, 4 * p + 2 * more), distance, p


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.booleans(), seconds, seconds, st.floats(0, 1))
def test_dualpipe_has_the_published_bubble_where_forward_equals_input_gradient(
    p: int, more: int, v_shaped: bool, f: float, w: float, overlap: float
) -> None:
    """(p/2-1)(F&B + B - 3W) of the middle stages; others overlap fewer pairs, and wait by what
    these would have saved less.
    """
    w = min(f, w)
    b, saved = f + w, overlap * f
    plan, distances, depth = bidirectional(p, more, v_shaped)
    played = step(plan, forward_s=f, backward_s=f, weight_s=w, forward_backward_s=f + b - saved)
    published = (depth - 1) * ((f + b - saved) + b - 3 * w)
    for distance, bubble_s in zip(distances, played.bubble_s, strict=True):
        fewer = max(depth - 2 - distance, 0)
        assert bubble_s == pytest.approx(published - fewer * saved, abs=ROUNDING)


@settings(deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 5), st.booleans(), seconds, seconds, seconds, st.floats(0, 1)
)
def test_dualpipe_bubble_for_any_times(
    p: int, more: int, v_shaped: bool, f: float, b: float, w: float, overlap: float
) -> None:
    """With n = p/2 - 1: max(nF, n b - F) + n (F&B - W - min(b, W)), b the input gradient, while
    a pair takes no less than either of its passes.
    """
    pair = f + b + w - overlap * min(f, b + w)
    plan, distances, depth = bidirectional(p, more, v_shaped)
    played = step(plan, forward_s=f, backward_s=b, weight_s=w, forward_backward_s=pair)
    n = depth - 1
    middle = max(n * f, n * b - f if n else 0.0) + n * (pair - w - min(b, w))
    at = distances.index(n)
    assert played.bubble_s[at] == pytest.approx(middle, abs=ROUNDING)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_every_micro_batch_passes_every_virtual_stage_once(plan: Schedule) -> None:
    seen = Counter()
    for stage, ops in enumerate(plan.ops):
        for i, op in enumerate(ops):
            seen[op.kind, plan.virtual(stage, op.chunk), op.micro_batch] += 1
            seen["W", plan.virtual(stage, op.chunk), op.micro_batch] += op.whole
            assert not op.paired or (op.kind, ops[i + 1].kind, ops[i + 1].whole) == ("F", "B", True)
    m = plan.micro_batches
    fed = [range(c * m // plan.copies, (c + 1) * m // plan.copies) for c in range(plan.copies)]
    wanted = {
        (kind, v, i)
        for kind in "FBW"
        for v in range(plan.virtual_stages)
        for i in fed[v // plan.parts]
    }
    assert {key for key, count in seen.items() if count} == wanted
    assert all(seen[key] == 1 for key in wanted)
    assert all(
        plan.home(plan.virtual(s, c)) == (s, c)
        for s in range(plan.stages)
        for c in range(plan.chunks)
    )


@settings(max_examples=60, deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1))
def test_nothing_starts_before_what_it_needs(plan: Schedule, seed: int) -> None:
    draw = np.random.default_rng(seed)
    v = plan.virtual_stages
    f, b, w = draw.uniform(0.1, 2, (3, v))
    there, back = draw.uniform(0, 0.5, (2, v - 1))
    played = step(
        plan, forward_s=f, backward_s=b, weight_s=w, send_forward_s=there, send_backward_s=back
    )
    start, end = {}, {}
    for node, begun, ended in zip(plan.nodes, played.start_s, played.end_s, strict=True):
        for op in node.ops:
            key = (op.kind, plan.virtual(node.stage, op.chunk), op.micro_batch)
            start[key], end[key] = begun, ended
    for (kind, at, i), begun in start.items():
        boundary, own = (at - 1, None) if kind == "F" else (at, "F" if kind == "B" else "B")
        if own:
            assert begun >= end[own, at, i]
        if kind == "W" or boundary < 0 or (boundary + 1) % plan.parts == 0:
            continue
        send = (there if kind == "F" else back)[boundary] if plan.crosses(boundary) else 0.0
        assert begun >= end[kind, boundary if kind == "F" else at + 1, i] + send - ROUNDING
    alone = np.zeros(plan.stages)
    for node, begun, ended in zip(plan.nodes, played.start_s, played.end_s, strict=True):
        alone[node.stage] += ended - begun
    assert played.busy_s == pytest.approx(alone)
    assert (played.bubble_s >= played.p2p_exposed_s - ROUNDING).all()
    assert (played.first_start_s >= 0).all()
    assert (played.last_end_s <= played.step_s).all()


def test_peak_of_activations() -> None:
    for p, m in ((1, 1), (4, 2), (4, 12), (6, 6)):
        assert schedule("gpipe", p, m).peak_alive == (m,) * p
        assert schedule("1f1b", p, m).peak_alive == tuple(min(p - s, m) for s in range(p))
        assert schedule("zb_h1", p, m).peak_alive == (min(p, m),) * p
    for p, m, v in ((4, 8, 2), (4, 16, 3), (2, 8, 4)):
        peak = schedule("interleaved", p, m, v).peak_alive
        # Narayanan et al.: the first stage holds 1 + (p-1)/(p v) times what 1F1B does.
        assert peak[0] / v == pytest.approx(p * (1 + (p - 1) / (p * v)))
        assert peak == tuple(2 * (p - s - 1) + (v - 1) * p + 1 for s in range(p))
    assert schedule("dualpipe", 8, 20).peak_alive == (9,) * 8  # p + 1
    assert schedule("dualpipe_v", 4, 10).peak_alive == (9,) * 4


@settings(max_examples=40, deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1))
def test_more_time_anywhere_never_ends_sooner(plan: Schedule, seed: int) -> None:
    draw = np.random.default_rng(seed)
    v = plan.virtual_stages
    f, b, w = draw.uniform(0.1, 2, (3, v))
    sends = draw.uniform(0, 0.5, (2, v - 1))
    times = Times(
        forward_s=f, backward_s=b, weight_s=w, send_forward_s=sends[0], send_backward_s=sends[1]
    )
    laid_out = player(plan)
    before = play(laid_out, times)
    for name in ("forward_s", "backward_s", "weight_s", "send_forward_s", "send_backward_s"):
        given_s = np.array(getattr(times, name))
        if len(given_s):
            given_s[draw.integers(len(given_s))] += draw.uniform(0, 1)
        after = play(laid_out, replace(times, **{name: given_s}))
        assert (after.end_s >= before.end_s - ROUNDING).all()


def test_one_slow_stage_sets_the_pace() -> None:
    """The others' work hides behind it: m of its own, and the fill and drain of those before."""
    p, m, slow = 4, 64, 2
    f = np.array([1.0, 1, 3, 1])
    played = step(schedule("1f1b", p, m), forward_s=f, backward_s=2 * f)
    assert played.step_s == m * 3 * f[slow] + slow * 3
    assert played.bubble_s.argmin() == slow


def test_one_stage_never_waits() -> None:
    for name in ("gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe_v"):
        played = step(
            schedule(name, 1, 4),
            forward_s=1.0,
            backward_s=2.0,
            weight_s=0.5,
            send_forward_s=9.0,
            send_backward_s=9.0,
        )
        assert played.bubble_s.tolist() == [0.0]


def test_sends_are_exposed_where_nothing_hides_them() -> None:
    """One micro-batch through two stages: both sends are on the path."""
    played = step(
        schedule("1f1b", 2, 1),
        forward_s=1.0,
        backward_s=2.0,
        send_forward_s=0.25,
        send_backward_s=0.5,
    )
    assert played.step_s == 1 + 0.25 + 1 + 2 + 0.5 + 2
    assert played.p2p_exposed_s.tolist() == [0.5, 0.25]
    assert played.bubble_s.tolist() == [3.75, 3.75]


@settings(max_examples=40, deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1))
def test_ranks_at_once_are_ranks_one_by_one(plan: Schedule, seed: int) -> None:
    draw = np.random.default_rng(seed)
    v, m, ranks = plan.virtual_stages, plan.micro_batches, 3
    f, b = draw.uniform(0.1, 2, (2, v, m, ranks))
    w, sends = draw.uniform(0.1, 2, (v, ranks)), draw.uniform(0, 0.5, (v - 1, ranks))
    laid_out = player(plan)
    together = play(laid_out, Times(forward_s=f, backward_s=b, weight_s=w, send_forward_s=sends))
    for r in range(ranks):
        one = slice(r, r + 1)
        alone = play(
            laid_out,
            Times(
                forward_s=f[..., one],
                backward_s=b[..., one],
                weight_s=w[:, one],
                send_forward_s=sends[:, one],
            ),
        )
        assert (alone.end_s[:, 0] == together.end_s[:, r]).all()
    steady = play(
        laid_out,
        Times(
            forward_s=f[:, 0, 0],
            backward_s=b[:, 0, 0],
            weight_s=w[:, 0],
            send_forward_s=sends[:, 0],
        ),
    )
    as_array = play(
        laid_out,
        Times(
            forward_s=f[:, 0, :1],
            backward_s=b[:, 0, :1],
            weight_s=w[:, :1],
            send_forward_s=sends[:, :1],
        ),
    )
    for name in ("start_s", "end_s", "busy_s", "bubble_s", "p2p_exposed_s"):
        assert (getattr(as_array, name)[:, 0] == getattr(steady, name)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1f1f", 4, 8), "no pipeline schedule named '1f1f'; did you mean '1f1b'"),
        (("1f1b", 0, 8), "pp: must be at least 1 (got 0)"),
        (("1f1b", 4, 0), "micro_batches: must be at least 1 (got 0)"),
        (("1f1b", 4, 8, 2), "chunks: 1f1b has 1 of a stage (got 2); interleaved takes more"),
        (("dualpipe_v", 4, 8, 3), "always has 2 of a stage (got 3)"),
        (("1f1b", 4, 8, 1, 4), "group: 1f1b has none (got 4)"),
        (("interleaved", 4, 10, 2), "a multiple of pp(=4) (got 10); take 8 or 12, or 1f1b"),
        (("interleaved", 4, 3, 2), "a multiple of pp(=4) (got 3); take 4, or 1f1b"),
        (
            ("interleaved", 4, 13, 2, 5),
            "groups of 5, the last of at least pp(=4) (got 13); take 10 or 14",
        ),
        (("interleaved", 4, 8, 2, 3), "group: must be at least pp(=4) (got 3); take 4"),
        (("dualpipe", 3, 8), "even number of stages (got 3); take 2 or 4, or dualpipe_v"),
        (("dualpipe", 1, 8), "even number of stages (got 1); take 2, or dualpipe_v"),
        (("dualpipe", 4, 9), "an even number of at least 2 x pp(=4) (got 9); take 8 or 10"),
        (("dualpipe", 4, 6), "at least 2 x pp(=4) (got 6); take 8"),
        (("dualpipe_v", 4, 7), "dualpipe_v takes at least 2 x pp(=4) (got 7); take 8"),
    ],
)
def test_counts_that_a_schedule_cannot_do(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        schedule(*arguments)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_operations_that_wait_for_each_other_are_found() -> None:
    plan = schedule("1f1b", 2, 2)
    swapped = (plan.ops[0], plan.ops[1][1:2] + plan.ops[1][:1] + plan.ops[1][2:])
    with pytest.raises(ValueError, match="stage 0 waits for ever"):
        replace(plan, ops=swapped)
    assert swapped[1][0] == Op(kind="B", micro_batch=0, whole=True)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"forward_s": [1.0], "backward_s": 1.0}, "forward_s: .* one per virtual stage"),
        ({"forward_s": 1.0, "backward_s": -1.0}, "backward_s: must be finite and not negative"),
        ({"forward_s": 1.0, "backward_s": 1.0, "send_forward_s": [1.0] * 4}, "one per boundary"),
        ({"forward_s": np.ones((4, 3, 2)), "backward_s": 1.0}, "one per micro-batch"),
        (
            {"forward_s": np.ones((4, 3)), "backward_s": 1.0, "send_forward_s": np.ones((3, 2))},
            "ranks",
        ),
    ],
)
def test_times_that_do_not_fit(times: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        step(schedule("1f1b", 4, 8), **times)


def test_examples() -> None:
    for module in (schedule_module, pipeline_module):
        assert doctest.testmod(module).failed == 0
