"""Power of a chip while operator families run."""

from __future__ import annotations

from collections.abc import Mapping

from cluster_sim.specs.inputs import TopologyInput


def chip_power_w(machine: TopologyInput, shares: Mapping[str, float]) -> float | None:
    """Mean power (W) of a chip whose time is shared out over operator families and ``idle``; None
    without a power curve or an idle power, which chips without a published TDP lack.

    Model: sum of share x power of the family, from kernel power measurements; small kernels and
    experts count as GEMMs of their kind, hand-offs, exchanges and swaps as communication; a rank
    that waits for others, or loses time to them, draws what the host phase does. Limits: no clock
    throttling under a rack power cap.
    """
    curve, idle_w = machine.fits.power, machine.chip.idle_power
    if curve is None or idle_w is None:
        return None
    watts = {
        "gemm_math": curve.gemm_compute_bound,
        "gemm_weights": curve.gemm_memory_bound,
        "attention_prefill": curve.attention_prefill,
        "attention_decode": curve.attention_decode,
        "expert_math": curve.gemm_compute_bound,
        "expert_weights": curve.gemm_memory_bound,
        "glue": curve.gemm_memory_bound,
        "linear_attention": curve.gemm_memory_bound,
        "state_space": curve.gemm_memory_bound,
        "all_reduce": curve.communication,
        "expert_exchange": curve.communication,
        "handoff": curve.communication,
        "swap": curve.communication,
        "host": curve.host,
        "bubble": curve.host,
        "lost": curve.host,
        "idle": idle_w,
    }
    return sum(share * watts[family] for family, share in shares.items())
