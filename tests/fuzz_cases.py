"""Seeded cases of bad input: files, one of them damaged, and a command that reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fuzz_values import ABSURD, ODD, as_yaml, damaged, mutated, places
from trace_files import LAYER, encoded, node, reduce_, workload

from cluster_sim.columns import SCHEMA, SUMMARY_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
RUN = "run --topo h200_nvl8 --workload llama8b --rate 1 --requests 20 --format csv --quiet"
TRAIN = "run --topo h100_nvl8 --workload llama3_8b_train --plan tp1-pp2-dp4 --format csv --quiet"


@dataclass(frozen=True, slots=True)
class Case:
    """What is tried; ``absurd``: to accept it would be a fault."""

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    absurd: bool = False


@dataclass(frozen=True, slots=True)
class Reader:
    """A file as it may lie there, and commands that read it; ``{}`` is its path."""

    path: str
    data: bytes
    commands: tuple[str, ...]
    tree: bool = False  # YAML or JSON that is changed as a tree, too
    beside: Mapping[str, bytes] = field(default_factory=dict)


def packaged(pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern))


def _specs() -> Iterator[Reader]:
    """A reader of every packaged file of every family."""
    for path in packaged("topologies/*.yaml"):
        commands = ("check --as topology {}", "show topology {}", f"{RUN} --topo {{}}")
        commands += ("collective --topo {} --bytes 1MiB",)
        yield Reader("mine.yaml", path.read_bytes(), commands, tree=True)
    for folder, command in (
        ("topologies/chips", RUN),
        ("topologies/chips/fits", RUN),
        ("topologies/chips/fits/collectives", "collective --topo h100_nvl8 --bytes 1MiB"),
    ):
        chip = "h100_sxm" if folder.endswith("collectives") else "h200_sxm"
        for path in packaged(f"{folder}/*.yaml"):
            family = {"chips": "chip", "fits": "fits", "collectives": "collectives"}[
                path.parent.name
            ]
            where = f"{folder}/{chip}.yaml"
            commands = (f"check --as {family} {{}}", command)
            yield Reader(where, path.read_bytes(), commands, tree=True)
    for path in packaged("workloads/models/*.yaml"):
        commands = ("check --as model {}", f"{RUN} --model {{}}", "show model {}")
        yield Reader("mine.yaml", path.read_bytes(), commands, tree=True)
    for path in packaged("workloads/software/*.yaml"):
        commands = ("check --as software {}", f"{RUN} --software {{}}")
        yield Reader("mine.yaml", path.read_bytes(), commands, tree=True)
    for path in packaged("workloads/software/training/*.yaml"):
        commands = ("check --as training {}", f"{TRAIN} --set workload.software={{}}")
        yield Reader("mine.yaml", path.read_bytes(), commands, tree=True)
    for path in packaged("workloads/*.yaml"):
        serving = b"kind: training" not in path.read_bytes()
        run = "run --topo h200_nvl8 --workload {} --requests 20 --rate 0.2 --format csv --quiet"
        train = "run --topo h100_superpod --workload {} --format csv --quiet"
        commands = ("check --as workload {}", run if serving else train)
        yield Reader("mine.yaml", path.read_bytes(), commands, tree=True)


CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "sliding_window": None,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
NETWORK = {
    "nodes": [{"id": one, "kind": "device"} for one in "abcd"] + [{"id": "s", "kind": "switch"}],
    "edges": [
        {"source": one, "target": "s", "bandwidth": "400 Gb/s", "latency": "1 us", "cables": 2}
        for one in "abcd"
    ],
}
ASTRA = b"""topology: [ Ring, Switch ]
npus_count: [ 4, 8 ]
bandwidth: [ 50.0, 25.0 ]
latency: [ 500.0, 1000.0 ]
"""
CHECKPOINTS = b"""extends: llama3_8b_train
run:
  tokens: 1T
  replications: 2
  checkpoints: [{interval: 30 min, mode: async, target: storage, bandwidth: 40 GB/s}]
  failures: {fleet: llama3_h100, factor: 1.5, spares: 2, restart: 300 s, repair: 24 h}
  evaluation: {every_steps: 1000, time: 60 s}
  phases: [{until: 0.5T, global_batch: 128, seq_len: 8192}, {global_batch: 256, seq_len: 8192}]
