"""How far the constants behind a step price may be off: a log-normal residual each.

Model: what is priced at x takes x exp(sigma z) with z normal, one z for all calls of a run; the
residuals are independent of each other. A curve has its error on shapes that its fit did not see,
and one more if it was fitted elsewhere; software has one a constant; experts one for their loads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster_sim.collectives.in_step import USUAL_BYTES, InStep, all_reduce, handoff
from cluster_sim.collectives.ranks import side_by_side
from cluster_sim.kernels.attention import untimed
from cluster_sim.kernels.curves import from_others, gemm_curve, kind_curves
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.communication import exchanged
from cluster_sim.specs.chip import Distance, FitError, Provenance, Taken, weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

MEDIAN, P90 = 0.6745, 1.645  # of the absolute value of a standard normal
# Sigma of curves that were fitted elsewhere, beside their own error: median error / 0.6745. Source:
# constants fitted on the tables of one chip of ai-dynamo/aiconfigurator @095f58a and scored on
# another's. GEMM: H100 to H200, B200 and GB200 2 to 8 %, H200 to B200 7 to 10 %, A100 to H100 13 %;
# attention 5 to 12, 19 to 23, 10 to 17 %. Other vendors and other dtypes twice a generation:
# assumed (bf16 constants for fp8 or fp4 were off by 18 to 49 %). Streams and collectives: assumed.
TRANSFER: dict[str, dict[Distance, float]] = {
    "gemm": {"architecture": 0.07, "generation": 0.15, "other": 0.30},
    "attention": {"architecture": 0.13, "generation": 0.30, "other": 0.60},
    "stream": {"architecture": 0.10, "generation": 0.20, "other": 0.40},
}
# Error of curves whose file states none (median, p90). Source: typical of those that do; glue, 0.9
# to 1.5 us a kernel as p10 and p90; all-reduce, custom kernels as scored in docs/model.md.
UNSTATED: dict[str, tuple[float, float]] = {
    "gemm": (0.04, 0.11),
    "moe": (0.10, 0.35),
    "attention_prefill": (0.06, 0.15),
    "attention_decode": (0.12, 0.33),
    "mla_prefill": (0.06, 0.20),
    "mla_decode": (0.06, 0.22),
    "glue": (0.135, 0.33),
    "all_reduce": (0.03, 0.13),
    "all_to_all": (0.07, 0.20),
}
_GROUP = {
    "gemm": "gemm",
    "moe": "gemm",
    "attention_prefill": "attention",
    "attention_decode": "attention",
    "mla_prefill": "attention",
    "mla_decode": "attention",
    "glue": "stream",
    "all_reduce": "stream",
    "all_to_all": "stream",
}
# How far constants of collectives come by their provenance, and what those of the lender are.
_TAKEN_FROM: dict[str, Distance] = {"transferred": "generation", "assumed": "other"}
_FITTED_AS: dict[Provenance, Provenance] = {"transferred": "measured"}
# Host time of one framework: versions of vLLM needed 0.4 to 4.5 ms a step to agree with measured
# closed-loop runs, a sigma of 1.0 over four of them; half of it, since a profile names its version.
HOST = 0.5
# The whole step by an engine on chips of a vendor that its host time was never fitted on: launches
# that nothing hides, graphs that are missing. Source: closed-loop runs, measured over simulated
# TPOT. Qwen3-32B by vLLM on four Ascend 910B: 2.6 to 3.1 in all ten runs
# (vllm-project/vllm-ascend docs @182b75e), 35 to 43 ms a step whatever the batch; 0.8 takes them
# in. DeepSeek-R1 by SGLang on eight MI300X and MI355X: 0.55 to 3.0 in 120 of the runs of
# InferenceX, 1.34 in the median; 0.35 beside what is assumed of another vendor's curves covers
# 79 % of every seventh run, and 79 % of another seventh. Other pairs as the worse of the two:
# assumed. The runs widen bands and set no constant: the values stay those fitted on NVIDIA.
HOST_ELSEWHERE: dict[tuple[str, str], float] = {("vllm", "Huawei"): 0.8, ("sglang", "AMD"): 0.35}
HOST_UNSEEN = 0.8
# In-engine factors of all-reduces and attention floors: assumed; 1.2 and 6 us, or 1.73 alone, fit
# all-reduces of decode steps equally well, which are 0.36 apart on long messages.
IN_SITU = 0.15
LOADS = 0.13  # of experts: even loads change steps by 5 to 13 % on measured closed-loop runs
# Kernels that were timed in another framework, all families together. Timed alone they differ far
# more: attention of vLLM and SGLang by 16 % in the median from TensorRT-LLM's of the same shape,
# experts by 42 % (144 and 593 pairs, ai-dynamo/aiconfigurator @095f58a). In whole steps faster and
# slower ones make up for each other, and the bands of TPOT of 470 closed-loop runs of half fit,
# replayed without the settings of their recipes, cover 92 % of vLLM's and 74 % of SGLang's with 0.1
# (89 and 71 % without; TensorRT-LLM's own 79 %): assumed, between what either would ask for.
OTHER_SOFTWARE = 0.1
FOREIGN = 0.3  # what all curves of another vendor's chip may be off by together: assumed
UNFITTED = 0.4  # swap, linear attention: assumed
POWER: dict[Provenance, float] = {"measured": 0.1, "datasheet": 0.2}  # watts: assumed
POWER_ELSEWHERE = 0.25  # transferred or assumed watts: assumed
# What families leave out of the step time: sigma with which the bands of TPOT covered 80 % of the
# measured ones on the half of the closed-loop cases that constants are fitted on (838 values of
# H100, H200, B200 and B300, replayed by ``validate``). Since engines fill batches up and published
# settings are known it is 84 %, and 80 % on the other half. RECIPE is the part of its square that
# runs of one recipe share: taking one constant out of each recipe took the median error of TPOT
# from 6.4 to 5.0 %.
LEFT_OUT, RECIPE = 0.06, 0.39
FRONT_END = 0.35  # of TTFT beside it: client, API, tokenizer, queues; the same runs: 82 and 81 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What may be off together: equal keys name one and the same residual, in all runs; ``words``
    say what it is on a page where the key does not.
    """

    key: str
    sigma: float
    provenance: Provenance
    source: str
    words: str = ""


