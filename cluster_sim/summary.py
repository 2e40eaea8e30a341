"""From the facts of a run to its row of summary.csv, its table of requests and its manifest."""

from __future__ import annotations

import dataclasses
from typing import Any

from cluster_sim.columns import SCHEMA, SUMMARY_COLUMNS
from cluster_sim.economics import (
    machine_usd_per_hour,
    usd_per_million_tokens,
    wall_power_w,
)
from cluster_sim.facts import Facts
from cluster_sim.ledger import Ledger, close_ledger
from cluster_sim.metrics import (
    Latencies,
    Window,
    attainment,
    class_rows,
    inter_token_latencies,
    is_stable,
    latencies,
    limit_shares,
    meets_slo,
    outcome_table,
    summarise,
    tokens_emitted,
    window,
)
from cluster_sim.notes import notes_of
from cluster_sim.perf.power import chip_power_w
from cluster_sim.serving.records import Status
from cluster_sim.serving.service import Run
from cluster_sim.specs.workload import Slo
from cluster_sim.uncertainty import bands, in_manifest

SHARES = {  # column of summary.csv -> operator families
    "share_compute": (
        "gemm_math",
        "expert_math",
        "attention_prefill",
        "linear_attention",
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
    manifest.
    """
    run, requests = facts.run, facts.requests
    seen = latencies(run, requests, open_loop=facts.open_loop)
    span = window(run, seen, open_loop=facts.open_loop)
    ledger = close_ledger(facts.price, run)
    row: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS)
    row.update(_identity(facts))
    row.update(_service(facts, seen, span))
    row.update({column: ledger.share(*families) for column, families in SHARES.items()})
    if run.visits is not None:
        row["share_lost"] = ledger.share("lost")
    row.update(_memory(facts))
    limits = _limits(facts)
    row.update(_capacity_row(facts, limits))
    row.update(_money_and_energy(facts, ledger, span, row))
    row.update({f"prov_{name}": ledger.provenance.get(name, 0.0) for name in _PROVENANCE})
    found = bands(facts, ledger, row)
    for name, band in found.items():
        row[f"{name}_low"], row[f"{name}_high"] = band.low, band.high
    assert list(row) == list(SUMMARY_COLUMNS)
    table = outcome_table(run, requests, seen, facts.targets)
    return row, table, _manifest(facts, ledger, limits, seen, row) | {"bands": in_manifest(found)}


_PROVENANCE = ("measured", "transferred", "extrapolated", "datasheet", "assumed")


def _identity(facts: Facts) -> dict[str, Any]:
    job, machine, choice = facts.job, facts.machine, facts.choice
    arrivals, topology = job.workload.arrivals, machine.topology
    short = facts.config_hash[:6]
    load = arrivals.kind if arrivals.load is None else f"{arrivals.load:.0%} of capacity"
    return {
        "run_id": f"{job.workload.name}@{topology.name}-{short}",
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
        "version": facts.version,
        "config_hash": facts.config_hash,
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


def _service(facts: Facts, seen: Latencies, span: Window) -> dict[str, Any]:
    """Requests, throughput, latencies and goodput inside the window."""
    run, requests, wanted = facts.run, facts.requests, facts.targets
    seconds = span.length_s
    counted = seen.inside & seen.finished
    done = (
        counted.sum()
        if not facts.open_loop
        else (
            (seen.e2e_s + _arrivals(run) > span.start_s)
            & (seen.e2e_s + _arrivals(run) <= span.end_s)
        ).sum()
    )
    output = tokens_emitted(run.logs, span)
    inputs = int(requests.isl[counted].sum())
    good = int((meets_slo(seen, wanted) & seen.inside).sum())

    def per_second(amount: float) -> float | None:
        return amount / seconds if seconds > 0 else None

    tpot = summarise("tpot", seen.tpot_s[counted])
    row: dict[str, Any] = {
        "isl_mean": float(requests.isl.mean()),
        "osl_mean": float(requests.osl.mean()),
        "requests": len(requests),
        "finished": int(seen.finished.sum()),
        "rejected": int(seen.rejected.sum()),
        "partial": run.interrupted,
        "stable": is_stable(run, seen) if facts.open_loop else None,
        "window_s": seconds,
        "rate_per_s": per_second(int(seen.inside.sum())) if facts.open_loop else None,
        "requests_per_s": per_second(int(done)),
        "output_tokens_per_s": per_second(output),
        "input_tokens_per_s": per_second(inputs),
        "total_tokens_per_s": per_second(inputs + output),
        "output_tokens_per_s_per_chip": per_second(output / facts.chips_used),
        "tokens_per_s_per_user": 1e3 / tpot["tpot_mean_ms"] if tpot["tpot_mean_ms"] else None,
        "goodput_per_s": per_second(good) if wanted.limits else None,
        "slo_attainment": _number(attainment(seen, wanted)) if wanted.limits else None,
        "preemptions": sum(run.outcomes.preemptions),
        "prefix_hit_share": _hit_share(facts),
    }
    row.update(summarise("ttft", seen.ttft_s[counted]))
    row.update(tpot)
    row.update(inter_token_latencies(run.logs, span))
    row.update(summarise("e2e", seen.e2e_s[counted]))
    return row


def _memory(facts: Facts) -> dict[str, Any]:
    peak = max((counts.blocks_peak for counts in facts.run.counts), default=0)
    used = facts.cache.weights_bytes + facts.cache.reserve_bytes
    used += peak * facts.cache.block_tokens * facts.cache.bytes_per_token
    return {
        "kv_tokens": facts.cache.tokens * facts.choice.layout.ranks * facts.choice.replicas,
        "kv_peak": peak / facts.cache.blocks,
        "mem_peak_gib": used / 2**30,
    }


def _limits(facts: Facts) -> dict[str, Any]:
    """Capacity and saturation: requests/s, output tokens/s; None where not searched."""
    limits: dict[str, Any] = {"capacity": None, "saturation": None}
    outputs = float(facts.requests.osl.sum())
    if facts.flat_out is not None:
        run, seconds = facts.flat_out.run, facts.flat_out.seconds
        finished = sum(status == Status.FINISHED for status in run.outcomes.status)
        emitted = sum(counts.output_tokens for counts in run.counts)
        limits["saturation"] = {
            "requests_per_s": finished / seconds,
            "output_tokens_per_s": emitted / seconds,
        }
    if facts.capacity is not None:
        rate = facts.capacity.requests_per_s
        limits["capacity"] = {
            "requests_per_s": rate,
            "output_tokens_per_s": rate * outputs / len(facts.requests),
            "first_limit": facts.capacity.first_limit,
        }
    return limits


def _capacity_row(facts: Facts, limits: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if limits["saturation"]:
        flat_out = limits["saturation"]["output_tokens_per_s"] / facts.chips_used
        row["saturation_output_tokens_per_s_per_chip"] = flat_out
    if limits["capacity"]:
        per_chip = limits["capacity"]["output_tokens_per_s"] / facts.chips_used
        row["capacity_requests_per_s"] = limits["capacity"]["requests_per_s"]
        row["capacity_output_tokens_per_s_per_chip"] = per_chip
    return row


def _money_and_energy(
    facts: Facts, ledger: Ledger, span: Window, row: dict[str, Any]
) -> dict[str, Any]:
    """Cost of all chips of the topology and power at the wall, over the run."""
    machine, topology = facts.machine, facts.machine.topology
    busy = {name: ledger.share(name) for name in ledger.families_s}
    used_w = chip_power_w(
        machine, {**busy, **{name: ledger.share(name) for name in ("bubble", "idle", "lost")}}
    )
    power_w, idle_w = None, machine.chip.idle_power
    if used_w is not None and idle_w is not None and topology.host_power is not None:
        idle_chips = topology.chips - facts.chips_used
        chips_w = facts.chips_used * used_w + idle_chips * idle_w
        power_w = wall_power_w(chips_w, topology.host_power, facts.economics)
    usd_per_h = machine_usd_per_hour(machine, facts.economics, power_w)
    output, total = row["output_tokens_per_s"], row["total_tokens_per_s"]
    return {
        "chip_usd_per_h": usd_per_h,
        "usd_per_m_output_tokens": usd_per_million_tokens(usd_per_h, topology.chips, output),
        "usd_per_m_total_tokens": usd_per_million_tokens(usd_per_h, topology.chips, total),
        "power_w": power_w,
        "j_per_output_token": power_w / output if output and power_w is not None else None,
    }


def _manifest(
    facts: Facts, ledger: Ledger, limits: dict[str, Any], seen: Latencies, row: dict[str, Any]
) -> dict[str, Any]:
    machine, job = facts.machine, facts.job
    usd_per_h, chips = row["chip_usd_per_h"], machine.topology.chips
    lost = {} if facts.run.visits is None else {"lost": ledger.lost_s}
    for name in ("capacity", "saturation"):
        if limits[name]:
            tokens = limits[name]["output_tokens_per_s"]
            limits[name]["usd_per_m_output_tokens"] = usd_per_million_tokens(
                usd_per_h, chips, tokens
            )
    return {
        "run_id": row["run_id"],
        "version": facts.version,
        "schema": SCHEMA,
        "config_hash": facts.config_hash,
        "inputs": {
            "topology": dataclasses.asdict(machine.topology),
            "chip": dataclasses.asdict(machine.chip),
            "fits": dataclasses.asdict(machine.fits),
            "workload": dataclasses.asdict(job.workload),
            "model": dataclasses.asdict(job.model),
            "software": dataclasses.asdict(job.software),
            "economics": dataclasses.asdict(facts.economics),
        },
        "files": [dataclasses.asdict(file) for file in (*machine.files, *job.files)],
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
        "capacity": limits["capacity"],
        "saturation": limits["saturation"],
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


def _arrivals(run: Run) -> Any:
    import numpy as np

    return np.array(run.outcomes.arrival_s)


def _number(value: float) -> float | None:
    return None if value != value else value
