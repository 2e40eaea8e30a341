"""What a training framework does to a step apart from kernels: overlap, host time, dtypes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cluster_sim.specs.constraints import Chance, Factor, FactorOrZero, Text
from cluster_sim.units import Seconds, SecondsOrZero

Exposed = Chance
_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernel:
    """``flash``: causal, never writes scores; its rate is ``rate`` times that of the prompt kernels
    of the chip's curves (``rates``: by the first word of the chip's architecture). ``unfused``: two
    full products at 0.55 of the peak and ``score_bytes`` a score. The backward pass does
    ``backward_flop`` times the FLOP at ``backward_rate`` of the forward rate.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["flash", "unfused"] = "flash"
    rate: Factor = 1.0
    rates: dict[str, Factor] = field(default_factory=dict)
    score_bytes: FactorOrZero = 0.0
    backward_flop: Factor = 2.5
    backward_rate: Factor = 0.75
    source: Text

    def rate_on(self, architecture: str) -> float:
        """The rate on a chip of an architecture."""
        return self.rates.get(architecture.split()[0], self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertKernels:
    """What a layer of experts costs beside its products: ``sync`` of the host in each direction,
    the time ``launch`` that the host needs for its kernels (shows where it is longer than they
    are), ``permute_bytes`` moved for each routed row and hidden element, the part of dispatch and
    combine that nothing hides inside a domain and over NICs, and the rate of groups of products
    against the chip's experts alone at a width of 2,880 (``rate`` x (width / 2880)^``width_power``,
    the width squared is the mean n k of both products).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    sync: SecondsOrZero
    launch: SecondsOrZero
    permute_bytes: Factor
    exposed: Exposed
    exposed_nic: Exposed
    rate: Factor
    width_power: FactorOrZero
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSoftware:
    """A training framework; ``name`` carries the version, ``measured_on`` names the vendors of the
    chips of the runs that it was fitted on.

    ``step_factor`` stretches all that devices compute; ``launch`` is the floor of a product;
    ``norms`` the bytes of norms and residuals over those of kernels that do both at once;
    ``elementwise`` the bytes that kernels between products move over those counted; ``quantise``
    the passes over an activation that its dtype needs; ``exposed_tp`` what shows of each second of
    tensor-parallel collectives alone (above 1: ranks that wait for each other); ``exposed_cp`` that
    of a ring; ``step`` the host's time a step (data, norm, logging); ``scale`` what every doubling
    of the devices beyond a host adds, as a share; ``scale_fp8``: with dtypes whose scales are
    reduced over all ranks; ``comm_sms`` the share of the SMs that a collective beside kernels
    holds; ``optimizer_bytes`` moved for each local parameter.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    framework: Text
    version: Text
    date: Text
    measured_on: tuple[Text, ...] = ()
    step_factor: Factor = 1.0
    launch: Seconds
    layer: SecondsOrZero
    step: SecondsOrZero
    attention: AttentionKernel
    norms: Factor
    elementwise: Factor
    quantise: dict[str, FactorOrZero]
    exposed_tp: FactorOrZero
    exposed_cp: Exposed
    experts: ExpertKernels
    optimizer_bytes: Factor
    comm_sms: Exposed
    scale: FactorOrZero
    scale_fp8: FactorOrZero
    sources: dict[str, str]

    def stands_in(self, vendor: str) -> str | None:
        """What is said where no run on a vendor's chips was measured; None where one was."""
        if vendor in self.measured_on:
            return None
        fitted = " and ".join(self.measured_on)
        whose = f"its constants, fitted on chips of {fitted}, stand in" if fitted else "assumed"
        return f"no run of {self.title} on chips of {vendor} was measured: {whose}"
