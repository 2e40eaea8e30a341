"""What is there: counts of published designs, sums over classes, bisection, connection."""

from __future__ import annotations

from functools import cache

import networkx as nx
import numpy as np
import pytest

from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import LinkClass, Machine
from cluster_sim.machine.exchange import graph
from cluster_sim.machine.facts import bisection, connected, hops, joined, ports_used, problems
from cluster_sim.machine.groups import groups, place
from cluster_sim.machine.host import scale_up_bandwidth
from cluster_sim.specs.find import names
from cluster_sim.specs.load import load_topology

SUPERPODS = ("h100_superpod", "h200_superpod", "b200_superpod", "b300_superpod", "a100_superpod")
# scalable units: leaves, spines, cores, cables NIC-leaf, leaf-spine, spine-core.
# Source: table of the NVIDIA DGX SuperPOD reference architecture for B200.
REFERENCE = {
    1: (8, 4, 0, 256, 256, 0),
    2: (16, 8, 0, 512, 512, 0),
    4: (32, 16, 0, 1024, 1024, 0),
    8: (64, 32, 0, 2048, 2048, 0),
    16: (128, 128, 64, 4096, 4096, 4096),
    32: (256, 256, 128, 8192, 8192, 8192),
    64: (512, 512, 256, 16384, 16384, 16384),
}


@cache
def machine(name: str, *changes: str) -> Machine:
    return build_machine(load_topology(name, [f"topology.{change}" for change in changes]))


def nodes(built: Machine, name: str) -> int:
    return sum(node.count for node in built.nodes if node.name == name)


def cables(built: Machine, name: str) -> int:
    return sum(link.count for link in built.links if link.name == name)


@pytest.mark.parametrize("units", list(REFERENCE))
@pytest.mark.parametrize("name", SUPERPODS)
def test_superpods_have_the_published_counts(name: str, units: int) -> None:
    built = machine(name, f"hosts={32 * units}")
    switches = tuple(nodes(built, kind) for kind in ("leaf", "spine", "core"))
    wires = tuple(cables(built, kind) for kind in ("nic-leaf", "leaf-spine", "spine-core"))
    assert (*switches, *wires) == REFERENCE[units]
    assert problems(built) == []


def test_one_unit_has_eight_cables_from_each_leaf_to_each_spine() -> None:
    drawn = graph(machine("h100_superpod", "hosts=32"))
    between = [
        edge["cables"] for a, b, edge in drawn.edges(data=True) if "spine" in a or "spine" in b
    ]
    assert between == [8] * 32


@pytest.mark.parametrize("name", names("topology"))
def test_every_topology_is_a_sound_machine(name: str) -> None:
    built = machine(name)
    assert problems(built) == []
    assert connected(built) == (joined(built) or built.devices == 1)
    topology = load_topology(name).topology
    if built.devices == 1:
        return
    sent = sum(
        link.bandwidth_bytes_per_s
        for link in links_at_first(built)
        if link.b == "switch" or link.name == "mesh" or link.name.startswith("axis")
    )
    assert sent == pytest.approx(scale_up_bandwidth(topology) / built.devices_per_chip, rel=1e-12)


def links_at_first(built: Machine) -> list[LinkClass]:
    """The class of every cable at the first device."""
    found = []
    for link in built.links:
        a, b = link.ends(np.arange(link.count, dtype=np.int64))
        word = built.nodes[0].name
        at_first = (a == 0).sum() * (link.a == word) + (b == 0).sum() * (link.b == word)
        found += [link] * int(at_first)
    return found


@pytest.mark.parametrize("name", [n for n in names("topology") if not n.endswith("_example")])
def test_classes_and_the_expanded_graph_carry_the_same(name: str) -> None:
    built = machine(name)
    if built.devices > 1:
        drawn = graph(built)
        assert drawn.number_of_nodes() == built.n_nodes == sum(n.count for n in built.nodes)
        counted = sum(edge["cables"] for _, _, edge in drawn.edges(data=True))
        assert 2 * counted == built.n_links == len(built.link_from)
        width = sum(edge["bandwidth_bytes_per_s"] for _, _, edge in drawn.edges(data=True))
        assert 2 * width == pytest.approx(built.link_bandwidth.sum(), rel=1e-12)
        classes = graph(built, full=False)
        folded = sum(edge["bandwidth_bytes_per_s"] for _, _, edge in classes.edges(data=True))
        assert folded == pytest.approx(width, rel=1e-12)


def test_nvl72_is_complete_and_one_switch_from_all_to_all() -> None:
    drawn = graph(machine("gb200_nvl72"))
    edges = [e for a, b, e in drawn.edges(data=True) if "nvswitch" in a + b]
    assert len(edges) == 1296
    assert {edge["bandwidth_bytes_per_s"] for edge in edges} == {50e9}
    assert hops(machine("gb200_nvl72")).diameter == 1
    assert hops(machine("gb200_nvl36x2")).diameter == 2
    assert bisection(machine("gb200_nvl72")) == pytest.approx(36 * 900e9)


