"""Which precision and which layout: the user's choice, or the best by a closed form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels.layout import Layout, Recipe, missing, recipe
from cluster_sim.perf.refusal import precisions_instead, way_out
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
            f"{precisions_instead(machine, job)}"
        )
    raise DoesNotFitError(f"{rejected[0]} {way_out(machine, job, _recipes(machine, job))}")


def _recipes(machine: TopologyInput, job: WorkloadInput) -> list[Recipe]:
    """The precisions to try, best first."""
    wanted = job.workload.precision
    names: tuple[str, ...] = (wanted,)
    if wanted == "auto":
        native = job.model.native_dtype
        names = PRECISIONS if native == "bf16" else (native, *PRECISIONS)
    found = []
    for name in dict.fromkeys(names):
        kv_dtype = job.software.cache_dtype(job.model, name)
        found.append(recipe(machine.chip, job.model, name, kv_dtype))
    return found


def _weigh_all(
    machine: TopologyInput, job: WorkloadInput, wanted: Recipe, possible: Iterable[Layout]
) -> Iterable[Candidate]:
    """The candidates, without those that others of them dominate; see ``_Search``."""
    residents, there = Residents.of(job), set(possible)
    search = _Search(job, there)
    for layout in sorted(there, key=lambda lay: (lay.tp, lay.attn_dp, lay.pp, -lay.ep)):
        if not search.dominated(layout):
            search.add(weigh(machine, job, wanted, layout, residents))
    return search.seen.values()


class _Search:
    """What has been weighed so far, and what that makes needless to weigh.

    Pipelines: a micro-batch passes the same operators however many stages hold them, and hand-offs
    besides, so that p stages of t devices are no better than t devices alone unless these lack room
    for sequences. Experts: over fewer and fewer devices as long as that helps, and not spread.
    Larger replicas: not beyond two sizes in a row, by attention groups or by TP, that have less
    than half of the best rate, the second less than the first.
    """

    def __init__(self, job: WorkloadInput, there: set[Layout]) -> None:
        self.job, self.there = job, there
        self.seen: dict[Layout, Candidate] = {}
        self.top: Candidate | None = None
        self._lines: dict[tuple[int, int, int], Candidate] = {}  # the best by TP, groups, stages
        self._fell: set[tuple[int, int, int]] = set()

    def add(self, made: Candidate) -> None:
        """Keep a candidate."""
        layout = made.layout
        line = (layout.tp, layout.attn_dp, layout.pp)
        self.seen[layout] = made
        if not made.fits:
            return
        merit = _merit(self.job, made)
        if line in self._lines and merit < _merit(self.job, self._lines[line]):
            self._fell.add(line)
        else:
            self._lines[line] = made
        if self.top is None or merit > _merit(self.job, self.top):
            self.top = made

    def dominated(self, layout: Layout) -> bool:
        """Whether a layout can be left out; those before it by TP, groups, stages and EP are in."""
        if (layout.tp, layout.attn_dp, layout.pp) in self._fell:
            return not (layout.ep == 1 and layout.attn_dp == 1)
        half = replace(layout, pp=max(1, layout.pp // 2))
        if half != layout and half in self.there:
            before = self.seen.get(half)
            return before is None or (before.fits and before.limit not in BY_ROOM)
        by_tp: dict[int, Candidate] = {}
        by_groups: dict[int, Candidate] = {}
        for (tp, groups, stages), best in self._lines.items():
            if stages == 1 and tp < layout.tp:
                by_tp[tp] = max(best, by_tp.get(tp, best), key=lambda c: _merit(self.job, c))
            elif stages == 1 and groups < layout.attn_dp:
                by_groups[groups] = best
        return self._falling(by_tp) or self._falling(by_groups)

    def _falling(self, sizes: Mapping[int, Candidate]) -> bool:
        """Whether the last two sizes are far from the best, the last more so."""
        if len(sizes) < 2:
            return False
        first, last = (sizes[size] for size in sorted(sizes)[-2:])
        falls = _merit(self.job, last) < _merit(self.job, first)
        return falls and self._far(first) and self._far(last)

    def _far(self, candidate: Candidate) -> bool:
        """Whether a candidate has less than half of the best rate, where some keep the SLO."""
        if self.top is None or not _merit(self.job, self.top)[0]:
            return False
        keeps = _merit(self.job, candidate)[0]
        return not keeps or candidate.requests_per_s < self.top.requests_per_s / 2


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
