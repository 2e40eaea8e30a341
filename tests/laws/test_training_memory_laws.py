"""Laws of the memory of a training job: formulas of activations and states, shards, schedules, and
what a step holds over its time.
"""

from __future__ import annotations

import pytest
from training_jobs import bare, job, memory, pod, priced

from cluster_sim.errors import DoesNotFitError
from cluster_sim.perf.train_memory import StageMemory, layer_activation_bytes
from cluster_sim.specs.inputs import TrainingInput
from cluster_sim.train import train
from cluster_sim.training.closed import step_of
from cluster_sim.training.job import make_job
from cluster_sim.training.memory import memory_of, memory_over_time
from cluster_sim.training.play import played_step

STATES = ("weights", "gradients", "optimizer")


def gpt(unfused: bool = True, **plan: object) -> TrainingInput:
    """A GPT as in arXiv 2205.05198, with dropout."""
    software = "megatron_lm-2022" if unfused else "megatron-24.12"
    given = {"precision": "fp16", "dropout": True, "global_batch": 64, "layers": 8, **plan}
    return job("gpt3_175b_train", software=software, **given)


T = 8


@pytest.mark.parametrize(
    ("plan", "per_sbh"),
    [
        ({}, lambda a, s, h: 34 + 5 * a * s / h),
        (
            {"tp": T, "sequence_parallel": False},
            lambda a, s, h: 10 + 24 / T + 5 * a * s / (h * T),
        ),
        ({"tp": T}, lambda a, s, h: (34 + 5 * a * s / h) / T),
        ({"tp": T, "recompute": "selective"}, lambda a, s, h: 34 / T),
        (
            {"tp": T, "sequence_parallel": False, "recompute": "selective"},
            lambda a, s, h: 10 + 24 / T,
        ),
        ({"recompute": "full"}, lambda a, s, h: 2),
        ({"tp": T, "recompute": "full"}, lambda a, s, h: 2 / T),
        ({"tp": T, "micro_batch": 2, "cp": 2}, lambda a, s, h: (34 + 5 * a * s / h) / T),
    ],
)  # fmt: skip
def test_activations_of_a_layer(plan: dict[str, object], per_sbh: object) -> None:
    """Table 2 of arXiv 2205.05198."""
    given = gpt(**{f"plan__{key}": value for key, value in plan.items()})
    case = make_job(pod(64), given).case
    model, s = case.model, given.workload.seq_len
    wanted = s * model.hidden * per_sbh(model.heads, s, model.hidden)  # type: ignore[operator]
    assert layer_activation_bytes(case, experts=False) == pytest.approx(wanted, rel=1e-12)


def test_fused_attention_keeps_no_scores() -> None:
    case = make_job(pod(64), gpt(unfused=False)).case
    tokens = case.job.seq_len * case.model.hidden
    assert layer_activation_bytes(case, experts=False) == 34 * tokens


def full(given: TrainingInput, chips: int = 64) -> StageMemory:
    return memory(pod(chips), given).stages[0]


@pytest.mark.parametrize("batches", [1, 2, 4, 16])
@pytest.mark.parametrize("stage", range(4))
def test_a_stage_of_1f1b_holds_as_many_micro_batches_as_follow(batches: int, stage: int) -> None:
    given = gpt(plan__tp=8, plan__pp=4, global_batch=2 * batches)
    one = make_job(pod(64), given)
    held = memory(pod(64), given).stages[stage].activations
    each = layer_activation_bytes(one.case, experts=False)
    assert held == pytest.approx(min(4 - stage, batches) * 2 * each, rel=1e-12)


@pytest.mark.parametrize("vpp", [2, 4])
def test_interleaved_holds_more(vpp: int) -> None:
    """By 1 + (p - 1) / (p v): arXiv 2205.05198, on the first stage."""
    plan = {"layers": 16, "plan__tp": 8, "plan__pp": 4}
    held, plain = full(gpt(**plan, plan__vpp=vpp)), full(gpt(**plan))
    assert held.activations == pytest.approx((1 + 3 / (4 * vpp)) * plain.activations, rel=1e-12)


