"""Laws of collectives: closed forms, bytes conserved, bounds, folding, a chunk-by-chunk oracle."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest

from cluster_sim.collectives.activity import Call, alone, bound_s, collective_activity, loads
from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.flows import double_tree, flows_of
from cluster_sim.collectives.group import Group, make_group
from cluster_sim.collectives.nccl_tuner import available, choose
from cluster_sim.collectives.shape import OPERATIONS, Shape, bus_factor
from cluster_sim.collectives.time import collective
from cluster_sim.engine.fluid_fold import fold
from cluster_sim.engine.fluid_solver import problem_of, solve
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Machine
from cluster_sim.machine.routes import paths
from cluster_sim.perf.background import random_flows
from cluster_sim.specs.collective_fits import load_collective_fits
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology
from cluster_sim.studies.collective import shared_s
from cluster_sim.work import Activity

SIZES = 2.0 ** np.arange(8, 36, 0.5)
CHIPS = {
    "a100_80g_sxm": "Ampere",
    "h100_sxm": "Hopper",
    "h200_sxm": "Hopper",
    "b200": "Blackwell",
    "gb200": "Blackwell",
    "ascend_910b": "Da Vinci",
    "ascend_910c": "Da Vinci",
}
# Every algorithm with an operation that it can do, and a topology where it can.
WAYS = [
    ("h100_superpod", "all_reduce", "Ring"),
    ("h100_superpod", "all_reduce", "Tree"),
    ("h100_superpod", "all_reduce", "NVLSTree"),
    ("h100_superpod", "all_reduce", "CollNetDirect"),
    ("h100_superpod", "all_gather", "Ring"),
    ("h100_superpod", "reduce_scatter", "Ring"),
    ("h100_superpod", "broadcast", "Ring"),
    ("h100_superpod", "reduce", "Ring"),
    ("h100_superpod", "all_to_all", "Direct"),
    ("h100_superpod", "send_recv", "Direct"),
    ("h100_superpod", "moe_dispatch", "deepep_normal"),
    ("h100_superpod", "moe_combine", "deepep_low_latency"),
    ("h100_nvl8", "all_reduce", "NVLS"),
    ("h100_nvl8", "all_reduce", "OneShot"),
    ("h100_nvl8", "all_reduce", "TwoShot"),
    ("a100_nvl8", "all_reduce", "TwoShot"),
    ("ascend_910b_pod", "all_reduce", "Mesh"),
    ("ascend_910b_pod", "all_reduce", "HD"),
    ("ascend_910b_pod", "all_reduce", "Ring"),
]


@cache
def topology(name: str) -> TopologyInput:
    return load_topology(name)


@cache
def machine_of(name: str) -> Machine:
    return build_machine(topology(name))


@cache
def group_of(name: str, ranks: int) -> Group:
    return make_group(topology(name), range(ranks), machine=machine_of(name))


def call_of(operation: str, algorithm: str) -> Call:
    library = algorithm if algorithm.startswith("deepep") else None
    return Call(operation=operation, library=library)


def test_eight_ranks_of_a_ring_send_fourteen_eighths() -> None:
    """An all-reduce of 1 MiB: 14 times 131,072 bytes a rank."""
    ((_, flows),) = flows_of(group_of("h100_nvl8", 8), "all_reduce", "Ring", Routing(), "rank")
    sent = np.bincount(flows.source, weights=flows.size * 2**20)
    assert sent == pytest.approx([14 * 131_072] * 8, rel=1e-12)


@pytest.mark.parametrize(("name", "operation", "algorithm"), WAYS)
@pytest.mark.parametrize("ranks", [8, 16, 24])
def test_bytes_are_conserved(name: str, operation: str, algorithm: str, ranks: int) -> None:
    """What comes into a switch or NIC goes out; what ranks send is what ranks receive."""
    ranks = min(ranks, machine_of(name).devices)
    group = group_of(name, ranks)
    machine = group.machine
    for part in loads(group, call_of(operation, algorithm), algorithm):
        out = np.bincount(
            machine.link_from[part.links], weights=part.size, minlength=machine.n_nodes
        )
        into = np.bincount(
            machine.link_to[part.links], weights=part.size, minlength=machine.n_nodes
        )
        middle = np.arange(machine.n_nodes) >= machine.devices
        assert out[middle] == pytest.approx(into[middle], rel=1e-9, abs=1e-12)
        ends = ~middle
        assert out[ends].sum() == pytest.approx(into[ends].sum(), rel=1e-9)


@pytest.mark.parametrize("ranks", [16, 64, 128])
def test_bytes_of_rings_and_trees_over_nics(ranks: int) -> None:
    """A ring sends its wire bytes once over the NICs of a host, trees at most twice the message."""
    group = group_of("h100_superpod", ranks)
    machine = group.machine
    nic_out = np.flatnonzero(np.char.startswith(machine.node_names, "host0/nic"))
    hosts = ranks // 8
    for algorithm, wire in (("Ring", bus_factor("all_reduce", ranks)), ("NVLSTree", 2.0)):
        (part,) = loads(group, Call(operation="all_reduce"), algorithm)
        leaves = np.isin(machine.link_from[part.links], nic_out)
        to_leaf = leaves & machine.is_switch[machine.link_to[part.links]]
        sent = part.size[to_leaf].sum()
        assert sent <= wire + 1e-9
        if algorithm == "Ring":
            assert sent == pytest.approx(wire)
        elif hosts == 2:
            assert sent == pytest.approx(1.0)  # 2 (N - 1) / N


@pytest.mark.parametrize("nodes", [2, 3, 4, 7, 8, 31, 32])
def test_a_leaf_of_one_tree_is_inside_the_other(nodes: int) -> None:
    inner = []
    for parents in double_tree(nodes):
        assert (parents < 0).sum() == 1
        up = parents.copy()
        for _ in range(nodes):
            up = np.where(up >= 0, parents[up], -1)
        assert (up == -1).all()  # every node reaches the root
        children = np.bincount(parents[parents >= 0], minlength=nodes)
        assert children.max() <= 2
        inner.append(children > 0)
    assert not (inner[0] & inner[1]).sum() > 2


def test_alpha_beta_of_rings_meshes_and_halving() -> None:
    """HCCL without contention, by hand."""
    fits = load_collective_fits("ascend_910c")
    assert fits.hccl is not None
    line, n, size = fits.hccl.domain, 64, 2.0**26
    shape = Shape(ranks=n, hosts=4, link_bytes_per_s=fits.link)
    work = 2 * (n - 1) / n * size / line.bandwidth
    for algorithm, steps, posts in (
        ("ring", 2 * (n - 1), 0),
        ("hd", 2 * 6, 0),
        ("mesh", 2, 2 * (n - 1)),
    ):
        priced = collective(fits, shape, "all_reduce", np.array([size]), algorithm=algorithm)
        expected = fits.hccl.launch + steps * line.latency + posts * line.per_peer + work
        assert float(priced.seconds[0]) == pytest.approx(expected, rel=1e-12)
    priced = collective(fits, shape, "all_to_all", np.array([size]))
    expected = fits.hccl.launch + line.latency + (n - 1) * line.per_peer + work / 2
    assert float(priced.seconds[0]) == pytest.approx(expected, rel=1e-12)


def test_clock_is_alpha_beta_where_constants_are() -> None:
    """NCCL's forms with one latency and no extras: ring 2 (n - 1) alpha + 2 (n - 1) / n S / B."""
    fits = load_collective_fits("h100_sxm")
    assert fits.nccl is not None
    large = fits.nccl.all_reduce.large
    plain = dataclasses.replace(
        large, latency=1e-12, per_peer=4e-6, bandwidth=400e9, power=1.0, copy=0.0
    )
    domain = dataclasses.replace(fits.nccl.all_reduce, large=plain)
    fits = dataclasses.replace(fits, nccl=dataclasses.replace(fits.nccl, all_reduce=domain))
    shape = Shape(ranks=8, link_bytes_per_s=450e9)
    size = np.array([1e6, 1e9])
    priced = collective(fits, shape, "all_reduce", size, algorithm="ring", protocol="simple")
    assert priced.seconds == pytest.approx(7 * 4e-6 + 1.75 * size / 400e9)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("ranks", "domains"), [(2, 1), (4, 1), (8, 1), (16, 2), (1024, 128)])
