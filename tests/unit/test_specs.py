from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from cluster_sim.errors import OldFormWarning, SpecError
from cluster_sim.specs.find import find, names
from cluster_sim.specs.load import kind_of, load_economics, load_topology, load_workload
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.schema import KINDS, forms, json_schema


@pytest.mark.parametrize("name", names("topology"))
def test_topologies_load(name: str) -> None:
    machine = load_topology(name)
    assert machine.topology.name == name
    assert machine.chip.name == machine.fits.chip
    assert machine.chip.sources


@pytest.mark.parametrize("name", [w for w in names("workload") if kind_of(w) == "serving"])
@pytest.mark.parametrize("software", ["trtllm", "vllm", "sglang"])
def test_workloads_load_with_every_profile(name: str, software: str) -> None:
    job = load_workload(name, [f"workload.software={software}"])
    assert job.software.framework == software
    assert job.software.name.startswith(software + "-")


@pytest.mark.parametrize("name", [w for w in names("workload") if kind_of(w) == "training"])
def test_training_workloads_load_with_every_preset(name: str) -> None:
    job = load_training(name)
    assert job.workload.sources
    assert job.workload.name == name
    for preset in job.workload.presets:
        assert load_training(name, preset=preset).workload.presets == job.workload.presets


@pytest.mark.parametrize("name", names("training"))
def test_training_profiles_say_their_version_and_date(name: str) -> None:
    software = load_training("llama3_8b_train", [f"workload.software={name}"]).software
    assert (software.name, name.rsplit("-", 1)[-1]) == (name, software.version)
    assert software.sources


def test_names_compare_loosely() -> None:
    assert find("topology", "H200-NVL8").name == "h200_nvl8"
    assert find("software", "vllm").name == "vllm-0.19"
    assert find("software", "SGLang 0.5.10").name == find("software", "sglang").name


def test_versions_of_a_framework_differ_in_host_time_and_memory_alone() -> None:
    limits = ("max_num_seqs", "max_num_batched_tokens", "small_devices")  # of vLLM's first engine
    for name in names("software"):
        found = load_workload("llama70b", [f"workload.software={name}"]).software
        newest = load_workload("llama70b", [f"workload.software={found.framework}"]).software
        own = {"name": newest.name, "title": newest.title, "version": newest.version}
        if found.constants_of:  # a build for other chips
            assert (found.constants_of, found.host.per_step) == ("vLLM 0.19", newest.host.per_step)
            assert "assumed" in found.host.source
            assert "assumed" in found.memory.source
            continue
        assert name == f"{found.framework}-{found.version}"
        own["sources"] = newest.sources
        if name == "vllm-0.6":
            own |= {key: getattr(newest, key) for key in limits}
        overhead = found.memory.overhead
        memory = dataclasses.replace(newest.memory, overhead=overhead, source=found.memory.source)
        assert found.memory == memory
        assert dataclasses.replace(found, **own, host=newest.host, memory=newest.memory) == newest
        assert found.host.per_sequence == newest.host.per_sequence
        assert found == newest or found.host.source != newest.host.source


def test_an_unknown_version_is_told_with_the_nearest() -> None:
    with pytest.raises(
        SpecError,
        match=r"--set workload.software: no software named 'vllm-0\.15'; did you mean 'vl",
    ):
        load_workload("llama70b", ["workload.software=vllm-0.15"])


def test_a_local_file_shadows_a_packaged_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "h200_nvl8.yaml").write_text("extends: h100_nvl8\ntitle: mine\n")
    monkeypatch.chdir(tmp_path)
    record = find("topology", "h200_nvl8")
    assert record.shadows
    assert load_topology("h200_nvl8").topology.title == "mine"
    assert load_topology("h200_nvl8").chip.name == "h100_sxm"


def test_a_local_file_that_says_the_same_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "topologies").mkdir()
    packaged = find("topology", "h200_nvl8")
    (tmp_path / "topologies" / "h200_nvl8.yaml").write_text(packaged.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    record = find("topology", "h200_nvl8")
    assert (record.origin, record.sha256, record.shadows) == ("cwd", packaged.sha256, False)


def test_engine_arguments_carry_the_frameworks_names() -> None:
    changes = [
        "workload.software=vllm",
        "workload.engine_args=--max-num-seqs 512 --gpu-memory-utilization=0.8",
        "engine.block_size=8",
    ]
    software = load_workload("llama70b", changes).software
    assert (software.max_num_seqs, software.memory.fraction) == (512, 0.8)
    assert software.memory.block_tokens == 8


def test_economics_can_be_set() -> None:
    assert load_economics(["economics.usd_per_chip_hour=2.5"]).usd_per_chip_hour == 2.5


@pytest.mark.parametrize("family", KINDS)
def test_schemas_name_every_key(family: str) -> None:
    told = {"extends"} if family in ("fits", "collectives") else {"sources", "extends"}
    for form in forms(json_schema(family)):
        assert told <= set(form["properties"])
        assert "name" not in {*form["properties"], *form["required"]}


def test_chat_lengths_follow_the_trace(shared: Path) -> None:
    path = shared / "traces" / "azure_llm_2023_conv_first_window.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    job = load_workload("llama70b").workload
    for column, lengths in (("ContextTokens", job.isl), ("GeneratedTokens", job.osl)):
        tokens = sorted(int(row[column]) for row in rows)
        mean = sum(tokens) / len(tokens)
        assert lengths.average == pytest.approx(mean, rel=0.01)
        for share, quantile in lengths.quantiles or ():
            assert quantile == tokens[round(share * (len(tokens) - 1))]


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp8_block", "fp4", "mxfp4", "w4a16"])
def test_a_cache_dtype_that_is_set_holds_for_every_precision(precision: str) -> None:
    changes = [f"workload.precision={precision}", "engine.kv_dtype=fp8"]
    for framework in ("vllm", "sglang", "trtllm"):
        job = load_workload("llama70b", [*changes, f"workload.software={framework}"])
        assert job.software.cache_dtype(job.model, precision) == "fp8"


def test_the_old_name_of_what_clients_wait_works_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the former version stand for those of a busy engine; an idle one adds nothing."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: vllm-0.19\ntitle: mine\nfirst_token_steps: 3\n")
    with pytest.warns(OldFormWarning, match=r"engine\.first_token_steps: .*client_loaded_steps"):
        by_key = load_workload("llama70b", ["engine.first_token_steps=3"]).software.client
    with pytest.warns(OldFormWarning, match=r"mine\.yaml: first_token_steps: .*client"):
        by_file = load_workload("llama70b", ["workload.software=mine.yaml"]).software.client
    now = ["engine.client_idle=0 s", "engine.client_loaded_steps=3"]
    new = load_workload("llama70b", now).software.client
    for client in (by_key, by_file, new):
        assert (client.idle, client.loaded_steps) == (0.0, 3.0)


def test_every_profile_says_what_clients_wait() -> None:
    """An idle engine adds the same whatever the framework: no measurement tells them apart."""
    found = [load_workload("llama70b", [f"workload.software={n}"]) for n in names("software")]
    clients = [job.software.client for job in found]
    assert {client.idle for client in clients} == {clients[0].idle}
    assert all(client.idle > 0 and "assumed:" not in client.source for client in clients)
    in_process = load_workload("mlperf_llama2_70b").software.client
    assert (in_process.idle, in_process.loaded_steps) == (0.0, 0.0)
