"""Power of a chip while operator families run."""

from __future__ import annotations

from collections.abc import Mapping

from cluster_sim.specs.inputs import TopologyInput


def chip_power_w(machine: TopologyInput, shares: Mapping[str, float]) -> float:
    """Mean power (W) of a chip whose time is shared out over operator families and ``idle``.

    Model: sum of share x power of the family, from kernel power measurements; glue kernels count as
    memory-bound GEMMs. Limits: no clock throttling under a rack power cap.
    """
    curve = machine.fits.power
    watts = {
        "gemm_math": curve.gemm_compute_bound,
        "gemm_weights": curve.gemm_memory_bound,
        "attention_prefill": curve.attention_prefill,
        "attention_decode": curve.attention_decode,
        "glue": curve.gemm_memory_bound,
        "all_reduce": curve.communication,
        "host": curve.host,
        "idle": machine.chip.idle_power,
    }
    return sum(share * watts[family] for family, share in shares.items())
