"""One plan in closed form: what load it carries, what limits it, and at what rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.machine.host import replicas_in
from cluster_sim.perf.cuda_graphs import filled
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.steady import Steady, steady_state, typical
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.serving.admission import Admission, Residents, admission
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput

LIMITS = {  # what limits a plan: in words
    "reserved_blocks": "reserved blocks",
    "max_num_seqs": "max_num_seqs",
    "token_budget": "token budget",
    "kv_cache": "KV cache",
    "tpot": "TPOT limit",
    "ttft": "TTFT limit",
    "e2e": "E2E limit",
    "concurrency": "clients",
    "requests": "requests",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan and what the closed form makes of it; ``reason`` says why it is out, ``limit`` (a
    key of LIMITS) what keeps its batch from being larger; ``played_requests_per_s``: the same rate
    as a short run has it, for plans that were played.
    """

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
    limit: str = ""
    played_requests_per_s: float | None = None


def weigh(
    machine: TopologyInput,
    job: WorkloadInput,
    wanted: Recipe,
    layout: Layout,
    residents: Residents | None = None,
) -> Candidate:
    """What the steady state of a layout's replicas gives, as many as the machine holds unless the
    workload says how many.

    Model: open traffic has the largest load at which a share ``attainment`` of the answers keeps
    TPOT and E2E and of the requests waits no longer than TTFT leaves; a closed loop its clients, a
    backlog all that the engine admits. Rate = sequences / (OSL TPOT).
    """
    replicas = job.workload.plan.replicas or replicas_in(machine, layout.devices)
    try:
        cache = kv_cache(machine.chip, job.model, job.software, layout, wanted)
    except DoesNotFitError as error:
        return Candidate(layout, replicas, fits=False, reason=str(error))
    seats = admission(job, cache, residents)
    price = planning_price(machine, job, layout, wanted, seats)
    case = _Case(job, steady_of(job, price, layout, replicas, seats), seats, replicas)
    load, limit = case.load()
    batch, slo = load / layout.ranks, job.workload.slo
    steady = case.busy(load)
    tpot_s, ttfts_s = steady.tpot_s(batch), steady.ttfts_s(batch, *case.client(load))
    rate = case.rate(load)
    late = 0 if slo.ttft is None else sum(ttft_s > slo.ttft for ttft_s in ttfts_s)
    keeps = late <= (1 - slo.attainment) * len(ttfts_s)
    keeps = keeps and case.kept(max(1, math.floor(batch))) >= slo.attainment
    chips = layout.devices * replicas / machine.chip.devices_per_chip
    return Candidate(
        layout,
        replicas,
        fits=True,
        reason="" if keeps else "cannot keep the SLO",
        batch=max(1, round(load)),
        tpot_s=tpot_s,
        ttft_s=sum(ttfts_s) / len(ttfts_s),
        requests_per_s=rate,
        output_tokens_per_s_per_chip=rate * steady.osl / chips,
        kv_tokens=cache.tokens * layout.ranks,
        within_slo=keeps,
        limit=limit,
    )


def steady_of(
    job: WorkloadInput, price: StepPrice, layout: Layout, replicas: int, seats: Admission
) -> Steady:
    """The steady state of each of so many replicas; a router that goes round evens out the gaps."""
    apart = replicas if job.workload.plan.router == "round_robin" else 1
    return steady_state(price, job, layout.ranks, apart, mixed=seats.mixed)


def planning_price(
    machine: TopologyInput, job: WorkloadInput, layout: Layout, wanted: Recipe, seats: Admission
) -> StepPrice:
    """The price list of a layout, as far as its steady state reads it: shorter tables, same
    entries.

    Limits: expert time is interpolated between fewer or other token counts, 1 % apart.
    """
    software, longest = job.software, max(typical(job.workload.shape[0]))
    most = min(software.max_num_seqs, seats.batch + 1)
    most = filled(software.cuda_graph_sizes, most, software.max_num_seqs)
    decodes = most * (1 + software.draft_tokens)
    budget = min(software.max_num_batched_tokens, longest + decodes)
    together = budget + decodes * layout.ranks
    short = replace(software, max_num_seqs=most, max_num_batched_tokens=budget)
    together = 1 << together.bit_length()  # few lengths, so that tables of experts are found again
    return compile_step_price(machine, job.model, short, layout, wanted, together)


