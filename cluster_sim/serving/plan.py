"""Which precision and which layout: the user's choice, or the best by a closed form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.machine.host import domain_devices
from cluster_sim.perf.layout import Layout, Recipe, divisors, missing, recipe
from cluster_sim.perf.memory import kv_cache
from cluster_sim.serving.admission import Residents
from cluster_sim.serving.candidate import Candidate, weigh
from cluster_sim.serving.layouts import layouts
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput

PRECISIONS = ("fp8", "int8", "bf16")  # auto: the first that the chip has in hardware and that fits
BY_ROOM = ("reserved_blocks", "kv_cache")  # limits that more memory a sequence moves


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

    def ranked(self, job: WorkloadInput) -> list[Candidate]:
        """Those that fit, best first."""
        fitting = [candidate for candidate in self.candidates if candidate.fits]
        return sorted(fitting, key=lambda c: _merit(job, c), reverse=True)

    def played(self, job: WorkloadInput, rates: Mapping[Layout, float]) -> Choice:
        """The choice among plans that were played: the highest of their rates wins."""
        seen = tuple(
            replace(c, played_requests_per_s=rates[c.layout]) if c.layout in rates else c
            for c in self.candidates
        )
        among = [c for c in seen if c.played_requests_per_s is not None]
        best = max(among, key=lambda c: (c.played_requests_per_s, _merit(job, c)))
        return replace(self, layout=best.layout, replicas=best.replicas, candidates=seen)


def resolve(machine: TopologyInput, job: WorkloadInput) -> Choice:
    """Choose precision, layout and replicas.

    Rules: precision auto is the dtype that the model ships in if the chip runs it, else the first
    of fp8, int8, bf16 that the chip has and of which some plan fits. Plan auto: all ``layouts``
    inside a scale-up domain, each with the replicas that fill the machine. Of open traffic the
    highest closed-form request rate within the SLO wins; if none keeps it, the lowest TPOT. Of a
    closed loop or a backlog the highest rate wins. Among equals the fewer devices. Raises
    DoesNotFitError or SpecError for a plan that cannot be placed.
    """
    if "bf16" not in machine.chip.peak:
        have = ", ".join(machine.chip.peak) or "no peak at all"
        raise SpecError(
            f"{machine.chip.name}: no bf16 peak is published (it has {have}); "
            "give one with --set 'chip.peak.bf16=500 TFLOP/s'"
        )
    rejected: list[str] = []
    lacking: list[str] = []
    possible = layouts(machine, job)
    for wanted in _recipes(machine, job):
        lack = missing(machine.chip, machine.fits, job.model, wanted)
        if lack:
            lacking.append(f"{wanted.name} needs a {lack}")
            continue
        candidates = tuple(_weigh_all(machine, job, wanted, possible))
        if any(candidate.fits for candidate in candidates):
            return _choose(job, wanted, candidates)
        largest = max(candidates, key=lambda c: (c.layout.devices, c.layout.tp, c.layout.ep))
        rejected.append(largest.reason)
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


def _weigh_all(
    machine: TopologyInput, job: WorkloadInput, wanted: Recipe, possible: Iterable[Layout]
) -> Iterable[Candidate]:
    """The candidates, without those that others of them dominate.

    Pipelines: a micro-batch passes the same operators however many stages hold them, and hand-offs
    besides, so that p stages of t devices are no better than t devices alone unless these lack room
    for sequences. Experts: over fewer and fewer devices as long as that helps, and not spread.
    """
    residents, there = Residents.of(job), set(possible)
    seen: dict[Layout, Candidate] = {}
    best: dict[tuple[int, int, int], Candidate] = {}
    fell: set[tuple[int, int, int]] = set()
    for layout in sorted(there, key=lambda lay: (lay.tp, lay.attn_dp, lay.pp, -lay.ep)):
        line = (layout.tp, layout.pp, layout.attn_dp)
        if line in fell and not (layout.ep == 1 and layout.attn_dp == 1):
            continue
        half = replace(layout, pp=max(1, layout.pp // 2))
        if half != layout and half in there:
            before = seen.get(half)
            if before is None or (before.fits and before.limit not in BY_ROOM):
                continue
        made = seen[layout] = weigh(machine, job, wanted, layout, residents)
        if made.fits:
            if line in best and _merit(job, made) < _merit(job, best[line]):
                fell.add(line)
            else:
                best[line] = made
    return seen.values()


def _merit(job: WorkloadInput, candidate: Candidate) -> tuple[bool, float, int]:
    """What plans are ranked by, best last."""
    c = candidate
    if job.workload.arrivals.kind in ("closed", "offline") or c.within_slo:
        return True, c.requests_per_s, -c.layout.devices
    return False, -c.tpot_s, -c.layout.devices


def _choose(job: WorkloadInput, wanted: Recipe, candidates: tuple[Candidate, ...]) -> Choice:
    best = max((c for c in candidates if c.fits), key=lambda c: _merit(job, c))
    notes = []
    if not _merit(job, best)[0]:
        notes.append("no plan keeps the SLO in the closed form; the one with the lowest TPOT runs")
    return Choice(wanted, best.layout, best.replicas, candidates, tuple(notes))


def _smallest_that_fits(machine: TopologyInput, job: WorkloadInput) -> str:
    room = domain_devices(machine)
    for wanted in _recipes(machine, job):
        if missing(machine.chip, machine.fits, job.model, wanted):
            continue
        layouts = [Layout(tp) for tp in divisors(job.model.heads, room)]
        if job.model.moe is not None:
            layouts += _over_all(job, room)
        for layout in sorted(layouts, key=lambda lay: lay.devices):
            try:
                kv_cache(machine.chip, job.model, job.software, layout, wanted)
            except DoesNotFitError:
                continue
            named = f"tp={layout.tp}" if layout.attn_dp == 1 else f"attn_dp={layout.attn_dp}"
            return f"Smallest plan that fits: {named} in {wanted.name}."
    return f"No plan on {machine.topology.name} fits; take more or larger chips."


def _over_all(job: WorkloadInput, room: int) -> list[Layout]:
    """One attention group a device, experts spread over all of them."""
    assert job.model.moe is not None
    sizes = [d for d in divisors(job.model.moe.experts, room) if d > 1 and d & (d - 1) == 0]
    wanted = job.workload.plan.ep
    return [Layout(1, 1, size, size) for size in sizes if wanted in (None, size)]
