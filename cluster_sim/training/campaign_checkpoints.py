"""What checkpoints cost and how often to write them, and the closed forms of a run that fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster_sim.errors import SpecError
from cluster_sim.specs.campaign import Checkpoint, Target

# Bytes per second and host, where a workload gives none.
# storage: BLOOM-176B, 2.3 TB in 40 s from 48 hosts (chronicles of the run).
# host: an 8B model on 64 hosts of H100 blocks for 0.06 s (PyTorch forum 2024-10), 14 bytes a
# parameter. local: assumed, four drives of one host at 2.5 GB/s each.
HOST_BYTES_PER_S: dict[Target, float] = {"storage": 1.2e9, "host": 29e9, "local": 10e9}
COPY_BYTES_PER_S = HOST_BYTES_PER_S["host"]  # what an asynchronous checkpoint blocks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One kind of checkpoint on this machine: seconds of writing, of standing still, of loading."""

    key: str
    target: Target
    save_s: float
    block_s: float
    load_s: float
    survives: bool
    interval_s: float  # infinite: never
    interval_steps: int | None
    automatic: bool

    @property
    def tail_s(self) -> float:
        """How long after the block the copy is complete."""
        return self.save_s - self.block_s

    def every_steps(self, step_s: float) -> int:
        """Steps between two checkpoints where a step takes ``step_s``; 0: none.

        Raises SpecError where one is not finished before the next begins.
        """
        if self.interval_steps is None and math.isinf(self.interval_s):
            return 0
        steps = self.interval_steps or max(1, round(self.interval_s / step_s))
        if self.automatic:
            steps = max(steps, math.ceil(self.save_s / step_s))
        if self.save_s > steps * step_s:
            raise SpecError(
                f"{self.key}.interval: a checkpoint takes {self.save_s:.4g} s to write and the "
                f"next is due after {steps * step_s:.4g} s ({steps} steps); write every "
                f"{math.ceil(self.save_s / step_s)} steps or less often, or give more bandwidth"
            )
        return steps


def tiers_of(
    checkpoints: Sequence[Checkpoint],
    *,
    parameters: float,
    hosts: int,
    strikes_per_s: float,
    loss_per_s: float,
) -> tuple[Tier, ...]:
    """The kinds of checkpoint of a run on ``hosts`` hosts.

    Model: save = bytes / bandwidth; a synchronous one blocks as long, an asynchronous one for
    bytes / (hosts x copy bandwidth) and no longer than it writes; load = bytes / bandwidth. An
    automatic interval is Young's for the interruptions that the copy serves: all, or those that
    lose a host where another kind, lost with a host, serves the rest.
    Raises SpecError where hosts are lost and no kind of copy survives that.
    """
    if loss_per_s > 0 and checkpoints and not any(one.survives for one in checkpoints):
        raise SpecError(
            "run.checkpoints: no copy survives the loss of a host; add one with 'target: storage', "
            "or keep 'peer: true'"
        )
    fragile = any(not one.survives for one in checkpoints)
    found = []
    for index, one in enumerate(checkpoints):
        size = one.bytes_per_parameter * parameters
        per_host = one.bandwidth_per_host or HOST_BYTES_PER_S[one.target]
        bandwidth = one.bandwidth or per_host * hosts
        save_s = one.save if one.save is not None else size / bandwidth
        block_s = save_s
        if one.mode == "async":
            copy_s = one.block if one.block is not None else size / (hosts * COPY_BYTES_PER_S)
            block_s = min(save_s, copy_s)
        served = loss_per_s if one.survives and fragile else strikes_per_s
        interval_s = one.interval_s
        if one.interval == "auto":
            interval_s = young_s(max(block_s, 1e-3), 1 / served) if served > 0 else math.inf
        found.append(
            Tier(
                key=f"run.checkpoints.{index}",
                target=one.target,
                save_s=save_s,
                block_s=block_s,
                load_s=one.load if one.load is not None else size / bandwidth,
                survives=one.survives,
                interval_s=math.inf if interval_s is None else interval_s,
                interval_steps=one.interval_steps,
                automatic=one.interval == "auto",
            )
        )
    return tuple(found)


def young_s(block_s: float, mtbf_s: float) -> float:
    """The interval between checkpoints that loses least, to first order.

    Model: sqrt(2 delta M). Source: Young, CACM 17(9), 1974.

    >>> young_s(2.0, 10_000.0)
    200.0
    """
    return math.sqrt(2.0 * block_s * mtbf_s)


def daly_s(block_s: float, mtbf_s: float) -> float:
    """The same to higher order.

    Model: sqrt(2 delta M) (1 + sqrt(delta / 2M) / 3 + delta / 18 M) - delta for delta < 2 M, else
    M. Source: Daly, Future Generation Computer Systems 22, 2006, equation 37.
    """
    if block_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = block_s / (2.0 * mtbf_s)
    return young_s(block_s, mtbf_s) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - block_s


def ettr(mtbf_s: float, down_s: float, interval_s: float, block_s: float) -> float:
    """Share of the time that goes into training, to first order.

    Model: (1 - (u0 + dt / 2) / M) / (1 + w / dt), M mean time between failures, u0 time from a
    failure to the next step, dt interval, w block. Source: arXiv:2410.21680.
    Limits: one failure a interval at most, and none while restarting; it can fall below 0, where it
    means nothing.
    """
    lost = 0.0 if math.isinf(mtbf_s) else (down_s + interval_s / 2.0) / mtbf_s
    blocked = 0.0 if math.isinf(interval_s) else block_s / interval_s
    return (1.0 - lost) / (1.0 + blocked)


def exact_ettr(mtbf_s: float, down_s: float, interval_s: float, block_s: float) -> float:
    """The same for exponential gaps between failures at any rate, failures while restarting
    included.

    Model: an interval and its synchronous checkpoint take M exp(R / M) (exp((dt + w) / M) - 1) on
    average. Source: Daly 2006, equation 20.
    """
    if math.isinf(mtbf_s):
        return interval_s / (interval_s + block_s)
    cycle = mtbf_s * math.exp(down_s / mtbf_s) * math.expm1((interval_s + block_s) / mtbf_s)
    return interval_s / cycle