def test_more_bytes_never_take_less_and_faster_links_never_more(
    chip: str, ranks: int, domains: int
) -> None:
    fits = load_collective_fits(chip)
    libraries = ["hccl"] if fits.nccl is None else ["nccl", *fits.custom]
    for in_switch in (True, False):
        shape = Shape(
            ranks=ranks,
            domains=domains,
            hosts=domains,
            link_bytes_per_s=fits.link,
            nic_bytes_per_s=50e9,
            in_switch=in_switch and chip != "a100_80g_sxm",
            architecture=CHIPS[chip],
        )
        faster = dataclasses.replace(shape, link_bytes_per_s=2 * fits.link, nic_bytes_per_s=100e9)
        for library in libraries:
            operations = OPERATIONS[:7] if library in ("nccl", "hccl") else ("all_reduce",)
            for operation in operations:
                seconds = collective(fits, shape, operation, SIZES, library=library).seconds
                assert (np.diff(seconds) >= -1e-12).all(), (library, operation)
                quick = collective(fits, faster, operation, SIZES, library=library).seconds
                assert (quick <= seconds * (1 + 1e-9)).all(), (library, operation)


@pytest.mark.parametrize("name", ["h100_superpod", "gb200_nvl72", "a100_superpod", "mi300x_8"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_never_faster_than_the_fullest_link(name: str, operation: str) -> None:
    devices = machine_of(name).devices
    for ranks in (2, 8, 32):
        if ranks > devices:
            continue
        group, call = group_of(name, ranks), Call(operation=operation)
        priced = alone(group, call, SIZES)
        for size, seconds, algorithm in zip(SIZES, priced.seconds, priced.algorithm, strict=True):
            assert seconds >= bound_s(group, call, algorithm) * size * (1 - 1e-12)


def test_the_bound_holds_where_a_link_is_slow() -> None:
    """An eighth of the NICs: the clock alone would not see that the fabric is the slower part."""
    slow = load_topology("h100_superpod", ["topology.fabric.oversubscription=8"])
    group = make_group(slow, range(0, 1024, 8))
    call, size = Call(operation="all_to_all"), np.array([2.0**30])
    priced = alone(group, call, size)
    bound = bound_s(group, call, priced.algorithm[0]) * size[0]
    clock = collective(group.fits, group.shape, "all_to_all", size).seconds[0]
    assert clock < bound == pytest.approx(float(priced.seconds[0]))


def unfolded_s(group: Group, call: Call, size: float, beside: list[Activity]) -> float:
    """The same as ``shared_s`` without folding: every link a resource of its own."""
    seconds = 0.0
    for phase in collective_activity(group, call, size):
        rates = solve(problem_of([phase.activity, *beside], group.machine.link_bandwidth))
        seconds += 1 / float(rates[0])
    return seconds


def check_folding(name: str, operation: str, algorithm: str, ranks: int) -> None:
    group = group_of(name, min(ranks, machine_of(name).devices))
    forced = {} if algorithm not in ("Ring", "Tree", "HD", "Mesh") else {"algorithm": algorithm}
    call = dataclasses.replace(call_of(operation, algorithm), **forced)
    beside = random_flows(group, 5, 3, 2.0**30)
    for others in ([], beside):
        phases = collective_activity(group, call, 2.0**28)
        folded = shared_s(group, phases, others)
        if not others:
            alone_s = float(alone(group, call, np.array([2.0**28])).seconds[0])
            assert folded == pytest.approx(alone_s, rel=1e-9)
        assert folded == pytest.approx(unfolded_s(group, call, 2.0**28, others), rel=1e-9)


@pytest.mark.parametrize(("name", "operation", "algorithm"), WAYS)
def test_folded_is_unfolded(name: str, operation: str, algorithm: str) -> None:
    check_folding(name, operation, algorithm, 16)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "operation", "algorithm"), WAYS)
