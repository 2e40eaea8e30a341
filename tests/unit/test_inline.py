"""Topologies written inline, and what a topology takes from its chip."""

from __future__ import annotations

import dataclasses

import pytest

from cluster_sim.errors import ClusterSimError
from cluster_sim.machine.host import domain_devices, replicas_in
from cluster_sim.specs.find import find, names
from cluster_sim.specs.load import load_topology
from cluster_sim.specs.schema import forms, json_schema


@pytest.mark.parametrize(
    ("text", "name", "chips", "per_host", "domain"),
    [
        ("4 x h200_sxm", "4xh200_sxm", 4, 4, 4),
        ("4xH200-SXM", "4xh200_sxm", 4, 4, 4),
        (" 4 × h200 sxm", "4xh200_sxm", 4, 4, 4),
        ("16 x h100_sxm", "16xh100_sxm", 16, 8, 8),
        ("16 x h100_sxm, 8 per host", "16xh100_sxm-8perhost", 16, 8, 8),
        ("16 x h100_sxm, 4 per host", "16xh100_sxm-4perhost", 16, 4, 4),
        ("16xh100_sxm-4perhost", "16xh100_sxm-4perhost", 16, 4, 4),
        ("72 x gb200", "72xgb200", 72, 4, 72),
        ("8 x gb200, 2 per host", "8xgb200-2perhost", 8, 2, 8),
        ("8 x h100_pcie", "8xh100_pcie", 8, 8, 2),
        ("16 x l40s", "16xl40s", 16, 8, 8),
        ("20 x l40s, 10 per host", "20xl40s-10perhost", 20, 10, 10),
        ("384 x ascend_910c", "384xascend_910c", 384, 8, 384),
    ],
)
def test_an_inline_text_is_a_topology(
    text: str, name: str, chips: int, per_host: int, domain: int
) -> None:
    topology = load_topology(text).topology
    assert topology.name == name
    assert (topology.chips, topology.chips_per_host, topology.domain) == (chips, per_host, domain)
    assert load_topology(name).topology == topology


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4 x h200_sxn", "did you mean 'h200_sxm'"),
        ("0 x h200_sxm", "chips must be a whole number from 1"),
        ("-4 x h200_sxm", "chips must be a whole number from 1"),
        ("4.5 x h200_sxm", "chips must be a whole number from 1"),
        ("9999999 x h200_sxm", "from 1 to 100,000"),
        ("four x h200_sxm", "is no topology; write '4 x h200_sxm'"),
        ("4 h200_sxm", "is no topology; write '4 x h200_sxm'"),
        ("h200_sxm, 8 per host", "is no topology; write '4 x h200_sxm'"),
        ("4 x", "names no chip"),
        ("4 x ,", "names no chip"),
        ("16 x h100_sxm, 0 per host", "chips per host must be a whole number"),
        ("16 x h100_sxm, 8 per host, 4 per host", "given twice"),
        ("16 x h100_sxm, 8 per rack", "cannot read '8 per rack'"),
        ("16 x h100_sxm, 8 per host, ib400", "'ib400' would have no effect: the network between"),
        ("16 x h100_sxm, roce400", "'roce400' would have no effect"),
        ("17 x tpu_v6e", "no block of a torus of 16 x 16 has 17 chips"),
    ],
)
def test_a_bad_inline_text_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ClusterSimError, match=says.replace("(", r"\(")):
        load_topology(text)


