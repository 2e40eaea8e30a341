"""What a replay says: the time of each rank, of each kind of collective, and of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.shape import bus_factor
from cluster_sim.errors import SimulationError
from cluster_sim.training.replay import Replay, critical_path_s
from cluster_sim.training.replay_price import Prices
from cluster_sim.training.task_graph import Node

COMPUTE, COMMUNICATION, HOST = range(3)  # who owns a second, first to last; then nobody: idle
LANES = {
    "compute": COMPUTE,
    "memory": COMPUTE,
    "collective": COMMUNICATION,
    "timed": COMMUNICATION,
    "send": COMMUNICATION,
    "recv": COMMUNICATION,
    "host": HOST,
}
REPLAY_COLUMNS = (  # of replay.csv
    *("run_id", "kind", "topology", "chip", "workload", "form"),
    *("ranks", "folded", "nodes", "tasks", "makespan_s", "critical_path_s"),
    *("compute_s", "exposed_communication_s", "host_s", "idle_s", "communication_s"),
    *("bubble_s", "stage_sends_s", "step_s"),
    *("compute_source", "ideal_network", "partial", "config_hash"),
)
CLOSED = 1e-9  # relative: how well a ledger closes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRow:
    """Where the time of a rank goes. Compute, exposed communication, host and idle add up to the
    makespan; communication counts what compute hides too.
    """

    rank: int
    device: int
    nodes: int
    compute_s: float
    exposed_communication_s: float
    host_s: float
    idle_s: float
    communication_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRow:
    """Calls that are alike: mean time alone, mean time as played, their ratio, and how long ranks
    waited for the last to come, on average.
    """

    operation: str
    size_bytes: int
    ranks: int
    groups: int
    calls: int
    alone_us: float
    played_us: float
    slowdown: float
    wait_us: float
    busbw_gb_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A task on a rank's lane."""

    rank: int
    lane: int
    name: str
    start_s: float
    end_s: float


def spans(played: Replay) -> list[Span]:
    """What was done on each rank and when, tasks without any time left out.

    A message lies on both of its ends, from its start to its end.
    """
    found = []
    for number, task in enumerate(played.tasks):
        start_s, end_s = float(played.start_s[number]), float(played.end_s[number])
        if not end_s > start_s:
            continue
        for place in task.nodes:
            node = played.graph.nodes[place]
            lane = LANES[node.kind]
            found += [
                Span(rank=rank, lane=lane, name=node.name, start_s=start_s, end_s=end_s)
                for rank in ([node.rank, node.peer] if node.kind == "send" else [node.rank])
            ]
    return found


def rank_rows(played: Replay, lanes: Iterable[Span]) -> list[RankRow]:
    """One row a rank; raises SimulationError unless each ledger closes."""
    makespan = played.makespan_s
    by_rank: dict[int, list[Span]] = {rank: [] for rank in played.graph.files}
    for span in lanes:
        by_rank[span.rank].append(span)
    counts = dict.fromkeys(by_rank, 0)
    for node in played.graph.nodes:
        counts[node.rank] += 1
    rows = []
    for rank, mine in by_rank.items():
        owned, busy = _ledger(mine, makespan)
        if abs(sum(owned) - makespan) > CLOSED * makespan:
            raise SimulationError(f"the time of rank {rank} does not add up", makespan)
        rows.append(
            RankRow(
                rank=rank,
                device=played.place.devices[rank],
                nodes=counts[rank],
                compute_s=owned[COMPUTE],
                exposed_communication_s=owned[COMMUNICATION],
                host_s=owned[HOST],
                idle_s=owned[HOST + 1],
                communication_s=busy,
            )
        )
    return rows


def _ledger(mine: list[Span], makespan: float) -> tuple[list[float], float]:
    """Seconds by owner, idle last; and seconds with any communication."""
    changes = [(span.start_s, span.lane, 1) for span in mine]
    changes += [(span.end_s, span.lane, -1) for span in mine]
    changes.sort(key=lambda change: change[0])
    running, owned, busy, now = [0, 0, 0], [0.0] * 4, 0.0, 0.0
    for at_s, lane, change in [*changes, (makespan, 0, 0)]:
        owner = next((one for one, count in enumerate(running) if count), HOST + 1)
        owned[owner] += at_s - now
        busy += at_s - now if running[COMMUNICATION] else 0.0
        running[lane] += change
        now = at_s
    return owned, busy