def test_folded_is_unfolded_on_sixty_four_ranks(name: str, operation: str, algorithm: str) -> None:
    check_folding(name, operation, algorithm, 64)


@pytest.mark.parametrize("ranks", [8, 16])
def test_one_activity_is_the_flows_of_its_ranks(ranks: int) -> None:
    """Each rank's flows on their own, all symmetric, take as long as the collective together."""
    group = group_of("h100_superpod", ranks)
    ((_, flows),) = flows_of(group, "all_gather", "Ring", Routing(), "rank")
    machine = group.machine
    route = paths(machine, flows.source, flows.target)
    activities = []
    for flow, size in enumerate(flows.size.tolist()):
        links, shares = route.of(flow)
        seconds = float((shares * size / machine.link_bandwidth[links]).max())
        activities.append(
            Activity(
                kind="traffic",
                alone_s=seconds,
                size=size,
                resources=tuple(links.tolist()),
                demand=tuple((shares * size).tolist()),
            )
        )
    problem = problem_of(activities, machine.link_bandwidth)
    folding = fold(problem)
    rates = solve(problem)
    assert folding.unfold(solve(folding.problem)) == pytest.approx(rates, rel=1e-9)
    slowest = float((1 / rates).max())
    bound = bound_s(group, Call(operation="all_gather"), "Ring")
    assert slowest == pytest.approx(bound, rel=1e-9)


