"""The inside of a host beside its chips: NICs, PCIe switches, CPUs."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.errors import SpecError
from cluster_sim.machine.classes import Draft, Ends, Ints, LinkClass
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Nics:
    """The way from a device to its NIC: one cable, or two with a PCIe switch between; ``per_host``
    NICs in a host, one for ``devices_per_nic`` devices.
    """

    attach: LinkClass
    behind: LinkClass | None
    count: int
    per_host: int
    devices_per_nic: int
    bandwidth_bytes_per_s: float


def nic_bandwidth(topology: Topology, chip: Chip) -> float:
    """Bytes/s of a NIC, per direction: as the board says, else as the chip's file says."""
    board = topology.board
    if board is None:
        raise SpecError(
            "board: missing; a fabric needs to know the NICs of a host "
            "(board: {cpus: 2, cpu: ..., cpu_bandwidth: ..., pcie: ..., nic: ...})"
        )
    if board.nic_bandwidth is not None:
        return board.nic_bandwidth
    if chip.nic is None:
        raise SpecError(
            f"board.nic_bandwidth: missing; {chip.name} does not say what NIC "
            "it has; write for example '400 Gb/s'"
        )
    return chip.nic * board.chips_per_nic


def rank_nic_bandwidth(topology: Topology, chip: Chip) -> float:
    """Bytes/s that a device can send out of its domain, its share of a NIC; 0 without a fabric."""
    if topology.fabric is None or topology.board is None:
        return 0.0
    share = topology.board.chips_per_nic * chip.devices_per_chip
    return nic_bandwidth(topology, chip) / share


def add_board(
    draft: Draft, topology: Topology, chip: Chip, device: str, devices: int
) -> Nics | None:
    """Add NICs, PCIe switches and CPUs of every host; None when the board is not described."""
    board = topology.board
    if board is None:
        return None
    chips_per_host = topology.chips_per_host or topology.chips
    if chips_per_host % board.chips_per_nic:
        raise SpecError(
            f"board.chips_per_nic: {board.chips_per_nic} does not divide the "
            f"{chips_per_host} chips of a host"
        )
    per_host = chips_per_host // board.chips_per_nic
    hosts = -(-topology.chips // chips_per_host)
    count = -(-topology.chips // board.chips_per_nic)
    share = board.chips_per_nic * chip.devices_per_chip
    bandwidth = nic_bandwidth(topology, chip)
    if board.pcie_switch:
        draft.add_nodes(
            "pcie", "pcie", count, "host{0}/pcie{1}", radices=(per_host,), tier=1,
        )  # fmt: skip
    draft.add_nodes("nic", "nic", count, "host{0}/nic{1}", radices=(per_host,), tier=2)
    draft.add_nodes(
        "cpu", "cpu", hosts * board.cpus, "host{0}/cpu{1}",
        radices=(board.cpus,), tier=-1, transit=False,
    )  # fmt: skip
    near = "pcie" if board.pcie_switch else "nic"
    attach = draft.add_links(
        f"{device}-{near}", (device, near), devices, board.pcie / chip.devices_per_chip,
        _shared(share), latency_s=board.pcie_latency,
    )  # fmt: skip
    behind = None
    if board.pcie_switch:
        behind = draft.add_links(
            "pcie-nic", ("pcie", "nic"), count, max(board.pcie, bandwidth), _straight,
            latency_s=board.pcie_latency,
        )  # fmt: skip
    below, number, step = ("pcie", count, per_host) if board.pcie_switch else (
        device, devices, chips_per_host * chip.devices_per_chip,
    )  # fmt: skip
    draft.add_links(
        "cpu", (below, "cpu"), number, board.cpu_bandwidth, _to_cpu(step, board.cpus),
        latency_s=board.pcie_latency,
    )  # fmt: skip
    if board.cpus > 1 and board.cpu_interconnect is not None:
        draft.add_links(
            "cpu-cpu", ("cpu", "cpu"), hosts * (board.cpus - 1), board.cpu_interconnect,
            _chain(board.cpus),
        )  # fmt: skip
    return Nics(
        attach=attach,
        behind=behind,
        count=count,
        per_host=per_host,
        devices_per_nic=share,
        bandwidth_bytes_per_s=bandwidth,
    )


def _straight(cable: Ints) -> tuple[Ints, Ints]:
    return cable, cable


def _shared(share: int) -> Ends:
    return lambda cable: (cable, cable // share)


def _to_cpu(per_host: int, cpus: int) -> Ends:
    return lambda cable: (cable, cable // per_host * cpus + cable % per_host * cpus // per_host)


def _chain(cpus: int) -> Ends:
    """Neighbouring CPUs of a host."""
    return lambda cable: (
        cable // (cpus - 1) * cpus + cable % (cpus - 1),
        cable // (cpus - 1) * cpus + cable % (cpus - 1) + 1,
    )
