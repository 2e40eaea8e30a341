"""Routes: whole, short, the same by arithmetic and by search, spread as the rule says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest

from cluster_sim.errors import SpecError
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Machine
from cluster_sim.machine.exchange import graph
from cluster_sim.machine.routes import Routes, Routing, path, paths
from cluster_sim.specs.load import load_topology

THREE_TIERS = ("fabric.ports=16", "fabric.hosts_per_leaf=4", "hosts=64")
CASES: list[tuple[str, tuple[str, ...]]] = [
    ("h100_nvl8", ()),
    ("ascend_910b_8", ()),
    ("gb200_nvl72", ()),
    ("gb200_nvl36x2", ()),
    ("cloudmatrix384", ()),
    ("l40s_8", ()),
    *((name, ("chips=512",)) for name in (
        "h100_superpod", "h20_pod", "b300_superpod", "b30a_superpod", "a100_superpod", "h800_pod",
        "gb200_nvl72_pod", "gb300_nvl72_pod", "cloudmatrix384_pod", "ascend_910b_pod",
        "fat_tree_example", "dragonfly_example",
    )),
    ("ascend_950dt_superpod", ("chips=512",)),
    ("tpu_v5p_pod", ("chips=192", "scale_up.inner.shape=[4, 6, 8]")),
    ("torus_example", ("chips=60", "scale_up.inner.shape=[2, 5, 6]")),
    ("h100_superpod", THREE_TIERS),
    ("h100_superpod", (*THREE_TIERS[:2], "hosts=45", "fabric.oversubscription=2")),
    ("h100_superpod", ("hosts=40", "fabric.kind=leaf_spine", "fabric.hosts_per_leaf=4")),
    ("h100_superpod", ("hosts=40", "fabric.rails=4", "fabric.hosts_per_leaf=8")),
]  # fmt: skip


def machine(name: str, changes: tuple[str, ...]) -> Machine:
    return build_machine(load_topology(name, [f"topology.{change}" for change in changes]))


def some_pairs(built: Machine, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, built.devices, count)
    near = start // built.devices_per_domain * built.devices_per_domain
    inside = near + rng.integers(0, built.devices_per_domain, count)
    stop = np.where(rng.random(count) < 0.4, inside, rng.integers(0, built.devices, count))
    return start, np.minimum(stop, built.devices - 1)


def flows(routes: Routes) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for flow in range(len(routes.rows) - 1):
        yield flow, *routes.of(flow)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_all_bytes_run_from_source_to_target_without_loops(
    name: str, changes: tuple[str, ...]
) -> None:
    built = machine(name, changes)
    start, stop = some_pairs(built, 12)
    for mode, pxn in (("ecmp", True), ("ecmp", False), ("adaptive", True), ("adaptive", False)):
        routes = paths(built, start, stop, np.arange(12), Routing(mode=mode, pxn=pxn))
        for flow, links, shares in flows(routes):
            out = np.bincount(built.link_from[links], shares, built.n_nodes)
            arrived = np.bincount(built.link_to[links], shares, built.n_nodes)
            wanted = np.zeros(built.n_nodes)
            if start[flow] != stop[flow]:
                wanted[start[flow]], wanted[stop[flow]] = 1, -1
            assert np.allclose(out - arrived, wanted, atol=1e-12)
            assert len(np.unique(links)) == len(links)
            steps = np.unique(
                np.stack([built.link_from[links], built.link_to[links]]), axis=1
            ).T.tolist()
            assert nx.is_directed_acyclic_graph(nx.DiGraph(steps))


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_arithmetic_finds_what_a_search_finds(name: str, changes: tuple[str, ...]) -> None:
    """The same hops everywhere; where nothing is chosen but by equal shares, the same links."""
    built = machine(name, changes)
    searched = dataclasses.replace(built, shape=None, cache={})
    start, stop = some_pairs(built, 20)
    if name == "h800_pod":  # planes: other rails are reached over NVLink only
        stop = np.minimum(stop // 8 * 8 + start % 8, built.devices - 1)
    rules = Routing(mode="adaptive", pxn=False)
    direct = paths(built, start, stop, None, rules)
    found = paths(searched, start, stop, None, rules)
    torus = "torus" in name or "tpu" in name
    for flow, links, shares in flows(direct):
        others, their_shares = found.of(flow)
        assert shares.sum() == pytest.approx(their_shares.sum(), rel=1e-12)  # hops
        if start[flow] // built.devices_per_domain == stop[flow] // built.devices_per_domain:
            # a search may also go by the NICs when that is as short; arithmetic stays inside
            assert torus or set(links.tolist()) <= set(others.tolist())
        else:
            assert sorted(links.tolist()) == sorted(others.tolist())
            ours = built.link_bandwidth[links].sum()
            assert ours == pytest.approx(built.link_bandwidth[others].sum(), rel=1e-12)


def test_networkx_agrees_on_the_hops() -> None:
    built = machine("cloudmatrix384", ("chips=64",))
    drawn = graph(built)
    drawn.remove_nodes_from([n for n, kind in drawn.nodes(data="kind") if kind in ("cpu", "nic")])
    start, stop = some_pairs(built, 60)
    routes = paths(built, start, stop)
    for flow, _, shares in flows(routes):
        ends = built.node_names[start[flow]], built.node_names[stop[flow]]
        nearest = nx.shortest_path_length(drawn, *ends)
        via_die = start[flow] // 2 == stop[flow] // 2
        # networkx may go through the other die of a package, which passes nothing on
        assert round(shares.sum()) == nearest or (not via_die and shares.sum() >= nearest)


def test_pxn_stays_below_the_spines_inside_a_unit() -> None:
    built = machine("h100_superpod", ("hosts=32",))
    spine = built.node_class("spine")
    start, stop = some_pairs(built, 200)
    for pxn, expected in ((True, False), (False, True)):
        routes = paths(built, start, stop, None, Routing(mode="ecmp", pxn=pxn))
        node = built.link_to[routes.links]
        seen = ((node >= spine.first) & (node < spine.first + spine.count)).any()
        assert seen == expected


def test_same_rail_is_one_leaf_and_another_unit_is_three_switches() -> None:
    built = machine("h100_superpod", ("hosts=64",))
    for target, switches in ((8, 1), (32 * 8, 3)):
        links, shares = path(built, 0, target)
        assert (shares * built.is_switch[built.link_to[links]]).sum() == pytest.approx(switches)


def test_ecmp_throws_flows_like_balls_into_bins() -> None:
    """32 flows leave about 37 % of 32 uplinks empty; many flows are even."""
    built = machine("h100_superpod", ("hosts=64",))
    up = built.link_class("leaf-spine")

    def uplinks(count: int, seed: int) -> np.ndarray:
        start, stop = np.zeros(count, int), np.full(count, 32 * 8)
        routes = paths(built, start, stop, np.arange(count), Routing(mode="ecmp", seed=seed))
        hit = routes.links[(routes.links >= up.first) & (routes.links < up.first + 32)] - up.first
        return np.bincount(hit, minlength=32)

    occupied = np.mean([(uplinks(32, seed) > 0).mean() for seed in range(200)])
    assert occupied == pytest.approx(1 - (1 - 1 / 32) ** 32, abs=0.01)
    many = uplinks(32_000, 0)
    assert ((many - 1000) ** 2 / 1000).sum() < 61  # chi-square, 31 degrees of freedom, 99.9 %
    assert (uplinks(32, 5) == uplinks(32, 5)).all()
    assert (uplinks(32, 5) != uplinks(32, 6)).any()


def test_adaptive_routing_loads_all_uplinks_alike() -> None:
    built = machine("h100_superpod", ("hosts=64",))
    start = np.arange(256)
    routes = paths(built, start, start + 256, None, Routing(mode="adaptive"))
    load = routes.load(built.n_links)
    for name in ("leaf-spine", "nic-leaf"):
        link = built.link_class(name)
        used = load[link.first : link.first + 2 * link.count]
        assert used[used > 0] == pytest.approx(1.0)
    assert load.max() == pytest.approx(1.0)


def test_latency_adds_links_and_switches() -> None:
    built = machine("cloudmatrix384", ())
    for target, expected in ((1, 0.2e-6), (2, 0.7e-6), (16, 2.1e-6)):
        links, shares = path(built, 0, target)
        assert (built.link_latency_s[links] * shares).sum() == pytest.approx(expected)


def test_a_route_that_the_user_fixes_is_taken() -> None:
    fixed = (
        "[host0/gpu0, host0/pcie0, host0/nic0, rail0/leaf0, host1/nic0, host1/pcie0, host1/gpu0]"
    )
    built = machine("h100_superpod", ("hosts=32", f"fabric.routes=[{fixed}]"))
    links, shares = path(built, 0, 8)
    assert [built.link_names[link] for link in links][2:4] == [
        "host0/nic0>rail0/leaf0", "rail0/leaf0>host1/nic0",
    ]  # fmt: skip
    assert shares.tolist() == [1.0] * 6
    with pytest.raises(SpecError, match=r"fabric.routes.0: no node named 'host0/gpu9'"):
        machine("h100_superpod", ("hosts=32", "fabric.routes=[[host0/gpu9, host1/gpu0]]"))
    with pytest.raises(SpecError, match="no link from 'host0/gpu0' to 'host1/gpu0'"):
        machine("h100_superpod", ("hosts=32", "fabric.routes=[[host0/gpu0, host1/gpu0]]"))


def test_domains_that_nothing_joins_have_no_route() -> None:
    built = machine("h200_nvl", ())
    with pytest.raises(SpecError, match="give the topology a fabric"):
        path(built, 0, 7)
