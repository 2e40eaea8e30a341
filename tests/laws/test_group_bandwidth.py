"""What groups of devices can send to each other: switches, meshes, packages, PCIe hosts."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.collectives.ranks import shape_of, side_by_side
from cluster_sim.machine.host import (
    domain_devices,
    group_bandwidth,
    scale_up_bandwidth,
)
from cluster_sim.specs.load import load_topology

MESHES = ["ascend_910b_8", "mi300x_8", "mi355x_8", "h200_nvl", "h100_pcie_2"]
PCIE_4 = "4 x rtx_pro_6000"


@pytest.mark.parametrize("name", MESHES)
def test_a_group_in_a_mesh_has_the_links_between_its_members(name: str) -> None:
    machine = load_topology(name)
    pair = side_by_side(machine, 2, apart=True).link_bytes_per_s
    for ranks in range(2, domain_devices(machine) + 1):
        assert group_bandwidth(machine, ranks) == pytest.approx((ranks - 1) * pair)
    whole = group_bandwidth(machine, domain_devices(machine))
    assert whole == pytest.approx(scale_up_bandwidth(machine.topology))


@pytest.mark.parametrize("name", ["h200_nvl8", "h800_nvl8", "gb200_nvl72", "l40s_8", PCIE_4])
def test_behind_switches_and_hosts_two_have_all_links(name: str) -> None:
    machine = load_topology(name)
    for ranks in (2, 3, domain_devices(machine)):
        assert group_bandwidth(machine, ranks) == scale_up_bandwidth(machine.topology)
    apart = side_by_side(machine, 2, apart=True)
    assert apart.link_bytes_per_s == scale_up_bandwidth(machine.topology)


def test_two_devices_of_a_package_share_its_own_link() -> None:
    machine = load_topology("cloudmatrix384")
    assert group_bandwidth(machine, 2) == 270e9
    assert [group_bandwidth(machine, n) for n in (3, 4, 16, 320)] == [196e9] * 4
    apart = side_by_side(machine, 2, apart=True)  # hand-offs between stages leave the package
    assert apart.link_bytes_per_s == 196e9


def test_ranks_on_chips_of_their_own_have_the_links_between_those() -> None:
    """Every second die of a mesh of packages: as many links as packages they stand on."""
    machine = load_topology("ascend_910c_8")
    dies = machine.chip.devices_per_chip
    assert dies == 2
    for ranks in (2, 4, 8):
        spread = shape_of(machine, np.arange(ranks) * dies)
        packed = shape_of(machine, np.arange(ranks * dies))
        assert spread.link_bytes_per_s == packed.link_bytes_per_s
