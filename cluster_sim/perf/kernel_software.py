"""Which kernels a framework brings itself, and in which framework they were timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster_sim.perf.layout import Recipe
from cluster_sim.perf.operators import gemm_curve, kind_curves
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model


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
