"""All-reduce kernels of TensorRT-LLM, vLLM and SGLang for short messages inside one domain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.hccl import hccl
from cluster_sim.collectives.nccl import nccl
from cluster_sim.collectives.reach import reach_sigma
from cluster_sim.collectives.shape import FloatArray, Priced, Shape
from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Provenance
from cluster_sim.specs.collective_fits import CollectiveFits, Custom

MOST_RANKS = 8  # the kernels know no more ranks; beyond, the engines call NCCL


def custom_all_reduce(fits: CollectiveFits, name: str, shape: Shape, message: FloatArray) -> Priced:
    """Seconds of an engine's all-reduce: one-shot, two-shot, then NCCL as messages grow.

    Model: one-shot, every rank reads all others: latency + S (n - 1) / B. Two-shot: latency + wire
    / B with 2 S (n - 1) / n, or S (1 + 1/n) where the switches do it. NCCL above the library's
    limit, over several domains, over PCIe and on more than eight ranks. Never less than on fewer
    ranks, by halves: limits differ, and single sizes were measured to be faster on more. Chips
    of HCCL have no such kernels, the engines call HCCL there.

    Raises SpecError without constants.
    """
    custom = kernels_of(fits, name)
    if custom is None and fits.nccl is None:
        return hccl(fits, shape, "all_reduce", message)
    if custom is None:
        have = ", ".join(fits.custom) or "none"
        raise SpecError(f"{fits.chip}: no constants of {name} (it has {have}); use nccl")
    if shape.pcie or shape.ranks == 1:
        return nccl(fits, shape, "all_reduce", message)
    if shape.domains > 1:
        found = nccl(fits, shape, "all_reduce", message)
    else:
        found = _alone(custom, fits, shape, message)
    seconds, fewer = found.seconds, replace(shape, domains=1, hosts=1, in_network=False)
    own = _by_kernel(found)
    for ranks in _fewer(shape):
        least = _alone(custom, fits, replace(fewer, ranks=ranks), message)
        counts = own | _by_kernel(least)  # where neither is a kernel NCCL has said it itself
        seconds = np.where(counts, np.maximum(seconds, least.seconds), seconds)
    return replace(found, seconds=seconds)


def _fewer(shape: Shape) -> list[int]:
    """Ranks of a domain that take no longer: halves of halves; where NCCL follows on the kernels,
    on more ranks or domains, all that those know.
    """
    if shape.per_domain > MOST_RANKS:
        return list(range(2, MOST_RANKS + 1))
    found = [shape.per_domain]
    while found[-1] > 2:
        found.append(-(-found[-1] // 2))
    return [ranks for ranks in found if 1 < ranks < shape.ranks]


def kernels_of(fits: CollectiveFits, name: str) -> Custom | None:
    """A library's kernels; SGLang's were taken from vLLM and are priced as those where they have no
    constants of their own.
    """
    own: Custom | None = fits.custom.get(name)  # type: ignore[call-overload]
    like = fits.custom.get("vllm_custom")
    if own is not None or like is None or name != "sglang_custom":
        return own
    word: Provenance = "assumed" if like.provenance == "assumed" else "transferred"
    return replace(like, provenance=word, source=f"kernels of vLLM: {like.source}")


def _by_kernel(priced: Priced) -> NDArray[np.bool_]:
    """Where an engine's own kernel is what is priced."""
    return np.array([name in ("OneShot", "TwoShot") for name in priced.algorithm])


def _alone(custom: Custom, fits: CollectiveFits, shape: Shape, message: FloatArray) -> Priced:
    """What the kernels take on a number of ranks, whatever they take on fewer."""
    n = shape.ranks
    if n > MOST_RANKS:
        return nccl(fits, shape, "all_reduce", message)
    one_limit, two_limit = limits(custom, n)
    one, two = _shots(custom, shape, fits, message)
    # A shorter message never takes longer than one at the limit, where the next kind begins.
    ends = np.array([one_limit, two_limit])
    above = nccl(fits, shape, "all_reduce", np.concatenate([message, ends]))
    next_up, beyond = above.seconds[-2:], above.seconds[:-2]
    if one_limit < two_limit:
        next_up[0] = min(_shots(custom, shape, fits, ends)[1][0], next_up[1])
    one, two = np.minimum(one, next_up[0]), np.minimum(two, next_up[1])
    in_one, in_two = message <= one_limit, message <= two_limit
    kind = np.where(in_one, "OneShot", np.where(in_one | in_two, "TwoShot", ""))
    seconds = np.where(in_one, one, np.where(in_one | in_two, two, beyond))
    found = kind.tolist()
    pairs = zip(found, above.algorithm[:-2], above.protocol[:-2], strict=True)
    picked = [(k, "-") if k else (a, p) for k, a, p in pairs]
    return Priced(
        seconds=seconds,
        algorithm=tuple(a for a, _ in picked),
        protocol=tuple(p for _, p in picked),
        provenance=custom.provenance,
        far=np.where(
            in_one | in_two, reach_sigma(custom.measured, n, 1, message), _reach(above)[:-2]
        ),
    )


def _reach(priced: Priced) -> FloatArray:
    return np.zeros_like(priced.seconds) if priced.far is None else priced.far


def limits(custom: Custom, ranks: int) -> tuple[float, float]:
    """Bytes up to which one-shot and two-shot are used: those of the next measured number of
    ranks.
    """
    known = sorted(custom.limits)
    above = [count for count in known if count >= ranks]
    return custom.limits[above[0] if above else known[-1]]


def _shots(
    custom: Custom, shape: Shape, fits: CollectiveFits, message: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n, speed = shape.ranks, shape.link_bytes_per_s / fits.link
    one, two = custom.one_shot, custom.two_shot
    first = one.latency + one.per_peer * (n - 2) + message * (n - 1) / (one.bandwidth * speed)
    share = 2 * (n - 1) / n
    if custom.two_shot_in_switch and shape.in_switch:
        share = 1 + 1 / n
    second = two.latency + two.per_peer * (n - 2) + message * share / (two.bandwidth * speed)
    return first, second
