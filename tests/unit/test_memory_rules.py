"""The memory rules of the three engines, by hand, and the limits they set by device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.startup import kv_cache
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

MIB, GIB = 2**20, 2**30


def cache(machine: TopologyInput, software: str, layout: Layout, *changes: str) -> KvCache:
    job = load_workload("llama70b", [f"workload.software={software}", *changes]).on(machine.chip)
    kv = job.software.cache_dtype(job.model, "fp8")
    dtypes = recipe(machine.chip, job.model, "fp8", kv)
    return kv_cache(machine.chip, job.model, job.software, layout, dtypes)


def test_sglang_keeps_its_reserve_and_gives_the_rest_to_the_cache(h200: TopologyInput) -> None:
    found = cache(h200, "sglang", Layout(2))
    reserve, capacity = (512 + 1.5 * 8192 + 2 * 128 + 1024) * MIB, h200.chip.device_memory
    free = h200.chip.visible_memory - base("sglang", peers=True)
    room = (1 - reserve / capacity) * free - found.weights_bytes
    assert found.blocks == int(room // (2 * 80 * 4 * 128 * 2))


def test_sglang_keeps_ten_gib_on_large_devices(h200: TopologyInput) -> None:
    found = cache(h200, "sglang", Layout(2), "engine.chunked_prefill_size=2048")
    share = 1 - 10 * GIB / h200.chip.device_memory
    room = share * (h200.chip.visible_memory - base("sglang", peers=True)) - found.weights_bytes
    assert found.blocks == int(room // (2 * 80 * 4 * 128 * 2))


def test_a_given_fraction_replaces_the_reserve(h200: TopologyInput) -> None:
    found = cache(h200, "sglang", Layout(2), "engine.mem_fraction_static=0.8")
    room = 0.8 * (h200.chip.visible_memory - base("sglang", peers=True)) - found.weights_bytes
    assert found.blocks == int(room // (2 * 80 * 4 * 128 * 2))


def test_vllm_takes_its_share_of_what_it_sees(h200: TopologyInput) -> None:
    found = cache(h200, "vllm-0.19", Layout(8), "engine.kv_dtype=fp8")
    taken = profile("vllm-0.19").memory.overhead
    sampling = taken.sampling * 1024 * 128256 + taken.forward * 8192 * 2 * 8192
    room = 0.9 * h200.chip.visible_memory - found.weights_bytes - sampling
    room -= base("vllm-0.19", peers=True)
    assert found.blocks == int(room // (2 * 80 * 128 * 16))


def test_few_sequences_leave_the_forward_pass_as_the_larger_moment(h200: TopologyInput) -> None:
    found = cache(h200, "vllm-0.19", Layout(1), "engine.kv_dtype=fp8", "engine.max_num_seqs=8")
    taken = profile("vllm-0.19").memory.overhead
    elements = 2 * 8192 + 3 * 28672
    forward = taken.forward * 8192 * elements
    graphs = taken.graphs * 4 * 80  # of 1, 2, 4 and 8 sequences
    reserve = base("vllm-0.19") + forward + graphs
    assert found.reserve_bytes == pytest.approx(reserve)


def base(software: str, *, peers: bool = False) -> float:
    taken = profile(software).memory.overhead
    return taken.context + (taken.peers if peers else 0.0)


def profile(software: str) -> Software:
    return load_workload("llama70b", [f"workload.software={software}"]).software


@pytest.mark.parametrize(
    ("software", "memory", "tokens", "sequences"),
    [
        ("vllm-0.19", 80 * GIB, 8192, 1024),
        ("vllm-0.19", 48 * GIB, 2048, 256),
        ("sglang-0.5.10", 180e9, 16384, 2048),
        ("sglang-0.5.10", 80e9, 8192, 2048),
        ("sglang-0.5.10", 48e9, 4096, 2048),
        ("sglang-0.5.10", 24e9, 2048, 2048),
    ],
)
def test_limits_follow_the_device(
    software: str, memory: float, tokens: int, sequences: int
) -> None:
    profile = load_workload("llama70b", [f"workload.software={software}"]).software
    limits = profile.on_device(memory)
    assert (limits.max_num_batched_tokens, limits.max_num_seqs) == (tokens, sequences)


def test_what_the_user_sets_holds_on_every_device() -> None:
    changes = ["workload.software=sglang", "engine.chunked_prefill_size=12000"]
    assert (
        load_workload("llama70b", changes).software.on_device(1.0).max_num_batched_tokens == 12000
    )


@pytest.mark.parametrize(
    ("software", "flag", "key", "value"),
    [
        (
            "trtllm",
            "capacity_scheduler_policy=MAX_UTILIZATION",
            "scheduler",
            "trtllm_max_utilization",
        ),
        ("trtllm", "enable_block_reuse=false", "prefix_cache", False),
        ("sglang", "disable_radix_cache=true", "prefix_cache", False),
        ("vllm", "enable_prefix_caching=false", "prefix_cache", False),
    ],
)
def test_flags_of_the_frameworks(software: str, flag: str, key: str, value: object) -> None:
    job = load_workload("llama70b", [f"workload.software={software}", f"engine.{flag}"])
    assert getattr(job.software, key) == value


def test_a_switch_alone_is_true() -> None:
    changes = ["workload.software=sglang", "workload.engine_args=--disable-radix-cache"]
    assert load_workload("llama70b", changes).software.prefix_cache is False


def test_unknown_values_of_a_flag_are_refused() -> None:
    with pytest.raises(SpecError, match="must be one of guaranteed_no_evict, max_utilization"):
        load_workload("llama70b", ["engine.capacity_scheduler_policy=lazy"])


def test_machines_without_large_memory_get_the_small_limits() -> None:
    machine = load_topology("h200_nvl8", ["topology.chip=h100_sxm"])
    job = load_workload("llama70b", ["workload.software=sglang"]).on(machine.chip)
    assert job.software.max_num_batched_tokens == 8192


@pytest.mark.parametrize(
    ("model", "chip", "kv_dtype"),
    [
        ("deepseek-v4-flash", "h200_sxm", "fp8"),
        ("deepseek-v3.2", "b200", "fp8"),
        ("deepseek-v3.2", "h200_sxm", "bf16"),
        ("deepseek-r1", "b200", "bf16"),
        ("minimax-m3", "b200", "bf16"),  # its index chooses keys and values, no latents
    ],
)
def test_sglang_chooses_the_cache_by_attention_and_chip(
    model: str, chip: str, kv_dtype: str
) -> None:
    one, card = load_spec("model", model, Model)[1], load_spec("chip", chip, Chip)[1]
    software = load_spec("software", "sglang", Software)[1].on_device(card.device_memory, chip)
    assert software.cache_dtype(one, "fp8") == kv_dtype
    assert replace(software, kv_dtype_given="int8").cache_dtype(one, "fp8") == "int8"