def chunk_oracle_s(group: Group, steps: list[tuple[list[int], list[int]]], size: float) -> float:
    """Every step's transfers at max-min fair rates, one step after the other, no latency."""
    machine, seconds = group.machine, 0.0
    for source, target in steps:
        route = paths(machine, source, target)
        left = [size] * len(source)
        while max(left) > 0:
            running = [flow for flow, bytes_left in enumerate(left) if bytes_left > 0]
            rates = _max_min([route.of(flow) for flow in running], machine.link_bandwidth)
            step = min(left[flow] / rate for flow, rate in zip(running, rates, strict=True))
            for flow, rate in zip(running, rates, strict=True):
                left[flow] -= rate * step
                if left[flow] < 1e-6 * size:
                    left[flow] = 0.0
            seconds += step
    return seconds


def _max_min(routes: list[tuple[np.ndarray, np.ndarray]], capacity: np.ndarray) -> list[float]:
    """Progressive filling by the book."""
    free = capacity.astype(float).copy()
    rates, active = [0.0] * len(routes), set(range(len(routes)))
    while active:
        use = np.zeros(len(free))
        for flow in sorted(active):
            np.add.at(use, routes[flow][0], routes[flow][1])
        used = np.flatnonzero(use > 1e-15)
        rise = float((free[used] / use[used]).min())
        free -= rise * use
        full = set(used[free[used] <= 1e-9 * capacity[used]].tolist())
        for flow in sorted(active):
            rates[flow] += rise
        active -= {flow for flow in active if full & set(routes[flow][0].tolist())}
    return rates


@pytest.mark.parametrize("ranks", [8, 32, 64])
def test_rings_against_the_chunk_oracle(ranks: int) -> None:
    """A ring in every rail at once: 2 (n - 1) steps of S / n, each over all edges."""
    group = group_of("h100_superpod", ranks)
    n, size = ranks, 2.0**30
    domains = [list(range(first, first + 8)) for first in range(0, n, 8)]
    rails = 8 if len(domains) > 1 else 1
    source, target = [], []
    for rail in range(rails):
        ring = [rank for part in domains for rank in part[rail:] + part[:rail]]
        source += ring
        target += ring[1:] + ring[:1]
    once = chunk_oracle_s(group, [(source, target)], size / n / rails)
    oracle = 2 * (n - 1) * once
    fluid = bound_s(group, Call(operation="all_reduce"), "Ring") * size
    assert fluid == pytest.approx(oracle, rel=0.02)


@pytest.mark.parametrize("ranks", [8, 16, 32])
def test_all_to_all_against_the_chunk_oracle(ranks: int) -> None:
    """n - 1 shifts of a share each: what is not balanced in a step is in the whole."""
    group = group_of("h100_superpod", ranks)
    ranks_ = list(range(ranks))
    everything = [(ranks_, ranks_[shift:] + ranks_[:shift]) for shift in range(1, ranks)]
    source = [rank for step in everything for rank in step[0]]
    target = [rank for step in everything for rank in step[1]]
    size = 2.0**30
    oracle = chunk_oracle_s(group, [(source, target)], size / ranks)
    fluid = bound_s(group, Call(operation="all_to_all"), "Direct") * size
    assert fluid == pytest.approx(oracle, rel=0.02)


