"""The collectives of an engine's step: the library that its software names, seconds alone, and the
bytes that every device sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.experts import Routing, copies
from cluster_sim.collectives.reach import word_of
from cluster_sim.collectives.shape import EXPERT_OPERATIONS, FloatArray, Priced, Shape
from cluster_sim.collectives.time import available_libraries, collective, default_library
from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import weakest
from cluster_sim.specs.collective_fits import CollectiveFits
from cluster_sim.specs.inputs import TopologyInput

# Where the provenance of a step's collectives is asked: a few hundred tokens of a large model. How
# far messages are from the timings is left out: engines send what was timed.
USUAL_BYTES = np.array([float(1 << 18)])


@dataclass(frozen=True, slots=True, kw_only=True)
class InStep:
    """Seconds by message, bytes that a device sends, and what the seconds rest on: ``far`` is the
    sigma that ranks without timings add.
    """

    library: str
    seconds: FloatArray
    sent: FloatArray
    provenance: str
    far: float

    @property
    def word(self) -> str:
        """The provenance at so many ranks."""
        return word_of(self.provenance, self.far)


def chosen_libraries(topology: TopologyInput, wanted: Sequence[str], what: str) -> list[str]:
    """Those of an engine's libraries that the chip has constants of; raises SpecError for none."""
    known = available_libraries(topology.constants)
    found = [name for name in wanted if name in known]
    if not found:
        raise SpecError(
            f"{topology.chip.name}: no constants of {', '.join(wanted) or 'any library'} for "
            f"{what}; it has {', '.join(known)}: name one of them in {what} of the software"
        )
    return found


def all_reduce(
    topology: TopologyInput, wanted: Sequence[str], shape: Shape, message: FloatArray
) -> InStep:
    """A sum of ``message`` bytes over all ranks by the first of the engine's libraries that the
    chip has constants of; custom kernels hand what is too long for them to NCCL.

    Raises SpecError where there is none.
    """
    call = _Call(topology.constants, shape, chosen_libraries(topology, wanted, "all_reduce")[0])
    found = call.priced("all_reduce", message)
    factors = {name: link_bytes(name, shape) for name in dict.fromkeys(found.algorithm)}
    sent = message * np.array([factors[name] for name in found.algorithm])
    return call.in_step(("all_reduce",), found.seconds, sent)


def link_bytes(algorithm: str, shape: Shape) -> float:
    """Bytes that a rank sends in a domain for each byte summed over all.

    Model: one-shot, to all others, n - 1. Switches that reduce: what one has goes up once, a share
    twice, 1 + 1/n. Everything else 2 (n - 1) / n. The flows of the algorithms say the same.
    """
    n = shape.ranks
    if n == 1:
        return 0.0
    if algorithm == "OneShot":
        return float(n - 1)
    if algorithm.startswith("NVLS") or (algorithm == "TwoShot" and shape.in_switch):
        return 1 + 1 / n
    return 2 * (n - 1) / n


def expert_exchange(
    topology: TopologyInput,
    wanted: Sequence[str],
    shape: Shape,
    copy_bytes: tuple[FloatArray, FloatArray],
    routing: Routing,
) -> InStep:
    """Dispatch and combine by the fastest of the engine's libraries that the chip has constants of,
    the vendor's all-to-all only where there is none for experts; ``copy_bytes`` are one copy of all
    tokens of a device on the way there and back.

    Raises SpecError where there is none.
    """
    fits = topology.constants
    found: InStep | None = None
    usable = chosen_libraries(topology, wanted, "experts")
    for library in [name for name in usable if name in fits.experts] or usable[:1]:
        call = _Call(fits, shape, library, routing)
        there, back = (
            call.priced(operation, size * routing.top_k).seconds
            for operation, size in zip(EXPERT_OPERATIONS, copy_bytes, strict=True)
        )
        kernel = fits.experts.get(library)  # type: ignore[call-overload]
        leaving = routing.top_k * (1 - 1 / shape.ranks)  # of an all-to-all: each rank its share
        if kernel is not None:
            leaving = copies(kernel, shape, routing)
        sent = leaving * (copy_bytes[0] + copy_bytes[1])
        one = call.in_step(EXPERT_OPERATIONS, there + back, sent)
        found = one if found is None else _faster(found, one)
    assert found is not None
    return found


def _faster(one: InStep, other: InStep) -> InStep:
    """At each size the faster of two; what both rest on is as weak as the weaker."""
    first = one.seconds <= other.seconds
    return InStep(
        library=f"{one.library}, {other.library}",
        seconds=np.where(first, one.seconds, other.seconds),
        sent=np.where(first, one.sent, other.sent),
        provenance=weakest((one.provenance, other.provenance)),
        far=max(one.far, other.far),
    )


def everywhere(
    topology: TopologyInput, shape: Shape, copy_bytes: tuple[FloatArray, FloatArray]
) -> InStep:
    """All tokens of every device to all devices, and the sums of what they make of them back: an
    all-gather and a reduce-scatter, where each device has a slice of all experts.
    """
    call = _Call(topology.constants, shape, default_library(topology.constants, "all_gather"))
    operations = ("all_gather", "reduce_scatter")
    there, back = (
        call.priced(operation, size * shape.ranks).seconds
        for operation, size in zip(operations, copy_bytes, strict=True)
    )
    sent = (shape.ranks - 1) * (copy_bytes[0] + copy_bytes[1])
    return call.in_step(operations, there + back, sent)


def handoff(topology: TopologyInput, shape: Shape, message: FloatArray) -> InStep:
    """Activations from a device to one of the next pipeline stage: a send and its receive."""
    call = _Call(topology.constants, shape, default_library(topology.constants, "send_recv"))
    return call.in_step(("send_recv",), call.priced("send_recv", message).seconds, message)


@dataclass(frozen=True, slots=True)
class _Call:
    """A library on a group of ranks."""

    fits: CollectiveFits
    shape: Shape
    library: str
    routing: Routing | None = None

    def priced(self, operation: str, message: FloatArray) -> Priced:
        return collective(
            self.fits, self.shape, operation, message, library=self.library, routing=self.routing
        )

    def in_step(self, operations: Sequence[str], seconds: FloatArray, sent: FloatArray) -> InStep:
        """With what operations of a usual size rest on."""
        usual = [self.priced(operation, USUAL_BYTES) for operation in operations]
        return InStep(
            library=self.library,
            seconds=seconds,
            sent=sent,
            provenance=weakest(one.provenance for one in usual),
            far=max(one.reach(0) for one in usual),
        )
