"""Figures that follow from the file of a chip, a topology or a model, as lines of text."""

from __future__ import annotations

from cluster_sim.errors import counted
from cluster_sim.machine.host import domain_devices, group_bandwidth
from cluster_sim.output.model_text import model_counts
from cluster_sim.output.tables import number
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model

GROUPS = (2, 4, 8)


def facts_of(spec: object) -> list[str]:
    """Lines about a chip, a topology or a model; none for anything else."""
    if isinstance(spec, Chip):
        return _chip(spec)
    if isinstance(spec, TopologyInput):
        return _topology(spec)
    if isinstance(spec, Model):
        return model_counts(spec)
    return []


def _chip(chip: Chip) -> list[str]:
    lines = ["computed:"]
    if chip.tpp is not None:
        lines.append(f"TPP {chip.tpp:,.0f} (largest dense TOP/s x bits)")
    if chip.performance_density is not None:
        lines.append(f"performance density {chip.performance_density:.2f} (TPP per mm2 of die)")
    if chip.scale_up is not None:
        domain = chip.scale_up.domain or 2
        links = chip.scale_up.bandwidth(domain) / 1e9
        lines.append(f"scale-up {number(links)} GB/s per direction, all links of a chip")
    peaks = [f"{dtype} {number(chip.device_peak(dtype) / 1e12)} TOP/s" for dtype in chip.peak]
    memory = f"{chip.device_memory / 2**30:.2f} GiB at {number(chip.device_bandwidth / 1e12)} TB/s"
    count = f"{chip.devices_per_chip} devices, each" if chip.devices_per_chip > 1 else "a device:"
    lines.append(f"{count} {', '.join([memory, *peaks])}")
    if "bf16" in chip.peak:
        ridge = chip.peak["bf16"] / chip.memory.bandwidth
        lines.append(f"bf16 ridge {ridge:.0f} FLOP a byte of memory")
    if chip.incomplete:
        lines.append(f"incomplete: {chip.incomplete}")
    return lines


def _topology(machine: TopologyInput) -> list[str]:
    topology, devices = machine.topology, domain_devices(machine)
    domains = -(-topology.chips // topology.domain)
    count = f"{domains} domains" if domains > 1 else "one domain"
    lines = [
        "computed:",
        f"{counted(topology.hosts, 'host')}, {count} of {counted(topology.domain, 'chip')}, "
        f"{counted(devices, 'device')}, kind {topology.scale_up.kind}",
    ]
    if topology.host_power is not None:
        lines.append(f"{topology.host_power:,.0f} W beside the chips")
    for ranks in (n for n in GROUPS if n <= devices):
        sent = group_bandwidth(machine, ranks) / 1e9
        lines.append(f"a device of {ranks} sends the others {number(sent)} GB/s")
    return lines
