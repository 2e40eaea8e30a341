"""Laws of the replay of traces: bounds, limits, the fluid rule, folding, the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trace_files import COMP, LAYER, LOAD, node, recv, reduce_, send, workload, write

from cluster_sim.collectives.activity import Call, bound_s, collective_activity
from cluster_sim.collectives.group import groups_at_once, make_group
from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.build import build_machine
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology
from cluster_sim.training import replay as replay_module
from cluster_sim.training.replay import Replay, critical_path_s, replay
from cluster_sim.training.replay_price import Place, Prices, roofline_words
from cluster_sim.training.replay_rows import (
    collective_rows,
    pipeline_s,
    rank_rows,
    spans,
    totals,
)
from cluster_sim.training.task_graph import Node
from cluster_sim.training.traces import read_traces

GIB = 1 << 30


def place_on(topology: TopologyInput, **options: object) -> Place:
    machine = build_machine(topology)
    devices = tuple(range(machine.devices))
    return Place(topology=topology, machine=machine, devices=devices, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def board(h200: TopologyInput) -> Place:
    """The devices of eight H200."""
    return place_on(h200)


@pytest.fixture(scope="module")
def pod() -> Place:
    """Sixteen H100 on two hosts."""
    return place_on(load_topology("h100_superpod", ["topology.chips=16"]))


def play(paths: Sequence[Path], place: Place, **options: object) -> Replay:
    graph = read_traces(paths, devices=place.machine.devices, **options)  # type: ignore[arg-type]
    return replay(graph, place)


def seconds(played: Replay) -> dict[str, float]:
    return totals(played, rank_rows(played, spans(played)))


def work(ident: int, *after: int, micros: int = 100) -> bytes:
    return node(ident, COMP, after, micros=micros)


def random_trace(folder: Path, seed: int, ranks: int = 4, count: int = 40) -> list[Path]:
    """Compute, collectives and messages in one order on all ranks, with random dependencies."""
    stream = np.random.default_rng(seed)
    nodes: dict[int, list[bytes]] = {rank: [] for rank in range(ranks)}
    for ident in range(count):
        kind, size = stream.integers(4), int(stream.integers(1, 1 << 24))
        source = int(stream.integers(ranks))
        target = (source + int(stream.integers(1, ranks))) % ranks
        for rank in range(ranks):
            after = [one for one in range(ident) if stream.random() < 0.08]
            if kind == 0:
                one = reduce_(ident, [number for number in after if number < ident], size)
            elif kind == 1 and rank == source:
                one = send(ident, target, after, size, ident)
            elif kind == 1 and rank == target:
                one = recv(ident, source, after, size, ident)
            else:
                one = work(ident, *after, micros=int(stream.integers(1, 300)))
            nodes[rank].append(one)
    return write(folder, nodes, f"random{seed}")


@pytest.mark.parametrize("seed", range(6))
def test_never_shorter_than_the_longest_chain_and_every_second_has_an_owner(
    tmp_path: Path, board: Place, seed: int
) -> None:
    played = play(random_trace(tmp_path, seed), board)
    assert np.isfinite(played.end_s).all()
    assert played.makespan_s >= critical_path_s(played) * (1 - 1e-9)
    assert (played.end_s - played.start_s >= played.alone_s * (1 - 1e-9) - 1e-12).all()
    for task, start_s in zip(played.tasks, played.start_s, strict=True):
        assert all(played.end_s[before] <= start_s for before in task.after)
    for row in rank_rows(played, spans(played)):
        owned = row.compute_s + row.exposed_communication_s + row.host_s + row.idle_s
        assert owned == pytest.approx(played.makespan_s, rel=1e-9)
        assert row.exposed_communication_s <= row.communication_s * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_links_that_are_loaded_alike_can_be_one(
    tmp_path: Path, board: Place, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = random_trace(tmp_path, seed)
    folded = play(paths, board)
    every = lambda loads, capacity: np.arange(len(capacity))  # noqa: E731
    monkeypatch.setattr(replay_module, "alike", every)
    whole = play(paths, board)
    assert folded.resources < whole.resources
    np.testing.assert_allclose(folded.end_s, whole.end_s, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_an_ideal_network_leaves_compute_alone(tmp_path: Path, board: Place, seed: int) -> None:
    paths = random_trace(tmp_path, seed)
    ideal = play(paths, replace(board, ideal_network=True))
    found = seconds(ideal)
    assert found["exposed_communication_s"] == found["communication_s"] == 0
    assert found["compute_s"] > 0
    assert ideal.makespan_s <= play(paths, board).makespan_s
    assert found["critical_path_s"] <= ideal.makespan_s


def test_a_collective_alone_takes_its_own_time(tmp_path: Path, board: Place) -> None:
    paths = write(tmp_path, dict.fromkeys(range(4), [reduce_(0)]))
    group = make_group(board.topology, range(4), machine=board.machine)
    phases = collective_activity(group, Call(operation="all_reduce"), 1 << 20)
    alone_s = sum(phase.activity.alone_s for phase in phases)
    played = play(paths, board)
    assert played.makespan_s == pytest.approx(alone_s, rel=1e-12)
    (row,) = collective_rows(played)
    assert (row.calls, row.ranks, row.slowdown) == (1, 4, pytest.approx(1.0))


def test_two_at_a_time_take_what_the_links_need(tmp_path: Path, board: Place) -> None:
    """The fluid rule: twice the time where one fills the links, its own where two fit."""
    group = make_group(board.topology, range(8), machine=board.machine)
    call = Call(operation="all_reduce").resolved(group)
    for size in (GIB, 4096):
        one = play(write(tmp_path, dict.fromkeys(range(8), [reduce_(0, size=size)])), board)
        pair = [reduce_(0, size=size), reduce_(1, size=size)]
        two = play(write(tmp_path, dict.fromkeys(range(8), pair)), board)
        algorithm = "NVLS" if size == GIB else "Ring"
        least = 2 * bound_s(group, call, algorithm) * size
        assert two.makespan_s == pytest.approx(max(one.makespan_s, least), rel=1e-9)
    assert two.makespan_s == pytest.approx(one.makespan_s, rel=1e-9)


def test_two_messages_on_one_link_take_twice_as_long(tmp_path: Path, board: Place) -> None:
    """On links of a tenth of the rate that the library knows, each message fills them alone."""
    links = tuple(
        replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / 10)
        for link in board.machine.links
    )
    slow = replace(board, machine=replace(board.machine, links=links, cache={}))
    size = 64 << 20
    one = play(write(tmp_path, {0: [send(0, 1, size=size)], 1: [recv(0, 0, size=size)]}), slow)
    two = play(
        write(
            tmp_path,
            {
                0: [send(0, 1, size=size), send(1, 1, size=size, tag=1)],
                1: [recv(0, 0, size=size), recv(1, 0, size=size, tag=1)],
            },
        ),
        slow,
    )
    assert two.makespan_s == pytest.approx(2 * one.makespan_s, rel=1e-9)


def test_kernels_of_one_device_share_it_and_of_two_do_not(tmp_path: Path, board: Place) -> None:
    pair = [work(0, micros=300), work(1, micros=300)]
    assert play(write(tmp_path, {0: pair}), board).makespan_s == pytest.approx(600e-6)
    apart = {0: [work(0, micros=300)], 1: [work(0, micros=300)]}
    assert play(write(tmp_path, apart), board).makespan_s == pytest.approx(300e-6)


def test_the_last_rank_starts_a_collective_and_the_others_idle(
    tmp_path: Path, board: Place
) -> None:
    late = [work(0, micros=500), reduce_(1, [0])]
    played = play(write(tmp_path, {0: [reduce_(1)], 1: late}), board)
    first, second = rank_rows(played, spans(played))
    assert first.idle_s == pytest.approx(500e-6)
    assert second.idle_s == pytest.approx(0.0, abs=1e-15)
    (row,) = collective_rows(played)
    assert row.wait_us == pytest.approx(250)


def test_compute_hides_communication(tmp_path: Path, board: Place) -> None:
    nodes = [reduce_(0, size=1 << 24), work(1, micros=5000)]
    found = seconds(play(write(tmp_path, dict.fromkeys(range(2), nodes)), board))
    assert found["communication_s"] > 0
    assert found["exposed_communication_s"] == 0
    assert found["makespan_s"] == pytest.approx(5e-3)


def test_flop_and_bytes_are_priced_by_the_roofline(tmp_path: Path, board: Place) -> None:
    chip, curve = board.topology.chip, board.topology.fits.gemm["bf16"]
    nodes = [node(0, COMP, num_ops=10**15, tensor_size=8), node(1, LOAD, [0], tensor_size=GIB)]
    played = play(write(tmp_path, {0: nodes}), board)
    math_s = 1e15 / (chip.device_peak("bf16") * curve.compute) + curve.floor
    read_s = GIB / hbm_bytes_per_s(board.topology)
    assert played.alone_s.tolist() == pytest.approx([math_s, read_s])
    assert "2 nodes by the roofline of h200" in roofline_words(played.graph, board.topology)


def test_a_ring_of_messages_is_an_all_reduce(tmp_path: Path, board: Place) -> None:
    """Eight ranks, 14 steps of 1/8: each step is one message, all at the same time."""
    steps: dict[int, list[bytes]] = {}
    for rank in range(8):
        nodes: list[bytes] = []
        for step in range(14):
            after = [2 * step - 1] if step else []
            nodes.append(send(2 * step, (rank + 1) % 8, after, 1 << 17))
            nodes.append(recv(2 * step + 1, (rank - 1) % 8, [2 * step], 1 << 17))
        steps[rank] = nodes
    ring = play(write(tmp_path, steps), board)
    hop = play(
        write(tmp_path, {0: [send(0, 1, size=1 << 17)], 1: [recv(0, 0, size=1 << 17)]}), board
    )
    assert ring.makespan_s == pytest.approx(14 * hop.makespan_s, rel=1e-9)


LINES = [
    LAYER.format(dp="ALLREDUCE 67108864"),
    "experts -1 300000 ALLTOALL_EP 4194304 200000 ALLTOALL_EP 4194304 1 NONE 0 100",
    "gradients -1 0 NONE 0 0 NONE 0 1 REDUCESCATTER_DP_EP 268435456 100",
]


@pytest.mark.parametrize(("tp", "ep"), [(2, 1), (2, 4), (8, 2), (4, 2), (1, 2)])
def test_one_rank_for_all_equals_every_rank(tmp_path: Path, pod: Place, tp: int, ep: int) -> None:
    path = tmp_path / "work.txt"
    path.write_text(workload(LINES, tp=tp, ep=ep, ranks=16))
    folded, whole = play([path], pod), play([path], pod, folded=False)
    assert (len(rank_rows(folded, spans(folded))), len(rank_rows(whole, spans(whole)))) == (1, 16)
    assert folded.makespan_s == pytest.approx(whole.makespan_s, rel=1e-9)
    one, every = seconds(folded), seconds(whole)
    for name in ("compute_s", "exposed_communication_s", "host_s"):
        assert one[name] == pytest.approx(every[name], rel=1e-6), name


@pytest.mark.parametrize("operation", ["all_reduce", "all_to_all", "broadcast"])
def test_groups_at_once_put_the_bytes_of_each_on_the_links(pod: Place, operation: str) -> None:
    rows, call = np.arange(16).reshape(8, 2).T, Call(operation=operation)
    both = collective_activity(
        groups_at_once(pod.topology, rows, machine=pod.machine), call, 1 << 24
    )
    singles = [
        collective_activity(make_group(pod.topology, row, machine=pod.machine), call, 1 << 24)
        for row in rows
    ]
    for together, *each in zip(both, *singles, strict=True):
        total: dict[int, float] = {}
        for phase in each:
            activity = phase.activity
            for link, size in zip(activity.resources, activity.demand, strict=True):
                total[link] = total.get(link, 0.0) + size
        found = dict(zip(together.activity.resources, together.activity.demand, strict=True))
        assert found == pytest.approx(total, rel=1e-12)
        least = max(phase.activity.alone_s for phase in each)
        assert together.activity.alone_s >= least * (1 - 1e-12)


def test_the_bubble_is_the_share_of_the_schedule(tmp_path: Path, pod: Place) -> None:
    """(p - 1) / m of the micro-batches' time, and 2 m messages to the next stage."""
    layer = "layer -1 500000 NONE 0 400000 NONE 0 100000 NONE 0 100"
    path = tmp_path / "work.txt"
    path.write_text(workload([layer] * 8, tp=1, pp=4, ga=8, ranks=16, more=" pp_comm 1048576"))
    played = play([path], pod)
    bubble, sends = pipeline_s(played)
    assert played.makespan_s == pytest.approx(8e-3)
    assert bubble == pytest.approx(3 / 8 * 8e-3)
    hop = Node(rank=0, id=0, name="hop", kind="send", peer=4, bytes=float(1 << 20))
    hop_s = sum(one.activity.alone_s for one in Prices(graph=played.graph, place=pod).of(hop))
    assert sends == pytest.approx(16 * hop_s)
    assert seconds(played)["step_s"] == pytest.approx(8e-3 + bubble + sends)


