"""Graphs in and out: what was written is read as the same machine."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.exchange import graph, load_graph, to_node_link
from cluster_sim.machine.facts import bisection, hops
from cluster_sim.machine.routes import Routing, path, paths
from cluster_sim.output.drawing import picture
from cluster_sim.specs.find import names
from cluster_sim.specs.load import load_topology


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("h100_superpod", ["topology.hosts=16"]),
        ("cloudmatrix384", ["topology.chips=32", "topology.scale_up.domain=32"]),
        ("ascend_910b_pod", ["topology.hosts=8"]),
        ("torus_example", ["topology.chips=16", "topology.scale_up.inner.shape=[4, 4]"]),
        ("dragonfly_example", ["topology.hosts=16"]),
    ],
)
def test_export_and_import_keep_the_machine(name: str, changes: list[str], tmp_path: Path) -> None:
    built = build_machine(load_topology(name, changes))
    file = tmp_path / "net.json"
    file.write_text(to_node_link(built))
    back = load_graph(str(file))
    assert (back.devices, back.n_nodes, back.n_links) == (
        built.devices, built.n_nodes, built.n_links,
    )  # fmt: skip
    assert back.link_bandwidth.sum() == pytest.approx(built.link_bandwidth.sum(), rel=1e-12)
    ours, theirs = (
        {frozenset(ends[:2]): ends[2]["bandwidth_bytes_per_s"] for ends in g.edges(data=True)}
        for g in (graph(built), graph(back))
    )
    assert ours == theirs
    start = np.arange(built.devices)
    number = {label: node for node, label in enumerate(back.node_names)}
    there = np.array([number[label] for label in built.node_names[: built.devices]])
    rules = Routing(mode="adaptive", pxn=False)
    before, after = paths(built, start, start[::-1], None, rules), paths(
        back, there, there[::-1], None, rules
    )  # fmt: skip
    assert [before.of(i)[1].sum() for i in start] == pytest.approx(
        [after.of(i)[1].sum() for i in start]
    )
    assert to_node_link(back) == to_node_link(load_graph(str(file)))


def test_a_topology_may_be_a_graph(runner: CliRunner) -> None:
    built = build_machine(load_topology("h100_superpod", ["topology.hosts=4"]))
    Path("net.json").write_text(to_node_link(built))
    Path("mine.yaml").write_text(
        "title: mine\nchip: h100_sxm\nchips: 32\nfabric: {kind: graph, file: net.json}\n"
        "sources: {all: test}\n"
    )
    result = runner.invoke(cli, ["show", "topology", "./mine.yaml"])
    assert result.exit_code == 0, result.output
    assert "32 devices in 4 hosts" in result.output


def test_an_astra_network_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "net.yml"
    file.write_text(
        "topology: [Ring, FullyConnected, Switch]\nnpus_count: [4, 3, 2]\n"
        "bandwidth: [200, 100, 50]\nlatency: [50, 500, 2000]\n"
    )
    built = load_graph(str(file))
    assert built.devices == 24
    cables = {link.name: (link.count, link.bandwidth_bytes_per_s) for link in built.links}
    assert cables == {"dim0": (24, 200e9), "dim1": (24, 100e9), "dim2": (24, 50e9)}
    links, _ = path(built, 0, 23)  # one step round, one direct, two by a switch
    assert sorted(built.link_bandwidth[links] / 1e9) == [50, 50, 100, 200]
    assert built.link_latency_s[links].sum() == pytest.approx(50e-9 + 500e-9 + 2 * 2000e-9)
    assert hops(built).sources == 16
    assert bisection(built) == pytest.approx(12 * 50e9)


@pytest.mark.parametrize("name", names("topology"))
def test_every_machine_can_be_drawn(name: str) -> None:
    built = build_machine(load_topology(name))
    text = picture(built)
    assert len(text) < 500_000
    words = " ".join(ElementTree.fromstring(text).itertext())
    assert f"{built.devices:,} " in words
    for node in built.nodes:
        if node.tier >= 3:
            assert f"{node.count:,} " in words
    assert text == picture(built)


def test_pictures_and_exports_are_written(runner: CliRunner) -> None:
    for line in (
        "show topology h100_superpod --chips 16384 --draw pod.html",
        "show topology h100_superpod --chips 256 --export pod.json",
    ):
        result = runner.invoke(cli, line.split())
        assert result.exit_code == 0, result.output
    page = Path("pod.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "16,384 GPU, 2,048 hosts" in page
    assert len(json.loads(Path("pod.json").read_text())["nodes"]) == 256 * 3 + 32 * 6 + 12


def test_png_without_the_library_says_what_to_do(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["show", "topology", "gb200_nvl72", "--draw", "rack.png"])
    if result.exit_code:
        assert "pip install 'cluster-sim[draw]'" in str(result.exception)
    else:
        assert Path("rack.png").read_bytes().startswith(b"\x89PNG")


def test_a_drawn_graph_has_a_row_for_every_tier(tmp_path: Path) -> None:
    file = tmp_path / "net.yml"
    file.write_text("topology: [Switch]\nnpus_count: [64]\nbandwidth: [50]\nlatency: [1]\n")
    words = " ".join(ElementTree.fromstring(picture(load_graph(str(file)))).itertext())
    assert "64 x device" in words
    assert "1 x switch" in words
