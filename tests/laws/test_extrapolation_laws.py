"""Laws of collectives beyond what was timed: monotone, labelled, and a band that widens."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_sim.collectives.in_step import all_reduce
from cluster_sim.collectives.nccl_beyond import timed_ranks
from cluster_sim.collectives.ranks import shape_of
from cluster_sim.collectives.reach import reach_sigma
from cluster_sim.collectives.shape import Shape
from cluster_sim.collectives.time import collective
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.residuals import step_residuals
from cluster_sim.specs.collective_fits import CollectiveFits, load_collective_fits
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.seen import Seen
from cluster_sim.studies.validate_collectives import constants
from cluster_sim.train import train

SIZES = 2.0 ** np.arange(9, 35, 0.5)
WITHIN = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
CHIPS = ("a100_80g_sxm", "h100_sxm", "h200_sxm", "b200", "gb200", "h800_sxm")
ROUNDING = 1 + 1e-12


@cache
def fits_of(chip: str) -> CollectiveFits:
    return constants(chip)


def one_domain(chip: str, ranks: int, *, in_switch: bool = True) -> Shape:
    return Shape(
        ranks=ranks,
        link_bytes_per_s=fits_of(chip).link,
        in_switch=in_switch and chip != "a100_80g_sxm",
        architecture="Blackwell" if "b200" in chip else "Hopper",
    )


def over_hosts(chip: str, hosts: int, per_host: int = 8) -> Shape:
    shape = one_domain(chip, hosts * per_host)
    return dataclasses.replace(shape, domains=hosts, hosts=hosts, nic_bytes_per_s=50e9)


def seconds(chip: str, shape: Shape, operation: str) -> np.ndarray:
    return collective(fits_of(chip), shape, operation, SIZES).seconds


@pytest.mark.parametrize("operation", WITHIN)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("in_switch", [True, False])
def test_more_ranks_of_a_domain_never_take_less(chip: str, operation: str, in_switch: bool) -> None:
    nccl = fits_of(chip).nccl
    assert nccl is not None
    family = nccl.all_reduce if operation == "all_reduce" else nccl.gather
    first = timed_ranks(family)
    assert first is not None
    ranks = [first, *range(first + 1, 20), 24, 32, 36, 48, 64, 71, 72, 73, 96, 144, 288, 576]
    times = [seconds(chip, one_domain(chip, n, in_switch=in_switch), operation) for n in ranks]
    for fewer, more in zip(times, times[1:], strict=False):
        assert (fewer <= more * ROUNDING).all()


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all"])
@pytest.mark.parametrize("chip", ["h100_sxm", "h200_sxm", "b200"])
def test_more_hosts_never_take_less(chip: str, operation: str) -> None:
    times = [seconds(chip, over_hosts(chip, 2**k), operation) for k in range(12)]
    for fewer, more in zip(times, times[1:], strict=False):
        assert (fewer <= more * ROUNDING).all()


@pytest.mark.parametrize("operation", WITHIN)
@pytest.mark.parametrize("racks", [2, 3, 4, 8, 64])
def test_racks_never_take_less_than_one_of_them(racks: int, operation: str) -> None:
    one = seconds("gb200", one_domain("gb200", 72), operation)
    many = seconds("gb200", over_hosts("gb200", racks, 72), operation)
    assert (one <= many * ROUNDING).all()


@pytest.mark.parametrize("operation", WITHIN)
@pytest.mark.parametrize("chip", CHIPS)
def test_more_bytes_never_take_less(chip: str, operation: str) -> None:
    shapes = [one_domain(chip, n) for n in (3, 8, 9, 36, 72, 576)]
    shapes += [over_hosts(chip, 8), over_hosts(chip, 1024)]
    for shape in shapes:
        steps = np.diff(seconds(chip, shape, operation))
        assert (steps >= -1e-12).all(), shape


@given(
    chip=st.sampled_from(CHIPS),
    ranks=st.integers(9, 1000),
    size=st.floats(512, 2**34),
    more=st.floats(1, 1000),
)
def test_any_group_beyond_the_timings(chip: str, ranks: int, size: float, more: float) -> None:
    """One domain: more bytes, one rank more: never less time, never a narrower band, never called
    measured.
    """
    fits, sizes = fits_of(chip), np.array([size, size * more])
    here = collective(fits, one_domain(chip, ranks), "all_gather", sizes)
    there = collective(fits, one_domain(chip, ranks + 1), "all_gather", sizes)
    assert here.seconds[0] <= here.seconds[1] * ROUNDING
    assert (here.seconds <= there.seconds * ROUNDING).all()
    assert 0 < here.reach(0) <= there.reach(0)
    assert here.word(0) == here.word(1) == "extrapolated"


def test_seventy_two_chips_on_short_messages() -> None:
    """A short message through the switches of an NVL72 takes tens of us, not a ring of 142 steps;
    256 MiB take no longer on one rack than on two.
    """
    sizes = np.array([2.0**16, 2.0**28])
    rack = collective(fits_of("gb200"), one_domain("gb200", 72), "all_reduce", sizes)
    racks = collective(fits_of("gb200"), over_hosts("gb200", 2, 72), "all_reduce", sizes)
    assert 35e-6 < rack.seconds[0] < 60e-6
    assert rack.seconds[1] <= racks.seconds[1]
    assert rack.word(0) == rack.word(1) == "extrapolated"


def test_measured_and_extrapolated_are_told_apart() -> None:
    fits, sizes = fits_of("h100_sxm"), np.array([2.0**16, 2.0**28])
    eight = collective(fits, one_domain("h100_sxm", 8), "all_reduce", sizes)
    many = collective(fits, over_hosts("h100_sxm", 2048), "all_reduce", sizes)
    assert [eight.word(place) for place in (0, 1)] == ["measured", "measured"]
    assert (eight.reach(0), eight.reach(1)) == (0.0, 0.0)
    assert [many.word(place) for place in (0, 1)] == ["extrapolated", "extrapolated"]
    far = [
        collective(fits, over_hosts("h100_sxm", hosts), "all_reduce", sizes).reach(1)
        for hosts in (8, 16, 64, 2048)
    ]
    assert far == sorted(far)
    assert far[0] < far[-1]


@given(
    ends=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    ranks=st.integers(1, 10_000),
    further=st.integers(0, 10_000),
)
def test_distance_is_nought_inside_and_grows_outside(
    ends: tuple[int, int], ranks: int, further: int
) -> None:
    low, high = sorted(ends)
    seen = (Seen(ranks=(low, high), bytes=(512.0, 2.0**29)),)
    message = np.array([1024.0, 2.0**29, 2.0**30])
    here = reach_sigma(seen, ranks, 1, message)
    if low <= ranks <= high:
        assert here[0] == here[1] == 0
    else:
        assert here[0] > 0
    assert here[2] > here[1]
    if ranks >= high:
        assert (reach_sigma(seen, ranks + further, 1, message) >= here - 1e-12).all()


@pytest.mark.parametrize("library", ["vllm_custom", "trtllm_custom", "sglang_custom"])
def test_kernels_of_engines_beyond_the_timings(library: str) -> None:
    """Kernels of engines: more ranks never take less, and say that they are extrapolated."""
    fits = fits_of("gb200")
    groups = [one_domain("gb200", n) for n in (4, 8, 16, 32, 64, 72)]
    priced = [collective(fits, group, "all_reduce", SIZES, library=library) for group in groups]
    for fewer, more in pairwise(priced):
        assert (fewer.seconds <= more.seconds * ROUNDING).all()
    assert (np.diff(priced[-1].seconds) >= 0).all()
    few, many = priced[0], priced[-1]
    assert few.word(10) == ("transferred" if library == "sglang_custom" else "measured")
    assert many.word(10) == "extrapolated"


def test_engines_all_reduce_beyond_the_timings() -> None:
    """The curves of serving: more ranks never take less, and say that they are extrapolated."""
    machine = load_topology("gb200_nvl72")
    message = 2.0 ** np.arange(12, 27, 0.5)
    counts = (4, 8, 16, 32, 64, 72)
    found = [
        all_reduce(machine, ("vllm_custom",), shape_of(machine, np.arange(n)), message)
        for n in counts
    ]
    times = [one.seconds for one in found]
    for fewer, more in zip(times, times[1:], strict=False):
        assert (fewer <= more * ROUNDING).all()
    assert (np.diff(times[-1]) >= 0).all()
    assert found[0].word == "measured"
    assert found[-1].word == "extrapolated"


@pytest.mark.parametrize(("software", "word"), [("trtllm", "measured"), ("vllm", "extrapolated")])
def test_kernels_of_other_software_are_extrapolated(software: str, word: str) -> None:
    """Curves of an H200 were timed in TensorRT-LLM: vLLM brings other kernels, and a wider band."""
    machine = load_topology("h200_nvl8")
    job = load_workload("llama70b", [f"workload.software={software}"]).on(machine.chip)
    layout, dtypes = Layout(tp=8, pp=1), Recipe("fp8", "fp8", "fp8", "fp8", "fp8")
    parts = (machine, job.model, job.software, layout, dtypes)
    words = {family.name: family.provenance for family in operator_families(*parts)}
    kernels = ("gemm_math", "gemm_weights", "attention_prefill", "attention_decode")
    assert {words[name] for name in kernels} == {word}
    found = step_residuals(*parts)
    for name in kernels:
        extra = [part for part in found[name] if "timed in others" in part.key]
        assert bool(extra) == (word == "extrapolated")
    assert not [part for part in found["host"] if "timed in others" in part.key]


def test_tensor_parallelism_beyond_the_timings_widens_the_band() -> None:
    """The residual of an all-reduce grows with the doublings of its ranks, and says why."""
    machine = load_topology("gb200_nvl72")
    job = load_workload("llama70b").on(machine.chip)
    dtypes = Recipe("fp8", "fp8", "fp8", "fp8", "fp8")
    sigma = []
    for tp in (4, 8, 16, 32, 64):
        layout = Layout(tp=tp, pp=1)
        parts = step_residuals(machine, job.model, job.software, layout, dtypes)["all_reduce"]
        far = [part for part in parts if part.provenance == "extrapolated"]
        sigma.append(sum(part.sigma for part in far))
    assert sigma[0] == 0
    assert all(low < high for low, high in zip(sigma, sigma[1:], strict=False))


def test_every_measured_constant_says_on_what() -> None:
    """A packaged constant of collectives that is called measured names ranks."""
    folder = Path(__file__).parents[2] / "topologies/chips/fits/collectives"
    chips = sorted(path.stem for path in folder.glob("*.yaml"))
    assert len(chips) > 10

    def check(value: object, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(inner, f"{path}.{key}")
        elif dataclasses.is_dataclass(value):
            if getattr(value, "provenance", "") == "measured":
                assert value.measured, path
            for entry in dataclasses.fields(value):
                check(getattr(value, entry.name), f"{path}.{entry.name}")

    for chip in chips:
        check(load_collective_fits(chip), chip)


def test_training_beyond_the_timings_says_so() -> None:
    """Gradients of ever more replicas: from the ranks that rings were timed on (1,024 on 128 hosts)
    their share is extrapolated, and the band of the step widens with every doubling.
    """
    widths = []
    for chips in (512, 2048, 8192):
        machine = load_topology("h100_superpod", [f"topology.chips={chips}"])
        plan = ["workload.plan.tp=1", "workload.plan.pp=1", "workload.plan.cp=1"]
        given = load_training("llama3_8b_train", plan, {"global_batch": chips, "seq_len": 2048})
        _, facts = train(machine, given)
        trust = facts.trust
        assert sum(trust.provenance.values()) == pytest.approx(1)
        assert trust.sigma**2 == pytest.approx(sum(effect**2 for _, effect in trust.parts))
        assert trust.provenance["extrapolated"] > 0  # of gradients of 32 GB too
        share = facts.step.owners["dp"] / facts.step.seconds
        far = [effect for key, effect in trust.parts if key.startswith("dp collectives")]
        widths.append(sum(far) / share)
    assert [more - less for less, more in pairwise(widths)] == pytest.approx([0.1, 0.2])