def test_more_bandwidth_is_never_slower(tmp_path: Path) -> None:
    path = tmp_path / "work.txt"
    path.write_text(workload(LINES, tp=2, ep=2, ranks=16))
    took = []
    for nic in ("25 GB/s", "50 GB/s", "100 GB/s"):
        topology = load_topology(
            "h100_superpod", ["topology.chips=16", f"topology.board.nic_bandwidth={nic}"]
        )
        took.append(play([path], place_on(topology)).makespan_s)
    assert took == sorted(took, reverse=True)
    assert took[0] > took[-1]


def test_too_many_ranks_say_how_to_make_room(tmp_path: Path, board: Place) -> None:
    path = tmp_path / "work.txt"
    path.write_text(workload(LINES, ranks=16))
    with pytest.raises(DoesNotFitError, match="16 ranks need as many devices, there are 8"):
        play([path], board)


def test_the_samples_of_the_formats(shared: Path) -> None:
    """What public traces of every format hold, and that they play."""
    folder = shared / "traces" / "formats"
    big = place_on(load_topology("h100_superpod", ["topology.chips=384"]))
    board8 = place_on(load_topology("h100_nvl8"))
    expected = json.loads(SAMPLES)
    for pattern, (place_name, options, ranks, nodes, collectives) in expected.items():
        place = big if place_name == "pod" else board8
        paths = sorted(folder.glob(pattern))
        played = play(paths, place, **options)
        graph = played.graph
        found = sum(one.kind == "collective" for one in graph.nodes)
        assert (graph.ranks, len(graph.nodes), found) == (ranks, nodes, collectives), pattern
        assert played.makespan_s >= critical_path_s(played) * (1 - 1e-9) > 0
        rank_rows(played, spans(played))


SAMPLES = """{
 "astra_sim_all_reduce_*.et": ["board", {"ranks": 4, "repeat": true}, 4, 4, 4],
 "astra_sim_custom_*.et": ["board", {"ranks": 8, "repeat": true}, 8, 280, 0],
 "chakra_pytorch_*.et": ["board", {"cut": true}, 1, 300, 2],
 "chakra_small.0.json": ["board", {"cut": true}, 1, 7, 0],
 "aicb_G175B*.txt": ["board", {}, 8, 165, 33],
 "aicb_L7B*.txt": ["board", {}, 8, 511, 142],
 "aicb_L7B*.csv": ["pod", {}, 128, 147, 147],
 "simai_micro*.txt": ["board", {}, 8, 10, 2],
 "simai_workload*.txt": ["pod", {"ranks": 384}, 384, 12426, 3540]
}"""
