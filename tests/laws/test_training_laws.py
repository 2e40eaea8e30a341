"""Laws of a priced training step: FLOP, communication, monotony, books, limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from training_jobs import bare, job, pod, priced, quick_links, step, wires

from cluster_sim.kernels.counts import parameters
from cluster_sim.perf.train_flops import attention_flop, model_flop_per_token
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.model import Model
from cluster_sim.train import quick_step, summary_row, train
from cluster_sim.training import closed
from cluster_sim.training.closed import OWNERS, Step, step_of
from cluster_sim.training.play import played_step

MODELS = {name: load_spec("model", name, Model)[1] for name in names("model")}
COMMUNICATION = ("tp", "cp", "ep", "pp", "dp")
SEQ_LEN = 4096


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.moe is None and m.alike])
def test_flop_are_six_times_parameters_and_attention(name: str) -> None:
    model = MODELS[name]
    lookups = model.hidden * (model.learned_positions + model.vocab * (not model.tied_embeddings))
    attention = attention_flop(model, SEQ_LEN) / SEQ_LEN
    if model.local is None and model.linear is None and model.mla is None:
        assert attention == 2 * model.layers * model.heads * model.head_dim * SEQ_LEN
    wanted = 6 * (parameters(model) - lookups) + 3 * attention
    assert model_flop_per_token(model, SEQ_LEN) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("name", [n for n in MODELS if n.startswith("megatron-")])
def test_flop_are_those_of_megatrons_formula(name: str) -> None:
    """72 l h^2 (1 + s / 12 h + V / 12 l h) a token: arXiv 2104.04473 with the causal half of
    attention, which counts s / 6 h there.
    """
    model = MODELS[name]
    h, layers, s = model.hidden, model.layers, 2048
    wanted = 72 * layers * h**2 * (1 + s / (12 * h) + model.vocab / (12 * layers * h))
    assert model_flop_per_token(model, s) == pytest.approx(wanted, rel=1e-12)


def test_hardware_flop_of_full_recomputation_are_those_of_megatrons_formula() -> None:
    """96 l h^2 (1 + s / 12 h + V / 16 l h): layers a third more, the head as before."""
    given = job("gpt3_175b_train", global_batch=64, plan__tp=8, plan__pp=8, plan__recompute="full")
    _, facts = train(pod(64), given)
    row, model = summary_row(facts), facts.job.case.model
    h, layers, s = model.hidden, model.layers, given.workload.seq_len
    wanted = 96 * layers * h**2 * (1 + s / (12 * h) + model.vocab / (16 * layers * h))
    model_flop = model_flop_per_token(model, s)
    assert row["hfu"] / row["mfu"] == pytest.approx(wanted / model_flop, rel=1e-9)


def communication(found: Step) -> float:
    return sum(found.owners[name] for name in COMMUNICATION)


# Plans that use every kind of group on 64 chips.
PLANS = {
    "tp": ("llama3_70b_train", {"plan__tp": 8, "global_batch": 32}),
    "tp without sp": (
        "llama3_70b_train",
        {"plan__tp": 8, "plan__sequence_parallel": False, "global_batch": 32},
    ),
    "pp": ("llama3_70b_train", {"plan__tp": 2, "plan__pp": 8, "plan__vpp": 5, "global_batch": 64}),
    "cp": ("llama3_8b_train", {"plan__cp": 8, "global_batch": 32}),
    "cp, gathered": (
        "llama3_8b_train",
        {"plan__cp": 8, "plan__context": "all_gather", "global_batch": 32},
    ),
    "cp, heads": (
        "llama3_8b_train",
        {"plan__cp": 8, "plan__context": "all_to_all", "global_batch": 32},
    ),
    "ep": ("qwen3_30b_train", {"plan__ep": 32, "global_batch": 128}),
    "etp": ("mixtral_8x7b_train", {"plan__ep": 4, "plan__etp": 2, "plan__pp": 4}),
    "dp": ("llama3_8b_train", {"global_batch": 64, "plan__zero": 0}),
    "zero 1": ("llama3_8b_train", {"global_batch": 64, "plan__zero": 1}),
    "fsdp": ("llama3_8b_train", {"global_batch": 64, "plan__zero": 3}),
    "hsdp": ("llama3_8b_train", {"global_batch": 64, "plan__zero": 3, "plan__shard": 8}),
    "late": (
        "llama3_8b_train",
        {"global_batch": 64, "plan__overlap_gradients": False, "plan__overlap_gather": False},
    ),
}


def planned(name: str) -> TrainingInput:
    workload, changes = PLANS[name]
    return bare(job(workload, **changes))


@pytest.mark.parametrize("name", PLANS)
def test_infinite_bandwidth_leaves_no_exposed_communication(name: str) -> None:
    given, found = planned(name), []
    for factor in (1.0, 1e9):
        machine = quick_links(64, factor)
        found.append(step(machine, given, wires(machine)))
    slow, fast = found
    assert communication(slow) > 1e-4 * slow.seconds
    assert communication(fast) < 1e-8 * fast.seconds
    assert fast.seconds < slow.seconds


@pytest.mark.parametrize("name", PLANS)
def test_with_infinite_bandwidth_only_latencies_are_left(name: str) -> None:
    """Links and NICs a hundred million times as fast, and a million times faster still: the
    same.
    """
    given = planned(name)
    found = [communication(quick_step(quick_links(64, f), given)) for f in (1e8, 1e14)]
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-6)


MACHINE_KEYS = {
    "links": ("topology.scale_up.link_bandwidth", 25, "GB/s"),
    "nic": ("topology.board.nic_bandwidth", 50, "GB/s"),
    "hbm": ("chip.memory.bandwidth", 3350, "GB/s"),
    "flop": ("chip.peak.bf16", 989.4, "TFLOP/s"),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("key", MACHINE_KEYS)
def test_a_step_is_monotone_in_the_machine(key: str, name: str) -> None:
    where, base, unit = MACHINE_KEYS[key]
    given, seconds = planned(name), []
    for factor in (0.5, 0.9, 1.0, 1.3, 2.0, 8.0):
        machine = pod(64, f"{where}={base * factor:.6f} {unit}")
        seconds.append(step_of(priced(machine, given)).seconds)
    assert all(a >= b * (1 - 1e-12) for a, b in zip(seconds, seconds[1:], strict=False)), seconds
    if key in ("hbm", "flop"):
        assert seconds[0] > seconds[-1]


@pytest.mark.parametrize("name", PLANS)
def test_a_step_is_monotone_in_the_rate_of_the_machine(name: str) -> None:
    given, machine, seconds = planned(name), pod(64), []
    for rate in (0.5, 0.8, 0.95, 1.0, 1.1, 1.5):
        changed = replace(given, workload=replace(given.workload, machine_rate=rate))
        seconds.append(quick_step(machine, changed).seconds)
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 1.2 * seconds[3]


def two_kinds(machine: TopologyInput, given: TrainingInput) -> tuple[Step, Step]:
    one = priced(machine, given)
    return step_of(one), played_step(one)[0]


SCHEDULES = [
    {"plan__pp": 4, "plan__schedule": "gpipe"},
    {"plan__pp": 4},
    {"plan__pp": 4, "plan__vpp": 4},
    {"plan__pp": 4, "plan__schedule": "zb_h1"},
    {"plan__pp": 4, "plan__schedule": "dualpipe"},
    {"plan__pp": 4, "plan__schedule": "dualpipe_v"},
]


@pytest.mark.parametrize("changes", SCHEDULES, ids=lambda c: "-".join(map(str, c.values())))
def test_events_are_the_closed_form_where_nothing_contends(changes: dict[str, object]) -> None:
    """One replica without tensor parallelism: sends are all that uses a link, and links are so
    quick that the two of a stage of DualPipe, which go out at a time, do not fill it. The two
    copies of DualPipe sum their gradients, beside kernels that have fewer SMs meanwhile.
    """
    given = bare(job("llama3_8b_train", global_batch=16, plan__zero=0, **changes))
    simple, events = two_kinds(pod(4, "topology.scale_up.link_bandwidth=9 TB/s"), given)
    assert events.seconds == pytest.approx(simple.seconds, rel=1e-9)
    for stage, owners in enumerate(simple.per_stage):
        assert events.per_stage[stage] == pytest.approx(owners, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", PLANS)
def test_events_are_near_the_closed_form_where_much_contends(name: str) -> None:
    workload, changes = PLANS[name]
    given = job(workload, **changes)
    simple, events = two_kinds(pod(64), given)
    assert events.seconds == pytest.approx(simple.seconds, rel=0.01)


@pytest.mark.parametrize("topology", ["mi300x_8", "ascend_910b_8", "cloudmatrix384", "l40s_8"])
@pytest.mark.parametrize("plan", [{"plan__tp": 8}, {"plan__tp": 4, "plan__pp": 2}])
def test_links_of_every_kind_of_domain_carry_what_one_collective_sends(
    topology: str, plan: dict[str, int]
) -> None:
    """Meshes, in which a pair has fewer links than a group; packages; PCIe."""
    given = job("llama3_70b_train", layers=4, global_batch=96, **plan)
    simple, events = two_kinds(load_topology(topology), given)
    assert events.seconds == pytest.approx(simple.seconds, rel=0.01)


@pytest.mark.parametrize("name", PLANS)
def test_owners_add_up_to_the_step(name: str) -> None:
    workload, changes = PLANS[name]
    for found in two_kinds(pod(64), job(workload, **changes)):
        assert tuple(found.owners) == OWNERS
        for row in (found.owners, *found.per_stage):
            assert sum(row.values()) == pytest.approx(found.seconds, rel=1e-12)
            assert min(row.values()) >= -1e-9 * found.seconds, row
        passes = found.owners["compute"] + found.owners["recompute"] + found.owners["host"]
        assert sum(found.parts.values()) <= found.seconds + 1e-9
        assert passes <= found.seconds


@pytest.mark.parametrize("changes", SCHEDULES[:3], ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("batches", [28, 48, 100])
def test_many_micro_batches_repeat(changes: dict[str, object], batches: int) -> None:
    """A pipeline of which the first rounds are played, and one that is played to its end."""
    given = job("llama3_8b_train", global_batch=2 * batches, **changes)
    one = priced(pod(8), given)
    short = step_of(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed, "MOST_ROUNDS", 1000)
        whole = step_of(one)
    assert short.seconds == pytest.approx(whole.seconds, rel=1e-9)
    for name in OWNERS:
        assert short.owners[name] == pytest.approx(whole.owners[name], rel=1e-6, abs=1e-9)


def test_a_step_is_linear_in_many_micro_batches() -> None:
    seconds = {
        batches: quick_step(
            pod(8), job("llama3_8b_train", plan__pp=4, global_batch=2 * batches)
        ).seconds
        for batches in (400, 800, 1200)
    }
    assert seconds[800] - seconds[400] == pytest.approx(seconds[1200] - seconds[800], rel=1e-9)
    assert seconds[1200] / seconds[400] == pytest.approx(3, rel=0.01)
