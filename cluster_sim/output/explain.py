"""How the numbers of a run come about, as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cluster_sim.economics import how_to_price, machine_usd_per_hour
from cluster_sim.errors import counted
from cluster_sim.output.tables import FAMILY_WORDS, grid, number
from cluster_sim.output.wrapping import fill
from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.residuals import Residual, step_residuals
from cluster_sim.perf.steady import mean_context, step_family_s
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.prepare import prepare, read_requests
from cluster_sim.serving.candidate import LIMITS
from cluster_sim.serving.generators import planned
from cluster_sim.serving.plan import Choice
from cluster_sim.serving.requests import Requests
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.software import MemoryRule
from cluster_sim.specs.workload import Economics
from cluster_sim.uncertainty import total_sigma

GIB = 2**30
MOST_PLANS = 8  # that are shown beside the chosen and the played ones


def explain_run(
    machine: TopologyInput,
    job: WorkloadInput,
    economics: Economics,
    *,
    skip_bad_rows: bool = False,
) -> str:
    """Plan, memory, price of a decode step and a prompt, money; raises what a run would raise."""
    wanted = job.workload.plain()
    job = dataclasses.replace(job, workload=wanted).on(machine.chip)
    size = job.software.memory.block_tokens
    trace = read_requests(job, skip_bad_rows=skip_bad_rows)
    given, job = job, planned(job, trace, block_tokens=size)
    made = prepare(machine, given, job, trace)
    choice, price, cache = made.choice, made.price, made.cache
    parts = (job.model, job.software, choice.layout, choice.recipe)
    residuals = step_residuals(machine, *parts)
    return "\n\n".join(
        (
            _plan(job, choice),
            _memory(machine, job, choice, cache),
            _step(job, choice, price, residuals),
            _sources(price, residuals),
            _money(machine, economics),
            *([_trace(trace)] if trace is not None and trace.assumed else []),
        )
    )


def _trace(trace: Requests) -> str:
    """What the trace did not say, and what was assumed for it."""
    return "\n".join(["Trace", *map(_wrapped, trace.assumed)])


def _plan(job: WorkloadInput, choice: Choice) -> str:
    """The best plans in closed form, those that were played, and what limits each."""
    ranked = choice.ranked(job)
    shown = [
        c
        for i, c in enumerate(ranked)
        if i < MOST_PLANS or c.layout == choice.layout or c.played_requests_per_s is not None
    ]
    played = any(c.played_requests_per_s is not None for c in shown)
    head = ["plan", "batch", "TPOT ms", "TTFT ms", "requests/s", *["played"] * played]
    rows = [[*head, "limit", ""]]
    for c in shown:
        figures = [c.tpot_s * 1e3, c.ttft_s * 1e3, c.requests_per_s]
        cells = [number(figure) for figure in figures]
        if played:
            rate = c.played_requests_per_s
            cells.append("-" if rate is None else number(rate))
        chosen = "<- chosen" if c.layout == choice.layout else c.reason
        rows.append([f"{c.layout} x {c.replicas}", str(c.batch), *cells, LIMITS[c.limit], chosen])
    text = (
        f"Plan: {choice.recipe.name} weights{_kept_words(job, choice)}, {choice.recipe.kv} KV. "
        "For each layout the closed "
        f"form takes {_load_words(job)}, and its rate.\n"
    )
    more = []
    if len(ranked) > len(shown):
        more.append(f"{len(ranked) - len(shown)} more are slower")
    unfit = [c for c in choice.candidates if not c.fits]
    if len(unfit) > MOST_PLANS:
        more.append(f"{len(unfit)} do not fit, among them:")
        unfit = unfit[-1:]
    more += [f"{c.layout}: {c.reason}" for c in unfit]
    return "\n".join([fill(text), grid(rows), *map(_wrapped, (*more, *choice.notes))])


def _kept_words(job: WorkloadInput, choice: Choice) -> str:
    """What the checkpoint keeps in other dtypes, in brackets."""
    if not (choice.recipe.own and job.model.kept):
        return ""
    parts = [
        f"{one.part} {one.dtype}" + (f" in layers: {one.layers:g}" if one.layers else "")
        for one in job.model.kept
    ]
    return f" ({', '.join(parts)})"


def _load_words(job: WorkloadInput) -> str:
    kind = job.workload.arrivals.kind
    if kind == "closed":
        return "the clients that there are, at most the batch that the engine admits"
    if kind == "offline":
        return "the largest batch that the engine admits"
    return "the largest batch that keeps the limits and that the engine admits in time"


def _wrapped(text: str) -> str:
    return fill(text, "  ", "    ")


def _memory(machine: TopologyInput, job: WorkloadInput, choice: Choice, cache: KvCache) -> str:
    rule = job.software.memory
    room = cache.blocks * cache.block_tokens * cache.bytes_per_token
    reported = machine.chip.device_memory / GIB
    rows = [
        [f"  seen by a process, of {reported:.2f}", f"{cache.capacity_bytes / GIB:.2f} GiB"],
        [f"  weights, {choice.layout}", f"{cache.weights_bytes / GIB:.2f} GiB"],
        ["  engine, activations, graphs", f"{cache.reserve_bytes / GIB:.2f} GiB"],
        [f"  KV blocks ({_rule_words(rule)})", f"{room / GIB:.2f} GiB"],
        ["  bytes per cached token", f"{cache.bytes_per_token:,.0f} B"],
        [f"  blocks of {cache.block_tokens} tokens", f"{cache.blocks:,}"],
        ["  longest sequence taken", f"{job.software.longest(job.model):,}"],
        ["  cached tokens a replica", f"{cache.tokens * choice.layout.ranks:,}"],
    ]
    formula = "blocks = floor(room / (bytes per token x tokens per block))"
    return f"Memory of one {machine.chip.title}\n" + grid(rows) + f"\n  {formula}"


def _rule_words(rule: MemoryRule) -> str:
    return rule.rule if rule.fraction is None else f"{rule.rule}, {rule.fraction:g}"


def _step(
    job: WorkloadInput,
    choice: Choice,
    price: StepPrice,
    residuals: Mapping[str, Sequence[Residual]],
) -> str:
    """Seconds by operator family of one decode step and of one mean prompt."""
    ranks = choice.layout.ranks
    batch = next((c.batch for c in choice.candidates if c.layout == choice.layout), ranks) // ranks
    isls, osls = job.workload.shape
    context = round(mean_context(isls, osls))
    prompt = max(1, min(round(isls.average), job.software.max_num_batched_tokens))
    many = counted(batch, "decode")
    rows = [["ms", "1 decode", many, f"prompt {prompt:,}", "provenance", "error"]]
    totals = [0.0, 0.0, 0.0]
    for family in price.families:
        figures = [
            step_family_s(price, family, ranks, decodes, context, tokens)
            for decodes, tokens in ((1, 0), (batch, 0), (0, prompt))
        ]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        cells = [number(figure * 1e3) for figure in figures]
        sigma = total_sigma(residual.sigma for residual in residuals.get(family.name, ()))
        error = f"{sigma * 100:.0f} %" if sigma else ""
        rows.append([f"  {FAMILY_WORDS[family.name]}", *cells, family.provenance, error])
    rows.append(["  step", *(number(total * 1e3) for total in totals), "", ""])
    title = f"Price of an engine step, {context:,} tokens of context a sequence"
    formula = (
        "step = tokens(T) + sequences(R) + decodes(B) + context x cached tokens read, and for "
        "prompts + floor + work x sum of (end^2 - start^2)(1 + h / end)"
        + ("; batches side by side: the slowest, then the experts of all" if ranks > 1 else "")
    )
    if job.software.draft_tokens:
        formula += (
            f"; T has {1 + job.software.draft_tokens} tokens a decode, of which "
            f"{job.software.tokens_per_step:.3g} are kept in the mean"
        )
    return f"{title}\n{grid(rows)}\n{_wrapped(formula)}"


def _sources(price: StepPrice, residuals: Mapping[str, Sequence[Residual]]) -> str:
    """Where the prices come from, and their errors."""
    used = {r.key: r for family in price.families for r in residuals.get(family.name, ())}
    lines = [
        f"{key} ({residual.provenance}, {residual.sigma * 100:.0f} %): {residual.source}"
        for key, residual in used.items()
    ]
    head = "Sources of the price, and the error of each (sigma of its logarithm)"
    return "\n".join([head, *map(_wrapped, lines)])


def _money(machine: TopologyInput, economics: Economics) -> str:
    usd = machine_usd_per_hour(machine, economics, None)
    if usd is None:
        money = how_to_price(machine.chip, economics)
    else:
        source = machine.chip.sources.get("price", "")
        given = economics.usd_per_chip_hour is not None
        basis = "as given" if given else f"{economics.basis}; {source}"
        money = f"${usd:.2f} per chip-hour ({basis})"
        if economics.basis == "owned" and not given:
            money += "; with electricity for all that is provisioned, in a run for what it draws"
    return "\n".join(
        (
            "Money and energy",
            _wrapped(money),
            _wrapped("$/M tokens = $/chip-hour x all chips / 3600 / (tokens/s) x 10^6"),
            _wrapped(
                f"power at the wall = (chips + {_host_power(machine)}) x PUE "
                f"{economics.pue:g}; J/token = power / (tokens/s)"
            ),
        )
    )


def _host_power(machine: TopologyInput) -> str:
    power = machine.topology.host_power
    return "host, not known" if power is None else f"host {power:,.0f} W"