class Fitted(Protocol):
    """What all fitted curves have in common."""

    @property
    def provenance(self) -> Provenance:
        """Kind of source."""

    @property
    def fit(self) -> FitError | None:
        """Error of the fit."""

    @property
    def taken(self) -> Taken | None:
        """Whose it is."""

    @property
    def source(self) -> str:
        """Where it was read."""


def step_residuals(
    machine: TopologyInput, model: Model, software: Software, layout: Layout, recipe: Recipe
) -> dict[str, tuple[Residual, ...]]:
    """The residuals of each operator family; see the module for the model.

    Limits: a family with curves of several dtypes has the residuals of the one with the weakest
    provenance, the largest part of the weights among equals.
    """
    chip, profile = machine.chip.name, software.name
    dtypes = recipe.products_in(model)
    gemm = _of_weakest("gemm", {dtype: gemm_curve(machine, dtype) for dtype in dtypes}, chip)
    own, kv = model.kinds[0], recipe.kv
    kind = "mla" if own.latent else "attention"
    prompt, decode = kind_curves(machine, own, kv)
    kv = "fp8" if kv == "int8" else kv
    guess = untimed(model)
    beside = (_residual(guess, UNFITTED, "assumed", "no timings"),) if guess else ()
    engine = _residual(f"attention in {profile}", IN_SITU, "assumed", software.in_situ.source)
    of_host = software.host.on(machine.chip.vendor)
    host = _residual(f"host time of {profile}", HOST, of_host, software.host.source)
    found: dict[str, tuple[Residual, ...]] = {
        "gemm_math": gemm,
        "gemm_weights": gemm,
        "attention_prefill": (*of_curve(f"{kind}_prefill", kv, prompt, chip), *beside, engine),
        "attention_decode": (*of_curve(f"{kind}_decode", kv, decode, chip), *beside, engine),
        "glue": of_curve("glue", "", machine.fits.glue, chip),
        "linear_attention": (_residual("linear attention", UNFITTED, "assumed", "no timings"),),
        "state_space": (_residual("recurrent states", UNFITTED, "assumed", "no timings"),),
        "all_reduce": _all_reduce(machine, software, layout),
        "handoff": _handoff(machine, layout),
        "host": (host,),
        "swap": (
            _residual(f"host link of {profile}", UNFITTED, "datasheet", software.memory.source),
        ),
    }
    if model.moe is not None:
        found |= _of_experts(machine, model, software, layout, recipe)
    far = from_others(machine, model, recipe, software.framework)
    return {
        family: (*parts, _other_software(software)) if family in far else parts
        for family, parts in found.items()
    }


