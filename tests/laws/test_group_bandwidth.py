"""What groups of devices can send to each other: switches, meshes, packages, PCIe hosts."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.machine.host import (
    domain_devices,
    group_bandwidth,
    peer_bandwidth,
    scale_up_bandwidth,
)
from cluster_sim.perf.collectives import all_reduce, exchange, handoff_s, usable_algorithms
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology

SIZES = np.array([2.0**power for power in range(10, 31, 4)])
EVERY = ("one_shot", "ring", "in_switch")
MESHES = ["ascend_910b_8", "mi300x_8", "mi355x_8", "h200_nvl", "h100_pcie_2"]
PCIE_4 = "4 x rtx_pro_6000"


def with_links(machine: TopologyInput, factor: float) -> TopologyInput:
    links = machine.topology.scale_up
    faster = dataclasses.replace(links, link_bandwidth=links.link_bandwidth * factor)
    return dataclasses.replace(
        machine, topology=dataclasses.replace(machine.topology, scale_up=faster)
    )


def without_latency(machine: TopologyInput) -> TopologyInput:
    """Ideal curves: what remains is bytes over links."""
    curves = {
        name: dataclasses.replace(curve, latency=0.0, latency_per_peer=0.0, efficiency=1.0)
        for name, curve in machine.fits.all_reduce.items()
    }
    return dataclasses.replace(machine, fits=dataclasses.replace(machine.fits, all_reduce=curves))


@pytest.mark.parametrize("name", MESHES)
def test_a_group_in_a_mesh_has_the_links_between_its_members(name: str) -> None:
    machine = load_topology(name)
    pair = peer_bandwidth(machine)
    for ranks in range(2, domain_devices(machine) + 1):
        assert group_bandwidth(machine, ranks) == pytest.approx((ranks - 1) * pair)
    whole = group_bandwidth(machine, domain_devices(machine))
    assert whole == pytest.approx(scale_up_bandwidth(machine.topology))


@pytest.mark.parametrize("name", ["h200_nvl8", "h800_nvl8", "gb200_nvl72", "l40s_8", PCIE_4])
def test_behind_switches_and_hosts_two_have_all_links(name: str) -> None:
    machine = load_topology(name)
    for ranks in (2, 3, domain_devices(machine)):
        assert group_bandwidth(machine, ranks) == scale_up_bandwidth(machine.topology)
    assert peer_bandwidth(machine) == scale_up_bandwidth(machine.topology)


def test_two_devices_of_a_package_share_its_own_link() -> None:
    machine = load_topology("cloudmatrix384")
    assert group_bandwidth(machine, 2) == 270e9
    assert [group_bandwidth(machine, n) for n in (3, 4, 16, 320)] == [196e9] * 4
    assert peer_bandwidth(machine) == 196e9  # hand-offs between stages leave the package


def test_closed_forms_on_a_mesh() -> None:
    """One-shot sends S over each link, two-shot 2 S / n: 28 GB/s between two 910B."""
    machine, size = without_latency(load_topology("ascend_910b_8")), np.array([2.0**24])
    for ranks in (2, 4, 8):
        one_shot = all_reduce(machine, ("one_shot",), size, ranks)[0]
        two_shot = all_reduce(machine, ("ring",), size, ranks)[0]
        assert one_shot == pytest.approx(size / 28e9)
        assert two_shot == pytest.approx(2 * size / ranks / 28e9)


@pytest.mark.parametrize("name", names("topology"))
def test_faster_links_are_never_slower(name: str) -> None:
    machine = load_topology(name)
    faster = with_links(machine, 1.5)
    for ranks in (n for n in (2, 4, 8, 16) if n <= domain_devices(machine)):
        before, after = (all_reduce(m, EVERY, SIZES, ranks)[0] for m in (machine, faster))
        assert (after <= before).all()
        if machine.fits.all_to_all:
            quicker, slower = (exchange(m, SIZES, ranks, 8)[0] for m in (faster, machine))
            assert (quicker <= slower).all()
    assert (handoff_s(faster, SIZES) <= handoff_s(machine, SIZES)).all()


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_all_reduce_on_910b_is_slower_than_on_h20(ranks: int) -> None:
    """With the curves of their own, and with those of one of them."""
    ascend, h20 = load_topology("ascend_910b_8"), load_topology("h20_nvl8")
    same = dataclasses.replace(ascend, fits=h20.fits)
    for machine in (ascend, same):
        slow, quick = (all_reduce(m, EVERY, SIZES, ranks)[0] for m in (machine, h20))
        assert (slow >= quick).all()
        assert slow[-1] > 1.5 * quick[-1]


def test_one_shot_kernels_stop_at_two_ranks_on_pcie() -> None:
    machine = load_topology("l40s_8")
    assert usable_algorithms(machine, EVERY, 2) == ("one_shot", "ring")
    assert usable_algorithms(machine, EVERY, 4) == ("ring",)


def test_pcie_all_reduce_against_measurements(shared: Path) -> None:
    """Four H100 PCIe of which only pairs are bridged: the ring runs at the pace of PCIe, with the
    curve of cards that have nothing else.
    """
    links = "topology.scale_up={technology: PCIe 5 x16, kind: host, link_bandwidth: 63 GB/s}"
    machine = load_topology("4 x h100_pcie", [links])
    machine = dataclasses.replace(machine, fits=load_topology("l40s_4").fits)
    with (shared / "ground_truth" / "collective_cases.csv").open() as file:
        cases = [
            (float(row["message_bytes"]), float(row["value"]) * 1e-6)
            for row in csv.DictReader(file)
            if (row["chip"], row["collective"], row["n_chips"]) == ("h100_pcie", "all_reduce", "4")
            and row["metric"] == "time_us"
        ]
    assert len(cases) >= 8
    for size, measured in cases:
        seconds = all_reduce(machine, ("ring",), np.array([size]), 4)[0][0]
        assert seconds == pytest.approx(measured, rel=0.15)
