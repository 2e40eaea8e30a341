"""What a run was made from: every file that it reads is in its record, and nothing else is read."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from trace_files import COMP, node, reduce_, write

from cluster_sim.cli import cli
from cluster_sim.collectives.group import make_group
from cluster_sim.errors import SpecError
from cluster_sim.machine.build import build_machine
from cluster_sim.origin import origin_of
from cluster_sim.prepare import read_requests
from cluster_sim.simulation import play
from cluster_sim.specs.find import Files, every, find, packaged_root
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.load_training import load_training
from cluster_sim.studies.collective import Call, sweep_sizes
from cluster_sim.train import train
from cluster_sim.training.replay import replay
from cluster_sim.training.replay_price import Place
from cluster_sim.training.traces import read_traces

CONSTANTS = "topologies/chips/fits/collectives/h100_sxm.yaml"
SERVE = "run --topo {topo} --workload llama70b_closed --concurrency 2 --requests 8 --set plan.tp=8"
TRAIN = "run --topo {topo} --workload llama3_8b_train"
REPLAY = "replay step.0.et step.1.et --topo {topo}"
RUNS = [
    f"{SERVE} --background all_reduce:1MiB",
    SERVE,
    TRAIN,
    f"{TRAIN} --until 2G",
    REPLAY,
]


def traced() -> list[Path]:
    nodes = [node(0, COMP, micros=40), reduce_(1, [0], 1 << 24), node(2, COMP, [1], micros=9)]
    return write(Path(), dict.fromkeys(range(2), nodes), "step")


def run(runner: CliRunner, line: str) -> Result:
    result = runner.invoke(cli, shlex.split(line))
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def stand_in(path: str, *changes: tuple[str, str]) -> None:
    """A local copy of a packaged file with patterns replaced."""
    text = (packaged_root() / path).read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def slower() -> None:
    """Constants of collectives with a tenth of the rates."""
    stand_in(CONSTANTS, (r"(bandwidth: [\d.]+) GB/s", r"\g<1>e-1 GB/s"))


def only(folder: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The row and the manifest of the only run in a folder."""
    (found,) = Path(folder).iterdir()
    (table,) = [name for name in ("summary.csv", "replay.csv") if (found / name).exists()]
    (row,) = csv.DictReader((found / table).read_text().splitlines())
    return row, json.loads((found / "manifest.json").read_text())


@pytest.mark.parametrize("topo", ["h100_nvl8", "h200_nvl8"], ids=["own", "borrowed"])
@pytest.mark.parametrize("line", RUNS)
def test_constants_that_stand_in_are_told(runner: CliRunner, line: str, topo: str) -> None:
    traced()
    line = line.format(topo=topo)
    run(runner, f"{line} --out before")
    slower()
    told = run(runner, f"{line} --out after")
    assert f"Note: {CONSTANTS} is used instead of the packaged one." in told.stderr
    (row, manifest), (again, found) = only("before"), only("after")
    assert row["run_id"] != again["run_id"]
    assert row["config_hash"] != again["config_hash"]
    entries = {file["path"]: file for file in found["files"]}
    assert entries[CONSTANTS]["shadows"]
    assert entries[CONSTANTS]["sha256"] == find("collectives", "h100_sxm").sha256
    assert f"packaged:{CONSTANTS}" in [file["path"] for file in manifest["files"]]
    if topo == "h100_nvl8" and "_train" in line:
        assert float(again["step_time_s"]) > float(row["step_time_s"])


@pytest.mark.parametrize("command", ["collective --topo h100_nvl8", "explain --topo h100_nvl8"])
def test_commands_without_a_folder_tell_too(runner: CliRunner, command: str) -> None:
    line = command if "collective" in command else f"{command} --workload llama3_8b_train"
    slower()
    assert CONSTANTS in run(runner, line).stderr


def test_fit_tells_of_files_that_stand_in(runner: CliRunner) -> None:
    path = "workloads/software/vllm-0.19.yaml"
    stand_in(path, (r"(max_num_seqs): \d+", r"\g<1>: 7"))
    line = "fit --model qwen3-32b --chip ascend_910b3"  # on vllm-ascend, which extends it
    assert f"Note: {path} is used instead" in run(runner, line).stderr


_forbidden: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _forbidden is not None and event == "open":
        path = str(arguments[0])
        if not path.endswith((".py", ".pyc", ".so")) and "site-packages" not in path:
            _forbidden.append(path)


sys.addaudithook(_watch)


@contextmanager
def nothing_read() -> Iterator[None]:
    """Fails if a file other than a module is opened."""
    global _forbidden  # noqa: PLW0603  # an audit hook cannot be taken away again
    _forbidden = opened = []
    try:
        yield
    finally:
        _forbidden = None
    assert opened == []


