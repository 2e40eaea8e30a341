"""How one replica lies on its devices: degrees of parallelism and the dtypes of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster_sim.errors import DoesNotFitError
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip, Fits
from cluster_sim.specs.kept import MIXERS, layers_with, rule
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
    """Dtypes by part of a model; ``name`` is what the user asked for.

    ``own``: it is the precision of the checkpoint, whose parts are as the model keeps them.
    ``weight_only``: the chip multiplies weights in fp4 or mxfp4 as bf16, at the cost of w4a16.
    """

    name: str
    attention: str
    dense: str
    experts: str
    kv: str
    own: bool = False
    weight_only: bool = False

    def dtype(self, part: str) -> str:
        """The dtype of a part where nothing is kept; of router, LM head and embedding bf16."""
        if part in MIXERS:
            return self.attention
        if part in ("dense", "shared"):
            return self.dense
        return self.experts if part == "experts" else "bf16"

    def shares(self, model: Model, part: str, layers: float) -> tuple[tuple[str, float], ...]:
        """The dtypes of a part, each with its number of the ``layers`` that have it.

        Limits: of a part in layers of several kinds of attention each kind has its share of what
        is kept.
        """
        kept = [one for one in model.kept if one.part == part] if self.own else []
        scale = layers / layers_with(model, part) if kept else 1.0
        found: dict[str, float] = {}
        for one in kept:
            there = layers - sum(found.values())
            count = there if one.layers is None else min(one.layers * scale, there)
            dtype = self._run_as(one.dtype)
            found[dtype] = found.get(dtype, 0.0) + count
        rest, dtype = layers - sum(found.values()), self.dtype(part)
        if rest > 1e-9 * layers:
            found[dtype] = found.get(dtype, 0.0) + rest
        return tuple((dtype, count) for dtype, count in found.items() if count)

    def width(self, model: Model, dtype: str) -> float:
        """Bytes of a weight in a dtype, with its share of the scales."""
        stored = self.name if self.weight_only and dtype == "w4a16" else dtype
        if self.own and stored in model.bytes_per_element:
            return model.bytes_per_element[stored]
        return BYTES_PER_ELEMENT[stored]

    def bytes_of(self, model: Model, part: str, layers: float) -> float:
        """Bytes that one element of a part takes in all of its layers together."""
        parts = self.shares(model, part, layers)
        return sum(count * self.width(model, dtype) for dtype, count in parts)

    def products_in(self, model: Model) -> tuple[str, ...]:
        """The dtypes of products other than the experts', the most of the weights first."""
        if not (self.own and model.kept):
            return tuple(dict.fromkeys((self.dense, self.attention, "bf16")))
        parts = ("dense", "shared", *MIXERS, "head")
        shares = (self.shares(model, part, layers_with(model, part)) for part in parts)
        return tuple(dict.fromkeys([*(dtype for some in shares for dtype, _ in some), "bf16"]))

    def experts_in(self, model: Model) -> tuple[str, ...]:
        """The dtypes of routed experts."""
        layers = layers_with(model, "experts")
        return tuple(dtype for dtype, _ in self.shares(model, "experts", layers))

    def _run_as(self, dtype: str) -> str:
        return "w4a16" if self.weight_only and PEAK_OF[dtype] == "fp4" else dtype


def recipe(chip: Chip, model: Model, precision: str, kv_dtype: str) -> Recipe:
    """The dtypes that a precision stands for: those of ``specs.kept.rule``, and of a checkpoint's
    own precision what the model keeps apart.

    On chips without fp4 hardware mxfp4, and fp4 of a checkpoint in it, are weight-only at the cost
    of w4a16, as engines run them there (Marlin kernels of vLLM; recalled).
    """
    parts = rule(precision, experts=model.moe is not None)  # type: ignore[arg-type]
    own = precision == model.native_dtype
    weight_only = "fp4" not in chip.peak and (precision == "mxfp4" or (own and precision == "fp4"))
    made = Recipe(precision, "", "", "", kv_dtype, own, weight_only)
    used = {part: made._run_as(dtype) for part, dtype in parts.items()}
    return replace(made, attention=used["attention"], dense=used["dense"], experts=used["experts"])


def missing(chip: Chip, fits: Fits, model: Model, wanted: Recipe) -> str:
    """What a chip lacks for a recipe, in words; empty if nothing."""
    experts = wanted.experts_in(model) if model.moe is not None else ()
    for dtype in _needed(model, wanted, experts):
        if PEAK_OF[dtype] not in chip.peak:
            have = ", ".join(chip.peak) or "none published"
            return f"{PEAK_OF[dtype]} peak (it has {have})"
        if dtype not in fits.gemm:
            return f"fitted {dtype} GEMM curve (it has {', '.join(fits.gemm)})"
    for dtype in experts:
        if dtype not in fits.moe:
            return f"fitted {dtype} expert curve (it has {', '.join(fits.moe) or 'none'})"
    curve = "fp8" if wanted.kv == "int8" else wanted.kv
    for kind in model.kinds:
        latent = (fits.mla_prefill, fits.mla_decode)
        for table in latent if kind.latent else (fits.attention_prefill, fits.attention_decode):
            if curve not in table:
                name = "MLA" if kind.latent else "attention"
                return f"fitted {name} curves for a {wanted.kv} KV cache"
    return ""


def _needed(model: Model, wanted: Recipe, experts: tuple[str, ...]) -> tuple[str, ...]:
    """The dtypes that a chip must have for a recipe."""
    if wanted.own and model.kept:
        return tuple(dict.fromkeys((*wanted.products_in(model), *experts)))
    return tuple(dict.fromkeys((wanted.attention, wanted.dense, wanted.experts, "bf16")))