def _of_experts(
    machine: TopologyInput, model: Model, software: Software, layout: Layout, recipe: Recipe
) -> dict[str, tuple[Residual, ...]]:
    chip, found = machine.chip.name, {}
    loads = _residual(
        f"expert loads of {model.name}", LOADS, "assumed", "skew fitted on closed-loop runs"
    )
    fitted: Mapping[str, Fitted] = machine.fits.moe  # type: ignore[assignment]
    curves = {dtype: fitted[dtype] for dtype in recipe.experts_in(model)}
    parts = (*_of_weakest("moe", curves, chip), loads)
    found["expert_math"] = found["expert_weights"] = parts
    if layout.attn_dp > 1 and model.moe is not None:
        alone = exchanged(machine, model.moe, software, layout, (USUAL_BYTES, USUAL_BYTES))
        ranks = layout.stage_devices
        found["expert_exchange"] = _of_collective(machine, "all_to_all", alone, ranks)
    return found


def _other_software(software: Software) -> Residual:
    """That of kernels that were timed in another framework than runs."""
    key = f"kernels of {software.framework} as timed in others"
    source = "curves of kernels that another framework brings"
    return _residual(key, OTHER_SOFTWARE, "extrapolated", source)


def whole_residuals(
    machine: TopologyInput, model: Model, software: Software, dtype: str, setup: str
) -> tuple[Residual, ...]:
    """Those of the whole step: of the recipe (chip, model, software, dtype), of the set-up (plan
    and workload) under it, of an engine where its host time was not fitted, and of curves from
    another vendor.
    """
    recipe = f"{machine.chip.name} {model.name} {software.name} {dtype}"
    source = "calibrated on measured closed-loop runs"
    found = [
        _residual(f"recipe {recipe}", LEFT_OUT * RECIPE**0.5, "measured", source),
        _residual(f"set-up {recipe} {setup}", LEFT_OUT * (1 - RECIPE) ** 0.5, "measured", source),
    ]
    found = [replace(one, words="what operators leave out") for one in found]
    vendor = machine.chip.vendor
    if vendor not in software.host.measured_on:
        key = f"host and launches of {software.framework} on {vendor}"
        sigma = HOST_ELSEWHERE.get((software.framework, vendor), HOST_UNSEEN)
        source = "closed-loop runs on chips of other vendors"
        found.append(_residual(key, sigma, "assumed", source))
    glue = machine.fits.glue.taken  # never like a curve of another dtype
    if glue is not None and glue.distance == "other":
        key = f"kernels and libraries of {machine.chip.vendor}"
        found.append(_residual(key, FOREIGN, "assumed", "curves of another vendor's chip"))
    return tuple(found)


def front_end_residual(software: Software) -> Residual:
    """That of what a request meets before the engine."""
    source = "calibrated on measured closed-loop runs"
    return _residual(f"front end of {software.name}", FRONT_END, "measured", source)


def power_residual(machine: TopologyInput) -> Residual | None:
    """That of the watts; None without a power curve."""
    curve = machine.fits.power
    if curve is None:
        return None
    of = curve.taken.of if curve.taken else f"power of {machine.chip.name}"
    sigma = POWER.get(curve.provenance, POWER_ELSEWHERE)
    return _residual(of, sigma, curve.provenance, curve.source)