def collective_rows(played: Replay) -> list[CollectiveRow]:
    """Calls by operation, bytes and size of group, in order of the first."""
    alike: dict[tuple[str, float, int, int], list[int]] = {}
    for number, end_s in enumerate(played.end_s.tolist()):
        node = played.node(number)
        if node.kind == "collective" and end_s == end_s:
            parts = played.graph.groups[node.group]
            key = (node.operation, node.bytes, len(parts[0]), len(parts))
            alike.setdefault(key, []).append(number)
    task_of = {place: number for number, task in enumerate(played.tasks) for place in task.nodes}
    id_of = {(node.rank, node.id): place for place, node in enumerate(played.graph.nodes)}

    def came_s(node: Node) -> float:
        places = [id_of[node.rank, one] for one in node.after if (node.rank, one) in id_of]
        return max((float(played.end_s[task_of[place]]) for place in places), default=0.0)

    rows = []
    for (operation, size, ranks, groups), calls in alike.items():
        alone = float(np.mean(played.alone_s[calls]))
        times = [float(played.end_s[one] - played.start_s[one]) for one in calls]
        mean = sum(times) / len(times)
        waits = [
            float(played.start_s[one]) - came_s(played.graph.nodes[place])
            for one in calls
            for place in played.tasks[one].nodes
        ]
        rate = size / mean * bus_factor(operation, ranks) / 1e9 if mean > 0 else 0.0
        rows.append(
            CollectiveRow(
                operation=operation,
                size_bytes=round(size),
                ranks=ranks,
                groups=groups,
                calls=len(calls),
                alone_us=alone * 1e6,
                played_us=mean * 1e6,
                slowdown=mean / alone if alone > 0 else 1.0,
                wait_us=sum(waits) / len(waits) * 1e6,
                busbw_gb_per_s=rate,
            )
        )
    return rows


def pipeline_s(played: Replay) -> tuple[float, float]:
    """Seconds of bubble and of sends between stages that a text workload's pipeline adds.

    Model: (p - 1) / (m v) of the time in which the stage works on micro-batches, for p stages, m
    micro-batches and v chunks; 2 m v messages to the next stage, one after the other, none hidden.
    Source: Narayanan et al., SC 2021 (bubble of the interleaved schedule); aliyun/SimAI Layer.cc
    (messages). Limits: all stages take as long as the one of the file.
    """
    pipeline = played.graph.pipeline
    if pipeline is None:
        return 0.0, 0.0
    busy = 0.0
    for number in range(len(played.tasks)):
        took = float(played.end_s[number] - played.start_s[number])
        if played.node(number).repeats and took == took:
            busy += took
    chunks = pipeline.micro_batches * pipeline.chunks
    bubble = (pipeline.stages - 1) / chunks * busy
    if not pipeline.bytes:
        return bubble, 0.0
    stage = played.graph.ranks // pipeline.stages
    hop = Node(
        rank=0, id=0, name="to the next stage", kind="send", peer=stage, bytes=pipeline.bytes
    )
    phases = Prices(graph=played.graph, place=played.place).of(hop)
    return bubble, 2 * chunks * sum(phase.activity.alone_s for phase in phases)


def totals(played: Replay, ranks: list[RankRow]) -> dict[str, float]:
    """Seconds of the whole: the longest chain alone, means over ranks, and what the pipeline adds.

    ``step_s`` is the makespan with it.
    """
    bubble, sends = pipeline_s(played)
    count = len(ranks)
    found = {
        "makespan_s": played.makespan_s,
        "critical_path_s": critical_path_s(played),
        "compute_s": sum(row.compute_s for row in ranks) / count,
        "exposed_communication_s": sum(row.exposed_communication_s for row in ranks) / count,
        "host_s": sum(row.host_s for row in ranks) / count,
        "idle_s": sum(row.idle_s for row in ranks) / count,
        "communication_s": sum(row.communication_s for row in ranks) / count,
        "bubble_s": bubble,
        "stage_sends_s": sends,
    }
    return found | {"step_s": found["makespan_s"] + bubble + sends}


def notes(played: Replay) -> tuple[str, ...]:
    """What a reader should know of the graph and of how it was played."""
    found = list(played.graph.notes)
    alone = sum(
        node.kind == "collective" and node.bytes > 0 and len(played.graph.groups[node.group][0]) < 2
        for node in played.graph.nodes
    )
    if alone:
        more = "give the other files, or --ranks and --repeat"
        hint = f"; {more}" if played.graph.ranks == 1 else ""
        found.append(f"{alone:,} collectives are of one rank alone and take no time{hint}")
    if played.place.ideal_network:
        found.append("ideal network: collectives and messages take no time")
    return tuple(found)
