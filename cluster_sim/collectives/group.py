"""Ranks on a concrete machine: who shares a domain, how a library sees them, and which groups do
the same at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from cluster_sim.collectives.ranks import by_domain, shape_of, widest
from cluster_sim.collectives.shape import Shape
from cluster_sim.errors import DoesNotFitError
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.specs.collective_fits import CollectiveFits
from cluster_sim.specs.inputs import TopologyInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks on devices of a machine. ``members`` are the devices of each domain in rank order;
    ``fits`` the constants of the chip; ``rows`` all groups that do the same at the same time, of
    which this is one.
    """

    machine: Machine
    devices: Ints
    members: tuple[Ints, ...]
    shape: Shape
    fits: CollectiveFits
    rows: Ints

    @property
    def key(self) -> str:
        """Tells groups on one machine apart."""
        placed = blake2b(np.ascontiguousarray(self.rows).tobytes(), digest_size=16).hexdigest()
        return f"{self.shape} {self.rows.shape} {placed}"


def make_group(
    topology: TopologyInput,
    devices: Sequence[int] | Ints,
    *,
    machine: Machine | None = None,
    sharp: bool = False,
) -> Group:
    """The group of ranks on ``devices`` (one rank each, in this order); ``sharp``: the switches of
    the fabric reduce.

    Raises DoesNotFitError for devices that are not there or are named twice, SpecError when the
    chip has no constants of collectives.
    """
    return groups_at_once(topology, np.atleast_2d(devices), machine=machine, sharp=sharp)


def groups_at_once(
    topology: TopologyInput,
    rows: Ints,
    *,
    machine: Machine | None = None,
    sharp: bool = False,
) -> Group:
    """The group that stands in most domains of several, a row of devices each, that run the same
    collective at the same time. Raises as ``make_group`` does.
    """
    machine = machine or build_machine(topology)
    rows = np.asarray(rows, dtype=np.int64)
    if not rows.size or rows.min() < 0 or rows.max() >= machine.devices:
        raise DoesNotFitError(
            f"a group of {rows.shape[1]} ranks on devices up to {int(rows.max(initial=0))} does "
            f"not fit on {machine.name}, which has {machine.devices}; take fewer ranks"
        )
    if (np.bincount(rows.ravel()) > 1).any():
        raise DoesNotFitError("two ranks on one device; name each device once")
    worst = widest(rows, machine.devices_per_domain)
    members = by_domain(worst, machine.devices_per_domain)
    shape = shape_of(topology, worst, machine=machine, sharp=sharp)
    return Group(
        machine=machine,
        devices=worst,
        members=members,
        shape=shape,
        fits=topology.constants,
        rows=rows,
    )
