"""ASTRA-sim networks wherever a topology is taken, once they are given a chip."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.collectives.group import make_group
from cluster_sim.errors import SpecError
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.exchange import load_graph
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology

H100 = ("--set", "topology.chip=h100_sxm")


def network(kinds: str, counts: str, bandwidth: str) -> str:
    latency = ", ".join("500" for _ in counts.split(","))
    return (
        f"topology: [{kinds}]\nnpus_count: [{counts}]\n"
        f"bandwidth: [{bandwidth}]  # GB/s\nlatency: [{latency}]  # ns\n"
    )


def loaded(tmp_path: Path, text: str, *more: str) -> TopologyInput:
    path = tmp_path / "net.yml"
    path.write_text(text)
    return load_topology(str(path), ["topology.chip=h100_sxm", *more])


@pytest.mark.parametrize(
    ("kinds", "counts", "bandwidth", "domain", "inside", "outside"),
    [
        ("Switch", "8", "400", 8, 400e9, 0),
        ("FullyConnected", "4", "25", 4, 75e9, 0),
        ("Ring", "4", "50", 4, 100e9, 0),
        ("Ring", "2", "50", 2, 50e9, 0),
        ("Ring, Ring", "4, 8", "80, 80", 32, 320e9, 0),
        ("Ring, Ring", "4, 8", "80, 40", 4, 160e9, 80e9),
        ("Switch, Switch", "8, 4", "400, 50", 8, 400e9, 50e9),
        ("Ring, FullyConnected, Switch", "2, 8, 4", "200, 100, 50", 2, 200e9, 50e9),
        ("Switch, FullyConnected", "8, 3", "400, 10", 8, 400e9, 20e9),
        ("Switch, Switch", "1, 4", "400, 50", 4, 50e9, 0),
    ],
)
def test_the_topology_of_a_network(
    tmp_path: Path,
    kinds: str,
    counts: str,
    bandwidth: str,
    domain: int,
    inside: float,
    outside: float,
) -> None:
    found = loaded(tmp_path, network(kinds, counts, bandwidth))
    machine = build_machine(found)
    graph = load_graph(str(tmp_path / "net.yml"))
    assert found.topology.chips == machine.devices == graph.devices
    assert found.topology.domain == machine.devices_per_domain == graph.devices_per_domain == domain
    everybody = make_group(found, range(machine.devices), machine=machine).shape
    assert everybody.link_bytes_per_s == pytest.approx(inside)
    assert not outside or everybody.nic_bytes_per_s == pytest.approx(outside)
    assert machine.links == graph.links


def test_single_values_are_lists_of_one(tmp_path: Path) -> None:
    found = loaded(tmp_path, "topology: Ring\nnpus_count: 4\nbandwidth: [50]\nlatency: 500\n")
    assert found.topology.chips == 4


def test_what_a_network_leaves_open(tmp_path: Path) -> None:
    text = network("Switch, Switch", "8, 4", "400, 50")
    found = loaded(tmp_path, text, "topology.host_power=9 kW", "chip.tdp=500 W")
    assert (found.topology.host_power, found.chip.tdp) == (9000, 500)
    for key, value in (("chips", 8), ("scale_up.domain", 4), ("fabric.kind", "planes")):
        with pytest.raises(SpecError, match="net.yml is an ASTRA-sim network, which says that"):
            loaded(tmp_path, text, f"topology.{key}={value}")
    for chip, says in (
        ("ascend_910c", "is one device, ascend_910c has 2"),
        ("rtx4090", "rtx4090 describes no host, .* add --set for topology.board.cpus, "),
    ):
        with pytest.raises(SpecError, match=says):
            load_topology(str(tmp_path / "net.yml"), [f"topology.chip={chip}"])
    (tmp_path / "net.yml").write_text(network("Switch", "8", "400"))
    assert load_topology(str(tmp_path / "net.yml"), ["topology.chip=rtx4090"]).topology.chips == 8
    (tmp_path / "net.yml").write_text(text)
    with pytest.raises(SpecError, match="names no chip; add --set topology.chip=NAME"):
        load_topology(str(tmp_path / "net.yml"))


@pytest.mark.parametrize(
    ("kinds", "counts", "says"),
    [
        ("Ring", "9999999", "net.yml:2: npus_count: 9,999,999 NPUs; at most 1,000,000"),
        ("FullyConnected", "20000", "199,990,000 links; at most 4,000,000"),
    ],
)
def test_networks_that_nothing_holds(tmp_path: Path, kinds: str, counts: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        loaded(tmp_path, network(kinds, counts, "50"))


def told(runner: CliRunner, line: str, *more: str) -> Result:
    Path("net.yml").write_text(network("Switch, Switch", "8, 2", "400, 50"))
    micro = "micro\t-1\t1\tNONE\t0\t1\tNONE\t0\t1\tALLREDUCE\t4096\t1"
    Path("work.txt").write_text(f"MICRO\n1\n{micro}\n")
    return runner.invoke(cli, [*line.split(), *more])


LINES = (
    "collective --topo ./net.yml --bytes 1MiB",
    "replay --topo ./net.yml work.txt",
    "explain --topo ./net.yml --workload llama8b --rate 5",
    "explain --topo ./net.yml --workload llama3_8b_train",
    "show topology ./net.yml",
)


@pytest.mark.parametrize("line", LINES)
def test_every_command_takes_a_network(runner: CliRunner, line: str) -> None:
    done = told(runner, line, *H100)
    assert done.exit_code == 0, (done.output, done.exception)
    without = told(runner, line)
    if line.startswith("show"):
        assert without.exit_code == 0
    else:
        assert isinstance(without.exception, SpecError)
        assert "add --set topology.chip=NAME, such as h100_sxm" in str(without.exception)


def test_what_is_no_network(runner: CliRunner) -> None:
    assert told(runner, "check ./net.yml").output == "./net.yml: ok (topology)\n"
    done = told(runner, "run --topo ./net.yml --workload llama8b --chips 8", *H100)
    assert "--chips: ./net.yml is an ASTRA-sim network" in str(done.exception)
    told(runner, "show topology h200_nvl8 --export graph.json")
    done = told(runner, "collective --topo ./graph.json")
    assert "is a graph of nodes and links, which names no chip; write a topology" in str(
        done.exception
    )
