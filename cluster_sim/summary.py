"""From the facts of a run to its row of summary.csv, its table of requests and its manifest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster_sim import __version__
from cluster_sim.columns import PROVENANCE, SCHEMA, SUMMARY_COLUMNS, run_id
from cluster_sim.economics import (
    machine_usd_per_hour,
    price_columns,
    usd_per_million_tokens,
    wall_power_w,
)
from cluster_sim.facts import Facts
from cluster_sim.kernels.power import chip_power_w
from cluster_sim.ledger import Ledger, close_ledger
from cluster_sim.metrics import (
    FloatArray,
    Latencies,
    attainment,
    class_rows,
    inter_token_latencies,
    latencies,
    limit_shares,
    meets_slo,
    outcome_table,
    summarise,
)
from cluster_sim.notes import notes_of
from cluster_sim.overload import trend
from cluster_sim.specs.workload import Slo
from cluster_sim.status import Limit, check_laws, keeps_up, limit_shares_of, limits_of, statuses
from cluster_sim.uncertainty import bands, in_manifest
from cluster_sim.window import Steady, Window, prompt_tokens_in, steady_window, tokens_in

SHARES = {  # column of summary.csv -> operator families
    "share_compute": (
        "gemm_math",
        "expert_math",
        "attention_prefill",
        "linear_attention",
        "state_space",
        "glue",
    ),
    "share_weights": ("gemm_weights", "expert_weights"),
    "share_kv": ("attention_decode", "swap"),
    "share_tp": ("all_reduce",),
    "share_pp": ("handoff",),
    "share_ep": ("expert_exchange",),
    "share_host": ("host",),
    "share_bubble": ("bubble",),
    "share_idle": ("idle",),
}


def summarise_run(
    facts: Facts,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The row of summary.csv (all columns, None = not applicable), the columns of requests.csv, the
    manifest. Raises SimulationError when the figures break a law.
    """
    run, requests = facts.run, facts.requests
    steady = steady_window(run, requests)
    everything = latencies(run, requests)
    seen = everything
    if not steady.reason:
        # A backlog comes before its window; those that begin in it count.
        backlog = facts.job.workload.arrivals.kind == "offline"
        begun = run.outcomes.first_s if backlog else run.outcomes.arrival_s
        seen = everything.among(steady.window.holds(np.array(begun)))
    ledger = close_ledger(facts.price, run)
    row: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS)
    row.update(_identity(facts))
    row.update(_service(facts, steady, seen, everything))
    row.update({column: ledger.share(*families) for column, families in SHARES.items()})
    if run.visits is not None:
        row["share_lost"] = ledger.share("lost")
    row.update(limit_shares_of(run) | {"limit_other_ranks": ledger.share("bubble")})
    row.update(_memory(facts))
    limits = limits_of(facts)
    row.update(_capacity_row(facts, limits))
    row.update(_money_and_energy(facts, ledger, row, limits))
    row.update({f"prov_{name}": ledger.provenance.get(name, 0.0) for name in PROVENANCE})
    row.update(statuses(facts, steady, seen, limits, row))
    check_laws(facts, steady, row)
    found = bands(facts, ledger, row)
    for name, band in found.items():
        row[f"{name}_low"], row[f"{name}_high"] = band.low, band.high
    assert list(row) == list(SUMMARY_COLUMNS)
    table = outcome_table(run, requests, everything, facts.targets)
    manifest = _manifest(facts, ledger, limits, seen, row)
    return row, table, manifest | {"steady": _steady(steady), "bands": in_manifest(found)}


def _steady(steady: Steady) -> dict[str, Any]:
    """What the manifest says about the window."""
    span = steady.window
    return {
        "start_s": span.start_s,
        "end_s": span.end_s,
        "service_s": steady.service_s,
        "reason": steady.reason or None,
    }