def test_what_is_read_is_seen() -> None:
    with pytest.raises(AssertionError, match="h100_sxm"), nothing_read():
        find("chip", "h100_sxm")


def serving(topo: str = "h100_nvl8", **more: Any) -> Callable[[], object]:
    machine = load_topology(topo)
    job = load_workload("llama70b_closed", ["workload.requests=8", "plan.tp=8"])
    return lambda: play(machine, job, **more)


def trace() -> Callable[[], object]:
    Path("trace.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,9,9\n1,9,9\n")
    machine = load_topology("h100_nvl8")
    changes = {"arrivals": {"kind": "trace", "trace": "trace.csv"}, "requests": "auto"}
    job = load_workload("llama70b", ["plan.tp=8"], changes)
    requests = read_requests(job)
    return lambda: play(machine, job, trace=requests)


def training(topo: str = "h100_nvl8") -> Callable[[], object]:
    machine, given = load_topology(topo), load_training("llama3_8b_train")
    return lambda: train(machine, given)


def replaying() -> Callable[[], object]:
    machine = load_topology("h200_nvl8")
    graph = read_traces(traced(), devices=8)

    def go() -> object:
        built = build_machine(machine)
        return replay(graph, Place(topology=machine, machine=built, devices=tuple(range(8))))

    return go


def collective(topo: str) -> Callable[[], object]:
    machine = load_topology(topo)

    def go() -> object:
        built = build_machine(machine)
        group = make_group(machine, range(built.devices), machine=built)
        return sweep_sizes(group, Call(operation="all_reduce"), [1 << 20])

    return go


def drawn() -> Callable[[], object]:
    """On a topology whose fabric is a graph in a file."""
    graph_fabric()
    return collective("./drawn.yaml")


def graph_fabric(speed: int = 400) -> None:
    nodes = [{"id": f"d{i}", "kind": "device"} for i in range(8)] + [{"id": "s", "kind": "switch"}]
    edges = [{"source": f"d{i}", "target": "s", "bandwidth": f"{speed} Gb/s"} for i in range(8)]
    facts = {"devices_per_host": 8, "devices_per_domain": 8}
    Path("net.json").write_text(json.dumps({"nodes": nodes, "edges": edges, "graph": facts}))
    text = (
        "title: drawn\nchip: h100_sxm\nchips: 8\nfabric: {kind: graph, file: net.json, ports: 64}"
    )
    Path("drawn.yaml").write_text(f"{text}\nsources: {{all: assumed}}\n")


PRICED: dict[str, Callable[[], Callable[[], object]]] = {
    "serving": serving,
    "background": lambda: serving(background=("all_reduce:1MiB",)),
    "trace": trace,
    "training": training,
    "training that borrows": lambda: training("h200_nvl8"),
    "replay": replaying,
    "collective": lambda: collective("h100_superpod"),
    "graph": drawn,
}


@pytest.mark.parametrize("kind", PRICED)
def test_nothing_is_read_while_pricing(runner: CliRunner, kind: str) -> None:
    go = PRICED[kind]()
    with nothing_read():
        go()


CHANGES = [
    ("topologies/h100_nvl8.yaml", "chips: 8", "chips: 8\nhost_power: 3 kW"),
    ("topologies/chips/h100_sxm.yaml", r"(?m)^tdp: .*", "tdp: 650 W"),
    ("topologies/chips/fits/h100_sxm.yaml", "compute: 0.781", "compute: 0.782"),
    (CONSTANTS, "bandwidth: 195.3 GB/s", "bandwidth: 195.4 GB/s"),
    ("workloads/llama70b_closed.yaml", "concurrency: 64", "concurrency: 63"),
    ("workloads/models/llama3.3-70b.yaml", "layers: 80", "layers: 79"),
    ("workloads/software/trtllm-1.0.yaml", "max_num_seqs: 2048", "max_num_seqs: 2047"),
]
RELATED = [  # read through another file, which names them
    ("ascend_910b_8", "qwen3_32b", "topologies/chips/ascend_910b3.yaml", "idle_power: .*"),
    ("ascend_910b_8", "qwen3_32b", "topologies/chips/fits/a100_80g_sxm.yaml", "floor: .*? us"),
    ("h100_nvl8", "qwen3_32b", "workloads/llama70b.yaml", "cv: [^,}]*"),
    ("ascend_910b_8", "qwen3_32b", "workloads/software/vllm-0.19.yaml", "max_num_seqs: .*"),
    ("h200_nvl8", "qwen3_32b", CONSTANTS, "hop: [^,}]* us"),
    (
        "ascend_910b_8",
        "qwen3_32b",
        "topologies/chips/fits/collectives/ascend_910b.yaml",
        "launch:.*",
    ),
]


