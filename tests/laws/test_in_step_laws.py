"""Collectives of an engine's step: one price with ``collective``, more link never slower."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.collectives.activity import Call, alone
from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.flows import flows_of
from cluster_sim.collectives.group import make_group
from cluster_sim.collectives.in_step import (
    all_reduce,
    everywhere,
    expert_exchange,
    handoff,
    link_bytes,
)
from cluster_sim.collectives.ranks import shape_of
from cluster_sim.collectives.shape import Shape
from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.machine.host import domain_devices
from cluster_sim.perf.communication import knots
from cluster_sim.perf.families import operator_families
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology, load_workload

SIZES = np.array([2.0**power for power in range(10, 31, 4)])
SUMS = ("vllm_custom", "nccl", "hccl")
EXPERTS = ("deepep_low_latency", "deepep_normal", "nccl", "hccl")
ROUTING = Routing(top_k=8, experts=256)


def with_links(machine: TopologyInput, factor: float) -> TopologyInput:
    links = machine.topology.scale_up
    faster = dataclasses.replace(links, link_bandwidth=links.link_bandwidth * factor)
    return dataclasses.replace(
        machine, topology=dataclasses.replace(machine.topology, scale_up=faster)
    )


def side_by_side(machine: TopologyInput, ranks: int) -> Shape:
    return shape_of(machine, np.arange(ranks))


@pytest.mark.parametrize("name", names("topology"))
def test_every_chip_has_collectives_and_faster_links_are_never_slower(name: str) -> None:
    machine = load_topology(name)
    faster = with_links(machine, 1.5)
    for ranks in (n for n in (2, 4, 8, 16) if n <= domain_devices(machine)):
        slow, quick = side_by_side(machine, ranks), side_by_side(faster, ranks)
        pairs = [
            (all_reduce(machine, SUMS, slow, SIZES), all_reduce(faster, SUMS, quick, SIZES)),
            (
                expert_exchange(machine, EXPERTS, slow, (SIZES, SIZES), ROUTING),
                expert_exchange(faster, EXPERTS, quick, (SIZES, SIZES), ROUTING),
            ),
            (everywhere(machine, slow, (SIZES, SIZES)), everywhere(faster, quick, (SIZES, SIZES))),
            (handoff(machine, slow, SIZES), handoff(faster, quick, SIZES)),
        ]
        for before, after in pairs:
            assert (before.seconds > 0).all()
            assert (after.seconds <= before.seconds * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", ["h200_nvl8", "b200_nvl8", "gb200_nvl72", "ascend_910b_8"])
def test_serving_and_collective_ask_one_price(name: str) -> None:
    """A sum of 1 MB over 8 ranks is the same in a step as on the page of ``collective``."""
    machine = load_topology(name)
    group = make_group(machine, range(8))
    for library in ("vllm_custom", "trtllm_custom", "nccl", "hccl"):
        try:
            served = all_reduce(machine, (library,), group.shape, SIZES)
        except SpecError:
            continue
        asked = alone(group, Call(operation="all_reduce", library=library), SIZES)
        assert served.seconds == pytest.approx(asked.seconds.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "algorithms"),
    [
        ("h200_nvl8", ("OneShot", "TwoShot", "Ring", "NVLS")),
        ("h100_pcie_2", ("OneShot", "TwoShot", "Ring")),
        ("ascend_910b_8", ("Mesh", "HD", "Ring")),
    ],
)
def test_bytes_in_a_step_are_those_of_the_flows(name: str, algorithms: tuple[str, ...]) -> None:
    machine = load_topology(name)
    for ranks in (n for n in (2, 4, 8) if n <= domain_devices(machine)):
        group = make_group(machine, range(ranks))
        for algorithm in algorithms:
            flows = [f for _, f in flows_of(group, "all_reduce", algorithm, ROUTING, "rank")]
            sent = sum(float(flow.size[flow.source == 0].sum()) for flow in flows)
            assert link_bytes(algorithm, group.shape) == pytest.approx(sent)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_all_reduce_on_910b_is_slower_than_on_h20(ranks: int) -> None:
    ascend, h20 = load_topology("ascend_910b_8"), load_topology("h20_nvl8")
    slow, quick = (all_reduce(m, SUMS, side_by_side(m, ranks), SIZES) for m in (ascend, h20))
    assert (slow.seconds >= quick.seconds).all()
    assert slow.seconds[-1] > 1.5 * quick.seconds[-1]


def test_the_first_library_with_constants_sums() -> None:
    h200, ascend = load_topology("h200_nvl8"), load_topology("ascend_910b_8")
    assert all_reduce(h200, SUMS, side_by_side(h200, 8), SIZES).library == "vllm_custom"
    assert all_reduce(ascend, SUMS, side_by_side(ascend, 8), SIZES).library == "hccl"
    with pytest.raises(SpecError, match=r"no constants of hccl for all_reduce; it has .*nccl"):
        all_reduce(h200, ("hccl",), side_by_side(h200, 8), SIZES)


def test_experts_take_the_faster_library() -> None:
    machine = load_topology("h200_nvl8")
    shape, copies = side_by_side(machine, 8), np.geomspace(1e3, 1e9, 50)
    both, *each = (
        expert_exchange(machine, libraries, shape, (copies, copies), ROUTING).seconds
        for libraries in (EXPERTS[:2], EXPERTS[:1], EXPERTS[1:2])
    )
    assert (both == np.minimum(*each)).all()
    assert both[0] == each[0][0]  # few tokens: low latency
    assert both[-1] == each[1][-1]  # many: few copies


def test_what_a_sum_rests_on() -> None:
    h200, a100 = load_topology("h200_nvl8"), load_topology("a100_nvl8")
    assert all_reduce(h200, ("vllm_custom",), side_by_side(h200, 8), SIZES).word == "measured"
    assert all_reduce(a100, ("nccl",), side_by_side(a100, 8), SIZES).word == "measured"
    rack = load_topology("gb200_nvl72")
    found = all_reduce(rack, ("nccl",), side_by_side(rack, 64), SIZES)
    assert found.word == "extrapolated"
    assert found.far > 0


@pytest.mark.parametrize(("name", "library"), [("h200_nvl8", "vllm"), ("ascend_910b_8", "vllm")])
def test_tables_are_lines_between_knots(name: str, library: str) -> None:
    """Within half a percent of the price itself, but for a few sizes beside a change of kernel."""
    machine = load_topology(name)
    job = load_workload("llama70b", [f"workload.software={library}"]).on(machine.chip)
    dtypes = Recipe("bf16", "bf16", "bf16", "bf16", "bf16")
    families = operator_families(machine, job.model, job.software, Layout(tp=8), dtypes)
    table = next(family.tokens_s for family in families if family.name == "all_reduce")
    assert table is not None
    in_situ, tokens = job.software.in_situ, np.arange(1.0, len(table))
    message = tokens * job.model.hidden * 2
    exact = all_reduce(machine, job.software.all_reduce, side_by_side(machine, 8), message)
    seconds = exact.seconds * in_situ.all_reduce_factor + in_situ.all_reduce_skew
    off = np.abs(table[1:] / (job.model.summed_blocks * seconds) - 1)
    assert np.quantile(off, 0.95) < 0.005
    assert off.max() < 0.35


def test_knots_of_longer_tables_are_the_same_and_more() -> None:
    long = knots(100_000)
    assert len(long) < 300
    for count in (1, 2, 50, 65, 66, 1000):
        found = knots(count)
        assert found[-1] >= count - 1
        assert (found == long[: len(found)]).all()
        assert found[:65].tolist() == list(range(65))
