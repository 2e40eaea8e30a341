"""What the user wants served: a model, traffic, and what counts as good service."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype
from cluster_sim.specs.constraints import (
    MOST_PARTS,
    MOST_TOKENS,
    Chance,
    Chips,
    Clients,
    Count,
    Number,
    Requests,
    Seed,
    Text,
    TokenCount,
    Variation,
    VariationOrZero,
)
from cluster_sim.specs.software import RouterName
from cluster_sim.units import (
    NamedShare,
    NamedUsdPerHour,
    NamedUsdPerKwMonth,
    NamedYears,
    PerSecond,
    Quantity,
    Seconds,
    SecondsOrZero,
    Share,
    UsdPerKwh,
)

# Half of an interval that is narrower takes more requests than are ever played for it.
SamplingError = Annotated[float, Quantity("share", minimum=0.001, maximum=1.0)]
_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of token counts: ``fixed`` n; ``quantiles`` (share -> tokens), linear in
    between; or ``mean``, ``cv`` and ``max``: log-normal of that mean, longer ones cut to ``max``.

    Model: the mean of the quantile form is the sum of (q2 - q1) (x1 + x2) / 2; the log-normal has
    sigma^2 = ln(1 + cv^2), mu = ln(mean) - sigma^2 / 2.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    fixed: TokenCount | None = None
    quantiles: tuple[tuple[Chance, TokenCount], ...] | None = None
    mean: Annotated[float, Number(1, MOST_TOKENS)] | None = None
    cv: Variation | None = None
    max: TokenCount | None = None

    def __post_init__(self) -> None:
        forms = sum(form is not None for form in (self.fixed, self.quantiles, self.mean))
        if forms != 1:
            raise ValueError("give one of 'fixed', 'quantiles', or 'mean' with 'cv' and 'max'")
        shaped = [self.cv is not None, self.max is not None]
        if self.mean is None and any(shaped):
            raise ValueError("'cv' and 'max' belong to 'mean'")
        if self.mean is not None and not all(shaped):
            raise ValueError("'mean' needs 'cv' and 'max', the longest that can come")
        if self.mean is not None and self.max is not None and self.max < self.mean:
            raise ValueError("'max' must not lie below 'mean'")
        if self.quantiles is not None:
            _check_quantiles(self.quantiles)

    @property
    def average(self) -> float:
        """Mean token count of what is drawn, before rounding."""
        if self.fixed is not None:
            return float(self.fixed)
        if self.mean is not None and self.max is not None:
            mu, sigma = self.log_normal
            z = (math.log(self.max) - mu) / sigma
            below = NormalDist().cdf(z - sigma)
            return self.mean * below + self.max * (1 - NormalDist().cdf(z))
        points = self.quantiles or ()
        pairs = zip(points, points[1:], strict=False)
        return math.fsum((q2 - q1) * (x1 + x2) / 2 for (q1, x1), (q2, x2) in pairs)

    @property
    def longest(self) -> int:
        """The largest token count that can be drawn."""
        if self.fixed is not None:
            return self.fixed
        return self.max if self.max is not None else (self.quantiles or ((1.0, 1),))[-1][1]

    @property
    def log_normal(self) -> tuple[float, float]:
        """mu and sigma of the form with ``mean`` and ``cv``."""
        return log_normal(self.mean or 1.0, self.cv or 0.0)


def log_normal(mean: float, cv: float) -> tuple[float, float]:
    """mu and sigma of the log-normal distribution with a mean and a coefficient of variation."""
    variance = math.log1p(cv * cv)
    return math.log(mean) - variance / 2, math.sqrt(variance)


def _check_quantiles(points: tuple[tuple[float, int], ...]) -> None:
    shares = [q for q, _ in points]
    tokens = [n for _, n in points]
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1:
        raise ValueError("quantiles must run from share 0 to share 1")
    if any(b <= a for a, b in zip(shares, shares[1:], strict=False)):
        raise ValueError("quantile shares must grow")
    if any(b < a for a, b in zip(tokens, tokens[1:], strict=False)):
        raise ValueError("quantile tokens must not fall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Time between the end of a turn and the next: ``mean`` alone is fixed; with ``cv`` log-normal,
    cut at ``max`` if that is given.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    mean: SecondsOrZero
    cv: VariationOrZero = 0.0
    max: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Requests come as the ``turns`` of sessions: one after the other's end, ``think`` later.

    ``history``: a prompt is all former prompts and answers of its session and ``isl`` new tokens,
    so that a prefix cache can hit; else each prompt stands alone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    turns: Lengths
    think: Pause
    history: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A shared beginning: a ``share`` of the requests (of the sessions) puts one of ``groups``
    equally frequent system prompts of ``tokens`` tokens before its ``isl`` tokens.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    tokens: TokenCount
    groups: Annotated[int, Count(1_000_000)] = 1
    share: Share = 1.0


TraceFormat = Literal[
    "aiperf",
    "azure",
    "bailian",
    "benchmark",
    "burstgpt",
    "llmservingsim",
    "mooncake",
    "neutral",
    "prompts",
    "ragpulse",
    "servegen",
    "sharegpt",
    "splitwise",
    "vidur",
]
TimeUnit = Literal["s", "ms"]
Turns = Literal["whole", "new"]
# What is said of a trace that does not say it.
ABOUT_A_TRACE = ("trace_block_tokens", "trace_time_unit", "trace_turns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """``open``: Gamma gaps of coefficient of variation ``cv`` (1 is Poisson); ``closed``;
    ``offline``; ``trace``: at the times of one, ``time_scale`` times as fast. With a ``trace`` the
    others take its rows in order, whatever their times.

    With sessions ``rate`` and ``concurrency`` count sessions. ``trace_block_tokens`` (of a block of
    ``hash_ids``), ``trace_time_unit`` and ``trace_turns`` (whole prompts, or what is new in them)
    say of a trace what it does not.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["open", "closed", "offline", "trace"]
    cv: Variation = 1.0
    rate: PerSecond | None = None
    load: Share | None = None
    concurrency: Clients | None = None
    trace: str | None = None
    trace_format: TraceFormat | None = None
    trace_block_tokens: TokenCount | None = None
    trace_time_unit: TimeUnit | None = None
    trace_turns: Turns | None = None
    time_scale: Annotated[float, Number(1e-6, 1e6)] = 1.0

    def __post_init__(self) -> None:
        if self.kind == "open" and (self.rate is None) == (self.load is None):
            raise ValueError("open arrivals need either 'rate' or 'load'")
        if self.kind == "closed" and self.concurrency is None:
            raise ValueError("closed arrivals need 'concurrency'")
        if self.kind == "trace" and self.trace is None:
            raise ValueError("trace arrivals need 'trace', the path of a trace")
        alone = self.trace is None and self.trace_format is not None
        if alone or (self.kind != "trace" and self.time_scale != 1):
            raise ValueError("'trace_format' and 'time_scale' belong to trace arrivals")
        for name in ABOUT_A_TRACE:
            if self.trace is None and getattr(self, name) is not None:
                raise ValueError(f"'{name}' says something of a 'trace'; give one")

    @property
    def replays(self) -> bool:
        """Whether the requests are those of a trace, at its times or not."""
        return self.trace is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits per request and the share of requests that must meet all of them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
    attainment: Share = 0.99

    @property
    def limits(self) -> bool:
        """Whether there is any limit."""
        return not (self.ttft is None and self.tpot is None and self.e2e is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficClass:
    """One class of a mix: its ``share`` of the arrivals, lengths, urgency (a lower ``priority`` is
    served first), and an SLO of its own unless the workload's holds.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Text
    share: Share
    isl: Lengths
    osl: Lengths
    prefix: Prefix | None = None
    sessions: Sessions | None = None
    slo: Slo | None = None
    priority: Annotated[int, Count(MOST_PARTS, -MOST_PARTS)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the model is laid out: devices an attention (tp), pipeline stages (pp), devices that the
    experts are spread over (ep), attention groups (attn_dp), replicas; ``None`` is chosen by rule.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    tp: Chips | None = None
    pp: Chips | None = None
    ep: Chips | None = None
    attn_dp: Chips | None = None
    replicas: Chips | None = None
    router: RouterName = "round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A serving workload; ``precision`` auto takes what the model ships in if the chip runs it,
    else the first of fp8, int8, bf16 that the chip has and that fits. ``software`` auto takes the
    engine that is usual on the chip. ``model_like``: the family that a config of an unknown one is
    priced as.

    Traffic is ``isl`` and ``osl`` with ``prefix`` and ``sessions``, or a mix of ``classes``.
    ``requests`` auto is as many as the machine needs; a number limits every figure to what so many
    can tell. ``sampling_error``: capacity and saturation are searched until half of their 95 %
    interval is no wider.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    kind: Literal["serving"] = "serving"
    model: Text
    model_like: Text | None = None
    software: Text = "auto"
    precision: Literal["auto"] | Dtype = "auto"
    traffic: Text
    isl: Lengths | None = None
    osl: Lengths | None = None
    prefix: Prefix | None = None
    sessions: Sessions | None = None
    classes: tuple[TrafficClass, ...] = ()
    arrivals: Arrivals
    slo: Slo = field(default_factory=Slo)
    requests: Requests | Literal["auto"] = "auto"
    sampling_error: SamplingError = 0.03
    duration: Seconds | None = None
    seed: Seed = 0
    plan: Plan = field(default_factory=Plan)
    engine: dict[str, Any] = field(default_factory=dict)
    engine_args: str = ""
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = [self.isl, self.osl]
        if self.classes:
            if any(part is not None for part in (*lengths, self.prefix, self.sessions)):
                raise ValueError("with 'classes', isl, osl, prefix and sessions stand in them")
            total = math.fsum(part.share for part in self.classes)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"the shares of 'classes' must add up to 100 %, not {total:.4%}")
            if len({part.name for part in self.classes}) < len(self.classes):
                raise ValueError("two of 'classes' have the same name")
        elif not self.arrivals.replays and None in lengths:
            raise ValueError("give 'isl' and 'osl', or 'classes'")

    @property
    def stated_requests(self) -> int | None:
        """The number of requests if one was given."""
        return None if self.requests == "auto" else self.requests

    @property
    def shape(self) -> tuple[Lengths, Lengths]:
        """Lengths of prompts and answers; raises ValueError where only classes or a trace have
        them.
        """
        if self.isl is None or self.osl is None:
            raise ValueError(f"{self.name} has no lengths of its own")
        return self.isl, self.osl

    @property
    def parts(self) -> tuple[TrafficClass, ...]:
        """The classes; without any, the one that the workload itself is."""
        if self.classes:
            return self.classes
        isl, osl = self.shape
        return (
            TrafficClass(
                name=self.name,
                share=1.0,
                isl=isl,
                osl=osl,
                prefix=self.prefix,
                sessions=self.sessions,
                slo=self.slo,
            ),
        )

    @property
    def mean_turns(self) -> float:
        """Requests of a session in the mean; 1 where no class has sessions."""
        return sum(
            part.share * (part.sessions.turns.average if part.sessions else 1.0)
            for part in self.parts
        )

    def plain(self) -> Workload:
        """The same workload, with a mix of one class written without classes."""
        if len(self.classes) != 1 or self.arrivals.replays:
            return self
        only = self.classes[0]
        return replace(
            self,
            classes=(),
            isl=only.isl,
            osl=only.osl,
            prefix=only.prefix,
            sessions=only.sessions,
            slo=only.slo or self.slo,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """Money and energy around the chips. Owned: capital recovery over ``life`` at ``wacc`` plus
    space for the provisioned power and electricity for the power that is drawn. ``host_share``: of
    the chip's price, and of its power where that of the host is not known.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    basis: Literal["rented", "owned"] = "rented"
    usd_per_chip_hour: NamedUsdPerHour | None = None
    electricity: UsdPerKwh = 0.091
    pue: Annotated[float, Number(1, 100)] = 1.2
    life_years: NamedYears = 5.0
    wacc: NamedShare = 0.09
    host_share: NamedShare = 0.35
    colocation_usd_per_kw_month: NamedUsdPerKwMonth = 130.0


__all__ = [
    "ABOUT_A_TRACE",
    "Arrivals",
    "Economics",
    "Lengths",
    "Pause",
    "Plan",
    "Prefix",
    "SecondsOrZero",
    "Sessions",
    "Slo",
    "TimeUnit",
    "TraceFormat",
    "TrafficClass",
    "Turns",
    "Workload",
]
