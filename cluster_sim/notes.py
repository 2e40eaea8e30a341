"""What a reader must know before using the numbers of a run."""

from __future__ import annotations

from typing import Any

from cluster_sim.economics import how_to_price
from cluster_sim.errors import counted
from cluster_sim.facts import Facts
from cluster_sim.kernels.attention import untimed
from cluster_sim.overload import trend
from cluster_sim.perf.checkpoint import size_note
from cluster_sim.serving.records import Status
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.status import limits_of
from cluster_sim.window import steady_window

STEADY = 0.8  # share of the rate that sessions would have in the long run: below it a note


def notes_of(facts: Facts, row: dict[str, Any]) -> list[str]:
    """What a reader must know before using the numbers."""
    notes, software = list(facts.choice.notes), facts.job.software
    notes += filter(None, (*facts.job.model.notes, size_note(facts.job.model)))
    if software.draft_tokens:
        notes.append(
            f"a decode step gives {software.tokens_per_step:.3g} tokens a sequence: "
            f"{software.draft_tokens} drafted, {software.draft_acceptance * 100:g} % accepted "
            "where those before were; it depends on the text, set engine.draft_acceptance"
        )
    borrowed = software.stands_in(facts.machine.chip.vendor)
    if borrowed is not None:
        notes.append(borrowed)
    guess = untimed(facts.job.model)
    if guess:
        notes.append(f"no timings of {guess}: priced by bytes and FLOP on the nearest curves")
    if row["rejected"]:
        behind = facts.run.outcomes.status.count(Status.REJECTED_SESSION)
        notes.append(
            f"{counted(row['rejected'] - behind, 'request')} rejected: longer than the context or "
            "the KV cache" + (f"; {behind} more behind them in their sessions" if behind else "")
        )
    if facts.others:
        notes.append(
            f"{', '.join(facts.others)}: beside them replicas lost "
            f"{row['share_lost'] * 100:.2g} % of the chip time; capacity and saturation are without"
        )
    if row["stable"] is False:
        notes.append(_overload(facts, row))
    notes += _unsupported(facts, row)
    if facts.chips_used != row["n_chips"]:
        notes.append(f"{facts.chips_used} of {row['n_chips']} chips used; money counts all of them")
    if row["chip_usd_per_h"] is None:
        notes.append(how_to_price(facts.machine.chip, facts.economics))
    if row["power_w"] is None:
        notes.append(f"power and energy are empty: {_lacks_power(facts.machine)}")
    if _unsteady(facts, row):
        notes.append(
            "sessions last long beside the run: its load rises and falls; raise --requests"
        )
    notes += _of_a_trace(facts)
    if facts.requests.skipped_rows:
        notes.append(f"{facts.requests.skipped_rows} bad rows of the trace left out")
    if facts.requests.failed_rows:
        notes.append(
            f"{facts.requests.failed_rows} rows of requests that failed (no answer tokens) left out"
        )
    return notes


def _of_a_trace(facts: Facts) -> list[str]:
    """What of a trace was assumed, and how its requests come if not at its times."""
    arrivals = facts.job.workload.arrivals
    notes = list(facts.requests.assumed)
    if arrivals.replays and arrivals.kind != "trace":
        how = {"closed": "as clients are free", "offline": "all at once"}.get(arrivals.kind)
        if how is None:
            how = f"with gaps drawn anew (cv {arrivals.cv:g})"
        notes.append(f"requests are the rows of the trace in order, without times: they come {how}")
    return notes


def _overload(facts: Facts, row: dict[str, Any]) -> str:
    """By how much more is asked than is served."""
    drift = trend(facts.run, facts.requests, steady_window(facts.run, facts.requests).window)
    asked, found = facts.asked_per_s or drift.arrivals_per_s, facts.saturation
    text = f"overloaded: {_short(asked)} requests/s come"
    if found is not None and not found.reason and asked >= found.requests_per_s:
        text += f", {_short(found.requests_per_s)} can be served flat out"
    if drift.grows:
        text += f"; those inside grow by {_short(drift.growth_per_s)} a second"
    if facts.targets.limits and row["slo_attainment"] is not None:
        text += f"; {row['slo_attainment'] * 100:.3g} % within the SLO"
    work = "; rates and costs are those of work done" if row["output_tokens_per_s"] else ""
    return f"{text}. Latencies grow with the duration{work}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _way_out(facts: Facts) -> str:
    """What would give the run more to tell."""
    wanted = facts.job.workload
    if facts.run.interrupted:
        return "; the run was interrupted"
    if wanted.stated_requests is not None:
        return "; raise or leave out --requests"
    if wanted.duration is not None:
        return "; raise or leave out --duration"
    return "; take a longer trace" if wanted.arrivals.kind == "trace" else ""


def _unsupported(facts: Facts, row: dict[str, Any]) -> list[str]:
    """Why figures are bounds, or missing."""
    notes, limits = [], limits_of(facts)
    for name, words in (("capacity", "within the SLO"), ("saturation", "flat out")):
        limit = limits[name]
        if limit.status == "lower_bound":
            notes.append(f"{words}: a lower bound, {limit.reason}")
        if limit.status == "too_short":
            notes.append(f"{words}: no figure, {limit.reason}{_way_out(facts)}")
        if limit.status == "not_kept":
            notes.append(
                f"no rate keeps the SLO: {limit.reason}; the load is a share of the {facts.load_of}"
            )
    kept, flat_out = (limits[name].requests_per_s for name in ("capacity", "saturation"))
    if kept and flat_out and kept > flat_out * (1 + (limits["saturation"].error or 0.0)):
        notes.append(
            "flat out gives less than a rate within the SLO: with a backlog the scheduler "
            f"({facts.job.software.scheduler}) evicts, and computes again what it evicted"
        )
    steady = steady_window(facts.run, facts.requests)
    if steady.reason:
        notes.append(
            f"no rates and costs: {steady.reason}{_way_out(facts)}. Latencies are those of all "
            "requests"
        )
    return notes


def _lacks_power(machine: TopologyInput) -> str:
    """What is missing for the power of a machine, and how to give it."""
    if machine.chip.tdp is None:
        return (
            f"no TDP of {machine.chip.title} is published; give one with "
            "--set 'chip.tdp=700 W' --set 'chip.idle_power=115 W'"
        )
    if machine.topology.host_power is None:
        return "no power of the host is known; give it with --set 'topology.host_power=2.4 kW'"
    return f"{machine.chip.title} has no power curve; add one to its fits"


def _unsteady(facts: Facts, row: dict[str, Any]) -> bool:
    """Whether requests came much slower than starts of sessions times turns."""
    requests, rate = facts.requests, row["rate_per_s"]
    if requests.after is None or facts.job.workload.arrivals.kind != "open" or rate is None:
        return False
    return bool(rate * requests.arrival_s[-1] < STEADY * len(requests))
