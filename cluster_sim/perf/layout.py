"""How one replica lies on its devices: degrees of parallelism and the dtypes of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.errors import DoesNotFitError
from cluster_sim.specs.chip import PEAK_OF, Chip, Fits
from cluster_sim.specs.model import Model


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism of one replica.

    ``tp`` devices share one attention and its KV cache. ``pp`` stages hold consecutive layers and
    work on ``pp`` micro-batches in turn. ``attn_dp`` attention groups have requests and caches of
    their own and meet at the experts. Experts are spread over ``ep`` of the tp x attn_dp devices of
    a stage and cut into the others' number of slices.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attn_dp: int = 1

    @property
    def devices(self) -> int:
        """Devices of a replica."""
        return self.tp * self.pp * self.attn_dp

    @property
    def stage_devices(self) -> int:
        """Devices that hold the same layers."""
        return self.tp * self.attn_dp

    @property
    def expert_slices(self) -> int:
        """Devices that share one expert."""
        return self.stage_devices // self.ep

    @property
    def ranks(self) -> int:
        """Batches that a replica works on side by side: micro-batches or attention groups."""
        return self.pp * self.attn_dp

    def __str__(self) -> str:
        parts = [f"tp{self.tp}"]
        parts += [f"{n}{d}" for n, d in (("pp", self.pp), ("ep", self.ep)) if d > 1]
        return "-".join([*parts, *([f"dp{self.attn_dp}"] if self.attn_dp > 1 else [])])


def check_layout(model: Model, layout: Layout) -> None:
    """Raise DoesNotFitError, with the degrees that work, if a model cannot be cut this way."""
    for kind in model.kinds:
        if kind.heads % layout.tp:
            raise DoesNotFitError(
                f"tp={layout.tp} does not divide the {kind.heads} attention heads of {model.name}; "
                f"use one of {_list(divisors(kind.heads, 1024))}."
            )
    key_heads = model.linear.key_heads if model.linear else 0
    if key_heads % layout.tp:
        raise DoesNotFitError(
            f"tp={layout.tp} does not divide the {key_heads} key heads of the linear attention of "
            f"{model.name}; use one of {_list(divisors(key_heads, 1024))}."
        )
    ssm = model.state_space
    parts = (ssm.heads or ssm.inner) if ssm else 0
    if parts % layout.tp:
        raise DoesNotFitError(
            f"tp={layout.tp} does not divide the {parts} heads of the state space of "
            f"{model.name}; use one of {_list(divisors(parts, 1024))}."
        )
    if layout.pp > model.layers:
        raise DoesNotFitError(f"pp={layout.pp} exceeds the {model.layers} layers of {model.name}.")
    if layout.pp > 1 and layout.attn_dp > 1:
        raise DoesNotFitError("pp and attn_dp cannot be combined; set one of them to 1.")
    if model.moe is None:
        for name, degree in (("ep", layout.ep), ("attn_dp", layout.attn_dp)):
            if degree > 1:
                raise DoesNotFitError(f"{name}={degree} needs experts; {model.name} is dense.")
        return
    if layout.stage_devices % layout.ep:
        raise DoesNotFitError(
            f"ep={layout.ep} does not divide the tp x attn_dp = {layout.stage_devices} devices; "
            f"use one of {_list(divisors(layout.stage_devices, layout.stage_devices))}."
        )
    if model.moe.experts % layout.ep:
        raise DoesNotFitError(
            f"ep={layout.ep} does not divide the {model.moe.experts} experts of {model.name}; "
            f"use one of {_list(divisors(model.moe.experts, 1024))}."
        )


def divisors(number: int, most: int) -> list[int]:
    """The divisors of a number up to a limit."""
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _list(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Dtypes by part of a model; ``name`` is what the user asked for."""

    name: str
    attention: str
    dense: str
    experts: str
    kv: str


def recipe(chip: Chip, model: Model, precision: str, kv_dtype: str) -> Recipe:
    """The dtypes that a precision stands for.

    Rule: one dtype everywhere, with two exceptions as published checkpoints have them. fp4 of a
    model with experts leaves attention in bf16. mxfp4 quantises the experts alone (gpt-oss), and is
    weight-only on chips without fp4 hardware, at the cost of w4a16. Source: checkpoints of gpt-oss
    and of NVIDIA's fp4 DeepSeek-R1 (recalled).
    """
    if precision == "fp4" and model.moe is not None:
        return Recipe(precision, "bf16", "fp4", "fp4", kv_dtype)
    if precision == "mxfp4":
        experts = "mxfp4" if "fp4" in chip.peak else "w4a16"
        if model.moe is None:
            return Recipe(precision, experts, experts, experts, kv_dtype)
        return Recipe(precision, "bf16", "bf16", experts, kv_dtype)
    return Recipe(precision, precision, precision, precision, kv_dtype)


def missing(chip: Chip, fits: Fits, model: Model, wanted: Recipe) -> str:
    """What a chip lacks for a recipe, in words; empty if nothing."""
    for dtype in dict.fromkeys((wanted.attention, wanted.dense, wanted.experts, "bf16")):
        if PEAK_OF[dtype] not in chip.peak:
            have = ", ".join(chip.peak) or "none published"
            return f"{PEAK_OF[dtype]} peak (it has {have})"
        if dtype not in fits.gemm:
            return f"fitted {dtype} GEMM curve (it has {', '.join(fits.gemm)})"
    if model.moe is not None and wanted.experts not in fits.moe:
        return f"fitted {wanted.experts} expert curve (it has {', '.join(fits.moe) or 'none'})"
    curve = "fp8" if wanted.kv == "int8" else wanted.kv
    for kind in model.kinds:
        latent = (fits.mla_prefill, fits.mla_decode)
        for table in latent if kind.latent else (fits.attention_prefill, fits.attention_decode):
            if curve not in table:
                name = "MLA" if kind.latent else "attention"
                return f"fitted {name} curves for a {wanted.kv} KV cache"
    return ""
