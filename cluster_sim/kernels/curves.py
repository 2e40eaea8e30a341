"""The fitted curves that the kernels of a job take, and the framework whose kernels were timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Recipe
from cluster_sim.specs.chip import (
    PEAK_OF,
    DecodeCurve,
    ExpertCurve,
    GemmCurve,
    LatentCurve,
    PrefillCurve,
)
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Attention, Model


def gemm_curve(machine: TopologyInput, dtype: str) -> GemmCurve:
    """The GEMM curve of a dtype; raises SpecError when the chip has no such peak or curve."""
    chip, curves = machine.chip, machine.fits.gemm
    for key, known, what in (
        (PEAK_OF[dtype], chip.peak, "hardware"),
        (dtype, curves, "fitted curves"),
    ):
        if key not in known:
            have = ", ".join(known) or "none"
            raise SpecError(f"{chip.name}: no {key} in {what} (it has {have}); choose --precision")
    return curves[dtype]  # type: ignore[index]


def expert_curve(machine: TopologyInput, dtype: str) -> ExpertCurve:
    """The curve of routed experts in a dtype; raises SpecError when the chip has none."""
    curves = machine.fits.moe
    if dtype not in curves:
        have = ", ".join(curves) or "none"
        raise SpecError(f"{machine.chip.name}: no {dtype} in fitted expert curves (it has {have})")
    return curves[dtype]


def attention_curves(machine: TopologyInput, kv_dtype: str) -> tuple[PrefillCurve, DecodeCurve]:
    """Prompt and decode attention for a KV dtype; one-byte caches share a curve.

    Raises SpecError when the chip has no such curve.
    """
    fits, wanted = machine.fits, "fp8" if kv_dtype == "int8" else kv_dtype
    try:
        return fits.attention_prefill[wanted], fits.attention_decode[wanted]  # type: ignore[index]
    except KeyError:
        have = ", ".join(name for name in fits.attention_prefill if name in fits.attention_decode)
        raise SpecError(
            f"{machine.chip.name}: no fitted attention curves for a {kv_dtype} KV cache "
            f"(it has {have or 'none'}); set engine.kv_dtype"
        ) from None


def mla_curves(machine: TopologyInput, kv_dtype: str) -> tuple[PrefillCurve, LatentCurve]:
    """Prompt and decode attention over latents for a KV dtype; raises SpecError without a curve."""
    fits, wanted = machine.fits, "fp8" if kv_dtype == "int8" else kv_dtype
    try:
        return fits.mla_prefill[wanted], fits.mla_decode[wanted]  # type: ignore[index]
    except KeyError:
        have = ", ".join(name for name in fits.mla_prefill if name in fits.mla_decode)
        raise SpecError(
            f"{machine.chip.name}: no fitted MLA curves for a {kv_dtype} KV cache "
            f"(it has {have or 'none'}); set engine.kv_dtype"
        ) from None


def kind_curves(
    machine: TopologyInput, kind: Attention, kv_dtype: str
) -> tuple[PrefillCurve, DecodeCurve | LatentCurve]:
    """Prompt and decode attention of a kind; raises SpecError without a curve.

    Limits: compressed attention has no timings and takes the curves over latents, which its kernels
    are nearest to (one entry of 512 elements for all heads).
    """
    return (mla_curves if kind.latent else attention_curves)(machine, kv_dtype)


def from_others(
    machine: TopologyInput, model: Model, recipe: Recipe, framework: str
) -> tuple[str, ...]:
    """The families with a curve of another framework's kernels."""
    return tuple(
        family
        for family, curves in kernel_curves(machine, model, recipe).items()
        if any(timed_with(curve) not in ("", framework) for curve in curves)
    )


def kernel_curves(
    machine: TopologyInput, model: Model, recipe: Recipe
) -> dict[str, tuple[Any, ...]]:
    """The curves of kernels that frameworks bring themselves, by family."""
    gemm = tuple(gemm_curve(machine, dtype) for dtype in recipe.products_in(model))
    attention = [kind_curves(machine, kind, recipe.kv) for kind in model.kinds]
    found: dict[str, tuple[Any, ...]] = {"gemm_math": gemm, "gemm_weights": gemm}
    found["attention_prefill"] = tuple(prompt for prompt, _ in attention)
    found["attention_decode"] = tuple(decode for _, decode in attention)
    if model.moe is not None:
        curves: Mapping[str, Any] = machine.fits.moe  # type: ignore[assignment]
        experts = tuple(curves[dtype] for dtype in recipe.experts_in(model))
        found |= {"expert_math": experts, "expert_weights": experts}
    return found


def timed_with(curve: Any) -> str:
    """The framework whose kernels a curve was fitted to; empty where nobody says."""
    fit = curve.fit or (curve.taken.fit if curve.taken is not None else None)
    return fit.framework if fit is not None else ""
