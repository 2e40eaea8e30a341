"""How long a collective takes alone, by library: one function for all."""

from __future__ import annotations

from cluster_sim.collectives.custom import custom_all_reduce, kernels_of
from cluster_sim.collectives.experts import Routing, exchange
from cluster_sim.collectives.hccl import hccl
from cluster_sim.collectives.nccl import nccl
from cluster_sim.collectives.shape import (
    EXPERT_OPERATIONS,
    LIBRARIES,
    OPERATIONS,
    FloatArray,
    Priced,
    Shape,
)
from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.collective_fits import CollectiveFits

NCCL_CALLS = ("nccl", "nccl_2.18", "nccl_torch")
CUSTOM = ("trtllm_custom", "vllm_custom", "sglang_custom")


def default_library(fits: CollectiveFits, operation: str) -> str:
    """What is called when nothing is said: the vendor's library, DeepEP for experts."""
    if operation in EXPERT_OPERATIONS and fits.experts:
        return "deepep_normal"
    return "nccl" if fits.nccl is not None else "hccl"


def available_libraries(fits: CollectiveFits) -> tuple[str, ...]:
    """The libraries that there are constants of."""
    custom = [name for name in CUSTOM if kernels_of(fits, name) is not None]
    own = [("nccl",) if fits.nccl is not None else (), ("hccl",) if fits.hccl is not None else ()]
    return tuple(name for names in (custom, fits.experts, *own) for name in names)


def collective(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    *,
    library: str | None = None,
    algorithm: str | None = None,
    protocol: str | None = None,
    routing: Routing | None = None,
) -> Priced:
    """Seconds of a collective alone for each message size, with the algorithm and protocol used.

    Sizes follow nccl-tests; for experts they are nominal. Raises SpecError for unknown names, for
    what the library or the fabric cannot do, and without constants.
    """
    operation = known_name("operation", operation, OPERATIONS)
    library = known_name("library", library or default_library(fits, operation), LIBRARIES)
    if library not in NCCL_CALLS and protocol is not None:
        raise SpecError(f"{library} has no protocols to choose; leave the protocol out")
    if library == "hccl":
        if operation in EXPERT_OPERATIONS:
            operation = "all_to_all"
        return hccl(fits, shape, operation, message, algorithm)
    if library in NCCL_CALLS:
        wire = message
        if operation in EXPERT_OPERATIONS:
            operation, wire = "all_to_all", message * (routing.imbalance if routing else 1.0)
        return nccl(
            fits, shape, operation, wire, algorithm=algorithm, protocol=protocol, call=library
        )
    if algorithm is not None:
        raise SpecError(f"{library} chooses its algorithm itself; leave the algorithm out")
    if library in CUSTOM:
        if operation != "all_reduce":
            raise SpecError(f"{library} does all_reduce, not {operation}; use nccl")
        return custom_all_reduce(fits, library, shape, message)
    return exchange(fits, library, shape, operation, message, routing or Routing())


def known_name(what: str, name: str, known: tuple[str, ...]) -> str:
    """``name`` as we write it, ``-`` for ``_`` and any case; raises SpecError with the nearest."""
    plain = name.lower().replace("-", "_")
    if plain in known:
        return plain
    near = nearest(plain, known)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise SpecError(f"no {what} named '{name}'{hint or '.'} There are {', '.join(known)}")