def of_curve(section: str, name: str, curve: Fitted, chip: str) -> tuple[Residual, ...]:
    """The residual of a curve's fit, and that of having taken it from elsewhere."""
    taken, own = curve.taken, f"{section} {name}".strip()
    key, fit = f"{own} of {chip}", curve.fit
    if taken is not None:
        key, fit = taken.of, fit or taken.fit
    sigma = fit_sigma(fit.median, fit.p90) if fit else fit_sigma(*UNSTATED[section])
    far: Distance | None = taken.distance if taken is not None else None
    if curve.provenance == "assumed":
        far = "other"
    elif curve.provenance == "transferred":
        far = far or "generation"
    if far is None:
        return (_residual(key, sigma, curve.provenance, curve.source),)
    fitted: Provenance = "assumed" if curve.provenance == "assumed" else "measured"
    return (
        _residual(key, sigma, fitted, curve.source),
        _residual(
            f"{key} as {own} of {chip}",
            TRANSFER[_GROUP[section]][far],
            curve.provenance,
            curve.source,
        ),
    )


def fit_sigma(median: float, p90: float) -> float:
    """Sigma of a log-normal residual by the median and the 90th percentile of its absolute error:
    the larger of both readings, so that neither is promised better than seen.
    """
    return max(median / MEDIAN, p90 / P90)


def collective_sigma(provenance: str, far: float, section: str = "all_reduce") -> float:
    """Sigma of one collective by the provenance of its constants and what distance adds.

    Model: the error of fits that state none; constants of another chip or assumed ones besides, as
    streams have it; distance from the timings as in ``reach``; independent of each other.
    """
    own = fit_sigma(*UNSTATED[section])
    taken = _TAKEN_FROM.get(provenance)
    other = TRANSFER["stream"][taken] if taken is not None else 0.0
    return math.sqrt(own**2 + other**2 + far**2)


def _all_reduce(machine: TopologyInput, software: Software, layout: Layout) -> tuple[Residual, ...]:
    if layout.tp == 1:
        return ()
    alone = all_reduce(machine, software.all_reduce, side_by_side(machine, layout.tp), USUAL_BYTES)
    engine = f"all-reduce in {software.name}"
    return (
        *_of_collective(machine, "all_reduce", alone, layout.tp),
        _residual(engine, IN_SITU, "assumed", software.in_situ.source),
    )


def _handoff(machine: TopologyInput, layout: Layout) -> tuple[Residual, ...]:
    if layout.pp == 1:
        return ()
    alone = handoff(machine, side_by_side(machine, 2, apart=True), USUAL_BYTES)
    return _of_collective(machine, "all_reduce", alone, 2)


def _of_collective(
    machine: TopologyInput, section: str, alone: InStep, ranks: int
) -> tuple[Residual, ...]:
    """The residual of a library's constants, that of having taken them from elsewhere, and that of
    ranks beyond those that were timed; see ``reach``.
    """
    chip, lender = machine.chip.name, machine.constants.borrows
    own: Provenance = alone.provenance  # type: ignore[assignment]
    of = lender if own == "transferred" and lender else chip
    sigma = fit_sigma(*UNSTATED[section])
    source = f"constants of {alone.library}"
    found = [_residual(f"{alone.library} of {of}", sigma, _FITTED_AS.get(own, own), source)]
    if own in _TAKEN_FROM:
        key = f"{alone.library} of {of} as of {chip}"
        found.append(_residual(key, TRANSFER["stream"][_TAKEN_FROM[own]], own, source))
    if alone.far:
        key = f"{alone.library} on {ranks} ranks of {chip}"
        why = "doublings beyond the ranks that were timed"
        found.append(_residual(key, alone.far, "extrapolated", why))
    return tuple(found)


def _of_weakest(section: str, curves: Mapping[Any, Fitted], chip: str) -> tuple[Residual, ...]:
    """The residuals of the first of some curves that has the weakest provenance."""
    worst = weakest(curve.provenance for curve in curves.values())
    for name, curve in curves.items():
        if curve.provenance == worst:
            return of_curve(section, name, curve, chip)
    return ()


def _residual(key: str, sigma: float, provenance: Provenance, source: str) -> Residual:
    return Residual(key=key, sigma=sigma, provenance=provenance, source=source)
