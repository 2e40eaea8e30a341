"""A whole training run: days, chip-hours, energy and money to N tokens, with failures.

The flow: rates of failures and kinds of checkpoint on this machine, the schedule of the run without
failures, replications on the clock, one closed ledger each, and the band over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.errors import SimulationError, SpecError
from cluster_sim.specs.campaign import Campaign, LearningPhase
from cluster_sim.training.campaign_band import (
    MOST_BESIDE,
    SIDE,
    Band,
    Price,
    band_of,
    with_step,
)
from cluster_sim.training.campaign_checkpoints import Tier, ettr, exact_ettr, tiers_of
from cluster_sim.training.campaign_failures import (
    DAY_S,
    JOB,
    Strikes,
    Units,
    blast_of,
    strikes_on,
    units_of,
)
from cluster_sim.training.campaign_play import Played, Rules, RunEvent, play
from cluster_sim.training.campaign_schedule import (
    SHARES,
    Schedule,
    Stretch,
    make_schedule,
    owners_by,
    straggler_factor,
)

OWNERS = (
    "productive",
    *SHARES,
    "slow",
    "evaluation",
    "checkpoint",
    "lost",
    "detection",
    "restart",
    "repair",
    "idle",
)
CLOSES = 1e-9  # relative: owners against what is paid
MOST_STRIKES = 200_000  # failures that are played, all replications together: some ten seconds
LEAST_ETTR = 0.01  # below it a run makes no progress to speak of
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a run happens: the hosts that the job works on, how they are grouped, what they cost.

    ``domain_hosts`` are the hosts of one scale-up domain (1: a host is a domain), ``replicas`` the
    data-parallel ones, ``idle_w_per_host`` the watts at the wall of a host that waits.
    """

    chip: str
    hosts: int
    chips_per_host: int
    domain_hosts: int = 1
    replicas: int = 1
    parameters: float
    idle_w_per_host: float = 0.0
    usd_per_chip_hour: float | None = None

    def __post_init__(self) -> None:
        counts = (self.hosts, self.chips_per_host, self.domain_hosts, self.replicas)
        if min(counts) < 1:
            raise SpecError(f"a run needs at least one host, chip and replica (got {counts})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One replication. ``ettr``: share of the job's time that goes into steps that are kept;
    ``goodput``: the productive share of all that is paid. ``mtbf_h`` counts failures of the
    machine, ``interruption_h`` those of the job too; None where there were none. ``ledger``:
    chip-hours by owner.
    """

    partial: bool
    steps: int
    tokens: float
    days: float
    chip_hours: float
    energy_kwh: float
    usd: float | None
    ettr: float
    goodput: float
    tokens_per_s: float
    interruptions: int
    failures: Mapping[str, int]
    mtbf_h: float | None
    interruption_h: float | None
    lost_steps: int
    checkpoints: int
    ledger: Mapping[str, float]
    events: Sequence[RunEvent]
    more_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignResult:
    """All replications, the first of them in full; ``band`` maps a figure to its 10th, 50th and
    90th percentile over draws of failures and the doubt in the step (``step_sigma``), ``expected``
    holds the closed forms.
    """

    replications: int
    partial: bool
    first: Outcome
    band: Mapping[str, tuple[float, float, float]]
    failures: Mapping[str, float]
    ledger: Mapping[str, float]
    expected: Mapping[str, float]
    hosts_paid: int
    spares: int
    notes: Sequence[str]
    step_sigma: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run before its first step."""

    site: Site
    strikes: Strikes
    tiers: tuple[Tier, ...]
    units: Units
    schedule: Schedule
    rules: Rules


def prepare_campaign(
    campaign: Campaign,
    site: Site,
    price: Price,
    default: LearningPhase,
) -> Prepared:
    """Everything that does not depend on chance.

    Raises SpecError for a checkpoint longer than its interval, a copy that no lost host leaves, and
    a run that makes no progress.
    """
    failures = campaign.failures
    strikes = strikes_on(failures, site.hosts, site.chips_per_host, site.chip)
    units = units_of(failures, site.hosts, site.domain_hosts, strikes.loss_per_s)
    tiers = tiers_of(
        campaign.checkpoints,
        parameters=site.parameters,
        hosts=site.hosts,
        strikes_per_s=strikes.total_per_s,
        loss_per_s=strikes.loss_per_s,
    )
    straggler = straggler_factor(campaign.jitter, site.hosts)
    schedule = make_schedule(campaign, default, price, tiers, straggler)
    kinds = (("slow_host", failures.slow_hosts), ("degraded_link", failures.degraded_links))
    rules = Rules(
        strikes=strikes,
        units=units,
        hosts=site.hosts,
        replicas=site.replicas,
        detection_s=failures.detection,
        restart_s=failures.restart,
        repair_s=failures.repair,
        elastic=failures.elastic,
        slow=tuple((name, kind) for name, kind in kinds if kind is not None),
    )
    made = Prepared(
        site=site, strikes=strikes, tiers=tiers, units=units, schedule=schedule, rules=rules
    )
    _check_progress(made, campaign.replications)
    return made


def _check_progress(made: Prepared, replications: int) -> None:
    forms = closed_forms(made)
    if forms["ettr_exact"] < LEAST_ETTR:
        raise SpecError(
            f"run: makes no progress: it is interrupted every {forms['interruption_h']:.3g} h, "
            f"takes {forms['down_s']:.4g} s to come back and writes checkpoints every "
            f"{forms['interval_s']:.4g} s; checkpoint more often, or lower failures.restart or "
            "the failure rates"
        )
    slow_per_s = sum(one.per_1000_host_days for _, one in made.rules.slow) / 1e3 / DAY_S
    per_s = made.strikes.total_per_s + slow_per_s * made.rules.hosts
    expected = per_s * made.schedule.end_s / forms["ettr_exact"]
    if expected * replications > MOST_STRIKES:
        raise SpecError(
            f"run.failures: some {expected:,.0f} failures in each of {replications:,} replications "
            f"are more than the {MOST_STRIKES:,} that are played; lower run.replications, "
            "failures.factor or the failure rates, or shorten the run"
        )


def closed_forms(made: Prepared) -> dict[str, float]:
    """What formulas expect of a run whose hosts need not be waited for, with the steps of its
    longest phase and the kind of checkpoint that covers most.
    """
    strikes, schedule = made.strikes, made.schedule
    part = _longest(schedule)
    kinds = [
        (n * part.step_s, tier)
        for n, tier in zip(part.every, made.tiers, strict=True)
        if n and (tier.survives or not strikes.loss_per_s)
    ]
    whole_s = schedule.end_s
    interval_s, tier = min(kinds, key=lambda one: one[0]) if kinds else (whole_s, None)
    block_s, load_s = (tier.block_s, tier.load_s) if tier else (0.0, 0.0)
    tail_s = tier.tail_s if tier else 0.0
    rate = strikes.total_per_s
    mtbf_s = 1 / rate if rate else math.inf
    down_s = made.rules.detection_s + made.rules.restart_s + load_s
    looks = math.fsum(seconds / every for every, seconds in part.stops) - math.fsum(
        one.block_s / n for n, one in zip(part.every, made.tiers, strict=True) if n
    )
    training = part.facts.step_s / (part.step_s + looks)  # evaluation and stragglers
    stuck = rate and (down_s + interval_s + block_s) / mtbf_s > 500  # exp would overflow
    return {
        "ettr": ettr(mtbf_s, down_s + tail_s, interval_s, block_s) * training,
        "ettr_exact": 0.0 if stuck else exact_ettr(mtbf_s, down_s, interval_s, block_s) * training,
        "mtbf_h": 1 / strikes.host_per_s / HOUR_S if strikes.host_per_s else math.inf,
        "interruption_h": mtbf_s / HOUR_S,
        "down_s": down_s,
        "interval_s": interval_s,
        "block_s": block_s,
    }


def simulate_campaign(
    campaign: Campaign,
    site: Site,
    price: Price,
    default: LearningPhase,
    *,
    seed: int = 0,
    step_sigma: float = 0.0,
    progress: Callable[[str, float], None] | None = None,
) -> CampaignResult:
    """Play a whole run, ``campaign.replications`` times with failures of their own.

    ``price(global_batch, seq_len)`` gives the facts of a step, ``step_sigma`` the doubt in its
    logarithm, which the band holds (see ``campaign_band``); ``default`` is the phase of runs that
    give none. On Ctrl-C the replications that are finished count, else the one under way.
    """
    made = prepare_campaign(campaign, site, price, default)
    streams = np.random.SeedSequence(seed).spawn(campaign.replications)
    outcomes: list[Outcome] = []
    beside: tuple[list[Outcome], list[Outcome]] = ([], [])
    interrupted = False
    try:
        for number, stream in enumerate(streams):
            played = play(made.schedule, made.rules, np.random.default_rng(stream))
            if played.partial and outcomes:
                break
            outcomes.append(close(made, played))
            if played.partial:
                break
            if progress is not None:
                progress("run", (number + 1) / len(streams))
        if step_sigma and not outcomes[0].partial:
            few = streams[: min(len(outcomes), MOST_BESIDE)]
            beside = _beside(campaign, site, price, default, few, step_sigma)
    except KeyboardInterrupt:
        if not outcomes:
            raise
        interrupted = True  # all replications may be there, and the band lack the step's doubt
    found = _gather(made, campaign, outcomes, band_of(outcomes, *beside))
    return replace(found, step_sigma=step_sigma, partial=found.partial or interrupted)


def _beside(
    campaign: Campaign,
    site: Site,
    price: Price,
    default: LearningPhase,
    streams: Sequence[np.random.SeedSequence],
    step_sigma: float,
) -> tuple[list[Outcome], list[Outcome]]:
    """The same draws with shorter and with longer steps; none where such a run makes no progress
    or its checkpoints do not fit. Raises KeyboardInterrupt where one was interrupted.
    """
    sides: tuple[list[Outcome], list[Outcome]] = ([], [])
    for found, z in zip(sides, (-SIDE, SIDE), strict=True):
        try:
            factor = math.exp(step_sigma * z)
            made = prepare_campaign(campaign, site, with_step(price, factor), default)
        except SpecError:
            continue
        for stream in streams:
            played = play(made.schedule, made.rules, np.random.default_rng(stream))
            if played.partial:
                raise KeyboardInterrupt
            found.append(close(made, played))
    return sides


def close(made: Prepared, played: Played) -> Outcome:
    """The figures of one replication.

    Raises SimulationError where the owners do not add up to what is paid.
    """
    site, schedule, strikes = made.site, made.schedule, made.strikes
    owners = dict.fromkeys(OWNERS, 0.0) | owners_by(schedule, played.position_s)
    owners["lost"] += played.lost_s
    owners["slow"] += played.slow_s
    owners["detection"] += played.detection_s
    owners["restart"] += played.restart_s
    owners["repair"] += played.repair_s
    paid_hosts = made.units.hosts_paid
    chips, paid_chips = site.hosts * site.chips_per_host, paid_hosts * site.chips_per_host
    ledger = {name: seconds * chips / HOUR_S for name, seconds in owners.items()}
    ledger["idle"] = (paid_chips - chips) * played.wall_s / HOUR_S
    paid = paid_chips * played.wall_s / HOUR_S
    total = math.fsum(ledger.values())
    if abs(total - paid) > CLOSES * paid and not played.partial:
        raise SimulationError(f"owners of {total} chip-hours, {paid} are paid", played.wall_s)
    steps = schedule.steps_at(played.position_s)
    counts = dict(zip(strikes.names, played.strikes, strict=True))
    struck = sum(counts.values())
    machine = struck - counts.get(JOB, 0)
    up_h = (played.wall_s - owners["repair"]) / HOUR_S
    kept = math.fsum(owners[name] for name in ("productive", *SHARES))
    tokens = schedule.tokens_at(steps)
    return Outcome(
        partial=played.partial,
        steps=steps,
        tokens=float(tokens),
        days=played.wall_s / DAY_S,
        chip_hours=paid,
        energy_kwh=_energy_j(made, played, owners) / 3.6e6,
        usd=None if site.usd_per_chip_hour is None else paid * site.usd_per_chip_hour,
        ettr=kept / played.wall_s if played.wall_s else 0.0,
        goodput=ledger["productive"] / paid if paid else 0.0,
        tokens_per_s=tokens / played.wall_s if played.wall_s else 0.0,
        interruptions=struck,
        failures=counts,
        mtbf_h=up_h / machine if machine else None,
        interruption_h=up_h / struck if struck else None,
        lost_steps=played.lost_steps,
        checkpoints=played.checkpoints,
        ledger=ledger,
        events=tuple(played.events),
        more_events=played.more_events,
    )


def _energy_j(made: Prepared, played: Played, owners: Mapping[str, float]) -> float:
    """Joules at the wall: steps, lost ones too, as priced; all other time of the job idle, but for
    evaluation and what is slow, which draw the watts of the longest phase; spares idle.
    """
    site, schedule = made.site, made.schedule
    step, joules = schedule.steps_at(played.position_s), 0.0
    for index, part in enumerate(schedule.stretches):
        steps = min(max(step - part.first_step, 0), part.steps)
        watts = part.facts.energy_j / part.facts.step_s
        joules += steps * part.facts.energy_j + played.lost_by_stretch_s[index] * watts
    longest = _longest(schedule).facts
    joules += (owners["evaluation"] + owners["slow"]) * longest.energy_j / longest.step_s
    standing = ("checkpoint", "detection", "restart", "repair")
    idle_s = math.fsum(owners[name] for name in standing) * site.hosts
    idle_s += (made.units.hosts_paid - site.hosts) * played.wall_s
    return joules + idle_s * site.idle_w_per_host


def _gather(
    made: Prepared, campaign: Campaign, outcomes: Sequence[Outcome], band: Band
) -> CampaignResult:
    n = len(outcomes)
    failures = {
        name: math.fsum(one.failures[name] for one in outcomes) / n for name in made.strikes.names
    }
    ledger = {name: math.fsum(one.ledger[name] for one in outcomes) / n for name in OWNERS}
    return CampaignResult(
        replications=n,
        partial=n < campaign.replications or outcomes[0].partial,
        first=outcomes[0],
        band=band,
        failures=failures,
        ledger=ledger,
        expected=closed_forms(made),
        hosts_paid=made.units.hosts_paid,
        spares=made.units.spares,
        notes=_notes(made, campaign),
    )


def _notes(made: Prepared, campaign: Campaign) -> tuple[str, ...]:
    """What was assumed, one line each."""
    failures, site, strikes = campaign.failures, made.site, made.strikes
    notes = [f"failure rates: {strikes.source}"]
    if strikes.chip is not None and strikes.chip != site.chip:
        where = strikes.chip or "chips that the source does not name"
        notes.append(f"failure rates were measured on {where}; assumed the same on {site.chip}")
    if failures.spares is None and strikes.loss_per_s:
        unit = (
            "hosts" if made.units.hosts_each == 1 else f"domains of {made.units.hosts_each} hosts"
        )
        notes.append(
            f"{made.units.spares} spare {unit} stand by, paid too, so that 99.9 % of the lost ones "
            f"are replaced at once (blast {blast_of(failures, site.domain_hosts)}); "
            "set run.failures.spares"
        )
    part = _longest(made.schedule)
    notes.extend(
        f"checkpoints to {tier.target} every {steps} steps ({steps * part.step_s:.4g} s), the "
        "optimum of Young"
        for tier, steps in zip(made.tiers, part.every, strict=True)
        if tier.automatic and steps
    )
    return tuple(notes)


def _longest(schedule: Schedule) -> Stretch:
    return max(schedule.stretches, key=lambda one: one.steps * one.step_s)
