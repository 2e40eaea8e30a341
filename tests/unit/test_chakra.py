"""Chakra traces: fields of both forms, and what is said of broken ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from trace_files import (
    ALL_GATHER,
    COLL,
    COMP,
    LOAD,
    METADATA,
    attribute,
    encoded,
    node,
    recv,
    reduce_,
    send,
    text,
    write,
)

from cluster_sim.errors import SpecError
from cluster_sim.training import chakra_messages
from cluster_sim.training.task_graph import TaskGraph
from cluster_sim.training.traces import read_traces


def one(tmp_path: Path, *nodes: bytes, **options: object) -> TaskGraph:
    return read_traces(write(tmp_path, {0: nodes}), devices=8, **options)  # type: ignore[arg-type]


def test_kinds_of_nodes(tmp_path: Path) -> None:
    graph = one(
        tmp_path,
        node(0, COMP, micros=7),
        node(1, COMP, [0], micros=3, is_cpu_op=True),
        node(2, COMP, [1], num_ops=10**12, tensor_size=10**9),
        node(3, LOAD, [2], tensor_size=4096),
        node(4, COLL, [3], micros=28),
        node(5, COLL, [4], micros=85, is_cpu_op=True),
        node(6, METADATA, [5]),
        reduce_(7, [6], 1 << 20),
        node(8, 9, [7], micros=5),
    )
    kinds = [part.kind for part in graph.nodes]
    assert kinds == [
        *("compute", "host", "compute", "memory", "timed", "host", "host", "collective", "host")
    ]
    assert [part.seconds for part in graph.nodes[:2]] == pytest.approx([7e-6, 3e-6])
    assert (graph.nodes[2].flop, graph.nodes[2].bytes) == (10**12, 10**9)
    assert graph.nodes[2].seconds is None
    assert graph.nodes[7].after == (6,)
    assert graph.notes == ("1 communications give no size: played for the time of the trace",)


def test_the_size_of_an_all_gather_is_the_part_of_a_rank(tmp_path: Path) -> None:
    gather = node(0, COLL, comm_type=ALL_GATHER, comm_size=1000)
    graph = read_traces(write(tmp_path, dict.fromkeys(range(4), [gather])), devices=8)
    assert {part.bytes for part in graph.nodes} == {4000}


def test_a_time_that_was_measured_comes_before_flop(tmp_path: Path) -> None:
    graph = one(tmp_path, node(0, COMP, micros=5, num_ops=10**15))
    assert graph.nodes[0].seconds == pytest.approx(5e-6)


def test_groups_that_a_pytorch_trace_defines(tmp_path: Path) -> None:
    rows = [{"pg_name": "3", "ranks": [0, 2]}, {"pg_name": "0", "ranks": []}]
    values = "['" + json.dumps(rows) + "']"
    define = node(0, METADATA, inputs=values, name="## process_group:init ##")
    graph = read_traces(
        write(tmp_path, {0: [define, reduce_(1, pg_name="3")], 1: [define], 2: [define]}),
        devices=8,
    )
    assert graph.groups["3"] == ((0, 2),)
    assert graph.groups["0"] == ((0, 1, 2),)


def test_gather_and_barrier_are_played_as_others(tmp_path: Path) -> None:
    gather, barrier = node(0, COLL, comm_type=3, comm_size=8), node(1, COLL, comm_type=9)
    graph = read_traces(write(tmp_path, dict.fromkeys(range(2), [gather, barrier])), devices=8)
    found = [(part.operation, part.bytes) for part in graph.nodes[:2]]
    assert found == [("all_gather", 16), ("all_reduce", 4)]
    assert graph.notes == ("gather is played as all_gather: as many bytes at the root",)


@pytest.mark.parametrize(
    "metadata", [text(1, attribute("a", 300)), b"", text(2, attribute("b", 1))]
)
def test_metadata_of_older_schemas(tmp_path: Path, metadata: bytes) -> None:
    path = tmp_path / "job.0.et"
    path.write_bytes(encoded([node(0, COMP, micros=1)], metadata))
    assert len(read_traces([path], devices=1, form="chakra").nodes) == 1


def test_json_says_the_same(tmp_path: Path) -> None:
    rows = [
        {"Id": 1, "Name": "a", "NodeType": 4, "ctrlDeps": [], "runtime": 7, "is_cpu_op": False},
        {"id": "2", "name": "b", "type": "COMM_COLL_NODE", "dataDeps": ["1"]}
        | {
            "attr": [{"name": "comm_type", "int64Val": "0"}, {"name": "comm_size", "int64Val": "9"}]
        },
        {"id": 3, "name": "c", "type": "COMM_SEND_NODE", "comm_dst": 0, "comm_size": 4},
    ]
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"workload_graph": rows, "ngpus": 8}))
    graph = read_traces([path], devices=1)
    assert [part.kind for part in graph.nodes] == ["compute", "collective", "send"]
    assert graph.nodes[0].seconds == pytest.approx(7e-6)
    assert (graph.nodes[1].bytes, graph.nodes[1].after) == (9, (1,))


WHOLE = encoded([node(0, COMP, micros=7), reduce_(1, [0])])
BROKEN_FILES = {
    "truncated message": (WHOLE[:-4], r"message 2 at byte \d+ says \d+ bytes, but \d+ are left"),
    "truncated length": (WHOLE + b"\xff\xff", r"message 3 at byte \d+ has no length"),
    "damaged": (encoded([b"\x08\xff\xff"]), r"message 1 at byte 8 is no Chakra Node"),
    "metadata alone": (encoded([]), "holds no nodes"),
    "empty": (b"", "an empty file"),
    "type": (encoded([node(4, 77)]), "node 4: type 77 is unknown; known are 0 to 10"),
    "collective": (
        encoded([reduce_(4, comm_type=12)]),
        r"node 4 'node4': comm_type: unknown \(got 12\)",
    ),
    "named collective": (
        encoded([reduce_(4, comm_type="ALL_REDUCED")]),
        r"unknown \(got ALL_REDUCED\); did you mean 'ALL_REDUCE'\?",
    ),
    "no collective": (encoded([node(4, COLL)]), "comm_type: missing, and there is no time"),
    "negative": (encoded([node(4, COMP, num_ops=2**64 - 5)]), "num_ops: must not be negative"),
    "no peer": (encoded([node(4, 5, comm_size=8)]), "comm_dst: missing"),
    "group": (encoded([reduce_(4, pg_name="tp")]), r"group 'tp' is not defined .* --groups FILE"),
    "json": (b'{"workload_graph": [', "not valid JSON"),
    "json list": (b'{"graph": []}', "no list of nodes under workload_graph or nodes"),
    "json type": (
        b'{"nodes": [{"id": 1, "type": "COMP_NOD"}]}',
        r"place 0: type: unknown \(got COMP_NOD\); did you mean 'COMP_NODE'",
    ),
    "json time": (
        b'{"nodes": [{"id": 1, "type": 4, "runtime": -3}]}',
        r"place 0: runtime: must not be negative, and finite \(got -3\)",
    ),
    "json id": (b'{"nodes": [{"type": 4}]}', r"place 0: id: must be a whole number \(got None\)"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_files_say_where(tmp_path: Path, name: str) -> None:
    data, message = BROKEN_FILES[name]
    path = tmp_path / "job.0.et"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=message) as caught:
        read_traces([path], devices=8)
    assert str(path) in str(caught.value)


def test_every_way_to_cut_a_file_short_is_an_error_or_a_shorter_trace(tmp_path: Path) -> None:
    path = tmp_path / "job.0.et"
    ends = {len(encoded([])), len(encoded([node(0, COMP, micros=7)])), len(WHOLE)}
    for length in range(1, len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        if length in ends - {len(encoded([]))}:
            assert len(read_traces([path], devices=8).nodes) == 1
        else:
            with pytest.raises(SpecError):
                read_traces([path], devices=8, form="chakra")


def test_files_without_a_rank_or_with_the_same(tmp_path: Path) -> None:
    nodes = encoded([node(0, COMP, micros=1)])
    named = [tmp_path / name for name in ("a.et", "b.et", "a.1.et", "b_1.et")]
    for path in named:
        path.write_bytes(nodes)
    assert read_traces(named[:1], devices=8).ranks == 1
    with pytest.raises(SpecError, match=r"a\.et: whose rank\? name the files NAME\.0\.et"):
        read_traces(named[:2], devices=8)
    with pytest.raises(SpecError, match=r"a second file of rank 1, beside"):
        read_traces(named[2:], devices=8)
    with pytest.raises(SpecError, match="is rank 1, beyond --ranks 1"):
        read_traces(named[2:3], devices=8, ranks=1)


def test_without_protobuf_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chakra_messages.messages.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(SpecError, match=r"pip install 'cluster-sim\[chakra\]'"):
        one(tmp_path, send(0, 1), recv(1, 1))
