"""Causality of traces: what could never run is refused, with the node and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_files import COMP, node, recv, reduce_, send, write

from cluster_sim.errors import SpecError
from cluster_sim.training.causality import link_ranks, sort_tasks
from cluster_sim.training.traces import read_traces


def work(ident: int, *after: int) -> bytes:
    return node(ident, COMP, after, micros=10)


BROKEN = {
    "cycle": (
        {0: [work(1, 3), work(2, 1), work(3, 2)]},
        {},
        r"job\.0\.et: node \d 'node\d' <- .*a cycle|cycle of dependencies: .*node 1 'node1'",
    ),
    "self": ({0: [work(7, 7)]}, {}, "cycle of dependencies: .*node 7 'node7' <- .*node 7"),
    "absent": ({0: [work(2, 1)]}, {}, r"node 2 'node2': depends on node 1, which.*add --cut"),
    "twice": ({0: [work(1), work(1)]}, {}, "node 1 'node1': a second node with this id"),
    "missing rank": ({0: [reduce_(0)], 2: [reduce_(0)]}, {}, r"no file \(1\); give their files"),
    "missing ranks": ({0: [reduce_(0)]}, {"ranks": 4}, r"no file \(1, 2, 3\).*--repeat"),
    "no receive": (
        {0: [send(0, 1)], 1: [work(0)]},
        {},
        "1 sends from rank 0 to rank 1 with tag 0, but 0 receives",
    ),
    "no send": (
        {0: [work(0)], 1: [recv(0, 0, tag=5)]},
        {},
        "0 sends from rank 0 to rank 1 with tag 5, but 1 receives",
    ),
    "sizes": (
        {0: [send(0, 1, size=8)], 1: [recv(0, 0, size=9)]},
        {},
        "receives 9 bytes .* node 0 sends 8; make them agree",
    ),
    "no such peer": ({0: [send(0, 9)]}, {}, "sends to rank 9, of which there is no file"),
    "order": (
        {0: [reduce_(0, size=8), reduce_(1, [0])], 1: [reduce_(0), reduce_(1, [0], size=8)]},
        {},
        "rank 1 issues all_reduce of .* as collective 1 of group 'all', rank 0 .*deadlock",
    ),
    "one more": (
        {0: [reduce_(0), reduce_(1, [0])], 1: [reduce_(0)]},
        {},
        "collective 2 of group 'all' is not issued by rank 1",
    ),
    "wait for each other": (
        {0: [recv(0, 1), send(1, 1, [0])], 1: [recv(0, 0), send(1, 0, [0])]},
        {},
        "ranks wait for each other for ever: .* <- ",
    ),
    "groups crosswise": (
        {
            0: [reduce_(0, pg_name="a"), reduce_(1, [0], pg_name="b")],
            1: [reduce_(0, pg_name="b"), reduce_(1, [0], pg_name="a")],
        },
        {"groups": {"a": (0, 1), "b": (0, 1)}},
        "ranks wait for each other for ever",
    ),
    "not in the group": (
        {0: [reduce_(0, pg_name="a")], 1: [reduce_(0, pg_name="a")]},
        {"groups": {"a": (0,)}},
        "rank 1 is not in group 'a'",
    ),
    "repeat in a group": (
        {0: [reduce_(0, pg_name="a")]},
        {"groups": {"a": (0, 1)}, "ranks": 2, "repeat": True},
        "runs in group 'a', so other ranks cannot be copies",
    ),
    "repeat without need": (
        {0: [work(0)], 1: [work(0)]},
        {"repeat": True},
        "--repeat has no effect: all 2 ranks have files",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_could_never_run_is_refused(tmp_path: Path, name: str) -> None:
    ranks, options, message = BROKEN[name]
    paths = write(tmp_path, ranks)
    with pytest.raises(SpecError, match=message):
        link_ranks(read_traces(paths, devices=8, **options))


def test_a_cut_trace_is_accepted_when_asked_for(tmp_path: Path) -> None:
    paths = write(tmp_path, {0: [work(5, 4), work(6, 5, 3)]})
    graph = read_traces(paths, devices=8, cut=True)
    assert [task.after for task in link_ranks(graph)] == [(), (0,)]
    assert graph.notes == ("2 dependencies on nodes that are not in the trace count as done",)


def test_only_a_few_problems_are_shown(tmp_path: Path) -> None:
    paths = write(
        tmp_path, {0: [send(number, 1, tag=number) for number in range(30)], 1: [work(0)]}
    )
    with pytest.raises(SpecError) as caught:
        link_ranks(read_traces(paths, devices=8))
    assert len(caught.value.problems) == 9
    assert caught.value.problems[-1] == "and 22 more like these"


def test_repeated_ranks_of_a_ring_send_to_their_own_neighbours(tmp_path: Path) -> None:
    paths = write(tmp_path, {0: [send(0, 1), recv(1, 3, [0])]})
    graph = read_traces(paths, devices=8, ranks=4, repeat=True)
    peers = [(one.rank, one.kind, one.peer) for one in graph.nodes]
    assert [pair for pair in peers if pair[1] == "send"] == [
        (rank, "send", (rank + 1) % 4) for rank in range(4)
    ]
    assert [pair for pair in peers if pair[1] == "recv"] == [
        (rank, "recv", (rank - 1) % 4) for rank in range(4)
    ]
    assert len(link_ranks(graph)) == 8
    assert graph.notes == ("ranks 1, 2, 3 have no file and repeat rank 0",)


def test_sorting_gives_the_earliest_first_and_names_what_is_left() -> None:
    assert sort_tasks([(2,), (), (1,)]) == ([1, 2, 0], [])
    assert sort_tasks([(1,), (0,), ()]) == ([2], [0, 1])
