"""Text workloads of SimAI and AICB: what they hold, and what is said of broken ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from trace_files import LAYER, workload

from cluster_sim.errors import SpecError
from cluster_sim.training.task_graph import TaskGraph
from cluster_sim.training.traces import read_traces
from cluster_sim.training.workload_ops import Degrees, groups_along

LINE = LAYER.format(dp="ALLREDUCE 1000")
CALLS = """[rank0 ~ rank7]
comm_type,comm_group,comm_group_size,msg_size,stage,dst,src,additional,_elapsed_time,count
CommType.all_reduce,CommGroup.tp_group,2,1024,forward,None,None,,None,1
CommType.computation,None,None,"((1,2))",forward,None,None,,2000,1
CommType.isend,CommGroup.pp_group,1,64,forward_step,None,None,send_next,None,1
CommType.irecv,CommGroup.pp_group,1,64,forward_step,None,None,recv_prev,None,1
CommType.reduce_scatter,CommGroup.dp_group,2,4096,step,None,None,,None,2
CommType.epoch_end,None,None,0,,None,None,,None,1
"""


def read(tmp_path: Path, text: str, **options: object) -> TaskGraph:
    path = tmp_path / "work.txt"
    path.write_text(text)
    return read_traces([path], devices=8, **options)  # type: ignore[arg-type]


def test_a_layer_goes_forward_and_back(tmp_path: Path) -> None:
    graph = read(tmp_path, workload([LINE, LINE]))
    assert (graph.form, graph.ranks, graph.folded) == ("simai", 8, True)
    kinds = [(node.kind, node.operation) for node in graph.nodes]
    forward = [("compute", ""), ("collective", "all_gather"), ("host", "")]
    backward = [
        *[("compute", ""), ("collective", "reduce_scatter"), ("host", "")],
        *[("compute", ""), ("collective", "all_reduce"), ("host", "")],
    ]
    assert kinds == [*forward, *forward, *backward, *backward]
    assert [node.seconds for node in graph.nodes if node.kind == "compute"] == pytest.approx(
        [5e-4, 5e-4, 4e-4, 4e-4, 4e-4, 4e-4]
    )
    reduces = [node for node in graph.nodes if node.operation == "all_reduce"]
    assert {node.group for node in reduces} == {"dp"}
    # The collective of the weight gradient runs beside what follows its compute.
    after = graph.nodes[reduces[0].id + 2]
    assert after.after == reduces[0].after


def test_checkpoints_run_forward_again(tmp_path: Path) -> None:
    text = workload([LINE] * 4).replace(
        "checkpoints: 0 checkpoint_initiates: 0", "checkpoints: 1 0 checkpoint_initiates: 1 3"
    )
    names = Counter(node.name for node in read(tmp_path, text).nodes)
    assert names["layer forward"] == 4 + 3
    assert names["layer input gradient"] == 4


def test_groups_lie_as_megatron_places_them() -> None:
    degrees = Degrees(ranks=16, tp=2, ep=2, pp=2)
    assert groups_along(degrees, "tp")[:2] == ((0, 1), (2, 3))
    assert groups_along(degrees, "ep")[:2] == ((0, 2), (1, 3))
    assert groups_along(degrees, "dp")[0] == (0, 2, 4, 6)
    assert groups_along(degrees, "dp_ep")[0] == (0, 4)
    assert groups_along(degrees, "pp")[0] == (0, 8)
    assert groups_along(degrees, "ep_tp")[0] == (0, 1, 2, 3)
    for axis in ("tp", "ep", "dp", "dp_ep", "pp", "ep_tp", "all"):
        members = sorted(rank for part in groups_along(degrees, axis) for rank in part)
        assert members == list(range(16))


def test_layers_of_every_micro_batch_are_marked(tmp_path: Path) -> None:
    once = "optimizer -1 0 ALLREDUCE 4 0 NONE 0 9 NONE 0 100"
    graph = read(tmp_path, workload([LINE] * 6 + [once], ga=3, pp=2, more=" pp_comm 1000"))
    assert {node.repeats for node in graph.nodes if node.name.startswith("layer")} == {True}
    assert {node.repeats for node in graph.nodes if node.name.startswith("opt")} == {False}
    assert graph.pipeline is not None
    assert (graph.pipeline.stages, graph.pipeline.bytes) == (2, 1000)


def test_ranks_of_the_option_the_file_and_the_machine(tmp_path: Path) -> None:
    old = "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 2\n1\n" + LINE
    assert read(tmp_path, old).ranks == 8
    assert read(tmp_path, old, ranks=4).ranks == 4
    assert read(tmp_path, workload([LINE], ranks=64)).ranks == 64
    graph = read(tmp_path, workload([LINE], ranks=64), ranks=16)
    assert graph.ranks == 16
    assert "--ranks 16 instead of the 64 of the file: DP changes" in graph.notes


def test_the_list_of_calls(tmp_path: Path) -> None:
    graph = read(tmp_path, CALLS)
    assert (graph.form, graph.ranks) == ("aicb", 8)
    found = [(node.kind, node.operation, node.group, node.bytes) for node in graph.nodes]
    assert found == [
        ("collective", "all_reduce", "tp", 1024),
        ("compute", "", "", 0),
        ("collective", "send_recv", "pp", 64),
        ("collective", "reduce_scatter", "dp", 4096),
        ("collective", "reduce_scatter", "dp", 4096),
    ]
    assert graph.nodes[1].seconds == pytest.approx(2e-6)
    assert len(graph.groups["pp"][0]) == 2
    assert all(node.after == (node.id - 1,) for node in graph.nodes[1:])


HEADER = CALLS.split("\n")[1]


def calls(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def row(kind: str, group: str, size: str, spent: str = "None") -> str:
    return f"CommType.{kind},CommGroup.{group},{size},4096,x,None,None,,{spent},1"


def operations(graph: TaskGraph) -> list[tuple[str, int]]:
    """Operation and ranks of its group of every collective."""
    nodes = [node for node in graph.nodes if node.kind == "collective"]
    return [(node.operation, len(graph.groups[node.group][0])) for node in nodes]


def test_a_micro_test_goes_through_its_lines_once(tmp_path: Path) -> None:
    line = "micro_test\t-1\t1\tNONE\t0\t1\tNONE\t0\t1\tALLREDUCE\t{}\t1"
    text = f"MICRO\n2\n{line.format(64)}\n{line.format(128)}\n"
    graph = read(tmp_path, text)
    assert operations(graph) == [("all_reduce", 8)] * 2
    assert [node.bytes for node in graph.nodes if node.bytes] == [64, 128]
    assert all(node.after == (node.id - 1,) for node in graph.nodes[1:])


def test_an_inference_has_no_backward(tmp_path: Path) -> None:
    graph = read(tmp_path, workload([LINE, LINE], more=" mode: 1"))
    assert {node.name.partition(" ")[2] for node in graph.nodes if node.seconds} == {
        "forward", "forward processing",
    }  # fmt: skip
    both = read(tmp_path, workload([LINE, LINE], more=" mode: 0"))
    assert len(both.nodes) > len(graph.nodes)


def test_a_micro_test_without_group_sizes(tmp_path: Path) -> None:
    text = calls(
        *["CommType.all_gather,CommGroup.dp_group,4096,warmup,None,None,,None,None,None,1"] * 2,
        "CommType.epoch_end,None,0,,None,None,,None,None,None,1",
        header="comm_type,comm_group,msg_size,stage,dst,src,additional,_elapsed_time,algbw,busbw,count",
    )
    graph = read(tmp_path, text)
    assert operations(graph) == [("all_gather", 8)] * 2
    assert "the file does not say how many ranks: one on each of 8" in graph.notes


def test_sizes_that_a_log_does_not_give(tmp_path: Path) -> None:
    text = calls(
        row("all_reduce", "tp_group", "2", "0.2"), row("all_to_all", "ep_group", "None", "1")
    )
    graph = read(tmp_path, text)
    assert operations(graph) == [("all_reduce", 2), ("all_to_all", 4)]
    assert any("no size of ep_group: all 4 data-parallel ranks" in note for note in graph.notes)
    for name in ("ep_group", "ep"):
        graph = read(tmp_path, text, sizes={name: 2})
        assert operations(graph) == [("all_reduce", 2), ("all_to_all", 2)]
        assert not any("no size of" in note for note in graph.notes)
    for sizes, says in (
        ({"ep_grup": 2}, "no such group; did you mean 'ep_group'"),
        ({"tp_group": 2}, ":2 says 2; leave it out"),
        ({"pp_group": 2}, "has no effect"),
        ({"ep": 3}, "EP 3 does not divide 4"),
    ):
        with pytest.raises(SpecError, match=says):
            read(tmp_path, text, sizes=sizes)
    with pytest.raises(SpecError, match="--group-size has no effect"):
        read(tmp_path, workload([LINE]), sizes={"ep": 2})


def test_sizes_that_others_tell(tmp_path: Path) -> None:
    both = (row("all_reduce", "dp_group", "2"), row("all_reduce", "tp_group", "None"))
    assert operations(read(tmp_path, calls(*both), ranks=8)) == [
        ("all_reduce", 2), ("all_reduce", 4),
    ]  # fmt: skip
    graph = read(tmp_path, calls(both[0], row("all_reduce", "tp_group", "2")))
    assert graph.ranks == 4
    assert "the file does not say how many ranks: 4, as its groups have" in graph.notes
    experts = (row("all_to_all", "ep_group", "None"), row("all_gather", "ep_dp_group", "2"))
    assert operations(read(tmp_path, calls(*experts))) == [("all_to_all", 4), ("all_gather", 2)]
    wide = (row("all_to_all", "ep_tp_group", "4"), row("all_gather", "tp_group", "2"))
    assert operations(read(tmp_path, calls(*wide))) == [("all_to_all", 4), ("all_gather", 2)]


@pytest.mark.parametrize(
    ("header", "ranks", "stages"),
    [
        ("[ pp_stage0: [rank0, rank1] pp_stage1: [rank2, rank3] ]", 4, 2),
        ("[ pp_stage0: [rank0, rank1]\n  pp_stage1: [rank2, rank3] ]", 4, 2),
        ("[pp_stage0: [rank0 ~ rank3], pp_stage1: [rank4 ~ rank7]]", 8, 2),
        ("[rank0, rank1, rank2, rank3]", 4, 1),
    ],
)
def test_the_stages_before_the_table(tmp_path: Path, header: str, ranks: int, stages: int) -> None:
    tensor = row("all_reduce", "tp_group", "2")
    graph = read(tmp_path, f"{header}\n" + calls(tensor, row("isend", "pp_group", "1")))
    assert (graph.form, graph.ranks) == ("aicb", ranks)
    assert operations(graph) == [("all_reduce", 2), ("send_recv", stages)]
    if stages == 2:  # the first stage of more, whose number the rows give
        first = header.partition("]")[0] + "] ]\n"
        graph = read(tmp_path, first + calls(tensor, row("all_reduce", "pp_group", "4")))
        assert graph.ranks == ranks // 2 * 4


def test_computation_of_workloads_and_of_logs(tmp_path: Path) -> None:
    shape = "CommType.computation,CommGroup.all,None,((2, 3), (3, 4)),forward,None,None,,{},1"
    ours = row("all_reduce", "tp_group", "2")
    graph = read(tmp_path, calls(shape.format("2000"), ours, shape.format("None")))
    assert [node.seconds for node in graph.nodes] == [pytest.approx(2e-6), None]
    assert any("computation is in nanoseconds" in note for note in graph.notes)
    graph = read(tmp_path, calls(shape.format("2.5"), row("all_reduce", "tp_group", "2", "0.1")))
    assert graph.nodes[0].seconds == pytest.approx(2.5e-3)
    assert any("computation is in milliseconds" in note for note in graph.notes)


BROKEN = {
    "too few lines": (workload([LINE] * 3).rsplit("\n", 2)[0], "says 3 layers, but 2 lines follow"),
    "no number": ("DATA\nlayers\n", ":2: must be the number of layers"),
    "no layers": ("DATA\n0\n", "no layers"),
    "columns": (workload(["layer -1 5 NONE 0"]), ":3: 5 columns instead of 12"),
    "collective": (
        workload([LINE.replace("ALLGATHER", "ALLGETHER")]),
        r":3: forward collective: unknown \(got ALLGETHER\); did you mean 'ALLGATHER'\?",
    ),
    "negative time": (
        workload([LINE.replace("500000", "-5")]),
        r":3: forward compute: must not be negative, and finite \(got -5\)",
    ),
    "bytes": (workload([LINE.replace("1000", "1kB")]), r"weight gradient bytes: must be a number"),
    "policy": ("HYBRID_TRANSFORMERS tp: 1\n1\n" + LINE, "did you mean 'HYBRID_TRANSFORMER'"),
    "key": (
        workload([LINE]).replace("all_gpus", "all_gpu"),
        r":1: no key 'all_gpu'; did you mean 'all_gpus'\?",
    ),
    "degree": (workload([LINE], tp=0), "model_parallel_NPU_group: must be at least 1"),
    "value": (
        workload([LINE]).replace("vpp: 1", "vpp: x"),
        r"vpp: must be a whole number \(got x\)",
    ),
    "division": (
        workload([LINE], tp=3),
        "TP 3 x PP 1 does not divide 8 ranks; take --ranks 6 or 9",
    ),
    "experts": (workload([LINE], ep=3), "EP 3 does not divide 4 .* take --ranks 6 or 12"),
    "checkpoint": (
        workload([LINE]).replace("checkpoints: 0", "checkpoints: 1 9"),
        "there is no layer 9 of 1",
    ),
    "initiate": (
        workload([LINE]).replace("initiates: 0", "initiates: 1 0"),
        "layer 0 has no checkpoint before it",
    ),
    "call": (
        CALLS.replace("CommType.all_reduce", "CommType.all_reduse"),
        r":3: comm_type: unknown \(got all_reduse\); did you mean 'all_reduce'\?",
    ),
    "group": (
        CALLS.replace("CommGroup.tp_group", "CommGroup.tpgroup"),
        r":3: comm_group: unknown \(got tpgroup\); did you mean 'tp_group'\?",
    ),
    "size": (CALLS.replace("1024", "-1"), r":3: msg_size: must not be negative.*\(got -1\)"),
    "sizes": (
        CALLS + "CommType.broadcast,CommGroup.tp_group,4,8,x,None,0,,None,1\n",
        "tp_group has 4 ranks here, 2 in .*:3",
    ),
    "group too large": (
        CALLS.replace("rank7", "rank3").replace("dp_group,2", "dp_group,4"),
        "a dp group of 4 does not fit 4 ranks",
    ),
    "column": ("[rank0 ~ rank1]\ncomm_type,stage\n", "no column comm_group, msg_size"),
    "no calls": (CALLS.split("CommType")[0], "holds no calls"),
    "cells": (CALLS.replace("1024,forward", "1,024,forward"), ":3: 11 cells, .* 10 columns"),
    "many": (CALLS.replace("step,None,None,,None,2", "step,None,None,,None,2000000"), "more than"),
    "whole size": (CALLS.replace("tp_group,2", "tp_group,2.5"), "comm_group_size: must be a whole"),
    "ranks": (CALLS.replace("rank7", "rank9999998"), "9,999,999 ranks; at most 1,000,000"),
    "stages": (
        CALLS.replace("[rank0 ~ rank7]", "[ pp_stage0: [rank0, rank1] pp_stage1: [rank2] ]"),
        "3 ranks are no equal parts of 2 stages",
    ),
    "tensor parallel of unknown size": (
        CALLS.partition("\n")[2].replace("tp_group,2", "tp_group,None"),
        "no row gives it for tp_group, .* add --group-size tp_group=N",
    ),
    "mode": (workload([LINE], more=" mode: 2"), r"mode: must be 0 \(training\) or 1"),
    "unknown": ("a trace of mine\n", "unknown trace format .* tried: chakra"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_workloads_say_where(tmp_path: Path, name: str) -> None:
    text, message = BROKEN[name]
    with pytest.raises(SpecError, match=message) as caught:
        read(tmp_path, text)
    assert "work.txt" in str(caught.value)


def test_options_without_effect(tmp_path: Path) -> None:
    for option in ({"cut": True}, {"repeat": True}, {"groups": {"a": (0,)}}):
        with pytest.raises(SpecError, match="has no effect on text workloads"):
            read(tmp_path, workload([LINE]), **option)
    path = tmp_path / "work.txt"
    with pytest.raises(SpecError, match="2 text workloads"):
        read_traces([path, path], devices=8)