def _identity(facts: Facts) -> dict[str, Any]:
    job, machine, choice = facts.job, facts.machine, facts.choice
    arrivals, topology = job.workload.arrivals, machine.topology
    load = arrivals.kind if arrivals.load is None else f"{arrivals.load:.0%} of {facts.load_of}"
    return {
        "run_id": run_id(job.workload.name, topology.name, facts.origin.config_hash),
        "kind": job.workload.kind,
        "topology": topology.name,
        "chip": machine.chip.name,
        "n_chips": topology.chips,
        "chips_used": facts.chips_used,
        "devices": choice.layout.devices * choice.replicas,
        "workload": job.workload.name,
        "model": job.model.name,
        "weights_dtype": choice.recipe.name,
        "kv_dtype": choice.recipe.kv,
        "plan": choice.name,
        "tp": choice.layout.tp,
        "pp": choice.layout.pp,
        "dp": 1,
        "ep": choice.layout.ep,
        "cp": 1,
        "attn_dp": choice.layout.attn_dp,
        "replicas": choice.replicas,
        "software": job.software.name,
        "scheduler": job.software.scheduler,
        "load": load,
        "concurrency": arrivals.concurrency if arrivals.kind == "closed" else None,
        "seed": job.workload.seed,
        "slo": _describe_slos(facts),
        "schema": SCHEMA,
        "version": __version__,
        "config_hash": facts.origin.config_hash,
    }


def _describe_slos(facts: Facts) -> str | None:
    """The SLO, or those of all classes of a mix."""
    slos = [describe_slo(slo) for slo in facts.targets.slos]
    if facts.requests.slo_class is None:
        return slos[0]
    named = zip(facts.requests.class_names, slos, strict=True)
    return "; ".join(f"{name}: {slo}" for name, slo in named if slo) or None


def describe_slo(slo: Slo) -> str | None:
    """The SLO in the form that ``--slo`` takes; None without limits."""
    limits = [
        f"{name}={limit * 1e3:g}ms"
        for name, limit in (("ttft", slo.ttft), ("tpot", slo.tpot), ("e2e", slo.e2e))
        if limit is not None
    ]
    return ",".join([*limits, f"attainment={slo.attainment * 100:g}%"]) if limits else None


def _service(
    facts: Facts, steady: Steady, seen: Latencies, everything: Latencies
) -> dict[str, Any]:
    """Requests, throughput, latencies and goodput inside the window; without a window no rates, and
    the latencies of all requests.
    """
    run, requests, wanted = facts.run, facts.requests, facts.targets
    arrival = np.array(run.outcomes.arrival_s)
    counted = seen.inside & seen.finished
    tpot = summarise("tpot", seen.tpot_s[counted])
    supported = not steady.reason
    span = steady.window if supported else Window(-math.inf, math.inf)
    drift = trend(run, requests, steady.window) if facts.open_loop else None
    row: dict[str, Any] = {
        "isl_mean": float(requests.isl.mean()),
        "osl_mean": float(requests.osl.mean()),
        "requests": len(requests),
        "finished": int(everything.finished.sum()),
        "rejected": int(everything.rejected.sum()),
        "partial": run.interrupted,
        "stable": None if drift is None else keeps_up(facts, steady, drift),
        "window_s": span.length_s if supported else None,
        "rate_asked_per_s": facts.asked_per_s,
        "tokens_per_s_per_user": 1e3 / tpot["tpot_mean_ms"] if tpot["tpot_mean_ms"] else None,
        "slo_attainment": _number(attainment(seen, wanted)) if wanted.limits else None,
        "preemptions": sum(run.outcomes.preemptions),
        "prefix_hit_share": _hit_share(facts),
    }
    if supported:
        row.update(_rates(facts, span, everything, arrival, limited=wanted.limits))
    row.update(summarise("ttft", seen.ttft_s[counted]))
    row.update(tpot)
    row.update(inter_token_latencies(run.logs, span))
    row.update(summarise("e2e", seen.e2e_s[counted]))
    return row


