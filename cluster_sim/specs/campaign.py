"""What a whole training run is made of: tokens, learning phases, evaluation, checkpoints, and what
fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.constraints import (
    MOST_REPLICATIONS,
    Chance,
    ChipsOrZero,
    Count,
    Factor,
    FactorOrZero,
    Number,
    OneOrMore,
    PositiveInt,
    Sequences,
    Text,
    TokenCount,
)
from cluster_sim.units import (
    BytesPerSecond,
    Seconds,
    SecondsOrZero,
    Tokens,
    parse_quantity,
)

FleetName = Literal[
    "none",
    "rsc1",
    "rsc2",
    "llama3_h100",
    "meta_32k",
    "h100_field_low",
    "h100_field_high",
    "crusoe_h200",
    "imbue_h100",
    "opt_a100",
    "tpu_v4",
]
Target = Literal["local", "host", "storage"]
Blast = Literal["host", "tray", "domain"]
FailureRate = Annotated[float, Number(0, 1e5)]  # per 1,000 host-days; published ones reach 50
_STRICT: dict[str, Any] = {"extra": "forbid"}
_STEPS = re.compile(r"\s*([\d_,]+)\s*steps?\s*")

# What a checkpoint holds per parameter: 2 bytes of bf16 weight, 4 of fp32 master weight, 8 of the
# two fp32 moments of Adam. Source: layout of Megatron-Core's distributed optimizer.
BYTES_PER_PARAMETER = 14.0
# Seconds until a fault is known. Assumed: geometric middle of 5.6 s (arXiv:2401.00134, slowest of
# four tiers of detection) and 600 s (arXiv:2402.15627, detection and diagnosis, recalled).
DETECTION_S = 60.0
# Seconds from there to the next step, loading apart: the median of one long run (OLMo Hybrid,
# Lambda's account). Its mean was 38.9 minutes, where people had to act; AWS speaks of 15 minutes.
RESTART_S = 222.0
REPAIR_S = 24 * 3600.0  # until a lost host can be used again. Assumed: no published figure.


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPhase:
    """Steps of one shape until ``until`` tokens of the whole run, the last to its end;
    ``global_batch`` in sequences; ``switch`` is the time that the change to it takes.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    until: Tokens | None = None
    global_batch: Sequences
    seq_len: TokenCount
    switch: SecondsOrZero = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every ``every_steps`` steps training stands still for ``time``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    every_steps: PositiveInt
    time: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One kind of checkpoint; a run may write several kinds, each at its own interval.

    ``interval`` is ``30 min``, ``500 steps`` or ``auto``, the optimum of Young. ``mode`` sync: the
    job stands still while it is written; async: while the state is copied to host memory, and the
    copy counts from the end of the write. ``target``: the host's own drives (local), host memory,
    or shared storage. Copies on hosts are lost with any host unless ``peer`` keeps a second one
    elsewhere. Bandwidths are those of all hosts together or per host, reading as writing; ``save``,
    ``block`` and ``load`` state measured times instead.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    interval: Text = "auto"
    mode: Literal["sync", "async"] = "async"
    target: Target = "storage"
    peer: bool = False
    bytes_per_parameter: Factor = BYTES_PER_PARAMETER
    bandwidth_per_host: BytesPerSecond | None = None
    bandwidth: BytesPerSecond | None = None
    save: Seconds | None = None
    block: SecondsOrZero | None = None
    load: SecondsOrZero | None = None

    def __post_init__(self) -> None:
        if self.interval != "auto" and self.interval_steps is None:
            self._seconds()
        if self.bandwidth is not None and self.bandwidth_per_host is not None:
            raise ValueError("give 'bandwidth' of all hosts together or 'bandwidth_per_host'")
        if self.mode == "sync" and self.block is not None:
            raise ValueError("'block' belongs to mode async; a sync checkpoint blocks for 'save'")
        if self.save is not None and self.block is not None and self.block > self.save:
            raise ValueError("'block' must not be longer than 'save'")

    @property
    def interval_steps(self) -> int | None:
        """The interval if it is given in steps."""
        match = _STEPS.fullmatch(self.interval)
        if match is None:
            return None
        steps = int(match[1].replace(",", "").replace("_", "") or 0)
        if steps < 1:
            raise ValueError(f"an interval must be at least 1 step (got '{self.interval}')")
        return steps

    @property
    def interval_s(self) -> float | None:
        """The interval if it is given in seconds."""
        if self.interval == "auto" or self.interval_steps is not None:
            return None
        return self._seconds()

    @property
    def survives(self) -> bool:
        """Whether a copy is left when a host is lost."""
        return self.target == "storage" or self.peer

    def _seconds(self) -> float:
        try:
            seconds = parse_quantity(self.interval, "time")
        except ValueError:
            raise ValueError(
                f"an interval is '30 min', '500 steps' or 'auto' (got '{self.interval}')"
            ) from None
        if seconds <= 0:
            raise ValueError(f"an interval must be > 0 (got '{self.interval}')")
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What can fail: failures per 1,000 days of a host, or of as many chips as a host of the fleet
    has (``of: chip``); whether the host is out of use until it is repaired.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    per_1000_host_days: FailureRate
    of: Literal["chip", "host"] = "chip"
    loses_host: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Something slow rather than dead: how often it begins per 1,000 host-days, by which factor the
    whole synchronous job is slower while it lasts, and how long that is.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    per_1000_host_days: FailureRate
    slowdown: OneOrMore
    repair: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What fails how often, and what is done about it.

    ``fleet`` names measured rates (those of the chip unless given), ``factor`` multiplies the rates
    of hosts; ``components`` and ``job_per_day`` (software and users: not per host) replace them.
    ``blast``: a failure takes the ``host``, for which any spare host stands in; the ``tray`` of a
    domain, for which one of the ``spares_in_domain`` hosts of the same domain stands in, else a
    spare domain for the whole domain; or the ``domain`` at once. ``spares`` counts hosts, or
    domains where those are exchanged; left out, enough for 99.9 % of the failures. ``elastic``:
    without a spare the job goes on with fewer data-parallel replicas; else it waits.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    fleet: FleetName | None = None
    factor: FactorOrZero = 1.0
    components: dict[str, Component] | None = None
    job_per_day: FactorOrZero | None = None
    detection: SecondsOrZero = DETECTION_S
    restart: SecondsOrZero = RESTART_S
    repair: SecondsOrZero = REPAIR_S
    blast: Blast | None = None
    spares: ChipsOrZero | None = None
    spares_in_domain: ChipsOrZero = 0
    elastic: bool = False
    slow_hosts: Degradation | None = None
    degraded_links: Degradation | None = None

    def __post_init__(self) -> None:
        if self.fleet is not None and self.components is not None:
            raise ValueError("give 'fleet' or 'components', not both")
        if self.spares_in_domain and self.blast not in (None, "tray"):
            raise ValueError("'spares_in_domain' belongs to 'blast: tray'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A whole training run of ``tokens`` tokens.

    Without ``phases`` all steps have the workload's batch and length. ``jitter`` is the standard
    deviation of one host's step time as a share of it; the step waits for the slowest. Zero unless
    given: step times of measured software hold it already. ``replications`` are played with
    failures of their own.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    tokens: Tokens
    phases: tuple[LearningPhase, ...] = ()
    evaluation: Evaluation | None = None
    checkpoints: tuple[Checkpoint, ...] = (Checkpoint(),)
    failures: Failures = field(default_factory=Failures)
    jitter: Chance = 0.0
    replications: Annotated[int, Count(MOST_REPLICATIONS)] = 16

    def __post_init__(self) -> None:
        ends = [phase.until for phase in self.phases]
        if None in ends[:-1]:
            raise ValueError("only the last of 'phases' may be without 'until'")
        given = [end for end in ends if end is not None]
        if any(b <= a for a, b in zip(given, given[1:], strict=False)):
            raise ValueError("'until' of the phases must grow")
        if ends and ends[-1] is not None and ends[-1] < self.tokens:
            raise ValueError(
                f"'phases' end at {ends[-1]:g} of {self.tokens:g} tokens; leave out 'until' of the "
                "last, or add a phase"
            )
