"""Laws of the plan of a training step: bubbles, recomputation, sharding, placement, routing,
jitter.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from training_jobs import bare, job, pod, priced, step, wires

from cluster_sim.output.results import format_csv
from cluster_sim.perf.train_stage import Transfers
from cluster_sim.specs.inputs import TrainingInput
from cluster_sim.specs.training import Routing
from cluster_sim.train import quick_step, train
from cluster_sim.training.closed import times_of
from cluster_sim.training.jitter import straggler_s
from cluster_sim.training.job import make_job
from cluster_sim.training.pipeline import Times, play
from cluster_sim.training.play import played_step
from cluster_sim.training.priced import player_of


def equal_stages(given: TrainingInput) -> TrainingInput:
    """Without a head to speak of."""
    return replace(given, model=replace(given.model, vocab=1))


@pytest.mark.parametrize(
    ("pp", "vpp", "batches", "schedule"),
    [
        (4, 1, 8, "1f1b"),
        (8, 1, 8, "1f1b"),
        (4, 1, 64, "gpipe"),
        (4, 2, 8, "interleaved"),
        (4, 8, 16, "interleaved"),
        (8, 4, 24, "interleaved"),
    ],
)
def test_the_bubble_of_equal_stages(pp: int, vpp: int, batches: int, schedule: str) -> None:
    """(p - 1) / (p - 1 + m v) of what is no optimizer, through all of the step's parts; stages are
    equal but for the look-up of the embedding.
    """
    given = equal_stages(bare(job(
        "llama3_8b_train", global_batch=batches, plan__pp=pp, plan__vpp=vpp,
        plan__schedule=schedule, plan__zero=0,
    )))  # fmt: skip
    links = "topology.scale_up.link_bandwidth=25000000 GB/s"
    machine = pod(pp, links)
    found = step(machine, given, wires(machine))
    inside = found.seconds - found.owners["optimizer"] - found.owners["pp"]
    wanted = (pp - 1) / (pp - 1 + batches * vpp)
    assert found.owners["bubble"] / inside == pytest.approx(wanted, rel=0.015)


@pytest.mark.parametrize("schedule", ["zb_h1", "dualpipe", "dualpipe_v"])
@pytest.mark.parametrize("batches", [16, 64])
def test_later_schedules_have_smaller_bubbles(schedule: str, batches: int) -> None:
    machine = pod(8)
    shares = []
    for name in ("1f1b", schedule):
        given = bare(job(
            "llama3_8b_train", global_batch=batches, plan__pp=8, plan__schedule=name,
            plan__zero=0,
        ))  # fmt: skip
        found = step(machine, equal_stages(given))
        shares.append(found.owners["bubble"] / found.seconds)
    assert 0 < shares[1] < 0.8 * shares[0]


def test_recomputation_costs_a_forward_pass() -> None:
    """Full: a third of the time of products and attention forward; selective: attention's."""
    steps = {
        how: quick_step(pod(8), bare(job("llama3_8b_train", plan__recompute=how)))
        for how in ("none", "selective", "full")
    }
    own = priced(pod(8), bare(job("llama3_8b_train")))
    forward = own.stages[0].work.forward
    layers = sum(forward.values()) - forward["head"]
    batches = own.job.micro_batches
    assert steps["none"].owners["recompute"] == 0
    full, some = steps["full"].owners["recompute"], steps["selective"].owners["recompute"]
    moved = own.job.case.kernels.stream(4 * own.job.case.tokens * own.job.case.model.hidden)
    factor = own.job.case.kernels.software.step_factor
    assert full == pytest.approx((layers - factor * moved) * batches, rel=1e-9)
    assert some == pytest.approx(forward["attention"] * batches, rel=1e-9)
    for how, again in (("full", full), ("selective", some)):
        assert steps[how].seconds - steps["none"].seconds == pytest.approx(again, rel=1e-6)


def test_half_of_the_layers_cost_half_a_forward_pass() -> None:
    steps = [
        quick_step(pod(8), bare(job("llama3_8b_train", plan__recompute="full", **more)))
        for more in ({}, {"plan__recompute_layers": 16})
    ]
    assert steps[1].owners["recompute"] == pytest.approx(steps[0].owners["recompute"] / 2)