@pytest.mark.parametrize(("dtype", "gradient"), [("fp32", 4), ("bf16", 2)])
def test_states_of_a_parameter(dtype: str, gradient: int) -> None:
    """18 bytes with gradients in fp32, 16 in bf16; sharded over n: 2 + g + 12 / n,
    2 + (g + 12) / n, (2 + g + 12) / n.
    """
    found = []
    for zero in range(4):
        given = gpt(plan__tp=8, plan__zero=zero, plan__reduce_dtype=dtype)
        one = priced(pod(64), given)
        stage = memory_of(one).stages[0]
        states = sum(getattr(stage, name) for name in STATES)
        found.append(states / one.stages[0].parameters)
    n, g = 8, gradient
    assert found == pytest.approx([14 + g, 2 + g + 12 / n, 2 + (g + 12) / n, (14 + g) / n])


def test_hybrid_shards_lie_in_their_group() -> None:
    given = gpt(plan__tp=8, plan__zero=3, plan__shard=4)
    one = priced(pod(64), given)
    assert memory_of(one).stages[0].weights == pytest.approx(2 * one.stages[0].parameters / 4)


@pytest.mark.parametrize(("shard", "ranks"), [(16, 2), (8, 1), (4, 1)])
def test_hybrid_shards_of_experts_lie_in_the_same_group(shard: int, ranks: int) -> None:
    """Sixteen data-parallel ranks of a stage hold two copies of eight experts."""
    given = job("mixtral_8x7b_train", plan__ep=8, plan__pp=4, plan__zero=3, plan__shard=shard)
    one = priced(pod(64), given)
    stage, part = memory_of(one).stages[0], one.stages[0]
    dense = part.parameters - part.expert_parameters
    assert stage.weights == pytest.approx(2 * (dense / shard + part.expert_parameters / ranks))
    others = 16 // 8 // ranks
    assert one.job.case.groups.expert_outer.ranks == others
    assert (part.gradients.seconds > 0) == (shard < 16)


def test_experts_are_sharded_over_what_expert_parallelism_leaves() -> None:
    given = job("mixtral_8x7b_train", plan__ep=8, plan__pp=4)
    one = priced(pod(64), given)
    dense = sum(s.parameters - s.expert_parameters for s in one.stages[:1])
    experts = one.stages[0].expert_parameters
    optimizer = memory_of(one).stages[0].optimizer
    assert optimizer == pytest.approx(12 * (dense / 16 + experts / 2))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_dualpipe_holds_two_copies_that_share_what_is_sharded(zero: int) -> None:
    plan = {"plan__tp": 8, "plan__pp": 4, "plan__zero": zero, "global_batch": 32}
    one, two = (full(gpt(**plan, plan__schedule=name)) for name in ("1f1b", "dualpipe"))
    ends = {}
    for stage in (0, -1):
        ends[stage] = priced(pod(64), gpt(**plan)).stages[stage].parameters
    share = (ends[0] + ends[-1]) / ends[0]  # the first stage holds the last part too
    for place, name in enumerate(("optimizer", "gradients", "weights")):
        copies = 2 if zero > place else 1
        wanted = share / copies * getattr(one, name)
        assert getattr(two, name) == pytest.approx(wanted), name


def test_frozen_weights_have_no_states() -> None:
    given = job("llama2_70b_lora", precision="bf16", plan__tp=8)
    one = priced(pod(8), given)
    stage = memory_of(one).stages[0]
    assert stage.weights == 2 * one.stages[0].parameters
    assert stage.optimizer < 0.01 * stage.weights


def test_each_module_that_is_computed_again_frees_memory_and_takes_time() -> None:
    machine, modules = pod(256), ("norm", "activation", "mla_up")
    held, seconds = [], []
    for count in range(len(modules) + 1):
        chosen = {"plan__recompute": "none"}
        if count:
            chosen = {"plan__recompute": "selective", "plan__recompute_modules": modules[:count]}
        given = job("deepseek_v3_train", precision="bf16", plan__ep=32, plan__pp=8, **chosen)
        one = priced(machine, given)
        held.append(memory_of(one).fullest.activations)
        seconds.append(step_of(one).seconds)
    assert held == sorted(held, reverse=True)
    assert len(set(held)) == len(held)
    assert seconds == sorted(seconds)
    assert seconds[-1] < 1.15 * seconds[0]