def test_cloudmatrix_has_the_published_switches_and_links() -> None:
    built = machine("cloudmatrix384")
    assert (nodes(built, "switch"), nodes(built, "spine_up")) == (336, 112)
    links = sum(cables(built, f"plane{plane}") for plane in range(7))
    assert links == 48 * 7 * 16
    assert built.notes == (
        "5,376 links between the tiers of the domain, 2 in each of 2,688 cables",
    )
    down, up = (
        sum(link.count * link.bandwidth_bytes_per_s for link in built.links if link.name == name)
        for name in ("ub0", "plane0")
    )
    assert down == up == 48 * 448e9


def test_hgx_splits_its_links_over_the_switches() -> None:
    for name, split in (("h100_nvl8", [125, 100, 100, 125]), ("b300_nvl8", [450, 450])):
        built = machine(name)
        widths = [x.bandwidth_bytes_per_s / 1e9 for x in built.links if x.b == "switch"]
        assert widths == split
        assert (nodes(built, "pcie"), nodes(built, "nic"), nodes(built, "cpu")) == (8, 8, 2)


@pytest.mark.parametrize(("ratio", "name"), [(1, "h100_superpod"), (2, "h100_superpod"),
                                             (4, "b300_superpod"), (1, "fat_tree_example"),
                                             (2, "fat_tree_example")])  # fmt: skip
def test_bisection_is_half_the_nics_over_the_oversubscription(ratio: int, name: str) -> None:
    built = machine(name, f"fabric.oversubscription={ratio}")
    nic = next(x.bandwidth_bytes_per_s for x in built.links if x.name == "nic-leaf")
    assert bisection(built) == pytest.approx(built.hosts / 2 * 8 * nic / ratio)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("h100_superpod", ("hosts=64",)),
        ("h100_superpod", ("hosts=64", "fabric.oversubscription=2")),
        ("h800_pod", ("hosts=64",)),
        ("fat_tree_example", ("hosts=32",)),
        ("gb200_nvl36x2", ()),
        ("ascend_910b_8", ()),
        ("cloudmatrix384", ("chips=64", "scale_up.domain=64")),
        ("tpu_v5p_pod", ("chips=128", "scale_up.inner.shape=[8, 4, 4]")),
    ],
)
def test_bisection_is_the_maximum_flow_between_the_halves(
    name: str, changes: tuple[str, ...]
) -> None:
    built = machine(name, *changes)
    drawn = graph(built)
    drawn.remove_nodes_from([n for n, kind in drawn.nodes(data="kind") if kind == "cpu"])
    if built.domains == 1:
        drawn.remove_nodes_from([n for n, kind in drawn.nodes(data="kind") if kind == "nic"])
    half = built.devices // 2
    for device in range(built.devices):
        ends = ("one", built.node_names[device]) if device < half else (
            built.node_names[device], "two",
        )  # fmt: skip
        drawn.add_edge(*ends)
    width, _ = nx.maximum_flow(drawn, "one", "two", capacity="bandwidth_bytes_per_s")
    assert bisection(built) == pytest.approx(width, rel=1e-9)


def test_ports_are_counted_by_lane() -> None:
    built = machine("b200_nvl8")
    switch = built.node_class("switch")
    assert ports_used(built)[switch.first : switch.first + 2].tolist() == [72, 72]


@pytest.mark.parametrize("hosts", [3, 33, 100, 257, 700])
def test_odd_sizes_stay_within_the_ports(hosts: int) -> None:
    built = machine("h100_superpod", f"hosts={hosts}")
    assert problems(built) == []
    spread = ports_used(built)
    for name in ("spine", "core"):
        if nodes(built, name) and built.shape.scale_out.counts.groups == 1:
            node = built.node_class(name)
            used = spread[node.first : node.first + node.count]
            assert used.max() - used.min() <= 1


def test_names_are_unique() -> None:
    built = machine("cloudmatrix384_pod", "hosts=64")
    assert len(set(built.node_names)) == built.n_nodes
    assert len(set(built.link_names)) == built.n_links
    assert built.resources_of(17)["hbm"] == "host1/npu0/die1/hbm"


def test_groups_fill_domains_first() -> None:
    built = machine("gb200_nvl72_pod")
    ranks = place(built, {"tp": 16, "dp": 57})
    domain = ranks.reshape(57, 16) // 72
    assert (domain == domain[:, :1]).all()
    assert len(set(ranks.tolist())) == 16 * 57
    rows = groups(built, {"tp": 8, "pp": 4, "dp": 16})
    assert {name: row.shape for name, row in rows.items()} == {
        "tp": (64, 8), "pp": (128, 4), "dp": (32, 16),
    }  # fmt: skip
    assert sorted(rows["tp"].reshape(-1)) == sorted(rows["dp"].reshape(-1))
    assert rows["tp"][0].tolist() == list(range(8))


def test_a_group_that_is_too_large_says_how_much_room_there_is() -> None:
    from cluster_sim.errors import DoesNotFitError

    with pytest.raises(DoesNotFitError, match=r"room for 57 \(1024 devices\)"):
        place(machine("gb200_nvl72_pod"), {"tp": 16, "dp": 64})
