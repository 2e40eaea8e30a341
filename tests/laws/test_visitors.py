"""Replicas share a machine with others: who is delayed, by how much, and who is not."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from cluster_sim.beside import make_site
from cluster_sim.busy import resource_use
from cluster_sim.engine.cluster import Cluster, Process
from cluster_sim.errors import ClusterSimError
from cluster_sim.kernels.layout import Layout
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.host import replicas_in
from cluster_sim.perf.family import Batch, Family
from cluster_sim.perf.replica_phases import ReplicaPhases, Resources, replica_phases
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.prepare import make_service
from cluster_sim.serving.plan import resolve
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.serving.site import Site, Tenant, always
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.testing import Cases, facts, random_case, random_drafts, synthetic_price
from cluster_sim.work import traffic

SLOW = pytest.mark.slow
DEFAULT_CASES, ALL_CASES = [0, 1, 3, 4, 6, 7, 8, 9, 10, 20, 30, 35], 200
HBM = 4e12
STEP_S = 1 / 64  # exact, so that visitors come at the very end of a step


def with_families(price: StepPrice, rng: random.Random) -> StepPrice:
    """Families for a made-up price list: what reads memory, what sends, what only takes time."""
    width = price.decode_tokens
    tokens, rows = np.array(price.tokens_s[::width][:3000]), np.array(price.sequences_s)
    tokens, rows = tokens[: len(rows)], rows[: len(tokens)]
    decodes = np.array(price.decodes_s)[: len(rows)]
    linear, sent = np.array(price.tokens_s), 0.4 * rng.choice((0.3, 1.0)) * 1e9
    families = [
        Family("gemm_weights", "assumed", 0.5 * linear),
        Family("gemm_math", "assumed", 0.1 * linear, use=Family("", "", 0.03 * linear)),
        Family("all_reduce", "assumed", 0.4 * linear, use=Family("", "", sent * linear)),
        Family("host", "assumed", sequences_s=rows),
        Family(
            "attention_decode",
            "assumed",
            decodes_s=decodes,
            context_s=price.context_s,
            local_context_s=price.local_context_s,
        ),
        Family("attention_prefill", "assumed", prefill_floor_s=price.prefill_floor_s, prompts=True),
        Family("swap", "assumed", swap_s=price.swap_s, use=Family("", "", swap_s=50.0)),
    ]
    if price.shared_s is not None:
        families.append(Family("expert_weights", "assumed", shared_s=price.shared_s))
    base = (tokens + rows + decodes).tolist()
    wide = (
        dataclasses.replace(
            family,
            decode_tokens=width,
            use=family.use and dataclasses.replace(family.use, decode_tokens=width),
        )
        for family in families
    )
    return dataclasses.replace(price, families=tuple(wide), decode_base_s=base)


def machine_of(price: StepPrice, replicas: int, *, meeting: bool = False) -> Site:
    """Two devices a replica with a link each; if they meet, one link for all."""
    capacity: dict[str, float] = {"spare": 1e9}
    homes = []
    for replica in range(replicas):
        found: dict[str, int] = {}
        for part in ("sm0", "hbm0", "link0", "sm1", "hbm1", "link1"):
            found[part] = len(capacity)
            capacity[f"r{replica}/{part}"] = {"s": 1.0, "h": HBM, "l": 1e9}[part[0]]
        links = {0: 1.0} if meeting else {found["link0"]: 1.0, found["link1"]: 1.0}
        homes.append(
            ReplicaPhases(
                price=price,
                hbm_bytes_per_s=HBM,
                sm=(found["sm0"], found["sm1"]),
                hbm=(found["hbm0"], found["hbm1"]),
                loads={"tp": links, "host": {found["link0"]: 1.0}},
                capacity={link: 1e9 for link in (*links, found["link0"])},
            )
        )
    return Site(capacity=capacity, homes=homes)


def visitors(rng: random.Random, site: Site, span_s: float) -> list[Process]:
    """Some that come, take a share of something, pause and come again; some that change what a
    resource can do.
    """
    names = list(site.capacity)

    def visits(seed: int) -> Process:
        def process(cluster: Cluster) -> Generator[Any, Any, None]:
            draw = random.Random(seed)
            yield cluster.env.timeout(draw.choice((0.0, draw.uniform(0, span_s))))
            for _ in range(draw.choice((1, 2, 5))):
                name = draw.choice(names)
                length = draw.choice((1e-3, 0.03, 0.3)) * draw.uniform(0.5, 1.5)
                amount = draw.choice((0.2, 0.5, 1.0)) * site.capacity[name] * length
                yield cluster.use(name, length, amount=amount)
                yield cluster.env.timeout(draw.choice((0.0, draw.uniform(0, span_s / 4))))

        return process

    def degrades(seed: int) -> Process:
        def process(cluster: Cluster) -> Generator[Any, Any, None]:
            draw = random.Random(seed)
            yield cluster.env.timeout(draw.uniform(0, span_s))
            name = draw.choice(names)
            whole = site.capacity[name]
            cluster.set_capacity(name, draw.choice((0.0, 0.4)) * whole)
            yield cluster.env.timeout(draw.uniform(0, span_s / 8))
            cluster.set_capacity(name, whole)

        return process

    found = [visits(rng.randrange(2**32)) for _ in range(rng.choice((1, 2, 4)))]
    if rng.random() < 0.3:
        link = rng.choice([i for i, name in enumerate(names) if "link" in name])
        found.append(always([traffic(1e6, {link: 0.5e9 * 1e6})]))
    return found + [degrades(rng.randrange(2**32)) for _ in range(rng.choice((0, 0, 1)))]


def shared_case(seed: int, cases: Cases = random_case) -> tuple[Service, Requests, Site]:
    service, requests = cases(seed, None)
    rng = random.Random(seed + 10**6)
    price = with_families(service.spec.price, rng)
    service = dataclasses.replace(service, spec=dataclasses.replace(service.spec, price=price))
    site = machine_of(price, service.replicas, meeting=rng.random() < 0.15)
    span_s = max(0.05, serve(service, requests).end_s)
    return service, requests, dataclasses.replace(site, processes=visitors(rng, site, span_s))


def all_facts(run: Run) -> dict[str, object]:
    assert run.visits is not None
    return {**facts(run), "visits": run.visits}


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=() if seed in DEFAULT_CASES else SLOW) for seed in range(ALL_CASES)],
)
def test_both_players_give_the_same_bytes_beside_others(seed: int) -> None:
    service, requests, site = shared_case(seed)
    reference = all_facts(serve(service, requests, step_by_step=True, site=site))
    fast = all_facts(serve(service, requests, site=site))
    for name, value in reference.items():
        assert fast[name] == value, name


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 8 else SLOW) for n in range(60)])
def test_both_players_give_the_same_bytes_with_drafts(seed: int) -> None:
    service, requests, site = shared_case(seed, random_drafts)
    reference = all_facts(serve(service, requests, step_by_step=True, site=site))
    fast = all_facts(serve(service, requests, site=site))
    for name, value in reference.items():
        assert fast[name] == value, name


# What a visitor takes, exactly


def comes(at_s: float, name: str, seconds: float, share: float) -> Process:
    """A visitor that takes a share of a resource for some seconds, once."""

    def process(cluster: Cluster) -> Generator[Any, Any, None]:
        yield cluster.env.timeout(at_s)
        yield cluster.use(name, seconds, share=share)

    return process


def decoding(
    memory: float, link: float = 0.0, host: float = 0.0, *, rate: float = 1.0
) -> StepPrice:
    """Equal steps: shares of them read memory, send at (``rate`` of) the rate of a link, are the
    host's.
    """
    ones = np.full(3000, STEP_S)
    ones[0] = 0.0
    families = (
        Family("gemm_weights", "assumed", memory * ones),
        Family("all_reduce", "assumed", link * ones, use=Family("", "", rate * link * 1e9 * ones)),
        Family("host", "assumed", sequences_s=host * ones),
    )
    plain = synthetic_price(STEP_S, 0.0)
    return dataclasses.replace(
        plain,
        families=tuple(family for family in families if family_seconds(family) > 0),
        tokens_s=((memory + link) * ones).tolist(),
        sequences_s=(host * ones).tolist(),
        decodes_s=[0.0] * 3000,
        decode_base_s=ones.tolist(),
        prefill_floor_s=0.0,
        prompt=plain.prompt.times(0.0),
    )


def family_seconds(family: Family) -> float:
    tables = (family.tokens_s, family.sequences_s)
    return sum(float(table[1]) for table in tables if table is not None)


def three(price: StepPrice, osl: int = 400) -> tuple[Service, Requests]:
    """Three replicas that decode one request each from the start."""
    service, _ = random_case(0)
    spec = dataclasses.replace(
        service.spec,
        price=price,
        blocks=10_000,
        block_tokens=16,
        scheduler=SCHEDULERS["vllm_v1"],
        max_num_seqs=8,
        max_num_batched_tokens=512,
        max_output_tokens=osl,
        ranks=1,
        state_blocks=0,
        prefixes=None,
    )
    service = Service(spec, 3, "round_robin", 10**6)
    ones = np.ones(3, dtype=np.int64)
    return service, Requests(np.zeros(3), 10 * ones, osl * ones)


PLAYERS = pytest.mark.parametrize("step_by_step", [False, True])


def visited(
    price: StepPrice, processes: list[Process], *, step_by_step: bool = False
) -> tuple[Run, Run]:
    """The run with visitors, and the same alone."""
    service, requests = three(price)
    site = dataclasses.replace(machine_of(price, 3), processes=processes)
    run = serve(service, requests, step_by_step=step_by_step, site=site)
    return run, serve(service, requests, step_by_step=step_by_step)


def assert_shifted(run: Run, alone: Run, replica: int, delay_s: float) -> None:
    """A replica ends so much later, and goes on as alone after the visit."""
    shift = np.array(run.logs[replica].end_s) - np.array(alone.logs[replica].end_s)
    assert shift[-50:] == pytest.approx(delay_s, abs=1e-9)
    assert (np.diff(shift) > -1e-12).all()
    assert run.visits is not None
    assert run.visits.lost_s[replica] == pytest.approx(delay_s, abs=1e-9)


@PLAYERS
@pytest.mark.parametrize(("at_s", "played"), [(0.0, 32), (0.5, 32), (1.2345, 33)])
def test_half_of_the_memory_of_one_chip_delays_its_replica_by_half_and_no_other(
    at_s: float, played: int, *, step_by_step: bool
) -> None:
    run, alone = visited(
        decoding(1.0), [comes(at_s, "r1/hbm1", 1.0, 0.5)], step_by_step=step_by_step
    )
    assert_shifted(run, alone, 1, 0.5)
    for replica in (0, 2):
        assert run.logs[replica] == alone.logs[replica]
    assert run.counts == alone.counts
    # Others were skipped over: 32 steps fit into the second of the visit.
    assert run.visits is not None
    assert [sum(steps.values()) for steps in run.visits.shared] == [0, played, 0]


@PLAYERS
def test_a_step_that_reads_memory_for_a_part_is_slowed_for_that_part(*, step_by_step: bool) -> None:
    """A share m of a step needs all of the memory: 1 + m as long, so V seconds delay by V m / (1 +
    m), to the alternation.
    """
    run, alone = visited(
        decoding(0.6, host=0.4), [comes(0.777, "r1/hbm0", 3.2, 0.5)], step_by_step=step_by_step
    )
    delay_s = run.logs[1].end_s[-1] - alone.logs[1].end_s[-1]
    assert delay_s == pytest.approx(3.2 * 0.6 / 1.6, abs=STEP_S / 8)
    assert run.logs[0] == alone.logs[0]


@PLAYERS
@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_half_of_a_link_slows_the_part_of_a_step_that_sends(
    share: float, *, step_by_step: bool
) -> None:
    """From the visit on a step takes (1 + share) times as long."""
    run, alone = visited(
        decoding(1 - share, link=share),
        [comes(0.0, "r2/link0", 1e3, 0.5)],
        step_by_step=step_by_step,
    )
    ends, before = np.array(run.logs[2].end_s), np.array(alone.logs[2].end_s)
    assert ends == pytest.approx((1 + share) * before, rel=1e-9)
    assert run.logs[:2] == alone.logs[:2]


def test_the_slowest_device_decides_and_others_do_not_add_up() -> None:
    one = [comes(0.5, "r1/hbm0", 1.0, 0.5)]
    both = [*one, comes(0.5, "r1/hbm1", 1.0, 0.5)]
    assert visited(decoding(1.0), one)[0].logs == visited(decoding(1.0), both)[0].logs


def test_two_visitors_take_what_both_take() -> None:
    quarters = [comes(0.5, "r1/hbm0", 1.0, 0.25)] * 2
    run, alone = visited(decoding(1.0), quarters)
    assert_shifted(run, alone, 1, 0.5)
    one_after_another = [comes(0.5, "r1/hbm0", 1.0, 0.5), comes(1.5, "r1/sm1", 0.5, 0.5)]
    run, alone = visited(decoding(1.0), one_after_another)
    assert_shifted(run, alone, 1, 0.75)
    halves = [comes(0.5, "r1/hbm0", 1.0, 0.5)] * 2  # nothing is left for the replica
    run, alone = visited(decoding(1.0), halves)
    assert_shifted(run, alone, 1, 1.0)


@PLAYERS
def test_who_takes_nothing_of_a_replica_changes_nothing(*, step_by_step: bool) -> None:
    def looks(cluster: Cluster) -> Generator[Any, Any, None]:
        while True:  # the run ends all the same
            yield cluster.env.timeout(0.01)

    run, alone = visited(
        decoding(1.0), [comes(0.5, "spare", 1.0, 1.0), looks], step_by_step=step_by_step
    )
    assert facts(run) == facts(alone)
    assert run.visits is not None
    assert run.visits.lost_s == (0.0, 0.0, 0.0)


@PLAYERS
def test_whom_a_link_has_room_for_changes_nothing(*, step_by_step: bool) -> None:
    """Sending takes half of the link: another half is no matter, two of them leave a third."""
    price = decoding(0.7, link=0.3, rate=0.5)
    one = [comes(0.5, "r1/link0", 1.0, 0.5), comes(2.0, "r1/link0", 100.0, 0.4)]
    run, alone = visited(price, one, step_by_step=step_by_step)
    assert facts(run) == facts(alone)
    assert run.visits is not None
    assert not any(run.visits.shared)
    two = [comes(0.0, "r1/link0", 1e3, 0.5)] * 2
    run, _ = visited(price, two, step_by_step=step_by_step)
    assert run.logs[1].end_s[-1] == pytest.approx(1.15 * alone.end_s, rel=1e-9)
    passing = [comes(0.1, "r1/link0", 1e3, 0.5), comes(1.0, "r1/link0", 1.0, 0.5)]
    run, _ = visited(price, passing, step_by_step=step_by_step)
    assert run.visits is not None
    assert 0 < sum(run.visits.shared[1].values()) < 100  # of 400: the first alone has room again


def test_one_round_beside_those_who_stay_takes_as_long_as_eight() -> None:
    price = decoding(0.5, link=0.3, host=0.2)
    link = list(machine_of(price, 3).capacity).index("r1/link1")
    stays, _ = visited(price, [always([traffic(1e3, {link: 0.6e12})])])
    comes_for_long, alone = visited(price, [comes(0.0, "r1/link1", 1e3, 0.6)])
    ends = np.array(comes_for_long.logs[1].end_s)
    assert stays.logs[1].end_s == pytest.approx(ends, rel=1e-9)
    # Of the link 0.4 of the line are left, but max-min fair it gets half.
    assert ends[-1] == pytest.approx(1.3 * alone.end_s, rel=1e-9)


@PLAYERS
def test_a_link_that_stays_at_half_slows_what_sends(*, step_by_step: bool) -> None:
    def degrades(cluster: Cluster) -> Generator[Any, Any, None]:
        yield cluster.env.timeout(0.0)
        cluster.set_capacity("r0/link1", 0.5e9)

    run, alone = visited(decoding(0.7, link=0.3), [degrades], step_by_step=step_by_step)
    assert run.end_s == pytest.approx(1.3 * alone.end_s, rel=1e-9)
    assert run.logs[1:] == alone.logs[1:]


def test_replicas_that_meet_on_a_link_share_it() -> None:
    """Two that go in lock step, each with the whole link for a share of its time when alone."""
    price = decoding(0.7, link=0.3)
    service, requests = three(price)
    service = dataclasses.replace(service, replicas=2)
    both = dataclasses.replace(requests.first(2))
    site = machine_of(price, 2, meeting=True)
    run, alone = serve(service, both, site=site), serve(service, both)
    assert run.end_s == pytest.approx(1.3 * alone.end_s, rel=1e-9)
    assert run.visits is not None
    assert run.visits.carried[0] == pytest.approx(2 * 1e9 * 0.3 * alone.end_s, rel=1e-9)


def test_what_is_down_for_ever_is_said() -> None:
    def cuts(cluster: Cluster) -> Generator[Any, Any, None]:
        yield cluster.env.timeout(1.0)
        cluster.set_capacity("r0/hbm1", 0.0)

    with pytest.raises(ClusterSimError, match="requests wait for ever"):
        visited(decoding(1.0), [cuts])


def test_a_process_that_is_no_generator_is_refused() -> None:
    def looks(cluster: Cluster) -> float:
        return float(cluster.env.now)

    with pytest.raises(ClusterSimError, match=r"'looks' gives float, .* with yield"):
        visited(decoding(1.0), [looks])  # type: ignore[list-item]


# Real prices, a real machine


def two_replicas(changes: list[str], topology: str = "h200_nvl8") -> tuple[Any, Any]:
    machine = load_topology(topology)
    job = load_workload("llama8b", ["workload.requests=60", "plan.router=round_robin", *changes])
    return machine, job


def test_the_ledger_closes_beside_others() -> None:
    machine, job = two_replicas(["workload.arrivals={kind: offline}", "plan.tp=1"])
    alone = simulate(machine, job)
    others = [comes(0.4, "host0/gpu2/hbm", 1.0, 0.5), comes(0.6, "host0/gpu5/sm", 0.2, 1.0)]
    result = simulate(machine, job, processes=others)
    shares = {k: v for k, v in result.summary.items() if k.startswith("share_") and v is not None}
    assert sum(shares.values()) == pytest.approx(1)
    lost = result.manifest["machine"]["lost_s"]
    assert [replica for replica, lost_s in enumerate(lost) if lost_s] == [2, 5]
    assert result.manifest["ledger"]["lost"] == pytest.approx(sum(lost))
    assert 0.3 < lost[2] < 0.5
    assert lost[5] == pytest.approx(0.2, abs=0.01)  # all but the host's part
    assert alone.summary["share_lost"] is None
    assert "lost" not in alone.manifest["ledger"]
    assert alone.summary["run_id"] != result.summary["run_id"]
    for name in ("weights", "kv", "compute"):
        ratio = result.summary[f"share_{name}"] / alone.summary[f"share_{name}"]
        assert ratio == pytest.approx(alone.manifest["service_s"] / result.manifest["service_s"])


SWAP = ("engine.scheduler=trtllm_max_utilization", "engine.preemption=swap")


@pytest.mark.parametrize(
    "changes",
    [
        ["plan.tp=2", "plan.replicas=2"],
        [*SWAP, "plan.tp=1", "plan.replicas=2", "workload.requests=30"],
        ["workload.model=mixtral-8x7b", "plan.tp=4", "plan.replicas=2"],
    ],
)
def test_busy_seconds_of_resources_equal_the_ledger(
    changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From counts, for a run that nobody disturbs; and as the engine counts when each step of the
    reference is played on it.
    """
    machine, job = two_replicas(["workload.arrivals={kind: offline}", *changes])
    result = simulate(machine, job, record=True)
    known = result.facts
    assert known is not None
    lazy = resource_use(known)
    monkeypatch.setattr(Tenant, "is_alone", lambda _: False)
    site = make_site(machine, job, known.choice, known.price)
    service = make_service(job, known.choice, known.price, known.cache, known.requests)
    played = serve(service, known.requests, step_by_step=True, site=site)
    assert played.visits is not None
    assert played.end_s == pytest.approx(known.run.end_s, rel=1e-9)
    used = dict(zip(played.visits.names, played.visits.busy_s, strict=True))
    carried = dict(zip(played.visits.names, played.visits.carried, strict=True))
    for name, use in lazy.items():
        assert used[name] == pytest.approx(use.busy_s, rel=1e-9, abs=1e-12), name
        assert carried[name] == pytest.approx(use.carried, rel=1e-9, abs=1e-6), name
    ledger, word = result.manifest["ledger"], "host0/gpu0"
    compute = ("gemm_math", "gemm_weights", "attention_prefill", "attention_decode", "glue")
    kernels = sum(ledger.get(name, 0.0) for name in (*compute, "expert_math", "expert_weights"))
    sms = [lazy[f"{word[:-1]}{device}/sm"].busy_s for device in range(8)]
    tp, replicas = known.choice.layout.tp, known.choice.replicas
    assert sum(sms) == pytest.approx(tp * kernels, rel=1e-9)
    assert sum(busy > 0 for busy in sms) == tp * replicas
    if tp > 1:
        ways = [use.busy_s for name, use in lazy.items() if name.startswith(f"{word}>host0/nvsw")]
        assert max(ways) == pytest.approx(min(ways))


