"""Laws of a training step as events: equal to the closed form without contention, slowed as the
sharing rule says with it, and books that close.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_steps import NVLINK, RECEIVE, SEND, SM, random_work, resource, simple

from cluster_sim.output.timeline_training import training_events
from cluster_sim.training.events import PlayedStep, play
from cluster_sim.training.pipeline import play as play_closed
from cluster_sim.training.pipeline import player
from cluster_sim.training.schedule import Schedule, schedule
from cluster_sim.training.step_work import Needed, Ready, StepWork, times_alone
from cluster_sim.work import kernel, pause, traffic

ROUNDING = 1e-9
PLANS = [
    schedule("gpipe", 3, 5),
    schedule("1f1b", 4, 8),
    schedule("1f1b", 5, 2),
    schedule("1f1b", 1, 3),
    schedule("interleaved", 3, 6, 2),
    schedule("interleaved", 1, 3, 2),
    schedule("zb_h1", 4, 7),
    schedule("dualpipe", 4, 10),
    schedule("dualpipe_v", 3, 7),
]
plans = st.sampled_from(PLANS)
seeds = st.integers(0, 2**32 - 1)


def alone(work: StepWork) -> StepWork:
    """The same work where nothing shares: every use of a resource is so small."""

    def thin(given: object) -> object:
        if isinstance(given, tuple):
            return tuple(thin(item) for item in given)
        if given is None:
            return None
        if hasattr(given, "activity"):
            return replace(given, activity=thin(given.activity))
        return replace(given, demand=tuple(d / 100 for d in given.demand))  # type: ignore[attr-defined]

    names = ("forward", "backward", "weight", "send_forward", "send_backward")
    return replace(work, **{name: thin(getattr(work, name)) for name in names})


@pytest.mark.parametrize("instants", [True, False])
@settings(max_examples=15, deadline=None)
@given(plans, seeds)
def test_without_contention_events_are_the_closed_form(
    instants: bool, plan: Schedule, seed: int
) -> None:
    work = alone(random_work(plan, seed))
    work = replace(work, gradients=None, gathers=None, optimizer=None, barrier_s=0.0)
    played, closed = play(work, instants=instants), play_closed(player(plan), times_alone(work))
    assert played.end_s == pytest.approx(float(closed.step_s), abs=ROUNDING)
    for stage, seconds in enumerate(played.stages):
        assert seconds.busy_s == pytest.approx(closed.busy_s[stage], abs=ROUNDING)
        assert seconds.bubble_s == pytest.approx(closed.bubble_s[stage], abs=ROUNDING)
        assert seconds.p2p_exposed_s == pytest.approx(closed.p2p_exposed_s[stage], abs=ROUNDING)
        assert seconds.slowed_s == pytest.approx(0.0, abs=ROUNDING)
    begun = {}
    for node, start, end in zip(plan.nodes, closed.start_s, closed.end_s, strict=True):
        for op in node.ops:
            begun[node.stage, op.kind, op.chunk, op.micro_batch] = (start, end)
    ops = [record for record in played.records if record.lane == "compute"]
    assert len(ops) == len(begun)
    for r in ops:
        wanted = begun[r.stage, r.kind, r.chunk, r.micro_batch]
        assert (r.start_s, r.end_s) == pytest.approx(wanted, abs=ROUNDING)


@settings(max_examples=50, deadline=None)
@given(
    plans,
    seeds,
    st.fixed_dictionaries(
        {
            "kernel_sm": st.sampled_from([0.5, 0.8, 0.95]),
            "send_sm": st.sampled_from([0.0, 0.05, 0.2]),
            "nic": st.sampled_from([0.3, 1.0]),
            "slow_sends": st.sampled_from([1.0, 5.0, 20.0]),
            "receive": st.booleans(),
            "expert": st.sampled_from([0.0, 0.0, 0.05]),
            "buckets": st.integers(0, 3),
            "bucket_sm": st.sampled_from([0.1, 0.3]),
            "ready": st.sampled_from(["during", "after", "end"]),
            "needed": st.sampled_from(["during", "before"]),
        }
    ),
)
def test_instants_change_nothing(plan: Schedule, seed: int, shares: dict[str, float]) -> None:
    work = random_work(plan, seed, **shares)  # type: ignore[arg-type]
    one, other = play(work), play(work, instants=False)
    assert one.end_s == pytest.approx(other.end_s, abs=ROUNDING)
    assert len(one.records) == len(other.records)
    for a, b in zip(sorted(one.records), sorted(other.records), strict=True):
        assert a[:5] == b[:5]
        assert a[5:] == pytest.approx(b[5:], abs=ROUNDING)
    for a, b in zip(one.stages, other.stages, strict=True):
        for name in a.__slots__:
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=ROUNDING)


@settings(max_examples=15, deadline=None)
@given(
    plans,
    seeds,
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(["during", "after", "end"]),
    st.sampled_from(["during", "before"]),
)
def test_books_close_and_sharing_never_speeds_up(
    plan: Schedule, seed: int, expert: float, ready: Ready, needed: Needed
) -> None:
    work = random_work(
        plan, seed, kernel_sm=1.0, expert=expert, buckets=3, ready=ready, needed=needed
    )
    played = play(work)
    closed = play_closed(player(plan), times_alone(work))
    assert played.end_s >= float(closed.step_s) - ROUNDING
    for stage, s in enumerate(played.stages):
        mine = [r for r in played.records if r.stage == stage]
        busy = {(r.start_s, r.end_s) for r in mine if r.kind in "FBW" and r.lane == "compute"}
        spans_s = sum(end - start for start, end in busy)
        assert s.busy_s <= spans_s + ROUNDING
        if needed == "before":
            assert s.busy_s == pytest.approx(spans_s)
        assert s.slowed_s >= -ROUNDING
        assert s.busy_s - s.slowed_s == pytest.approx(closed.busy_s[stage])
        assert s.bubble_s >= s.p2p_exposed_s - ROUNDING
        total = s.busy_s + s.gather_exposed_s + s.gradient_exposed_s + s.norm_s
        assert total + s.optimizer_s + s.bubble_s == pytest.approx(played.end_s)
        for lane in ("compute", "collective"):
            spans = sorted({(r.start_s, r.end_s) for r in mine if r.lane == lane})
            assert all(a[1] <= b[0] + ROUNDING for a, b in zip(spans, spans[1:], strict=False))
        buckets = [r.kind for r in mine if r.lane == "collective"]
        assert buckets == ["gather"] * (3 * plan.chunks) + ["gradient"] * (3 * plan.chunks)


@settings(max_examples=25, deadline=None)
@given(plans, seeds, st.sampled_from(["during", "after", "end"]), st.integers(1, 4))
def test_gradients_without_contention_go_one_by_one(
    plan: Schedule, seed: int, ready: Ready, buckets: int
) -> None:
    """Each bucket starts when it is ready and the one before is done."""
    work = alone(random_work(plan, seed, buckets=buckets, ready=ready))
    thin = tuple(
        tuple(replace(a, demand=tuple(d / 100 for d in a.demand)) for a in some)
        for some in work.gradients or ()
    )
    work = replace(work, gathers=None, optimizer=None, gradients=thin, barrier_s=0.0)
    closed = play_closed(player(plan), times_alone(work))
    last: dict[int, tuple[float, float]] = {}
    for node, start, end in zip(plan.nodes, closed.start_s, closed.end_s, strict=True):
        for op in node.ops:
            if op.whole or op.kind == "W":
                last.pop(plan.virtual(node.stage, op.chunk), None)
                last[plan.virtual(node.stage, op.chunk)] = (float(start), float(end))
    lanes = [0.0] * plan.stages
    for v, (start, end) in last.items():
        stage = plan.home(v)[0]
        for number, bucket in enumerate(thin[v]):
            at = {
                "during": start + (end - start) * (number + 1) / buckets,
                "after": end,
                "end": float(closed.last_end_s[stage]),
            }[ready]
            lanes[stage] = max(lanes[stage], at) + bucket.alone_s
    played = play(work)
    assert played.end_s == pytest.approx(max(lanes), abs=ROUNDING)
    for stage, s in enumerate(played.stages):
        exposed_s = max(lanes[stage] - closed.last_end_s[stage], 0)
        assert s.gradient_exposed_s == pytest.approx(exposed_s, abs=ROUNDING)


def one(played: PlayedStep, stage: int, kind: str, lane: str = "compute") -> tuple[float, float]:
    (record,) = [r for r in played.records if (r.stage, r.kind, r.lane) == (stage, kind, lane)]
    return record.start_s, record.end_s


@pytest.mark.parametrize("instants", [True, False])
def test_gradients_and_pipeline_share_the_nic(instants: bool) -> None:
    """At 5 s stage 1 sends 1 byte back and reduces 3 bytes over a NIC of 1 byte/s: half each until
    7 s, then 2 bytes are left.
    """
    nic = resource(1, SEND)
    work = simple(
        schedule("1f1b", 2, 1),
        1.0,
        2.0,
        send_forward=(traffic(1.0, {resource(0, SEND): 1.0}),),
        send_backward=(traffic(1.0, {nic: 1.0}),),
        gradients=((), (traffic(3.0, {nic: 3.0}),)),
        capacity=(1.0,) * 8,
    )
    played = play(work, instants=instants)
    assert one(played, 1, "B") == (3.0, 5.0)
    assert one(played, 1, "B", "p2p") == pytest.approx((5.0, 7.0))
    assert one(played, 0, "B") == pytest.approx((7.0, 9.0))
    assert one(played, 1, "gradient", "collective") == pytest.approx((5.0, 9.0))
    first, second = played.stages
    assert first.bubble_s == pytest.approx(6.0)
    assert first.p2p_exposed_s == pytest.approx(2.0)
    assert (second.gradient_exposed_s, second.bubble_s) == pytest.approx((4.0, 2.0))


@pytest.mark.parametrize("instants", [True, False])
def test_a_bucket_takes_sms_from_a_backward_pass(instants: bool) -> None:
    """The bucket of chunk 1 holds a quarter of the SMs for 2 s, in which the backward pass of chunk
    0 does 1.5 s of its 2 s.
    """
    sm, link = resource(0, SM), resource(0, NVLINK)
    plan = schedule("interleaved", 1, 1, 2)
    bucket = traffic(2.0, {link: 2.0}, {sm: 0.5})
    work = simple(plan, 1.0, 2.0, gradients=((), (bucket,)), capacity=(1.0,) * 4)
    busy = kernel(2.0, {sm: 2.0})
    work = replace(work, backward=tuple((replace(p[0], activity=busy),) for p in work.backward))
    played = play(work, instants=instants)
    assert one(played, 0, "gradient", "collective") == pytest.approx((4.0, 6.0))
    assert played.end_s == pytest.approx(6.5)
    (stage,) = played.stages
    assert (stage.busy_s, stage.slowed_s) == pytest.approx((6.5, 0.5))
    assert stage.gradient_exposed_s == 0.0


def test_sends_in_flight_together_take_more() -> None:
    """Of 0.4 byte/s each, two leave a kernel 0.2 of the 0.5 byte/s that it wants; one leaves it
    all.
    """
    memory = resource(0, NVLINK)
    work = simple(
        schedule("gpipe", 2, 3),
        1.0,
        2.0,
        send_forward=(traffic(1.5, {memory: 0.6}),),
        capacity=(1.0,) * 8,
    )
    first = (replace(work.forward[0][0], activity=kernel(1.0, {memory: 0.5})),)
    work = replace(work, forward=(first, work.forward[1]))
    played = play(work)
    assert played == play(work, instants=False)
    # The third pass starts at 2 s beside two sends; the first of them ends at 2.5 s.
    ends = [r.end_s for r in played.records if (r.stage, r.kind, r.lane) == (0, "F", "compute")]
    assert ends == pytest.approx([1.0, 2.0, 2.5 + (1 - 0.5 * 0.2 / 0.5)])
    assert played.stages[0].slowed_s == pytest.approx(0.3)


def test_a_slowed_send_meets_the_next() -> None:
    """A gather of 1.4 bytes has 0.4 left when the first send of 0.9 starts at 1 s: half each until
    1.8 s. At 2 s, when the lane is idle, 0.3 byte of it meets the second send: half each to 2.6 s.
    """
    nic = resource(0, SEND)
    work = simple(
        schedule("interleaved", 2, 2, 2),
        1.0,
        2.0,
        send_forward=(traffic(0.9, {nic: 0.9}), None, None),
        gathers=((), (), (traffic(1.4, {nic: 1.4}),), ()),
        capacity=(1.0,) * 8,
    )
    played = play(work)
    ends = [r.end_s for r in played.records if r.lane == "p2p"]
    assert ends == pytest.approx([2.6, 3.2])
    assert one(played, 0, "gather", "collective") == pytest.approx((0.0, 1.8))


def test_parameters_are_gathered_in_the_order_of_use() -> None:
    """Chunks of 1.5 s each on the lane: the first forward pass waits 1.5 s, the second 0.5 s."""
    plan = schedule("interleaved", 1, 1, 2)
    gather = pause(0.75)
    work = simple(plan, 1.0, 2.0, gathers=((gather, gather), (gather, gather)))
    (stage,) = play(work).stages
    assert stage.gather_exposed_s == pytest.approx(1.5 + 0.5)
    # The far end has its parameters long before it needs them.
    deep = play(simple(schedule("1f1b", 2, 1), 1.0, 2.0, gathers=((gather,), (gather,))))
    assert [s.gather_exposed_s for s in deep.stages] == [0.75, 0.0]


def test_parameters_are_needed_bucket_by_bucket() -> None:
    """Two gathers of 3 s for a pass of 2 s: half of it from 3 s, the rest from 6 s on."""
    work = simple(
        schedule("1f1b", 1, 2), 2.0, 2.0, gathers=((pause(3.0),) * 2,), gathers_needed="during"
    )
    played = play(work)
    first = [r for r in played.records if r.kind == "F"][0]
    assert (first.start_s, first.end_s) == (3.0, 7.0)
    (stage,) = played.stages
    assert (stage.gather_exposed_s, stage.busy_s, played.end_s) == (5.0, 8.0, 13.0)


def test_optimizers_wait_for_the_norm_of_all_gradients() -> None:
    work = simple(
        schedule("1f1b", 2, 2),
        1.0,
        2.0,
        gradients=((pause(0.5),), (pause(10.0),)),
        optimizer=(pause(1.0), pause(2.0)),
        barrier_s=0.25,
    )
    played = play(work)
    at = 7.0 + 10.0 + 0.25  # stage 1 ends its passes at 7 s
    assert one(played, 0, "optimizer") == (at, at + 1)
    assert one(played, 1, "optimizer") == (at, at + 2)
    assert played.end_s == at + 2
    assert [s.gradient_exposed_s for s in played.stages] == [0.5, 10.0]


def test_overlapped_pairs_have_their_own_time() -> None:
    plan = schedule("dualpipe_v", 2, 6)
    work = simple(plan, 1.0, 2.0)
    quick = replace(
        work, forward_backward=tuple((replace(p[0], activity=pause(2.5)),) for p in work.forward)
    )
    for some in (work, quick):
        closed = play_closed(player(plan), times_alone(some))
        assert play(some).end_s == pytest.approx(float(closed.step_s))
    assert play(quick).end_s < play(work).end_s


def test_work_that_does_not_fit_the_schedule() -> None:
    plan = schedule("1f1b", 2, 2)
    with pytest.raises(ValueError, match="gradients: 1 given, must be one per virtual stage"):
        simple(plan, 1.0, 2.0, gradients=((),))
    with pytest.raises(ValueError, match="send_forward: 2 given, must be one per boundary"):
        simple(plan, 1.0, 2.0, send_forward=(None, None))
    with pytest.raises(ValueError, match="optimizer: 1 given, must be one per stage"):
        simple(plan, 1.0, 2.0, optimizer=(None,))
    with pytest.raises(ValueError, match="resource 7 has no capacity: 0 are given"):
        simple(plan, 1.0, 2.0, optimizer=(None, kernel(1.0, {resource(1, RECEIVE): 1.0})))
    with pytest.raises(ValueError, match="barrier_s"):
        simple(plan, 1.0, 2.0, barrier_s=-1.0)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.stages}")
def test_the_timeline_shows_every_record_and_overlaps_none(plan: Schedule) -> None:
    played = play(random_work(plan, 1))
    events = list(training_events(plan, played.records))
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == len(played.records)
    names = {
        event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"
    }
    assert names == {s + 1: f"stage {s}" for s in range(plan.stages)}
    lanes: dict[int, list[tuple[float, float]]] = {}
    for event in slices:
        lanes.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in lanes.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert all(
        event["name"].split()[-1].isdigit()
        for event in slices
        if event["name"] not in ("gather", "gradient", "optimizer")
    )