def test_what_is_on_the_host_is_not_on_the_device() -> None:
    on_device = full(gpt(plan__tp=8))
    half = full(gpt(plan__tp=8, plan__offload={"optimizer": "50 %", "activations": "25 %"}))
    assert half.optimizer == pytest.approx(on_device.optimizer / 2)
    assert half.activations == pytest.approx(0.75 * on_device.activations)


def test_a_layer_that_predicts_further_keeps_activations() -> None:
    plan = {"plan__pp": 4, "plan__ep": 64, "global_batch": 256}
    found = []
    for mtp in (True, False):
        given = job("deepseek_v3_train", mtp=mtp, plan__layers=[16, 15, 15, 15], **plan)
        one = priced(pod(256), given)
        found.append((one.job.case, memory_of(one).stages[-1].activations))
    more = found[0][1] - found[1][1]
    assert more == pytest.approx(layer_activation_bytes(found[0][0], experts=True))


def test_changes_that_the_error_offers_fit() -> None:
    """Each of them alone is a job that is not refused."""
    given = job("llama3_70b_train", global_batch=64, plan__tp=8, plan__zero=0)
    with pytest.raises(DoesNotFitError, match=r"GiB too much\. What would fit: ") as caught:
        train(pod(64), given)
    offered = str(caught.value).split("What would fit: ")[1].split(". What works")[0]
    offered = offered.rstrip(".").split("; ")
    assert offered
    for change in offered:
        key, _, value = change.partition("=")
        changes = {"plan__tp": 8, "plan__zero": 0, f"plan__{key.replace('.', '__')}": value}
        if key == "zero" or key in ("tp", "pp", "cp", "micro_batch"):
            changes[f"plan__{key}"] = int(value)
        train(pod(64), bare(job("llama3_70b_train", global_batch=64, **changes)))


@pytest.mark.parametrize(
    ("schedule", "vpp"),
    [
        ("gpipe", 1),
        ("1f1b", 1),
        ("interleaved", 2),
        ("interleaved", 4),
        ("zb_h1", 1),
        ("dualpipe", 1),
        ("dualpipe_v", 1),
    ],
)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_memory_over_time_peaks_where_the_formula_says(
    schedule: str, vpp: int, recompute: str
) -> None:
    plan = {"schedule": schedule, "vpp": vpp, "tp": 8, "pp": 4, "recompute": recompute}
    keys = {f"plan__{key}": plan[key] for key in plan}
    check_over_time(gpt(layers=16, global_batch=24, **keys))


@pytest.mark.parametrize("layers", [[1, 5, 2, 3, 2, 2, 0, 1], [2, 2, 2, 2, 2, 2, 2, 2]])
def test_unequal_chunks_have_their_own_peaks(layers: list[int]) -> None:
    check_over_time(gpt(layers=16, global_batch=24, plan__tp=8, plan__pp=4, plan__vpp=2,
                        plan__layers=layers))  # fmt: skip
    check_over_time(
        job("deepseek_v3_train", mtp=True, plan__ep=8, plan__pp=4, plan__vpp=4, global_batch=128)
    )


def check_over_time(given: TrainingInput) -> None:
    one = priced(pod(64), given)
    held, step = memory_of(one), played_step(one, whole=True)[1]
    for stage, series in enumerate(memory_over_time(one, held, step.records)):
        assert max(bytes_ for _, bytes_ in series) == pytest.approx(held.stages[stage].total)
        assert series[0][1] == pytest.approx(series[-1][1])
        assert [at for at, _ in series] == sorted(at for at, _ in series)
        assert 0 < series[1][0] < series[-1][0] < step.end_s
