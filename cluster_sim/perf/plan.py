"""Which precision and which layout: the user's choice, or the best by a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NoReturn

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.machine.host import domain_devices, replicas_in
from cluster_sim.perf.layout import Layout, Recipe, check_layout, divisors, missing, recipe
from cluster_sim.perf.memory import KvCache, kv_cache
from cluster_sim.perf.steady import Steady, steady_state
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput

PRECISIONS = ("fp8", "int8", "bf16")  # auto: the first that the chip has in hardware and that fits


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan and what the closed form makes of it; ``reason`` says why it is out."""

    layout: Layout
    replicas: int
    fits: bool
    reason: str
    batch: int = 0
    tpot_s: float = 0.0
    ttft_s: float = 0.0
    requests_per_s: float = 0.0
    output_tokens_per_s_per_chip: float = 0.0
    kv_tokens: int = 0
    within_slo: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan that will run, and those that were weighed."""

    recipe: Recipe
    layout: Layout
    replicas: int
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The plan in short: ``tp2x4`` is four replicas of two devices."""
        return f"{self.layout}x{self.replicas}"


def resolve(machine: TopologyInput, job: WorkloadInput) -> Choice:
    """Choose precision, layout and replicas.

    Rules: precision auto is the dtype that the model ships in if the chip runs it, else the first
    of fp8, int8, bf16 that the chip has and of which some plan fits. Plan auto: powers of two that
    divide the heads inside the scale-up domain, with replicas that fill all chips; models with
    experts are also weighed with experts spread over all devices of a replica, with one attention
    group and with one a device. The highest closed-form request rate within the SLO wins, the
    fewer devices among equals; if none keeps the SLO, the lowest TPOT. Pipelines run when asked
    for. Raises DoesNotFitError or
    SpecError for a plan that cannot be placed.
    """
    if "bf16" not in machine.chip.peak:
        have = ", ".join(machine.chip.peak) or "no peak at all"
        raise SpecError(
            f"{machine.chip.name}: no bf16 peak is published (it has {have}); "
            "give one with --set 'chip.peak.bf16=500 TFLOP/s'"
        )
    rejected: list[str] = []
    lacking: list[str] = []
    layouts = _layouts(machine, job)
    for wanted in _recipes(machine, job):
        lack = missing(machine.chip, machine.fits, job.model, wanted)
        if lack:
            lacking.append(f"{wanted.name} needs a {lack}")
            continue
        candidates = tuple(_weigh(machine, job, wanted, layout) for layout in layouts)
        usable = [candidate for candidate in candidates if candidate.fits]
        if usable:
            return _choose(wanted, candidates, usable)
        rejected.append(candidates[-1].reason)
    if not rejected:
        raise SpecError(
            f"{machine.chip.name} cannot run {job.model.name}: {'; '.join(lacking)}; "
            "choose --precision"
        )
    raise DoesNotFitError(f"{rejected[0]} {_smallest_that_fits(machine, job)}")


def _recipes(machine: TopologyInput, job: WorkloadInput) -> list[Recipe]:
    """The precisions to try, best first."""
    wanted = job.workload.precision
    names: tuple[str, ...] = (wanted,)
    if wanted == "auto":
        native = job.model.native_dtype
        names = PRECISIONS if native == "bf16" else (native, *PRECISIONS)
    found = []
    for name in dict.fromkeys(names):
        kv_dtype = job.software.kv_dtype.get(name, "bf16")  # type: ignore[call-overload]
        found.append(recipe(machine.chip, job.model, name, kv_dtype))
    return found


def _layouts(machine: TopologyInput, job: WorkloadInput) -> list[Layout]:
    """Layouts to weigh: the degrees that the user gave, and all that may stand for the others."""
    plan, model = job.workload.plan, job.model
    room = domain_devices(machine)
    powers = [d for d in divisors(model.heads, room) if d & (d - 1) == 0]
    found: list[Layout] = []
    for tp in [plan.tp] if plan.tp else powers:
        base = Layout(tp, plan.pp or 1, 1, plan.attn_dp or 1)
        found += [replace(base, ep=ep) for ep in ([plan.ep] if plan.ep else _spreads(job, base))]
    if model.moe is not None and not (plan.tp or plan.pp or plan.attn_dp):
        found += _attention_groups(job, room)
    possible = [layout for layout in found if layout.devices <= room and _cuts(job, layout)]
    wanted = plan.replicas or 1
    fitting = [lay for lay in possible if wanted <= replicas_in(machine, lay.devices)]
    if not fitting:
        smallest = min(possible or found, key=lambda layout: layout.devices)
        check_layout(model, smallest)
        _refuse_room(machine, smallest, wanted, room)
    return list(dict.fromkeys(fitting))


def _spreads(job: WorkloadInput, base: Layout) -> list[int]:
    """Degrees of expert parallelism to weigh: none, and one expert group a device."""
    moe = job.model.moe
    if moe is None or base.stage_devices == 1:
        return [1]
    everywhere = math.gcd(moe.experts, base.stage_devices)
    return [everywhere] if base.attn_dp > 1 else [1, everywhere]


def _attention_groups(job: WorkloadInput, room: int) -> list[Layout]:
    """One attention group a device, experts spread over all of them."""
    assert job.model.moe is not None
    sizes = [d for d in divisors(job.model.moe.experts, room) if d > 1 and d & (d - 1) == 0]
    wanted = job.workload.plan.ep
    return [Layout(1, 1, size, size) for size in sizes if wanted in (None, size)]