def _rates(
    facts: Facts, span: Window, seen: Latencies, arrival: FloatArray, *, limited: bool
) -> dict[str, float | None]:
    """What happens in the window, a second: requests that arrive and end, tokens of prompts done
    and tokens emitted in it.
    """
    run, edges, seconds = facts.run, span.parts(1), span.length_s
    ended = span.holds(np.array(run.outcomes.finish_s))
    output, inputs = (float(f(run.logs, edges)[0]) for f in (tokens_in, prompt_tokens_in))
    came_s = min(span.end_s, float(np.nanmax(arrival))) - span.start_s
    came = int(span.holds(arrival).sum())
    good = int((meets_slo(seen, facts.targets) & ended).sum())
    return {
        "rate_per_s": came / came_s if facts.open_loop and came_s > 0 else None,
        "requests_per_s": int(ended.sum()) / seconds,
        "output_tokens_per_s": output / seconds,
        "input_tokens_per_s": inputs / seconds,
        "total_tokens_per_s": (inputs + output) / seconds,
        "output_tokens_per_s_per_chip": output / seconds / facts.chips_used,
        "goodput_per_s": good / seconds if limited else None,
    }


def _memory(facts: Facts) -> dict[str, Any]:
    peak = max((counts.blocks_peak for counts in facts.run.counts), default=0)
    used = facts.cache.weights_bytes + facts.cache.reserve_bytes
    used += peak * facts.cache.block_tokens * facts.cache.bytes_per_token
    return {
        "kv_tokens": facts.cache.tokens * facts.choice.layout.ranks * facts.choice.replicas,
        "kv_peak": peak / facts.cache.blocks,
        "mem_peak_gib": used / 2**30,
    }


