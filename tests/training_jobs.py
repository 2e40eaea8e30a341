"""Training jobs of tests: machines, workloads, networks without latency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cluster_sim.collectives.network import Axis, Network
from cluster_sim.collectives.shape import bus_factor
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import load_topology
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.training_software import TrainingSoftware
from cluster_sim.training.closed import Step
from cluster_sim.training.job import make_job
from cluster_sim.training.memory import Memory, memory_of
from cluster_sim.training.play import played_step
from cluster_sim.training.priced import Priced, price


@dataclass(frozen=True)
class Wires(Network):
    """A network whose collectives take the time of their bytes on the wire, and no latency."""

    def seconds(self, operation: str, axis: Axis, message_bytes: float) -> float:
        link, nic = self.moved(operation, axis, message_bytes)
        shape = axis.shape
        return link / shape.link_bytes_per_s + (nic / shape.nic_bytes_per_s if nic else 0.0)

    def moved(self, operation: str, axis: Axis, message_bytes: float) -> tuple[float, float]:
        """Bytes that a rank sends into its domain and over its NIC.

        Model: the bus factor of the operation over the ranks of a domain, and over the domains for
        the part of the message that each of them passes on.
        """
        inside, domains = axis.shape.per_domain, axis.domains
        link = bus_factor(operation, inside) * message_bytes if inside > 1 else 0.0
        if domains == 1:
            return link, 0.0
        if operation in ("all_to_all", "send_recv"):
            out = message_bytes * (1 - inside / axis.ranks)
            return message_bytes * (inside - 1) / axis.ranks, out
        return link, bus_factor(operation, domains) * message_bytes / inside


def wires(machine: TopologyInput) -> Wires:
    return Wires(machine)


def pod(chips: int, *changes: str) -> TopologyInput:
    """H100 in hosts of eight, or fewer of one host."""
    if chips < 8:
        return load_topology(f"{chips}xh100_sxm", changes)
    return load_topology("h100_superpod", [f"topology.chips={chips}", *changes])


def quick_links(chips: int, factor: float) -> TopologyInput:
    """The same with links, NICs, the way to them and the fabric so many times as fast."""
    return pod(
        chips,
        f"topology.scale_up.link_bandwidth={25 * factor:.0f} GB/s",
        f"topology.board.nic_bandwidth={50 * factor:.0f} GB/s",
        f"topology.board.pcie={63 * factor:.0f} GB/s",
        f"topology.fabric.link={50 * factor:.0f} GB/s",
    )


def job(name: str = "llama3_70b_train", **changes: Any) -> TrainingInput:
    """A workload with a plain plan; keys of the plan are written ``plan__tp=4``."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_training(name, (), {"plan": {}, "precision": "bf16", **dotted})


def plain(software: TrainingSoftware) -> TrainingSoftware:
    """The same without what does not belong to a pipeline: host, stragglers, SMs taken by
    collectives; all of tensor parallelism shows.
    """
    experts = replace(software.experts, sync=0.0, launch=0.0, exposed=1.0, exposed_nic=1.0)
    return replace(
        software, layer=0.0, step=0.0, scale=0.0, scale_fp8=0.0, comm_sms=0.0, exposed_tp=1.0,
        exposed_cp=1.0, experts=experts,
    )  # fmt: skip


def bare(given: TrainingInput) -> TrainingInput:
    return replace(given, software=plain(given.software))


def priced(machine: TopologyInput, given: TrainingInput, network: Network | None = None) -> Priced:
    return price(make_job(machine, given, network=network))


def step(machine: TopologyInput, given: TrainingInput, network: Network | None = None) -> Step:
    return played_step(priced(machine, given, network))[0]


def memory(machine: TopologyInput, given: TrainingInput) -> Memory:
    return memory_of(priced(machine, given))
