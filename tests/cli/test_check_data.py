"""``check`` tells traces, tables, configs and graphs by what they hold, whatever their names."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT
from trace_files import LAYER, encoded, reduce_, workload

from cluster_sim.cli import cli

NETWORK = "topology: [Ring]\nnpus_count: [4]\nbandwidth: [50]\nlatency: [500]\n"
GRAPH = {
    "nodes": [{"id": "a", "kind": "device"}, {"id": "b", "kind": "device"}],
    "edges": [{"source": "a", "target": "b", "bandwidth": "50 GB/s"}],
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}
MOONCAKE = {"timestamp": 0, "input_length": 512, "output_length": 8, "hash_ids": [1]}
NCCL = {"args": ["all_gather_perf"], "results": [{"size": 64, "out_of_place": {"time": 1.5}}]}
TOTALS = {"completed": 1, "total_input_tokens": 5, "mean_ttft_ms": 8.5, "request_throughput": 2.0}
TOTALS |= {"total_output_tokens": 3}
CHAKRA = {"workload_graph": [{"id": 0, "name": "a", "type": "COMP_NODE", "duration_micros": 5}]}
STEPS = (
    "case_id,source,date,split,confidence,chip,framework,model,layers,dtype,kv_dtype,phase,batch,"
    "seq_len,glue_kernels_per_layer,metric,value,flags,note\n"
    "a,mine,2026-01-01,own,B,h100_sxm,torch,llama3.1-8b,2,bf16,bf16,decode,1,128,4,step_us,100,,\n"
)
OPERATOR = "case_id,chip,op,dtype,m,n,k,metric,value\na,h100_sxm,gemm,bf16,64,64,64,time_us,5\n"
ROW = "1024 256 float sum -1 12.5 0.08 0.14 0 12.1 0.08 0.15 0\n"
CALL = (
    "comm_type,comm_group,comm_group_size,msg_size\nCommType.all_reduce,CommGroup.tp_group,2,64\n"
)
CONTENT: dict[str, tuple[str | bytes, str]] = {
    "network": (NETWORK, "topology"),
    "graph": (json.dumps(GRAPH), "topology"),
    "network as JSON": (
        '{"topology": ["Ring"], "npus_count": [4], "bandwidth": [50], "latency": [500]}',
        "topology",
    ),
    "config": (json.dumps(CONFIG), "model"),
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n",
        "trace, 1 request",
    ),
    "neutral": ("arrival_s,isl,osl\n0,8,8\n1,9,9\n", "trace, 2 requests"),
    "mooncake": (json.dumps(MOONCAKE) + "\n", "trace, 1 request"),
    "nccl-tests": (f"# all_reduce_perf\n{ROW}{ROW}", "nccl-tests, all_reduce, 2 rows"),
    "tagged": (f"[1,0]<stdout>: {ROW}", "nccl-tests, 1 row"),
    "nccl-tests as JSON": (json.dumps(NCCL), "nccl-tests, all_gather, 1 row"),
    "vllm's totals": (json.dumps(TOTALS), "cases, 2 values"),
    "sglang's lines": (json.dumps(TOTALS) + "\n" + json.dumps(TOTALS) + "\n", "cases, 4 values"),
    "a list of results": (json.dumps([TOTALS, TOTALS], indent=1), "cases, 4 values"),
    "vllm's requests": (
        json.dumps(TOTALS | {"input_lens": [5], "output_lens": [3]}),
        "trace, 1 request",
    ),
    "statistics": (json.dumps({"request_throughput": {"unit": "a", "avg": 3}}), "cases, 1 value"),
    "statistics as CSV": ("Metric,Value\nRequest Throughput (per sec),3\n", "cases, 1 value"),
    "simai": (workload([LAYER.format(dp="NONE 0")]), "execution-trace, simai, 8 ranks, 7 nodes"),
    "aicb": (CALL, "execution-trace, aicb, 2 ranks, 1 node"),
    "aicb with stages": (
        f"[ pp_stage0: [rank0, rank1] ]\n{CALL}", "execution-trace, aicb, 2 ranks, 1 node",
    ),
    "chakra": (encoded([reduce_(0)]), "execution-trace, chakra, 1 rank, 1 node"),
    "chakra as JSON": (json.dumps(CHAKRA), "execution-trace, chakra, 1 rank, 1 node"),
    "operators": (OPERATOR, "cases, 1 value"),
    "steps": (STEPS, "cases, 1 value"),
}  # fmt: skip


def checked(runner: CliRunner, *arguments: str) -> tuple[int, str]:
    done = runner.invoke(cli, ["check", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


@pytest.mark.parametrize("name", CONTENT)
def test_a_kind_is_told_by_what_a_file_holds(runner: CliRunner, name: str) -> None:
    content, words = CONTENT[name]
    Path("mine").write_bytes(as_bytes(content))
    Path("mine.dat").write_bytes(gzip.compress(as_bytes(content)))
    told = f"mine: ok ({words})\nmine.dat: ok ({words})\n"
    assert checked(runner, "mine", "mine.dat") == (0, told)


def test_folders(runner: CliRunner) -> None:
    Path("tiny").mkdir()
    Path("tiny/config.json").write_text(json.dumps(CONFIG))
    assert checked(runner, "tiny", "./tiny/", "tiny/config.json") == (
        0, "tiny: ok (model)\n./tiny/: ok (model)\ntiny/config.json: ok (model)\n",
    )  # fmt: skip
    Path("empty").mkdir()
    code, told = checked(runner, "empty")
    assert (code, "empty: is a folder; taken are those with config.json" in told) == (2, True)


def test_the_packaged_cases(runner: CliRunner, tmp_path: Path) -> None:
    for case, name in (("operators.csv.gz", "mine.bin"), ("memory.csv", "mine.yaml")):
        shutil.copy(ROOT / "cases" / case, tmp_path / name)
        code, told = checked(runner, name)
        assert (code, told.startswith(f"{name}: ok (cases, ")) == (0, True), told


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mine.txt", "", "mine.txt: an empty file"),
        (
            "mine.txt",
            "once upon a time\n",
            "mine.txt: cannot tell what kind of file this is; tried",
        ),
        (
            "mine.json",
            '{"a": 1}',
            "cannot tell what kind of file this is; tried: a spec (topology, ",
        ),
        (
            "mine.csv",
            "a,b\n1,2\n",
            "a request trace, an execution trace (Chakra, SimAI, AICB), mea",
        ),
        ("mine.txt", b"\xef\xbb\xbf", "mine.txt: an empty file"),
        ("mine.yaml", "\u3000\n", "mine.yaml: an empty file"),
        ("mine.txt", "python main.py\t5\t0.25\n", "cannot tell what kind of file this is"),
        ("mine.json", '{"a": 1,\n"b"', "(as JSON it breaks off in line 2: Expecting ':'"),
        ("mine.json", '[{"request_throughput": "fast"}]', "cannot tell what kind"),
        ("mine.log", ROW.replace("12.5", "nan"), "mine.log:1: time: must be > 0 and finite"),
        ("mine.csv", OPERATOR.replace(",5\n", ",-5\n"), "mine.csv:2: value"),
        ("mine.csv", CALL.replace("all_reduce", "all_redce"), "mine.csv:2: comm_type: unknown"),
        ("mine.et", b"\x00\x01\x02garbage", "mine.et: not a text file, and no Chakra trace"),
        ("mine.et", encoded([reduce_(0)]) + b"\x7f", "mine.et: message 2"),
        ("mine.yaml", "a: [", "not valid YAML"),
        ("/dev/null", b"", "/dev/null: cannot be read: is a device, not a file"),
        ("mine.yaml", NETWORK.replace("Ring", "Rong"), "mine.yaml:1: topology.0: unknown"),
    ],
)
def test_what_is_wrong_with_a_file(
    runner: CliRunner, name: str, content: str | bytes, says: str
) -> None:
    Path(name).write_bytes(as_bytes(content))
    code, told = checked(runner, name)
    assert (code, says in told) == (2, True), told


def test_the_kind_may_be_said(runner: CliRunner) -> None:
    Path("mine.csv").write_text(CALL)
    assert checked(runner, "--as", "execution-trace", "mine.csv")[0] == 0
    code, told = checked(runner, "--as", "nccl-tests", "mine.csv")
    assert (code, "mine.csv: no rows of measured collectives; tried: nccl-tests" in told) == (
        2,
        True,
    )
    code, told = checked(runner, "absent.csv", "./absent", "absent.yaml")
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "nothing is named 'absent.csv'; did you mean 'agentic'? A file is given by its path",
        "./absent",
        "absent.yaml",
    ]
