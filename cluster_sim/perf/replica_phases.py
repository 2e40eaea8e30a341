"""The steps of a replica as phases on the resources of a machine.

A step is its operator families, those of one kind merged: what reads memory, arithmetic, each kind
of traffic, the host. Each takes its seconds of the price list when alone, so that they add up to
the step, and uses

* of every device of the replica its SM time, and memory bytes: work that memory bounds (weights, KV
  cache, small kernels) reads at the best rate ever measured for all of its seconds;
  products that arithmetic bounds read their bytes; experts' arithmetic and prompt attention none
* of links the bytes that each device sends, evenly to the others of its group: all-reduces to the
  TP group, expert exchange to the stage, hand-offs to the next stage, swaps to the host.

Devices of a replica go in lock step, so one activity uses those of all and the slowest decides. Of
several batches, all devices do what the slowest one does.

Limits: launch floors count as their family; thread blocks and memory bytes of collectives are left
out, as is the way back of swaps; rings over several tiers of switches spread as all-to-all does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster_sim.kernels.layout import Layout
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.groups import place
from cluster_sim.machine.routes import Routing, paths
from cluster_sim.machine.scale_up import Switched
from cluster_sim.perf.family import Batch, Family, family_s
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.work import Activity, Phase, kernel, pause, traffic

MEMORY = ("gemm_weights", "attention_decode", "glue", "expert_weights")
GROUPS = {"all_reduce": "tp", "expert_exchange": "stage", "handoff": "next", "swap": "host"}
Loads = dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The shared resources of a machine: its links, numbered as there, then SMs and memory of each
    device.
    """

    machine: Machine
    hbm_bytes_per_s: float

    def sm(self, device: int) -> int:
        """The SM time of a device: one second a second."""
        return self.machine.n_links + 2 * device

    def hbm(self, device: int) -> int:
        """The memory of a device."""
        return self.machine.n_links + 2 * device + 1

    def capacity(self) -> dict[str, float]:
        """Capacity by name, in order of the numbers."""
        machine = self.machine
        found = dict(zip(machine.link_names, machine.link_bandwidth.tolist(), strict=True))
        for device in range(machine.devices):
            names = machine.resources_of(device)
            found[names["sm"]], found[names["hbm"]] = 1.0, self.hbm_bytes_per_s
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPhases:
    """One replica on its devices: what it may use, and the phases of a step.

    ``sm`` and ``hbm`` are its devices; ``loads`` are bytes on links for each byte that a device
    sends, by kind of group.
    """

    price: StepPrice
    hbm_bytes_per_s: float
    sm: tuple[int, ...]
    hbm: tuple[int, ...]
    loads: dict[str, Loads]
    capacity: dict[int, float]

    @property
    def resources(self) -> tuple[int, ...]:
        """All that it may use."""
        links = dict.fromkeys(link for load in self.loads.values() for link in load)
        return (*self.sm, *self.hbm, *links)

    @property
    def seldom(self) -> tuple[int, ...]:
        """Links that only swaps use."""
        often = {link for group, load in self.loads.items() if group != "host" for link in load}
        return tuple(link for link in self.loads.get("host", {}) if link not in often)

    @property
    def decode_tokens(self) -> int:
        """Tokens of a decoding sequence in a step."""
        return self.price.decode_tokens

    @property
    def peak(self) -> Loads:
        """The highest rate of any step on each link: bytes a second, alone."""
        found: Loads = {}
        for family in self.price.families:
            load = self.loads.get(GROUPS.get(family.name, ""), {})
            rate = _fastest(family) if load else 0.0
            for link, share in load.items():
                found[link] = max(found.get(link, 0.0), min(rate * share, self.capacity[link]))
        return found

    def phases(self, batches: Sequence[Batch]) -> list[Phase]:
        """The phases of one step of these batches side by side."""
        slowest = max(batches, key=self._own_s)
        width = self.decode_tokens
        all_tokens = sum(batch.decodes * width + batch.prefill_tokens for batch in batches)
        seconds: dict[str, float] = {}
        amounts: dict[str, float] = {}
        for family in self.price.families:
            family_seconds = float(family_s(family, slowest, all_tokens))
            if family_seconds > 0:
                kind, use = kind_of(family)
                seconds[kind] = seconds.get(kind, 0.0) + family_seconds
                if use is not None:
                    amount = float(family_s(use, slowest, all_tokens))
                    amounts[kind] = amounts.get(kind, 0.0) + amount
        return [
            Phase(name=kind, activity=self._activity(kind, alone_s, amounts.get(kind, 0.0)))
            for kind, alone_s in seconds.items()
        ]

    def _own_s(self, batch: Batch) -> float:
        """Seconds of a batch before what all share."""
        *consists, swapped = batch
        return self.price.step_s(*consists) + self.price.swap_s * swapped  # type: ignore[arg-type]

    def _activity(self, kind: str, alone_s: float, amount: float) -> Activity:
        demand = self.demand(kind, alone_s, amount)
        if not demand:
            return pause(alone_s)
        if kind in GROUPS:
            most = {link: self.capacity[link] * alone_s for link in demand}
            return traffic(alone_s, {link: min(demand[link], most[link]) for link in demand})
        return kernel(alone_s, demand)

    def demand(self, kind: str, alone_s: float, amount: float) -> Loads:
        """What a phase uses of each resource in all; nothing where it shares none."""
        if kind == "host":
            return {}
        if kind in GROUPS:
            load = self.loads.get(GROUPS[kind], {}) if amount > 0 else {}
            return {link: amount * share for link, share in load.items()}
        found = dict.fromkeys(self.sm, alone_s)
        if amount > 0:
            read = min(amount, alone_s) * self.hbm_bytes_per_s
            found.update(dict.fromkeys(self.hbm, read))
        return found