def made(topo: str, workload: str) -> tuple[str, dict[str, str], list[str]]:
    """The hash of a service, its files by path, and those that stand in for packaged ones."""
    machine = load_topology(topo)
    origin = origin_of(machine, load_workload(workload, vendor=machine.chip.vendor))
    files = {file.path.removeprefix("packaged:"): file.sha256 for file in origin.files}
    return origin.config_hash, files, [file.path for file in origin.files if file.shadows]


@pytest.mark.parametrize(("path", "old", "new"), CHANGES, ids=[path for path, *_ in CHANGES])
def test_every_file_is_in_the_hash(runner: CliRunner, path: str, old: str, new: str) -> None:
    before = made("h100_nvl8", "llama70b_closed")
    stand_in(path, (r"\Z", "# nothing new\n"))
    same = made("h100_nvl8", "llama70b_closed")
    assert same[0] == before[0]
    assert same[1][path] != before[1][path]
    stand_in(path, (old, new))
    other = made("h100_nvl8", "llama70b_closed")
    assert other[0] != before[0]
    assert other[2] == [path]


@pytest.mark.parametrize(("topo", "workload", "path", "key"), RELATED, ids=[r[2] for r in RELATED])
def test_files_that_another_names_are_in_the_record(
    runner: CliRunner, topo: str, workload: str, path: str, key: str
) -> None:
    before = made(topo, workload)
    assert path in before[1]
    text = (packaged_root() / path).read_text()
    found = re.search(key, text)
    assert found is not None
    digits = re.search(r"[1-9]", found[0])
    assert digits is not None
    changed = found[0].replace(digits[0], str(int(digits[0]) % 9 + 1), 1)
    stand_in(path, (re.escape(found[0]), changed.replace("\\", "")))
    other = made(topo, workload)
    assert other[0] != before[0]
    assert other[2] == [path]


def test_files_beside_a_config_are_in_the_record(runner: CliRunner) -> None:
    config = {
        **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336},
        **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
        **{"vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"},
    }
    Path("mine").mkdir()
    Path("mine/config.json").write_text(json.dumps(config))
    job = load_workload("llama70b", ["workload.model=./mine/config.json"])
    assert [file.name for file in every(job.files)][1:2] == ["mine"]
    index = {"metadata": {"total_size": 16060522496}, "weight_map": {}}
    Path("mine/model.safetensors.index.json").write_text(json.dumps(index))
    job = load_workload("llama70b", ["workload.model=./mine/config.json"])
    assert "model.safetensors.index.json" in [file.name for file in every(job.files)]


def test_a_graph_is_in_the_record_and_read_once(runner: CliRunner) -> None:
    graph_fabric()
    before = origin_of(load_topology("./drawn.yaml"))
    (entry,) = [file for file in before.manifest()["files"] if file["path"] == "net.json"]
    assert entry["text"] == ""
    graph_fabric(speed=200)
    assert origin_of(load_topology("./drawn.yaml")).config_hash != before.config_hash
    Path("net.json").unlink()
    with pytest.raises(SpecError, match=r"drawn.yaml:4: fabric.file: net.json: no such file"):
        load_topology("./drawn.yaml")


def test_a_trace_is_in_the_record(runner: CliRunner) -> None:
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    found = []
    for rows in ("0,9,9\n1,9,9\n", "0,9,9\n1,9,8\n"):
        Path("trace.csv").write_text(text + rows)
        line = "run --topo h100_nvl8 --workload llama70b --trace trace.csv --tp 8"
        run(runner, f"{line} --out {len(found)}")
        found.append(only(str(len(found))))
        (entry,) = [file for file in found[-1][1]["files"] if file["path"] == "trace.csv"]
        assert entry["sha256"] == found[-1][1]["trace_sha256"]
    assert found[0][0]["run_id"] != found[1][0]["run_id"]


def test_the_files_of_a_replay_are_in_the_record(runner: CliRunner) -> None:
    traced()
    Path("map").write_text("0 1\n1 0\n")
    run(runner, f"{REPLAY.format(topo='h100_nvl8')} --map map")
    _, manifest = only("results")
    paths = [file["path"] for file in manifest["files"]]
    assert {"step.0.et", "step.1.et", "map"} < set(paths)
    assert set(manifest["inputs"]) == {"topology", "chip", "fits", "collectives"}


def test_clients_of_a_trace_are_each_in_the_record(shared: Path) -> None:
    folder, files = shared / "traces" / "servegen", Files()
    job = load_workload(
        "llama70b",
        ["workload.duration=60 s"],
        {"arrivals": {"kind": "trace", "trace": str(folder)}, "requests": "auto"},
    )
    read_requests(job, files=files)
    assert sorted(files) == sorted(str(file) for file in folder.glob("*chunk-*"))