def test_adapters_have_no_gradients_of_frozen_weights() -> None:
    frozen = job("llama2_70b_lora", precision="bf16", plan__tp=8, global_batch=8)
    whole = replace(frozen, workload=replace(frozen.workload, task="sft", lora=None))
    adapted, trained = priced(pod(8), frozen), priced(pod(8), whole)
    assert sum(adapted.weight[0].parts.values()) == 0
    assert trained.weight[0].parts["gemm"] == pytest.approx(
        adapted.forward[0].parts["gemm"], rel=0.1
    )
    assert adapted.stages[0].trained < 0.01 * adapted.stages[0].parameters
    assert adapted.optimizer_s[0] < 0.01 * trained.optimizer_s[0]
    assert adapted.forward[0].parts == trained.forward[0].parts


def test_a_layer_that_predicts_further_costs_a_layer_and_a_head() -> None:
    machine = pod(256)
    plan = {"plan__pp": 4, "plan__ep": 64, "global_batch": 256}
    with_it, without = (
        priced(machine, job("deepseek_v3_train", mtp=mtp, **plan)) for mtp in (True, False)
    )
    more = with_it.forward[-1].seconds - without.forward[-1].seconds
    fewer = without.stages[-1].content.layers - with_it.stages[-1].content.layers
    layer = (without.forward[2].seconds) / without.stages[2].content.layers
    head = without.forward[-1].parts["head"]
    assert more + fewer * layer == pytest.approx(layer + head, rel=0.1)
    assert sum(s.parameters for s in with_it.stages) > sum(s.parameters for s in without.stages)


@pytest.mark.parametrize("ep", [1, 4, 8])
def test_unequal_experts_are_never_faster(ep: int) -> None:
    given = job("mixtral_8x7b_train", plan__ep=ep, plan__pp=4)
    seconds = []
    for routing in (
        Routing(),
        Routing(kind="power_law"),
        Routing(kind="power_law", imbalance=1.5),
    ):
        plan = replace(given.workload.plan, routing=routing)
        changed = replace(given, workload=replace(given.workload, plan=plan))
        seconds.append(quick_step(pod(64), changed).seconds)
    assert seconds == sorted(seconds)
    assert seconds[2] > seconds[0]
    if ep > 1:
        assert seconds[1] > seconds[0]


def test_dropped_tokens_and_fewer_nodes_save_time() -> None:
    given = job("deepseek_v3_train", plan__pp=4, plan__ep=64, global_batch=512, seq_len=2048)

    def seconds(**routing: object) -> float:
        plan = replace(given.workload.plan, routing=Routing(**routing))  # type: ignore[arg-type]
        return quick_step(
            pod(256), replace(given, workload=replace(given.workload, plan=plan))
        ).seconds

    assert seconds(dropped=0.2) < seconds()
    assert seconds(nodes=2) < seconds(nodes=4) < seconds()


def jittered(sigma: float | None, *, seed: int = 1, chips: int = 64) -> TrainingInput:
    given = job("llama3_8b_train", plan__pp=2, plan__tp=4, global_batch=chips)
    return replace(given, workload=replace(given.workload, jitter=sigma, seed=seed))


def test_jitter_grows_with_its_spread_and_with_replicas() -> None:
    def late(sigma: float, chips: int) -> float:
        one = priced(pod(chips), jittered(sigma, chips=chips))
        return straggler_s(one, sigma, 1) / quick_step(pod(chips), jittered(0.0)).seconds

    assert late(0.0, 64) == 0
    by_sigma = [late(sigma, 64) for sigma in (0.01, 0.03, 0.1)]
    assert 0 < by_sigma[0] < by_sigma[1] < by_sigma[2]
    by_ranks = [late(0.03, chips) for chips in (16, 64, 256)]
    assert by_ranks[0] < by_ranks[1] < by_ranks[2]