@pytest.mark.parametrize("ranks", [8, 64])
def test_halving_doubling_against_the_chunk_oracle(ranks: int) -> None:
    group = group_of("cloudmatrix384", ranks)
    size, oracle, distance = 2.0**28, 0.0, 1
    while distance < ranks:
        source = list(range(ranks))
        target = [rank ^ distance for rank in source]
        part = size / (2 * distance)
        oracle += 2 * chunk_oracle_s(group, [(source, target)], part)
        distance *= 2
    fluid = bound_s(group, Call(operation="all_reduce", library="hccl"), "HD") * size
    assert fluid == pytest.approx(oracle, rel=0.02)


def test_hashed_paths_collide() -> None:
    """ECMP: flows that share an uplink make the collective as slow as they share it."""
    machines = {}
    order = np.arange(128) * 37 % 128 * 8  # neighbours in other pods
    for routing in ("ecmp", "adaptive"):
        tree = load_topology("fat_tree_example", [f"topology.fabric.routing={routing}"])
        group = make_group(tree, order)
        machines[routing] = group
    size, operation = np.array([2.0**30]), "send_recv"
    bounds, times = {}, {}
    for routing, group in machines.items():
        calls = [Call(operation=operation, seed=seed) for seed in range(4)]
        bounds[routing] = [bound_s(group, call, "Direct") * 50e9 for call in calls]
        times[routing] = [float(alone(group, call, size).seconds[0]) for call in calls]
    assert bounds["adaptive"] == pytest.approx([1.0] * 4)
    assert min(bounds["ecmp"]) >= 2 - 1e-9
    assert bounds["ecmp"] == pytest.approx([round(bound) for bound in bounds["ecmp"]])
    assert min(times["ecmp"]) > 1.3 * max(times["adaptive"])


def test_the_tuner_prefers_latency_small_and_bandwidth_large() -> None:
    shape = Shape(ranks=8, link_bytes_per_s=450e9, in_switch=True)
    ways = available(shape, "all_reduce")
    small, large = choose(shape, "all_reduce", np.array([1024.0, 2.0**30]), ways)
    assert small[1] == "LL"
    assert large == ("NVLS", "Simple")
    assert not [way for way in available(Shape(ranks=8, link_bytes_per_s=3e11), "all_reduce")
                if way[0] == "NVLS"]  # fmt: skip


def test_experts_are_priced_by_unique_destinations() -> None:
    """TensorRT-LLM over NVLink: 1, 3, 7, 7.5, 7.75 copies of a token on 2 to 32 ranks."""
    fits = load_collective_fits("gb200")
    size, routing = np.array([2.0**31]), Routing(top_k=8, experts=256)
    library = fits.experts["trtllm_nvlink_one_sided"]
    unit = size[0] / 8 / library.combine.bandwidth
    for ranks, copies in ((2, 1), (4, 3), (8, 7), (16, 7.5), (32, 7.75)):
        shape = Shape(ranks=ranks, link_bytes_per_s=fits.link)
        priced = collective(
            fits, shape, "moe_combine", size, library="trtllm_nvlink_one_sided", routing=routing
        )
        latency = library.combine.latency + library.combine.per_doubling * math.log2(ranks)
        expected = latency + (copies + library.combine.local) * unit
        assert float(priced.seconds[0]) == pytest.approx(expected, rel=1e-9)


def test_node_limited_routing_sends_less_over_nics() -> None:
    group = group_of("h100_superpod", 64)
    size = np.array([2.0**30])
    times = [
        alone(group, Call(operation="moe_dispatch", routing=Routing(node_limit=limit)), size)
        for limit in (None, 4, 2)
    ]
    seconds = [float(priced.seconds[0]) for priced in times]
    assert seconds[0] > seconds[1] > seconds[2]


@pytest.mark.parametrize("ranks", [1])
def test_a_group_of_one_rank_takes_no_time(ranks: int) -> None:
    for name in ("h100_nvl8", "ascend_910b_8"):
        group = group_of(name, ranks)
        assert float(alone(group, Call(operation="all_reduce"), SIZES).seconds.max()) == 0
        assert collective_activity(group, Call(operation="all_reduce"), 2.0**20) == []