def _cuts(job: WorkloadInput, layout: Layout) -> bool:
    try:
        check_layout(job.model, layout)
    except DoesNotFitError:
        return False
    return True


def _refuse_room(machine: TopologyInput, layout: Layout, replicas: int, room: int) -> NoReturn:
    devices, name = _devices(machine), machine.topology.name
    if room < layout.devices <= devices:
        raise DoesNotFitError(
            f"{layout} needs {layout.devices} devices in one scale-up domain, "
            f"those of {name} have {room}; lower --tp."
        )
    if layout.devices == 1:
        raise DoesNotFitError(
            f"{replicas} replicas need at least {replicas} devices, "
            f"{name} has {devices}; lower --replicas."
        )
    degrees = f"tp={layout.tp}" if layout.devices == layout.tp else str(layout)
    if layout.devices * replicas <= devices:
        placed = replicas_in(machine, layout.devices)
        raise DoesNotFitError(
            f"{name} has room for {placed} x {degrees}, since no replica may cross its scale-up "
            f"domains of {room} devices; lower --tp or --replicas."
        )
    raise DoesNotFitError(
        f"{degrees} x {replicas} replicas needs {layout.devices * replicas} devices, "
        f"{name} has {devices}; lower --tp or --replicas."
    )


def _devices(machine: TopologyInput) -> int:
    return machine.topology.chips * machine.chip.devices_per_chip


def _weigh(machine: TopologyInput, job: WorkloadInput, wanted: Recipe, layout: Layout) -> Candidate:
    replicas = job.workload.plan.replicas or replicas_in(machine, layout.devices)
    try:
        cache = kv_cache(machine.chip, job.model, job.software, layout, wanted)
    except DoesNotFitError as error:
        return Candidate(layout, replicas, fits=False, reason=str(error))
    price = compile_step_price(machine, job.model, job.software, layout, wanted)
    return _closed_form(machine, job, layout, replicas, price, cache)


def _closed_form(
    machine: TopologyInput,
    job: WorkloadInput,
    layout: Layout,
    replicas: int,
    price: StepPrice,
    cache: KvCache,
) -> Candidate:
    """What the steady state of a replica gives: B is the largest batch of a rank at which a share
    ``attainment`` of the answers keeps the TPOT limit and the cache and max_num_seqs suffice; rate
    = ranks x B / (OSL TPOT).
    """
    workload, ranks = job.workload, layout.ranks
    slo, steady = workload.slo, steady_state(price, job, ranks)
    low, high = 1, largest_batch(job, steady, cache)
    while low < high:
        middle = (low + high + 1) // 2
        keeps = steady.kept(middle, slo.tpot) >= slo.attainment
        low, high = (middle, high) if keeps else (low, middle - 1)
    tpot_s, osl = steady.tpot_s(low), steady.osl
    step_s = tpot_s * steady.tokens_per_step
    client = job.software.client
    later_s = client.idle + client.loaded_steps * (low * ranks - 1) / (low * ranks) * step_s
    ttft_s = steady.prompt_s + steady.shared_s + step_s + later_s
    rate = replicas * ranks * low / (osl * tpot_s)
    keeps = steady.kept(low, slo.tpot) >= slo.attainment and (
        slo.ttft is None or ttft_s <= slo.ttft
    )
    chips = layout.devices * replicas / machine.chip.devices_per_chip
    return Candidate(
        layout,
        replicas,
        fits=True,
        reason="" if keeps else "cannot keep the SLO",
        batch=low * ranks,
        tpot_s=tpot_s,
        ttft_s=ttft_s,
        requests_per_s=rate,
        output_tokens_per_s_per_chip=rate * osl / chips,
        kv_tokens=cache.tokens * ranks,
        within_slo=keeps,
    )


def largest_batch(job: WorkloadInput, steady: Steady, cache: KvCache) -> int:
    """Sequences that a rank can hold at most, by cache and max_num_seqs."""
    held = steady.isl + steady.osl + cache.state_blocks * cache.block_tokens
    return max(1, min(int(cache.tokens // held), job.software.max_num_seqs))


def _choose(wanted: Recipe, candidates: tuple[Candidate, ...], usable: list[Candidate]) -> Choice:
    keeping = [candidate for candidate in usable if candidate.within_slo]
    notes = []
    if keeping:
        best = max(keeping, key=lambda c: (c.requests_per_s, -c.layout.devices))
    else:
        best = min(usable, key=lambda c: (c.tpot_s, c.layout.devices))
        notes.append("no plan keeps the SLO in the closed form; the one with the lowest TPOT runs")
    return Choice(wanted, best.layout, best.replicas, candidates, tuple(notes))


def _smallest_that_fits(machine: TopologyInput, job: WorkloadInput) -> str:
    room = domain_devices(machine)
    for wanted in _recipes(machine, job):
        if missing(machine.chip, machine.fits, job.model, wanted):
            continue
        layouts = [Layout(tp) for tp in divisors(job.model.heads, room)]
        if job.model.moe is not None:
            layouts += _attention_groups(job, room)
        for layout in sorted(layouts, key=lambda lay: lay.devices):
            try:
                kv_cache(machine.chip, job.model, job.software, layout, wanted)
            except DoesNotFitError:
                continue
            named = f"tp={layout.tp}" if layout.attn_dp == 1 else f"attn_dp={layout.attn_dp}"
            return f"Smallest plan that fits: {named} in {wanted.name}."
    return f"No plan on {machine.topology.name} fits; take more or larger chips."