def kind_of(family: Family) -> tuple[str, Family | None]:
    """The kind of phase that a family is a part of, and the amount that it uses of what that kind
    shares (None: nothing).
    """
    if family.name in MEMORY:
        return "memory", family
    if family.use is not None or family.name in (*GROUPS, "host"):
        return family.name, family.use
    return "math", None


def _fastest(family: Family) -> float:
    """The largest amount a second of a kind of traffic, over all steps."""
    use, best = family.use, 0.0
    for name in ("tokens_s", "shared_s", "swap_s") if use is not None else ():
        seconds, amount = getattr(family, name), getattr(use, name)
        if seconds is None or amount is None:
            continue
        took, moved = np.atleast_1d(seconds), np.atleast_1d(amount)
        rates = np.divide(moved, took, out=np.zeros_like(moved, dtype=float), where=took > 0)
        best = max(best, float(rates.max()))
    return best


def replica_phases(
    resources: Resources, price: StepPrice, layout: Layout, replicas: int, *, swaps: bool
) -> list[ReplicaPhases]:
    """All replicas of a plan, on the devices in order, none across a scale-up domain; ``swaps``:
    preempted sequences may go to the host.
    """
    machine = resources.machine
    devices = place(machine, {"devices": layout.devices, "replicas": replicas})
    found = []
    for mine in devices.reshape(replicas, layout.devices):
        loads = _loads(machine, layout, mine, swaps=swaps)
        links = sorted({link for load in loads.values() for link in load})
        bandwidth = machine.link_bandwidth[links].tolist()
        found.append(
            ReplicaPhases(
                price=price,
                hbm_bytes_per_s=resources.hbm_bytes_per_s,
                sm=tuple(resources.sm(device) for device in mine.tolist()),
                hbm=tuple(resources.hbm(device) for device in mine.tolist()),
                loads=loads,
                capacity=dict(zip(links, bandwidth, strict=True)),
            )
        )
    return found


def _loads(machine: Machine, layout: Layout, devices: Ints, *, swaps: bool) -> dict[str, Loads]:
    """Bytes on links for a byte that each device sends, by kind of group."""
    stages = devices.reshape(-1, layout.stage_devices)
    found = {"host": _to_host(machine, devices)} if swaps else {}
    if layout.tp > 1:
        found["tp"] = _spread(machine, devices.reshape(-1, layout.tp))
    if layout.attn_dp > 1:
        found["stage"] = _spread(machine, stages)
    if layout.pp > 1:
        found["next"] = _flows(machine, devices, np.roll(stages, -1, axis=0).reshape(-1), 1.0)
    return found


def _spread(machine: Machine, groups: Ints) -> Loads:
    """Everybody sends a byte, in equal parts to the others of its group."""
    size = groups.shape[1]
    sources = np.tile(groups.reshape(-1), size - 1)
    targets = np.concatenate([np.roll(groups, -k, axis=1).reshape(-1) for k in range(1, size)])
    return _flows(machine, sources, targets, 1.0 / (size - 1))


def _flows(machine: Machine, sources: Ints, targets: Ints, size: float) -> Loads:
    routes = paths(machine, sources, targets, routing=Routing(mode="adaptive"))
    links, place_of = np.unique(routes.links, return_inverse=True)
    loads = np.bincount(place_of, weights=routes.shares * size)
    return dict(zip(links.tolist(), loads.tolist(), strict=True))


def _to_host(machine: Machine, devices: Ints) -> Loads:
    """The way of each device into its host: over a PCIe switch to the CPU, or a card's own slot."""
    shape = machine.shape
    if shape is None:
        return {}
    if shape.nics is not None:
        nics, ways = shape.nics, [devices]
        hops = [machine.link_class("cpu")]
        if nics.behind is not None:
            ways, hops = [devices, devices // nics.devices_per_nic], [nics.attach, *hops]
    elif isinstance(shape.scale_up, Switched) and machine.node_class("switch").kind == "pcie":
        ways, hops = [devices], list(shape.scale_up.links)
    else:
        return {}
    found: Loads = {}
    for way, hop in zip(ways, hops, strict=True):
        for link in hop.forward(way).tolist():
            found[link] = found.get(link, 0.0) + 1.0
    return found