def test_jitter_stands_in_for_what_the_profile_adds() -> None:
    even, drawn = (train(pod(64), jittered(sigma))[0].summary for sigma in (0.0, 0.05))
    profile = train(pod(64), jittered(None))[1].step
    assert profile.owners["straggler"] > 0
    assert even["step_time_s"] == pytest.approx(
        profile.seconds - profile.owners["straggler"], rel=1e-12
    )
    assert drawn["step_time_s"] > even["step_time_s"]
    assert quick_step(pod(64), jittered(0.0)).owners["straggler"] == 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    rows = [format_csv([train(pod(64), jittered(0.05, seed=s))[0].summary]) for s in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_equal_replicas_fold() -> None:
    """All replicas, each with its own times, end when the one that stands for all ends."""
    one = priced(pod(64), jittered(0.0))
    laid_out = player_of(one.job)
    folded = times_of(one, laid_out.plan)
    apart = Times(
        **{
            name: np.repeat(np.asarray(getattr(folded, name))[:, None], one.job.dp, axis=1)
            for name in ("forward_s", "backward_s", "weight_s")
        },
        send_forward_s=folded.send_forward_s,
        send_backward_s=folded.send_backward_s,
    )
    together, alone = play(laid_out, apart), play(laid_out, folded)
    assert together.step_s.shape == (one.job.dp,) == (8,)
    assert (together.step_s == alone.step_s).all()
    assert (together.bubble_s == alone.bubble_s[:, None]).all()
    assert straggler_s(one, 0.0, 0) == 0.0


def placed(devices: tuple[int, ...] = (), **more: object) -> TrainingInput:
    plan = {"plan__tp": 4, "plan__pp": 2, "plan__placement": devices, **more}
    return bare(job("llama3_8b_train", global_batch=32, **plan))


def test_a_placement_in_order_changes_nothing() -> None:
    assert step(pod(16), placed(tuple(range(16)))) == step(pod(16), placed())


def test_a_bad_placement_is_slower() -> None:
    good = step(pod(16), placed())
    # Every second rank in the other host: each group of four stands in both.
    bad = placed(tuple(8 * (rank % 2) + rank // 2 for rank in range(16)))
    found = step(pod(16), bad)
    assert found.seconds > 1.05 * good.seconds
    assert found.owners["tp"] > 2 * good.owners["tp"]
    warnings = make_job(pod(16), bad).warnings
    assert any(
        "tp crosses scale-up domains" in text and "times as long" in text for text in warnings
    )


def crosses(send: Transfers) -> bool:
    return any(call.axis.domains > 1 for call in send.calls)


def test_stages_stand_where_the_placement_puts_them() -> None:
    """Four stages of four in two hosts: neighbours in one host, or none of them."""
    near = priced(pod(16), placed(plan__pp=4))
    assert [crosses(send) for send in near.sends] == [False, True, False]
    apart = tuple(rank + 4 * ((0, 1, -1, 0)[rank // 4]) for rank in range(16))
    far = priced(pod(16), placed(apart, plan__pp=4))
    assert [crosses(send) for send in far.sends] == [True, True, True]
    assert far.sends[0].seconds > near.sends[0].seconds


def test_the_innermost_axis_has_the_fast_links() -> None:
    """Tensor parallelism across hosts costs more than data parallelism across them."""
    inside = step(pod(64), placed(plan__pp=1))
    across = step(pod(64), placed(plan__pp=1, plan__order=["dp", "cp", "tp", "pp"]))
    assert across.owners["tp"] > 3 * inside.owners["tp"]
    assert across.seconds > inside.seconds
    first = priced(pod(64), placed(plan__order=["tp", "cp", "pp", "dp"]))
    last = priced(pod(64), placed())
    assert not crosses(first.sends[0])
    assert crosses(last.sends[0])


def test_context_parallelism_beyond_a_domain_is_no_mistake() -> None:
    """Sixteen ranks of tp 8 x cp 2 cannot be in one domain of eight; eight of tp 4 x cp 2 can."""
    wide = make_job(pod(16), job("llama3_8b_train", plan__tp=8, plan__cp=2))
    assert wide.warnings == ()
    wrong = ["tp", "dp", "cp", "pp"]
    cut = make_job(pod(16), job("llama3_8b_train", plan__tp=4, plan__cp=2, plan__order=wrong))
    assert "cp crosses scale-up domains" in cut.warnings[0]


def test_more_is_sharded_the_more_is_sent_and_the_less_is_updated() -> None:
    found = [
        played_step(
            priced(pod(64), bare(job("llama3_8b_train", plan__zero=zero, global_batch=64)))
        )[0]
        for zero in range(4)
    ]
    updates = [one.owners["optimizer"] for one in found]
    assert updates[0] == pytest.approx(64 * updates[1], rel=0.01)
    assert updates[1:] == pytest.approx([updates[1]] * 3)


def test_tensor_parallelism_beyond_a_domain_names_its_cost() -> None:
    (warning,) = make_job(pod(16), job("llama3_8b_train", plan__tp=16)).warnings
    found = re.search(r"a call takes ([\d.]+) times as long as with tp 8", warning)
    assert found is not None
    assert float(found[1]) > 1
