"""From a topology to a machine: counts first, arrays and graphs when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster_sim.errors import SpecError, nearest
from cluster_sim.machine.board import Nics, add_board
from cluster_sim.machine.classes import Draft, Machine
from cluster_sim.machine.scale_out import Dragonfly, Tree, add_scale_out
from cluster_sim.machine.scale_up import Package, ScaleUpShape, add_scale_up
from cluster_sim.specs.inputs import TopologyInput

DEVICE_WORDS = {"Huawei": "npu", "Google": "tpu", "Cambricon": "mlu"}
# The fastest NIC port on sale or announced: 1.6 Tb/s (ConnectX-9, 2026).
FASTEST_NIC_BYTES_PER_S = 200e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What index arithmetic needs to route: packages, domains, NICs, the tree above."""

    package: Package | None
    scale_up: ScaleUpShape
    nics: Nics | None
    scale_out: Tree | Dragonfly | None


def build_machine(machine: TopologyInput) -> Machine:
    """The machine that a topology describes; raises SpecError where it cannot be built."""
    try:
        return _build(machine)
    except SpecError as error:
        raise SpecError([locate(machine, problem) for problem in error.problems]) from None


def locate(machine: TopologyInput, problem: str) -> str:
    """``key: text`` with the file and line of the key in front."""
    from cluster_sim.specs.yaml_text import located

    record = machine.files[0]
    return located(record.text, record.path, problem)


def _build(machine: TopologyInput) -> Machine:
    topology, chip = machine.topology, machine.chip
    fabric = topology.fabric
    if machine.graph is not None:
        from cluster_sim.machine.exchange import parse_graph

        drawn = parse_graph(machine.graph.text, machine.graph.path, topology.name)
        return drawn.with_faults(faulty(drawn, topology.faults)) if topology.faults else drawn
    draft = Draft()
    word = DEVICE_WORDS.get(chip.vendor, "gpu")
    per_chip, chips_per_host = chip.devices_per_chip, topology.chips_per_host or topology.chips
    devices = topology.chips * per_chip
    die = "/die{2}" if per_chip > 1 else ""
    draft.add_nodes(
        word,
        "device",
        devices,
        f"host{{0}}/{word}{{1}}{die}",
        radices=(chips_per_host, per_chip) if per_chip > 1 else (chips_per_host,),
        tier=0,
        transit=topology.scale_up.inner is not None and topology.scale_up.inner.kind == "torus",
    )
    package, scale_up = add_scale_up(draft, topology, word, devices, per_chip)
    outside = 2 * sum(link.count for link in draft.links)
    nics = add_board(draft, topology, chip, word, devices)
    scale_out = None
    if fabric is not None:
        if nics is None:
            raise SpecError("fabric: needs the NICs of a host; describe its board")
        _warn_bits(draft, machine, "board.nic_bandwidth", nics.bandwidth_bytes_per_s)
        if fabric.link is not None:
            _warn_bits(draft, machine, "fabric.link", fabric.link)
        scale_out = add_scale_out(draft, fabric, nics)
    result = Machine(
        name=topology.name,
        devices=devices,
        devices_per_chip=per_chip,
        devices_per_host=chips_per_host * per_chip,
        devices_per_domain=topology.domain * per_chip,
        nodes=tuple(draft.nodes),
        links=tuple(draft.links),
        shape=Shape(package=package, scale_up=scale_up, nics=nics, scale_out=scale_out),
        routing=fabric.routing if fabric is not None else "adaptive",
        pxn=fabric.pxn if fabric is not None else True,
        notes=tuple(draft.notes),
        outside=outside,
    )
    if fabric is not None and fabric.routes:
        from cluster_sim.machine.routes import static_routes

        result = replace(result, static=static_routes(result, fabric.routes))
    return result.with_faults(faulty(result, topology.faults)) if topology.faults else result


def faulty(machine: Machine, faults: Mapping[str, float]) -> dict[int, float]:
    """Both directions of cables that are named by their ends, with the bandwidth that is left.

    Raises SpecError for names of no cable, with the nearest, and for more than the cable has.
    """
    number = {name: link for link, name in enumerate(machine.link_names)}
    found, problems = {}, []
    for name, rate in faults.items():
        ends, mark, copy = name.partition("#")
        here, _, there = ends.partition(">")
        ways = [number.get(f"{a}>{b}{mark}{copy}") for a, b in ((here, there), (there, here))]
        links = [link for link in ways if link is not None]
        if len(links) < len(ways):
            near = nearest(name, number)
            hint = f"; did you mean '{near[0]}'?" if near else "; write its ends as a>b"
            problems.append(f"faults.{name}: no such cable in {machine.name}{hint}")
            continue
        whole = float(machine.link_bandwidth[links[0]])
        if rate > whole:
            problems.append(f"faults.{name}: the cable has {whole / 1e9:g} GB/s when whole")
        found.update(dict.fromkeys(links, rate))
    if problems:
        raise SpecError(problems)
    return found


def _warn_bits(draft: Draft, machine: TopologyInput, key: str, bandwidth: float) -> None:
    """A port that is eight times the chip's NIC, or faster than any, was meant in bits."""
    known = machine.chip.nic
    if bandwidth > FASTEST_NIC_BYTES_PER_S or (known and bandwidth == 8 * known):
        draft.notes.append(
            f"{key}: {bandwidth / 1e9:g} GB/s are {bandwidth * 8 / 1e9:g} Gb/s a port"
            + (f", the chip's file says {known * 8 / 1e9:g} Gb/s" if known else "")
            + f"; if {bandwidth / 1e9:g} Gb/s was meant (= {bandwidth / 8e9:g} GB/s), write it so"
        )