def _capacity_row(facts: Facts, limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Capacity and saturation; None where they are not known."""
    capacity, saturation, chips = limits["capacity"], limits["saturation"], facts.chips_used
    row: dict[str, Any] = {}
    if saturation.output_tokens_per_s is not None:
        row["saturation_output_tokens_per_s_per_chip"] = saturation.output_tokens_per_s / chips
    if capacity.output_tokens_per_s is not None:
        row["capacity_requests_per_s"] = capacity.requests_per_s
        row["capacity_output_tokens_per_s_per_chip"] = capacity.output_tokens_per_s / chips
    return row


def _money_and_energy(
    facts: Facts, ledger: Ledger, row: Mapping[str, Any], limits: Mapping[str, Limit]
) -> dict[str, Any]:
    """Cost of all chips of the topology a token of the window; power at the wall and energy a token
    of the whole run, fill and drain with it.
    """
    machine, topology, economics = facts.machine, facts.machine.topology, facts.economics
    busy = {name: ledger.share(name) for name in ledger.families_s}
    used_w = chip_power_w(
        machine, {**busy, **{name: ledger.share(name) for name in ("bubble", "idle", "lost")}}
    )
    power_w, idle_w = None, machine.chip.idle_power
    if used_w is not None and idle_w is not None and topology.host_power is not None:
        idle_chips = topology.chips - facts.chips_used
        chips_w = facts.chips_used * used_w + idle_chips * idle_w
        power_w = wall_power_w(chips_w, topology.host_power, economics)
    usd_per_h = machine_usd_per_hour(machine, economics, power_w)
    emitted = sum(counts.output_tokens for counts in facts.run.counts)
    joules = None
    if power_w is not None and row["output_tokens_per_s"] and emitted:
        joules = power_w * facts.run.end_s / emitted

    def usd(tokens_per_s: float | None) -> float | None:
        return usd_per_million_tokens(usd_per_h, topology.chips, tokens_per_s)

    return {
        "chip_usd_per_h": usd_per_h,
        "usd_per_m_output_tokens": usd(row["output_tokens_per_s"]),
        "usd_per_m_total_tokens": usd(row["total_tokens_per_s"]),
        "usd_per_m_output_tokens_within_slo": usd(limits["capacity"].output_tokens_per_s),
        "power_w": power_w,
        "j_per_output_token": joules,
        **price_columns(machine.chip, economics),
    }


def _manifest(
    facts: Facts,
    ledger: Ledger,
    limits: Mapping[str, Limit],
    seen: Latencies,
    row: dict[str, Any],
) -> dict[str, Any]:
    machine = facts.machine
    usd_per_h, chips = row["chip_usd_per_h"], machine.topology.chips
    lost = {} if facts.run.visits is None else {"lost": ledger.lost_s}

    def entry(limit: Limit) -> dict[str, Any] | None:
        if limit.status == "not_applicable":
            return None
        usd = usd_per_million_tokens(usd_per_h, chips, limit.output_tokens_per_s)
        return {**dataclasses.asdict(limit), "usd_per_m_output_tokens": usd}

    return {
        "run_id": row["run_id"],
        "schema": SCHEMA,
        **facts.origin.manifest(),
        "plan": {
            **dataclasses.asdict(facts.choice.layout),
            "replicas": facts.choice.replicas,
            "name": facts.choice.name,
            "dtypes": dataclasses.asdict(facts.choice.recipe),
            "notes": list(facts.choice.notes),
        },
        "candidates": [dataclasses.asdict(candidate) for candidate in facts.choice.candidates],
        "memory": dataclasses.asdict(facts.cache),
        "limits_kept": limit_shares(seen, facts.targets),
        "classes": class_rows(seen, facts.requests, facts.targets),
        "ledger": {**ledger.families_s, "bubble": ledger.bubble_s, "idle": ledger.idle_s, **lost},
        "provenance": ledger.provenance,
        "capacity": entry(limits["capacity"]),
        "saturation": entry(limits["saturation"]),
        "economics": {
            "usd_per_chip_hour": usd_per_h,
            "basis": machine.chip.price.rent_basis
            if facts.economics.basis == "rented"
            else "owned",
        },
        "engine_steps": sum(len(log.end_s) for log in facts.run.logs),
        "prefix_hit_share": row["prefix_hit_share"],
        "sessions": None if facts.requests.after is None else facts.requests.starts,
        "trace_sha256": facts.trace_sha256,
        "service_s": facts.run.end_s,
        "skipped_rows": facts.requests.skipped_rows,
        "failed_rows": facts.requests.failed_rows,
        "invariants": _invariants(facts, row),
        "notes": notes_of(facts, row),
        **_machine(facts),
    }


def _invariants(facts: Facts, row: dict[str, Any]) -> dict[str, bool]:
    """The laws that this run kept; a finished run that breaks one has already failed loudly."""
    accounted = row["finished"] + row["rejected"]
    return {
        "requests_conserved": row["partial"] or accounted == row["requests"],
        "kv_blocks_conserved": row["partial"]
        or all(c.blocks_taken >= c.blocks_returned for c in facts.run.counts),
        "chip_time_closed": True,
        "goodput_within_throughput": True,
        "tokens_within_peak": True,
        "tokens_of_window_within_run": True,
    }


def _machine(facts: Facts) -> dict[str, Any]:
    """Who else was on the machine, and what that cost; nothing in a run that had it to itself."""
    if facts.run.visits is None:
        return {}
    from cluster_sim.busy import machine_rows

    return {"machine": machine_rows(facts, facts.run.visits)}


def _hit_share(facts: Facts) -> float | None:
    """Share of the prompt tokens that came from the prefix cache; None without one in play."""
    if not facts.caching:
        return None
    computed = sum(counts.prompt_tokens for counts in facts.run.counts)
    total = computed + facts.run.hit_tokens
    return facts.run.hit_tokens / total if total else 0.0


def _number(value: float) -> float | None:
    return None if value != value else value
