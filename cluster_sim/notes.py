"""What a reader must know before using the numbers of a run."""

from __future__ import annotations

from typing import Any

from cluster_sim.economics import how_to_price
from cluster_sim.facts import Facts
from cluster_sim.serving.records import Status
from cluster_sim.specs.inputs import TopologyInput

STEADY = 0.8  # share of the rate that sessions would have in the long run: below it a note
ROUNDS = 4  # of filling the machine, for a throughput that is not mostly start and end


def notes_of(facts: Facts, row: dict[str, Any]) -> list[str]:
    """What a reader must know before using the numbers."""
    notes, software = list(facts.choice.notes), facts.job.software
    if software.draft_tokens:
        notes.append(
            f"a decode step gives {software.tokens_per_step:.3g} tokens a sequence: "
            f"{software.draft_tokens} drafted, {software.draft_acceptance * 100:g} % accepted "
            "where those before were; it depends on the text, set engine.draft_acceptance"
        )
    borrowed = software.stands_in(facts.machine.chip.vendor)
    if borrowed is not None:
        notes.append(borrowed)
    if row["rejected"]:
        behind = facts.run.outcomes.status.count(Status.REJECTED_SESSION)
        notes.append(
            f"{row['rejected'] - behind} requests rejected: longer than the context or the KV cache"
            + (f"; {behind} more behind them in their sessions" if behind else "")
        )
    if facts.others:
        notes.append(
            f"{', '.join(facts.others)}: beside them replicas lost "
            f"{row['share_lost'] * 100:.2g} % of the chip time; capacity and saturation are without"
        )
    if row["stable"] is False:
        notes.append(
            "overloaded: the queue still grows at the end; latencies depend on the duration"
        )
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
    if facts.requests.skipped_rows:
        notes.append(f"{facts.requests.skipped_rows} bad rows of the trace left out")
    if facts.requests.failed_rows:
        notes.append(
            f"{facts.requests.failed_rows} rows of requests that failed (no answer tokens) left out"
        )
    if facts.capacity is not None and facts.capacity.starts_per_s == 0:
        notes.append("no rate meets the SLO; the load is a share of the saturated rate instead")
    few = _too_few_requests(facts)
    if few:
        notes.append(few)
    elif facts.capacity is not None and facts.capacity.first_limit is None:
        notes.append(
            "the SLO holds up to the saturated rate: too few requests to see a queue build up; "
            "raise --requests"
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


def _too_few_requests(facts: Facts) -> str:
    """Whether capacity and saturation are only lower bounds, because start and end of the run, with
    few sequences, are most of it: with fewer requests than ``ROUNDS`` times the sequences that the
    closed form puts into the machine at once.
    """
    if facts.flat_out is None:
        return ""
    layout, count = facts.choice.layout, len(facts.requests)
    batch = next((c.batch for c in facts.choice.candidates if c.layout == layout), 0)
    wanted = ROUNDS * batch * facts.choice.replicas
    if count >= wanted:
        return ""
    return (
        f"{count:,} requests do not fill a machine that holds {wanted // ROUNDS:,} at once: what "
        f"it can serve is a lower bound; --requests {wanted} would tell, or fewer --chips"
    )
