"""Kernels that only move bytes, and the most that the memory of a device delivers to anybody."""

from __future__ import annotations

from cluster_sim.specs.inputs import TopologyInput


def hbm_bytes_per_s(machine: TopologyInput) -> float:
    """What the memory of a device delivers at most (bytes/s), to all that read it together.

    Model: the bandwidth times the ``ceiling`` of the chip's file, the share that was measured at
    best; without one times the largest share in its fitted curves.
    """
    chip, fits = machine.chip, machine.fits
    ceiling = chip.memory.ceiling
    if ceiling is None:
        tables = (fits.gemm, fits.moe, fits.attention_decode, fits.mla_decode)
        shares = [curve.memory for table in tables for curve in table.values()]
        ceiling = min(1.0, max([*shares, fits.glue.memory]))
    return chip.device_bandwidth * ceiling