def test_a_file_of_a_name_comes_before_the_inline_reading(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    from pathlib import Path

    Path("topologies").mkdir()
    Path("topologies/4xh200_sxm.yaml").write_text("extends: h100_nvl8\n")
    assert find("topology", "4xh200_sxm").origin == "cwd"
    assert load_topology("4xh200_sxm").chip.name == "h100_sxm"


PODS = ("_pod", "_superpod", "_example", "x2")  # a fabric, or links that no chip's file has


@pytest.mark.parametrize("name", [n for n in names("topology") if not n.endswith(PODS)])
def test_a_packaged_machine_is_the_inline_one(name: str) -> None:
    """But for name and title; files that differ from their chip say in which."""
    machine = load_topology(name).topology
    inline = load_topology(f"{machine.chips} x {machine.chip}").topology
    changed = {"gb200_nvl36": {"scale_up"}, "gh200_96g_1": {"chips_per_host"}}
    changed["gh200_144g_1"] = changed["gh200_96g_1"]
    for field in dataclasses.fields(machine):
        if field.name not in {"name", "title", "sources", *changed.get(name, ())}:
            assert getattr(machine, field.name) == getattr(inline, field.name), field.name


def test_both_names_of_the_h20_host_are_one_machine() -> None:
    one, other = (load_topology(name) for name in ("h20_nvl8", "h20_96g_nvl8"))
    assert (one.chip, one.fits) == (other.chip, other.fits)
    assert dataclasses.replace(one.topology, name="") == dataclasses.replace(
        other.topology, name=""
    )


def test_links_of_a_topology_change_or_replace_those_of_the_chip() -> None:
    halved = load_topology("8 x h200_sxm", ["topology.scale_up.link_bandwidth=12.5 GB/s"])
    assert halved.topology.scale_up.links_per_switch == (5, 4, 4, 5)
    assert halved.topology.scale_up.link_bandwidth == 12.5e9
    pcie = "topology.scale_up={technology: PCIe, kind: host, link_bandwidth: 63 GB/s}"
    assert load_topology("8 x h200_sxm", [pcie]).topology.scale_up.links_per_switch == ()


@pytest.mark.parametrize(
    ("text", "devices", "tp", "replicas"),
    [
        ("8 x h200_sxm", 8, 2, 4),
        ("12 x h200_sxm", 8, 8, 1),  # the last four are no domain of eight
        ("12 x h200_sxm", 8, 4, 3),
        ("4 x h200_sxm", 4, 8, 0),
        ("8 x h200_nvl", 4, 4, 2),
        ("72 x gb200", 72, 16, 4),
        ("100 x gb200", 72, 16, 5),
        ("3 x ascend_910c", 6, 4, 1),
        ("16 x ascend_910b", 8, 8, 2),
        ("384 x ascend_910c", 768, 320, 2),
    ],
)
def test_replicas_never_cross_domains(text: str, devices: int, tp: int, replicas: int) -> None:
    machine = load_topology(text)
    assert domain_devices(machine) == devices
    assert replicas_in(machine, tp) == replicas


def test_the_schema_lets_a_topology_take_its_links_from_the_chip() -> None:
    assert set(forms(json_schema("topology"))[0]["required"]) == {
        *("title", "sources", "chip", "chips")
    }


@pytest.mark.parametrize(
    ("text", "shape", "links"),
    [
        ("1 x tpu_v5p", (1, 1, 1), 0),
        ("2 x tpu_v5p", (1, 1, 2), 1),
        ("4 x tpu_v5p", (1, 2, 2), 2),
        ("8 x tpu_v5p", (2, 2, 2), 3),
        ("64 x tpu_v5p", (4, 4, 4), 6),
        ("96 x tpu_v7", (4, 4, 6), 6),
        ("256 x tpu_v6e", (16, 16), 4),
    ],
)
def test_chips_of_a_torus_fill_a_block(text: str, shape: tuple[int, ...], links: int) -> None:
    topology = load_topology(text).topology
    inner = topology.scale_up.inner
    assert inner is not None
    assert tuple(sorted(inner.shape)) == shape
    whole = topology.scale_up.bandwidth(topology.chips)
    assert whole == links * topology.scale_up.link_bandwidth


def test_groups_in_a_torus_have_the_links_of_their_block() -> None:
    scale_up = load_topology("512 x tpu_v5p").topology.scale_up
    links = [scale_up.bandwidth(n) / scale_up.link_bandwidth for n in (1, 2, 4, 8, 64, 512)]
    assert links == [0, 1, 2, 3, 3, 6]