"""


def _formats() -> Iterator[Reader]:
    """Files of others: configs, networks, whole runs."""
    config = json.dumps(CONFIG, indent=1).encode()
    commands = (f"{RUN} --model {{}}", "check {}", "show model {}")
    yield Reader("config.json", config, commands, tree=True)
    commands = ("show topology {}", "check {}")
    yield Reader("net.json", json.dumps(NETWORK, indent=1).encode(), commands, tree=True)
    yield Reader("net.yaml", ASTRA, commands, tree=True)
    run = "run --topo h100_nvl8 --workload {} --plan tp1-pp2-dp4 --until 1T --format csv --quiet"
    yield Reader("mine.yaml", CHECKPOINTS, ("check {}", run), tree=True)


def _rows(header: str, *rows: str) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


_NCCL = b"""# nThread 1 nGpus 8 minBytes 1048576 maxBytes 4194304 step: 2(factor)
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1    45.34   23.13   40.47      0
     2097152        524288     float     sum      -1    53.12   39.48   69.09      0
     4194304       1048576     float     sum      -1    76.54   54.80   95.90      0
"""
_CALLS = b"""[rank0 ~ rank7]
comm_type,comm_group,comm_group_size,msg_size,stage,dst,src,additional,_elapsed_time,count
CommType.all_reduce,CommGroup.tp_group,2,1024,forward,None,None,,None,1
CommType.computation,None,None,"((1,2))",forward,None,None,,2000,1
CommType.reduce_scatter,CommGroup.dp_group,2,4096,step,None,None,,None,2
"""
_CHAKRA = {
    "schema": "symbolic_tensor_network",
    "workload_graph": [
        {"Id": 0, "Name": "gemm", "NodeType": "COMP_NODE", "runtime": 50, "num_ops": 1e9},
        {"Id": 1, "Name": "sum", "NodeType": "COMM_COLL_NODE", "comm_type": "ALL_REDUCE",
         "comm_size": 1048576, "data_deps": [0]},
    ],
}  # fmt: skip
_SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "What is this?"},
                                  {"from": "gpt", "value": "An answer of some words."}]},
    {"id": "b", "conversations": [{"from": "human", "value": "And that? " * 40},
                                  {"from": "gpt", "value": "Another one."}]},
]  # fmt: skip
_BENCH = {
    "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "num_prompts": 2,
    "request_rate": 2.0, "duration": 3.5, "completed": 2, "total_input_tokens": 900,
    "total_output_tokens": 64, "request_throughput": 0.57, "output_throughput": 18.3,
    "mean_ttft_ms": 21.5, "median_ttft_ms": 21.0, "p99_ttft_ms": 25.0, "mean_tpot_ms": 7.1,
    "median_tpot_ms": 7.0, "p99_tpot_ms": 7.9, "input_lens": [500, 400], "output_lens": [30, 34],
    "ttfts": [0.021, 0.022], "itls": [[0.007] * 29, [0.007] * 33], "errors": ["", ""],
}  # fmt: skip
_SHARES = json.dumps({"0": {"input_tokens": "{50: 0.2, 900: 0.8}", "output_tokens": "{5: 1.0}"}})


def _logs() -> Iterator[Reader]:
    """Traces, logs and tables."""
    trace = f"{RUN.replace(' --rate 1 --requests 20', '')} --trace {{}}"
    for name, data in {
        "azure.csv": _rows(
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            "2023-11-16 18:15:46.6805900,374,44",
            "2023-11-16 18:15:50.9951690,396,109",
            "2023-11-16 18:15:51.2225670,879,55",
        ),
        "burst.csv": _rows(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "5,ChatGPT,472,18,490,Conversation log",
            "45,ChatGPT,1087,230,1317,Conversation log",
        ),
        "mine.csv": _rows(
            "arrival_s,isl,osl,session_id,prefix_id,prefix_tokens,slo_class,priority",
            "0,500,20,a,p,128,,0",
            "1.5,700,30,a,p,128,,1",
        ),
        "moon.jsonl": _rows(
            '{"timestamp": 0, "input_length": 600, "output_length": 52, "hash_ids": [0, 1]}',
            '{"timestamp": 3000, "input_length": 900, "output_length": 5, "hash_ids": [0, 1]}',
        ),
        "share.json": json.dumps(_SHAREGPT).encode(),
        "bench.json": json.dumps(_BENCH).encode(),
        "splitwise.csv": _rows(
            "request_id,request_type,arrival_timestamp,batch_size,prompt_size,token_size",
            "0,2,0.0,1,700,20",
            "1,2,0.8,1,300,44",
        ),
        "vidur.csv": _rows("num_prefill_tokens,num_decode_tokens", "700,20", "300,44"),
        "rag.jsonl": _rows(
            '{"timestamp": 0, "input_length": 600, "output_length": 52, "session_id": "a", '
            '"hash_ids": {"history": [1], "user_input": [2]}}'
        ),
    }.items():
        yield Reader(name, data, (trace, trace + " --skip-bad-rows"))
    windows = _rows("0,1,1,Gamma,1,1", "600,2,1,Weibull,1,1")
    beside = {"mix/chunk-0-dataset.json": _SHARES.encode()}
    servegen = (f"{trace.format('mix')} --duration 30s",)
    yield Reader("mix/chunk-0-trace.csv", windows, servegen, beside=beside)
    beside = {"mix/chunk-0-trace.csv": windows}
    yield Reader("mix/chunk-0-dataset.json", _SHARES.encode(), servegen, beside=beside)
    yield Reader("log.txt", _NCCL, ("collective --topo h100_nvl8 --against {}",))
    replay = ("replay --topo h100_nvl8 {} --quiet --format csv",)
    yield Reader("calls.csv", _CALLS, replay)
    simai = workload([LAYER.format(dp="ALLREDUCE 1000")] * 2).encode()
    yield Reader("work.txt", simai, (*replay, replay[0] + " --unfold"))
    job = json.dumps(_CHAKRA).encode()
    yield Reader("job.0.json", job, (*replay, replay[0] + " --ranks 4 --repeat"), tree=True)
    nodes = [node(0, 4, micros=7, num_ops=10**9), reduce_(1, [0]), node(2, 4, [1], micros=9)]
    yield Reader("job.0.et", encoded(nodes), (replay[0], replay[0] + " --ranks 2 --repeat"))
    groups = b'{"0": [0, 1], "1": [2, 3]}'
    grouped = ("replay --topo h100_nvl8 job.0.json --ranks 4 --repeat --groups {} --quiet",)
    yield Reader("groups.json", groups, grouped, tree=True, beside={"job.0.json": job})
    placed = ("replay --topo h100_nvl8 job.0.json --ranks 2 --repeat --map {} --quiet",)
    yield Reader("map.txt", b"0 3\n1 5\n", placed, beside={"job.0.json": job})
    operators = _rows(
        "case_id,source,date,confidence,chip,framework,op,dtype,m,n,k,metric,value,flags",
        "a,me,2024-09,B,h100_sxm,mine,gemm,fp8,2048,2048,2048,time_us,16.9,",
        "b,me,2024-09,B,h100_sxm,mine,gemm,fp8,4096,4096,2048,time_us,51.2,",
    )
    bench = json.dumps(_BENCH).encode()
    fill = "validate --against {} --workers 1 --quiet --fill chip=h100_sxm --fill n_chips=1 "
    fill += "--fill weights_dtype=bf16"
    yield Reader("bench.json", bench, (fill, "check {}"), tree=True)
    cases = ("validate --against {} --workers 1 --quiet", "calibrate --ops {} --chip h100_sxm")
    yield Reader("cases.csv", operators, cases)
    known = {"workload": "w", "topology": "t", "kind": "serving", "partial": "false"}
    known |= {"schema": str(SCHEMA), "ttft_mean_ms": "120.5", "tpot_mean_ms": "10.5"}
    rows = [
        ",".join(
            {**known, "run_id": f"w@t-{n}", "seed": str(n)}.get(c, "") for c in SUMMARY_COLUMNS
        )
        for n in range(2)
    ]
    summary = _rows(",".join(SUMMARY_COLUMNS), *rows)
    yield Reader("old/summary.csv", summary, ("compare {}", "compare old {}"))


VALUES = tuple(dict.fromkeys((*ABSURD, *ODD)))


def _tree_of(reader: Reader) -> Any:
    return json.loads(reader.data) if reader.path.endswith("json") else yaml.safe_load(reader.data)


def _of_a_file(reader: Reader, rng: random.Random) -> Case:
    """A file with a change of its tree or of its bytes, read by one of its commands."""
    absurd = False
    if reader.tree and rng.random() < 0.7:
        tree, what, absurd = mutated(_tree_of(reader), rng)
        text = json.dumps(tree) if reader.path.endswith("json") else as_yaml(tree)
        data = text.encode("utf-8", "surrogatepass")
        absurd = absurd and not reader.path.endswith("json")
    else:
        data, what = damaged(reader.data, rng)
    path = reader.path if "/" in reader.path else f"./{reader.path}"
    command = rng.choice(reader.commands).replace("{}", path)
    own = reader.path == "mine.yaml" and "--workload ./mine.yaml" not in command
    files = {**reader.beside, reader.path: data}
    return Case(
        f"{reader.path}: {what}",
        tuple(command.split()),
        files,
        absurd and (own or command.startswith("check")),
    )


def _of_an_option(rng: random.Random) -> Case:
    """A command with one or two options of absurd or odd values."""
    command, options = rng.choice(_OPTIONS)
    arguments, absurd = command.split(), dict[str, bool]()
    for _ in range(rng.choice([1, 1, 2])):
        option, numeric = rng.choice(options)
        value = rng.choice(ABSURD if numeric and rng.random() < 0.6 else VALUES)
        value = value.replace("\0", "")
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
        arguments += [option, value]
        absurd[option] = numeric and value in ABSURD
    return Case(" ".join(arguments)[:90], tuple(arguments), {}, any(absurd.values()))


def _of_a_key(rng: random.Random) -> Case:
    """``--set`` of any key of any family, with the unit that the file has there."""
    command, root, keys = rng.choice(_KEYS)
    key, old = rng.choice(keys)
    value = rng.choice(VALUES)
    unit = str(old).partition(" ")[2] if isinstance(old, str) and str(old)[:1].isdigit() else ""
    numeric = isinstance(old, int | float) and not isinstance(old, bool)
    absurd = value in ABSURD and (numeric or bool(unit))
    text = f"{root}.{key}={value}{' ' + unit if unit and rng.random() < 0.7 else ''}"
    return Case(text[:90], (*command.split(), "--set", text), {}, absurd)


def _keys(family: str, name: str, root: str, command: str) -> tuple[str, str, list[Any]]:
    from cluster_sim.specs.load import read

    tree = read(family, name)[1]
    found = []
    for path in places(tree):
        value: Any = tree
        for key in path:
            value = value[key]
        odd = {"sources", "presets"} & set(path)  # a preset that is not taken is not read
        if not odd and not any(isinstance(key, int) for key in path):
            found.append((".".join(map(str, path)), value))
    return command, root, found


_NUMBERS = ("chips", "seed")
_OPTIONS: list[tuple[str, list[tuple[str, bool]]]] = [
    (
        RUN,
        [
            *((f"--{name}", True) for name in ("chips", "tp", "pp", "ep", "attn-dp", "replicas")),
            *((f"--{name}", True) for name in ("rate", "concurrency", "requests", "duration")),
            *((f"--{name}", True) for name in ("seed", "seeds", "max-memory")),
            *((f"--{name}", False) for name in ("topo", "workload", "model", "software", "plan")),
            *((f"--{name}", False) for name in ("trace", "precision", "slo", "set", "out")),
            *((f"--{name}", False) for name in ("background", "timeline-window")),
        ],
    ),
    (
        TRAIN,
        [
            *((f"--{name}", True) for name in ("chips", "tp", "pp", "ep", "vpp", "cp", "dp")),
            *((f"--{name}", True) for name in ("micro-batch", "global-batch", "seq-len", "seed")),
            *((f"--{name}", False) for name in ("until", "plan", "model", "set", "precision")),
        ],
    ),
    (
        "collective --topo h100_superpod --chips 16 --bytes 1MiB",
        [
            *((f"--{name}", True) for name in ("chips", "top-k", "experts", "node-limit")),
            *((f"--{name}", True) for name in ("imbalance", "seed", "max-memory")),
            *((f"--{name}", False) for name in ("ranks", "op", "bytes", "library", "algo")),
            *((f"--{name}", False) for name in ("background", "against", "plot", "proto")),
        ],
    ),
    (
        "collective --topo h100_nvl8 --op moe_dispatch --bytes 1MiB",
        [(f"--{name}", True) for name in ("top-k", "experts", "node-limit", "imbalance")],
    ),
    (
        "fit --model llama3.1-8b --chip h100_sxm --format csv",
        [
            *((f"--{name}", True) for name in ("chips", "tp", "length", "max-model-len")),
            *((f"--{name}", False) for name in ("model", "chip", "software", "precision", "set")),
        ],
    ),
    ("show topology h100_superpod", [("--chips", True), ("--draw", False), ("--export", False)]),
    ("validate --quiet --limit 1 --workers 1", [("--limit", True), ("--workers", True),
                                                ("--where", False), ("--against", False)]),
    (
        "explain --topo h200_nvl8 --workload llama8b",
        [("--chips", True), ("--tp", True), ("--set", False), ("--model", False)],
    ),
]  # fmt: skip
_KEYS: list[tuple[str, str, list[Any]]] = []


def readers() -> list[Reader]:
    """All files that are changed; the logs and formats as often as the packaged ones together."""
    return [*_specs(), *_formats(), *_logs()]


def cases(count: int, seed: int) -> Iterator[Case]:
    """``count`` cases, always the same of a seed."""
    if not _KEYS:
        until = f"{TRAIN} --until 100B"
        _KEYS.extend(
            [
                _keys("topology", "h200_nvl8", "topology", RUN),
                _keys("topology", "h100_superpod", "topology", "show topology h100_superpod"),
                _keys("chip", "h200_sxm", "chip", RUN),
                _keys("workload", "llama8b", "workload", RUN),
                _keys("workload", "llama3_8b_train", "workload", until),
                (RUN, "economics", [("pue", 1.2), ("usd_per_chip_hour", 2.5), ("wacc", 0.09)]),
                (RUN, "economics", [("life_years", 5.0), ("electricity", "0.09 USD/kWh")]),
                (RUN, "engine", [("max_num_seqs", 256), ("max_num_batched_tokens", 8192),
                                 ("block_tokens", 16), ("memory_fraction", 0.9)]),
                (until, "workload", [("run.failures.factor", 1.0), ("run.failures.spares", 2),
                                     ("run.replications", 4), ("machine_rate", 1.0),
                                     ("run.checkpoints", "30 min"), ("run.jitter", 0.1)]),
                (RUN, "workload", [("arrivals.cv", 1.0), ("isl.fixed", 200), ("seed", 0),
                                   ("sampling_error", "3 %"), ("duration", "60 s")]),
            ]
        )  # fmt: skip
    rng = random.Random(seed)
    files = readers()
    kinds: Sequence[Sequence[Reader]] = [
        [one for one in files if one.tree and one.path.endswith("yaml")],
        [one for one in files if not one.tree or not one.path.endswith("yaml")],
    ]
    makers: list[Callable[[], Case]] = [
        lambda: _of_a_file(rng.choice(kinds[0]), rng),
        lambda: _of_a_file(rng.choice(kinds[1]), rng),
        lambda: _of_an_option(rng),
        lambda: _of_a_key(rng),
    ]
    for number in range(count):
        yield makers[number % len(makers)]()
