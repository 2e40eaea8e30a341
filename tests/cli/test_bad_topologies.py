"""Mistakes in machines: one message with file, line, key and the way out, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError

POD = """title: mine
host: h100_nvl8
hosts: 64
fabric:
  kind: rail_tree
  ports: 64
  hosts_per_leaf: 32
sources: {all: test}
"""
ROUTE = "ports: 64\n  routes: [[host0/gpu0, host1/gpuO]]"
GRID = """title: mine
chip: h100_sxm
chips: 64
scale_up:
  technology: made up
  kind: torus
  link_bandwidth: 100 GB/s
  inner: {kind: torus, shape: [8, 8]}
sources: {all: test}
"""


def fail(runner: CliRunner, line: str) -> str:
    """Run a command that must fail as a user error; what it says."""
    before = sorted(Path.cwd().iterdir())
    result = runner.invoke(cli, line.split())
    assert sorted(Path.cwd().iterdir()) == before
    if isinstance(result.exception, ClusterSimError):
        return str(result.exception)
    assert result.exit_code == 2, result.output
    return result.output


FILES = [
    (POD.replace("rail_tree", "rail_tre"), "mine.yaml:5: fabric.kind: must be one of"),
    (POD.replace("rail_tree", "rail_tre"), "did you mean 'rail_tree'?"),
    (POD.replace("ports: 64", "prts: 64"), "mine.yaml:6: fabric.prts: unknown key; did you mean"),
    (POD.replace("  ports: 64\n", ""), "ports is missing"),
    (POD.replace("ports: 64", "ports: 48"), "mine.yaml:6: fabric.ports: a leaf has 32 ports down"),
    (POD.replace("ports: 64", "ports: 0"), "mine.yaml:6: fabric.ports: must be > 0"),
    (POD.replace("ports: 64", "ports: 64\n  rails: 3"), "mine.yaml:7: fabric.rails: 3 rails are"),
    (POD.replace("ports: 64", "ports: 64\n  oversubscription: 3"), "10.6667 uplinks of a leaf"),
    (POD.replace("ports: 64", "ports: 64\n  oversubscription: 0.5"), "must be at least 1"),
    (POD.replace("ports: 64", "ports: 64\n  link: 0 Gb/s"), "mine.yaml:7: fabric.link: must"),
    (POD.replace("ports: 64", "ports: 64\n  link: 400"), "a bare number has no unit"),
    (POD.replace("ports: 64", "ports: 64\n  groups: 4"), "groups belongs to kind dragonfly"),
    (POD.replace("rail_tree", "planes").replace("hosts: 64", "hosts: 4096"), "2048 NICs a plane"),
    (POD.replace("rail_tree", "leaf_spine").replace("hosts_per_leaf: 32", "hosts_per_leaf: 4")
     .replace("hosts: 64", "hosts: 512"), "write kind: fat_tree"),
    (POD.replace("ports: 64", "ports: 8").replace("32", "4"), "more than cores of 8 ports join"),
    (POD.replace("hosts: 64", "chips: 510"), "mine.yaml:3: chips: must be whole hosts of 8 chips"),
    (POD.replace("hosts: 64", "hosts: 64\nchips: 500"), "64 hosts of 8 are not 500 chips"),
    (POD.replace("hosts: 64\n", ""), "mine.yaml:2: host: says what a host is; say how many"),
    (POD.replace("hosts: 64", "hosts: many"), "mine.yaml:3: hosts: must be a whole number > 0"),
    (POD.replace("h100_nvl8", "h100_superpod"), "is built on another file itself"),
    (POD.replace("h100_nvl8", "h100_nvl9"), "did you mean 'h100_nvl8'"),
    (POD.replace("host: h100_nvl8\nhosts", "chip: h100_sxm\nhosts"), "name it with host"),
    (POD.replace("h100_nvl8", "l40s_8"), "fabric: needs the NICs of a host"),
    (POD.replace("rail_tree", "graph"), "kind graph needs file"),
    (POD.replace("sources", "board: {chips_per_nic: 3}\nsources"), "3 does not divide"),
    (POD.replace("ports: 64", ROUTE), "mine.yaml:7: fabric.routes.0: no node named 'host1/gpuO'"),
    (GRID.replace("[8, 8]", "[8, 9]"), "mine.yaml:8: scale_up.inner.shape: 8 x 9 is 72 devices"),
    (GRID.replace("  inner: {kind: torus, shape: [8, 8]}\n", ""), "belong together"),
    (GRID.replace("shape: [8, 8]", "spines: 2"), "spines belongs to kind two_tier"),
    (
        GRID.replace("  inner: {kind: torus, shape: [8, 8]}\n", "").replace(
            "  kind: torus\n", "  switch: NVSwitch3\n  links_per_switch: [9, 9]\n"
        ),
        "rack0/nvswitch0: 576 links on a switch of 64 ports",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), FILES, ids=[says for _, says in FILES])
def test_bad_pods(runner: CliRunner, text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    assert says in fail(runner, "check ./mine.yaml --as topology")


def test_bytes_for_bits_are_noticed_with_both_readings(runner: CliRunner) -> None:
    Path("mine.yaml").write_text(POD + "board: {nic_bandwidth: 400 GB/s}\n")
    result = runner.invoke(cli, ["show", "topology", "./mine.yaml"])
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "400 GB/s are 3200 Gb/s a port, the chip's file says 400 Gb/s" in words
    assert "if 400 Gb/s was meant (= 50 GB/s), write it so" in words


def test_a_rail_that_is_not_filled_is_noted(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["show", "topology", "h100_superpod", "--chips", "1000"])
    assert "the last leaf of every rail has 29 of 32 hosts" in " ".join(result.output.split())


def net(**changes: object) -> str:
    """A small sound graph with changes."""
    nodes = [{"id": "a", "kind": "device"}, {"id": "b", "kind": "device"}]
    edges = [
        {"source": "a", "target": "s", "bandwidth": "400 Gb/s"},
        {"source": "b", "target": "s", "bandwidth": "400 Gb/s"},
    ]
    data = {"nodes": [*nodes, {"id": "s", "kind": "switch"}], "edges": edges, **changes}
    return json.dumps(data, indent=1)


def edge(**more: object) -> list[dict[str, object]]:
    return [
        {"source": "a", "target": "s", "bandwidth": "400 Gb/s"},
        {"source": "b", "target": "s", "bandwidth": "400 Gb/s", **more},
    ]


GRAPHS = [
    ("{", "net.json:1: not valid JSON"),
    ("[]", "net.json: nodes: missing"),
    (net(edges=3), "net.json: edges: missing"),
    (net(nodes=[{"kind": "device"}]), "nodes.0: needs an id"),
    (net(nodes=[{"id": "a", "kind": "devise"}]), "did you mean 'device'"),
    (net(edges=edge(target="x")), "net.json:22: edges.1: no node 'x'"),
    (net(edges=edge(bandwidth="400")), "net.json:25: edges.1.bandwidth: a bare number has no unit"),
    (net(edges=edge(bandwidth="0 Gb/s")), "edges.1.bandwidth: must be > 0"),
    (net(edges=edge(latency="-1 us")), "edges.1.latency: must not be negative"),
    (net(edges=edge(cables=0)), "edges.1.cables: must be a whole number > 0"),
    (net(edges=edge(source="s")), "edges.1: joins 's' to itself"),
    (net(edges=edge(source="a")), "edges.1: duplicate of edges.0 ('a' to 's'); write cables: 2"),
    (net(edges=edge()[:1]), "some devices have no way to others"),
    (net(edges=[{"source": "a", "target": "s"}]), "edges.0.bandwidth: missing"),
    (net(directed=True), "has no equal edge back"),
    (net(graph={"devices_per_host": 3}), "graph.devices_per_host: must be a whole number"),
    (net(nodes=[{"id": x, "kind": "switch"} for x in "abs"]), "no node of kind device"),
    (
        net(nodes=[*json.loads(net())["nodes"][:2], {"id": "s", "kind": "switch", "ports": 1}]),
        "s: 2 links on a switch of 1 ports",
    ),
]


@pytest.mark.parametrize(("text", "says"), GRAPHS, ids=[says for _, says in GRAPHS])
def test_bad_graphs(runner: CliRunner, text: str, says: str) -> None:
    Path("net.json").write_text(text)
    assert says in fail(runner, "show topology ./net.json")


ASTRA = "topology: [Ring, Switch]\nnpus_count: [4, 2]\nbandwidth: [200, 50]\nlatency: [500, 2000]\n"
NETWORKS = [
    (
        ASTRA.replace("Ring", "Rong"),
        "net.yml:1: topology.0: unknown (got Rong); did you mean",
    ),
    (ASTRA.replace("[4, 2]", "[4]"), "net.yml:2: npus_count: has 1 entries, topology has 2"),
    (ASTRA.replace("200", "0"), "net.yml:3: bandwidth.0: must be a number > 0 (got 0)"),
    (ASTRA.replace("[4, 2]", "[4, 2.5]"), "npus_count.1: must be a number > 0 (got 2.5)"),
    (ASTRA.replace("latency", "latncy"), "latncy: unknown key; did you mean 'latency'?"),
]


@pytest.mark.parametrize(("text", "says"), NETWORKS, ids=[says for _, says in NETWORKS])
def test_bad_astra_networks(runner: CliRunner, text: str, says: str) -> None:
    Path("net.yml").write_text(text)
    assert says in fail(runner, "check ./net.yml")


OPTIONS = [
    ("show topology h100_superpod --draw picture.gif", "the ending must be .svg, .html, .png"),
    ("show topology h100_superpod --draw none/picture.svg", "cannot write"),
    ("show topology h100_superpod --export none/net.json", "cannot write"),
    ("show topology h100_superpod --chips 12", "must be whole hosts of 8 chips (got 12)"),
    ("show topology none.json", "none.json: no such file"),
    ("show chip h100_sxm --draw picture.svg", "only topologies are machines"),
]


@pytest.mark.parametrize(("line", "says"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_bad_options(runner: CliRunner, line: str, says: str) -> None:
    assert says in fail(runner, line)
