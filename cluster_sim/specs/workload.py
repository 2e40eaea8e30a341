"""What the user wants served: a model, traffic, and what counts as good service."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from cluster_sim.specs.chip import Dtype
from cluster_sim.specs.constraints import NonNegativeInt, PositiveFloat, PositiveInt, Text
from cluster_sim.specs.software import RouterName
from cluster_sim.units import PerSecond, Seconds, SecondsOrZero, Share

_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of token counts: ``fixed`` n, or ``quantiles`` (share -> tokens), linear in
    between.

    The mean of the quantile form follows from its points: sum of (q2 - q1) (x1 + x2) / 2.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    fixed: PositiveInt | None = None
    quantiles: tuple[tuple[Annotated[float, Ge(0)], PositiveInt], ...] | None = None

    def __post_init__(self) -> None:
        if (self.fixed is None) == (self.quantiles is None):
            raise ValueError("give either 'fixed' or 'quantiles'")
        if self.quantiles is not None:
            shares = [q for q, _ in self.quantiles]
            tokens = [n for _, n in self.quantiles]
            if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1:
                raise ValueError("quantiles must run from share 0 to share 1")
            if any(b <= a for a, b in zip(shares, shares[1:], strict=False)):
                raise ValueError("quantile shares must grow")
            if any(b < a for a, b in zip(tokens, tokens[1:], strict=False)):
                raise ValueError("quantile tokens must not fall")

    @property
    def mean(self) -> float:
        """Mean token count of the distribution."""
        if self.fixed is not None:
            return float(self.fixed)
        points = self.quantiles or ()
        pairs = zip(points, points[1:], strict=False)
        return math.fsum((q2 - q1) * (x1 + x2) / 2 for (q1, x1), (q2, x2) in pairs)

    @property
    def longest(self) -> int:
        """The largest token count that can be drawn."""
        return self.fixed if self.fixed is not None else (self.quantiles or ((1.0, 1),))[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """``open``: Gamma gaps of coefficient of variation ``cv`` (1 is Poisson); ``closed``;
    ``offline``; ``trace``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["open", "closed", "offline", "trace"]
    cv: PositiveFloat = 1.0
    rate: PerSecond | None = None
    load: Share | None = None
    concurrency: PositiveInt | None = None
    trace: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "open" and (self.rate is None) == (self.load is None):
            raise ValueError("open arrivals need either 'rate' or 'load'")
        if self.kind == "closed" and self.concurrency is None:
            raise ValueError("closed arrivals need 'concurrency'")
        if self.kind == "trace" and self.trace is None:
            raise ValueError("trace arrivals need 'trace', the path of a CSV file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits per request and the share of requests that must meet all of them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
    attainment: Share = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the model is laid out: devices an attention (tp), pipeline stages (pp), devices that the
    experts are spread over (ep), attention groups (attn_dp), replicas; ``None`` is chosen by rule.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    tp: PositiveInt | None = None
    pp: PositiveInt | None = None
    ep: PositiveInt | None = None
    attn_dp: PositiveInt | None = None
    replicas: PositiveInt | None = None
    router: RouterName = "round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A serving workload; ``precision`` auto takes what the model ships in if the chip runs it,
    else the first of fp8, int8, bf16 that the chip has and that fits.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    kind: Literal["serving"] = "serving"
    model: Text
    software: Text = "trtllm"
    precision: Literal["auto"] | Dtype = "auto"
    traffic: Text
    isl: Lengths
    osl: Lengths
    arrivals: Arrivals
    slo: Slo = field(default_factory=Slo)
    requests: PositiveInt | None = None
    duration: Seconds | None = None
    seed: NonNegativeInt = 0
    plan: Plan = field(default_factory=Plan)
    engine: dict[str, Any] = field(default_factory=dict)
    engine_args: str = ""
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """Money and energy around the chips. Owned: capital recovery over ``life`` at ``wacc`` plus
    power and space.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    basis: Literal["rented", "owned"] = "rented"
    usd_per_chip_hour: Annotated[float, Gt(0)] | None = None
    electricity: Annotated[float, Ge(0)] = 0.091
    pue: Annotated[float, Ge(1)] = 1.2
    life_years: PositiveFloat = 5.0
    wacc: Annotated[float, Ge(0)] = 0.09
    host_share: Annotated[float, Ge(0)] = 0.35
    colocation_usd_per_kw_month: Annotated[float, Ge(0)] = 130.0


__all__ = ["Arrivals", "Economics", "Lengths", "Plan", "SecondsOrZero", "Slo", "Workload"]