@dataclass(frozen=True, slots=True)
class _Case:
    """Replicas of a layout under the traffic of a workload."""

    job: WorkloadInput
    steady: Steady
    seats: Admission
    replicas: int

    def load(self) -> tuple[float, str]:
        """Sequences that a replica holds in the mean, and what keeps it from more."""
        arrivals, most = self.job.workload.arrivals, float(self.seats.batch * self.steady.ranks)
        if arrivals.kind == "closed":
            clients = (arrivals.concurrency or 1) / self.replicas
            return (clients, "concurrency") if clients <= most else (most, self.seats.limit)
        if arrivals.kind == "offline":
            queued = (self.job.workload.stated_requests or math.inf) / self.replicas
            return (queued, "requests") if queued <= most else (most, self.seats.limit)
        batch, limit = self._within_limits()
        load = batch * self.steady.ranks
        ttft = self.job.workload.slo.ttft
        if ttft is None or not self.seats.joins:
            return load, limit
        ttfts_s = self.steady.ttfts_s(batch, *self.client(load))
        slack_s = ttft - sum(ttfts_s) / len(ttfts_s)
        if slack_s <= 0:
            return load, "ttft"
        return self._in_time(load, slack_s), limit

    def client(self, load: float) -> tuple[float, float]:
        """Decode steps for which first tokens are held back, as ``ClientWait`` has it with so many
        sequences inside, and the time (s) that every token takes to its client.
        """
        client = self.job.software.client
        return client.loaded_steps * max(0.0, 1 - 1 / max(load, 1e-9)), client.idle

    def busy(self, load: float) -> Steady:
        """The steady state of those ranks that have anything to do."""
        return replace(self.steady, ranks=max(1, min(self.steady.ranks, math.ceil(load))))

    def rate(self, load: float) -> float:
        """Requests per second of all replicas."""
        steady = self.busy(load)
        batch = load / self.steady.ranks
        if self.seats.joins:
            return self.replicas * load / (steady.osl * steady.tpot_s(batch))
        return self.replicas * load / steady.together_s(batch)

    def kept(self, batch: int) -> float:
        """Share of the answers that keep the limits of TPOT and E2E."""
        slo, steady = self.job.workload.slo, self.steady
        share = steady.kept(batch, slo.tpot)
        if slo.e2e is None:
            return share
        tpot_s, ttfts_s = (
            steady.tpot_s(batch),
            steady.ttfts_s(batch, 0.0, self.job.software.client.idle),
        )
        room_s = slo.e2e - sum(ttfts_s) / len(ttfts_s)
        return min(share, sum(n * tpot_s <= room_s for n in steady.answers) / len(steady.answers))

    def _within_limits(self) -> tuple[int, str]:
        """The largest batch of a rank whose answers keep their limits."""
        slo, low, high = self.job.workload.slo, 1, self.seats.batch
        while low < high:
            middle = (low + high + 1) // 2
            keeps = self.kept(middle) >= slo.attainment
            low, high = (middle, high) if keeps else (low, middle - 1)
        if low == self.seats.batch and self.kept(low) >= slo.attainment:
            return low, self.seats.limit
        kept = self.steady.kept(min(low + 1, self.seats.batch), slo.tpot)
        return low, "e2e" if kept >= slo.attainment else "tpot"

    def _in_time(self, load: float, slack_s: float) -> float:
        """The largest load up to one at which few enough wait too long for a seat."""
        most = load
        for _ in range(2):  # seats are held for shorter at a smaller load
            held_s = self.steady.osl * self.steady.tpot_s(load / self.steady.ranks)
            if not self._late(most, slack_s, held_s):
                return most
            low, load = 0.0, most
            for _ in range(20):
                middle = (low + load) / 2
                late = self._late(middle, slack_s, held_s)
                low, load = (low, middle) if late else (middle, load)
            load = low
        return load

    def _late(self, load: float, slack_s: float, held_s: float) -> bool:
        """Whether too many wait longer than the slack for one of the replica's seats.

        Model: c servers under a load of a with the squared coefficients of variation of gaps c_a^2
        (over the replicas when requests go round) and answers c_s^2, v = (c_a^2 + c_s^2) / 2 and
        beta = (c - a) / sqrt(a v): a share 1 / (1 + beta Phi(beta) / phi(beta)) waits, longer than
        t with exp(-(c - a) t / (S v)) of those (Halfin and Whitt 1981; Allen and Cunneen).
        """
        workload, steady = self.job.workload, self.steady
        seats = float(self.seats.batch * steady.ranks)
        gaps, shared = workload.arrivals.cv**2, 1
        if workload.plan.router == "round_robin":
            gaps /= self.replicas
        else:
            shared = self.replicas  # whoever has a free seat gets the next request
        answers = steady.answers
        spread = sum(n * n for n in answers) * len(answers) / sum(answers) ** 2 - 1
        free, v = (seats - load) * shared, (gaps + spread) / 2
        if free <= 0:
            return True
        if v == 0:
            return False
        beta = free / math.sqrt(load * shared * v)
        if beta > 30:
            return False
        density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
        waits = 1 / (1 + beta * 0.5 * math.erfc(-beta / math.sqrt(2)) / density)
        late = waits * math.exp(-free * slack_s / (held_s * v))
        return late > 1 - workload.slo.attainment