def test_phases_add_up_to_the_step_and_fill_what_bounds_them(
    h200: TopologyInput, chat: WorkloadInput
) -> None:
    choice = resolve(h200, chat)
    parts = (chat.model, chat.software, choice.layout, choice.recipe)
    price = compile_step_price(h200, *parts)
    site = make_site(h200, chat, choice, price)
    capacity, hbm = list(site.capacity.values()), hbm_bytes_per_s(h200)
    for decodes, prompts in ((1, 0), (64, 0), (64, 1500), (0, 4000)):
        prefill_s = price.prefill_attention_s(0, max(1, prompts))
        consists = (decodes, 2000 * decodes, 0, prompts, int(prompts > 0), prefill_s)
        phases = site.homes[1].phases([Batch(*consists, 0)])
        total = sum(phase.activity.alone_s for phase in phases)
        assert total == pytest.approx(price.step_s(*consists), rel=1e-12)
        for phase in phases:
            activity = phase.activity
            most = max(
                (
                    demand / activity.alone_s / capacity[r]
                    for r, demand in zip(activity.resources, activity.demand, strict=True)
                ),
                default=0.0,
            )
            assert most <= 1 + 1e-12
            if phase.name in ("memory", "math", "gemm_math"):
                assert most == pytest.approx(1)
        reads = next(phase.activity for phase in phases if phase.name == "memory")
        of_hbm = [i for i, r in enumerate(reads.resources) if capacity[r] == hbm]
        rates = [reads.demand[i] / reads.alone_s for i in of_hbm]
        assert rates == pytest.approx([hbm] * choice.layout.tp)


@pytest.mark.parametrize("name", ["h200_nvl8", "l40s_4", "mi300x_8", "gb200_nvl72", "gh200_nvl32"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_replicas_meet_on_no_link(name: str, tp: int) -> None:
    machine = load_topology(name)
    built = build_machine(machine)
    resources = Resources(machine=built, hbm_bytes_per_s=1e12)
    price = decoding(1.0)
    homes = replica_phases(resources, price, Layout(tp), replicas_in(machine, tp), swaps=True)
    assert not any(Site(capacity={}, homes=homes).shared)
