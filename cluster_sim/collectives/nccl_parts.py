"""What the forms of NCCL's collectives share: norms, speeds against those measured, hops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster_sim.collectives.nccl_tuner import Choice, tuner_s
from cluster_sim.collectives.reach import reach_sigma
from cluster_sim.collectives.shape import FloatArray, Priced, Shape
from cluster_sim.errors import SpecError
from cluster_sim.specs.collective_fits import CollectiveFits, Domain, Hosts, Nccl
from cluster_sim.specs.seen import Seen


def norm(latency: float | FloatArray, work: FloatArray, power: float) -> FloatArray:
    """Latency and work together: ``(L^p + W^p)^(1/p)``."""
    return np.asarray((latency**power + work**power) ** (1 / power), dtype=np.float64)


def family(constants: Nccl, operation: str) -> Domain:
    """The constants of an operation inside one domain."""
    return constants.all_reduce if operation == "all_reduce" else constants.gather


def hosts_of(fits: CollectiveFits, shape: Shape) -> Hosts:
    """The constants over several domains; raises SpecError where there are none, or no NIC."""
    if fits.hosts is None:
        raise SpecError(f"{fits.chip}: no constants of collectives over several domains")
    if shape.nic_bytes_per_s <= 0:
        raise SpecError("the group spans several domains, and nothing joins them; describe a NIC")
    return fits.hosts


def speed_of(fits: CollectiveFits, shape: Shape) -> float:
    """How fast the links are against those that the constants were measured on."""
    return shape.link_bytes_per_s / fits.link


def ratio(
    shape: Shape, operation: str, message: FloatArray, choice: Choice, to: Sequence[Choice]
) -> FloatArray:
    """The tuner's time of a choice over that of the fastest of some others."""
    base = np.stack([tuner_s(shape, operation, message, other) for other in to]).min(axis=0)
    return np.asarray(tuner_s(shape, operation, message, choice) / base, dtype=np.float64)


def split(best: Sequence[Choice]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choices as algorithms and protocols."""
    return tuple(a for a, _ in best), tuple(p for _, p in best)


def far_of(seen: tuple[Seen, ...], shape: Shape, message: FloatArray) -> FloatArray:
    """What the distance from some timings adds to sigma."""
    return reach_sigma(seen, shape.ranks, shape.domains, message)


def priced(
    seconds: FloatArray,
    algorithm: Sequence[str],
    protocol: Sequence[str],
    provenance: str,
    far: FloatArray | None = None,
) -> Priced:
    """Seconds with what gives them."""
    return Priced(
        seconds=seconds,
        algorithm=tuple(algorithm),
        protocol=tuple(protocol),
        provenance=provenance,
        far=far,
    )
