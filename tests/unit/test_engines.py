"""Which software runs on whose chips, and what is said where another's constants stand in."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import OldFormWarning, SpecError
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.residuals import step_residuals, whole_residuals
from cluster_sim.simulation import simulate
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.engines import DEFAULTS, engine_for, engines_on
from cluster_sim.specs.find import find, names
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.software import Software

MACHINES = {
    "NVIDIA": ("h200_nvl8", "trtllm-1.0"),
    "AMD": ("mi300x_8", "sglang-0.5.10"),
    "Huawei": ("ascend_910b_8", "vllm-ascend-0.18"),
    "Google": ("tpu_v5p_pod", "vllm-tpu"),
    "Cambricon": ("mlu590_8", "vllm-mlu"),
}
ONE = ["workload.requests=20", "workload.arrivals={kind: closed, concurrency: 1}"]
NARROW = ["workload.isl={fixed: 100}", "workload.osl={fixed: 20}"]


def on(topology: str, *changes: str) -> WorkloadInput:
    machine = load_topology(topology)
    return load_workload("llama70b", [*ONE, *NARROW, *changes]).on(machine.chip)


@pytest.mark.parametrize("vendor", MACHINES)
def test_the_default_exists_on_the_chip(vendor: str) -> None:
    topology, expected = MACHINES[vendor]
    software = on(topology).software
    assert software.name == expected
    assert vendor in software.vendors
    assert load_workload("llama70b", vendor=vendor).software.name == expected


def test_every_packaged_chip_has_an_engine() -> None:
    vendors = {load_spec("chip", name, Chip)[1].vendor for name in names("chip")}
    assert vendors == set(DEFAULTS)
    for vendor in vendors:
        _, software = load_spec("software", engine_for("auto", vendor), Software)
        assert software.name in engines_on(vendor)


def test_no_tensorrt_on_other_chips() -> None:
    for vendor, (topology, _) in MACHINES.items():
        if vendor == "NVIDIA":
            continue
        with pytest.raises(SpecError, match=f"trtllm-1.0 does not exist on chips of {vendor}"):
            on(topology, "workload.software=trtllm")


def test_a_bare_framework_is_its_build_for_the_chip() -> None:
    assert on("ascend_910b_8", "workload.software=vllm").software.name == "vllm-ascend-0.18"
    assert on("mi300x_8", "workload.software=vllm").software.name == "vllm-0.19"
    with pytest.raises(SpecError, match=r"vllm-0.19 does not exist.*sglang-0.5.10.*vllm-ascend"):
        on("ascend_910b_8", "workload.software=vllm-0.19")


def test_chips_of_unknown_vendors_run_what_they_are_told() -> None:
    machine = load_topology("h200_nvl8")
    chip = dataclasses.replace(machine.chip, vendor="Acme")
    job = load_workload("llama70b", ONE)
    assert job.on(chip).software.framework == "vllm"
    told = load_workload("llama70b", [*ONE, "workload.software=trtllm"])
    assert told.on(chip).software.name == "trtllm-1.0"
    assert "Acme" in (told.on(chip).software.stands_in("Acme") or "")


def test_own_profiles_are_never_replaced() -> None:
    machine = load_topology("mi300x_8")
    job = load_workload("llama70b", ONE)
    mine = dataclasses.replace(job.software, name="mine", vendors=())
    assert dataclasses.replace(job, software=mine).on(machine.chip).software.name == "mine"


@pytest.mark.parametrize("vendor", MACHINES)
def test_host_time_is_measured_where_it_was(vendor: str) -> None:
    topology, _ = MACHINES[vendor]
    machine, job = load_topology(topology), on(topology)
    parts = (machine, job.model, job.software)
    layout, dtypes = Layout(tp=8, pp=1), Recipe(*["bf16"] * 5)
    families = operator_families(*parts, layout, dtypes)
    (word,) = [family.provenance for family in families if family.name == "host"]
    (residual,) = step_residuals(*parts, layout, dtypes)["host"]
    more = [part for part in whole_residuals(*parts, "bf16", "") if "host" in part.key]
    if vendor == "NVIDIA":
        assert word == residual.provenance == "measured"
        assert not more
        assert job.software.stands_in(vendor) is None
    else:
        assert word == residual.provenance == "assumed"
        assert more
        assert more[0].provenance == "assumed"
        assert "NVIDIA" in (job.software.stands_in(vendor) or "")


def test_constants_of_another_version_are_not_measured() -> None:
    assert on("h200_nvl8", "workload.software=vllm-0.10").software.host.on("NVIDIA") != "measured"


def test_the_page_says_whose_constants_stand_in() -> None:
    result = simulate(load_topology("ascend_910b_8"), on("ascend_910b_8"))
    assert result.summary["software"] == "vllm-ascend-0.18"
    assert [note for note in result.manifest["notes"] if "those of vLLM 0.19" in note]
    assert result.summary["prov_assumed"] > 0
    own = simulate(load_topology("h200_nvl8"), on("h200_nvl8"))
    assert not [note for note in own.manifest["notes"] if "stand in" in note]


def test_the_option_names_what_exists(runner: CliRunner) -> None:
    arguments = ["run", "--topo", "mi300x_8", "--workload", "llama70b", "--requests", "20"]
    done = runner.invoke(cli, [*arguments, "--software", "trtllm"])
    assert isinstance(done.exception, SpecError)
    assert "does not exist on chips of AMD" in str(done.exception)
    assert "vllm-0.19" in str(done.exception)
    done = runner.invoke(cli, [*arguments, "--software", "vllm", "--rate", "1", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "vllm-0.19" in done.output


def test_algorithms_of_sums_are_libraries_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = find("software", "trtllm-1.0").text
    old = "all_reduce: [one_shot, ring, in_switch]\n"
    (tmp_path / "mine.yaml").write_text(re.sub(r"all_reduce: \[.*\n", old, text))
    with pytest.warns(OldFormWarning, match=r"all_reduce: \[trtllm_custom, nccl\]"):
        software = load_spec("software", "mine.yaml", Software)[1]
    assert software.all_reduce == ("trtllm_custom", "nccl")


def test_curves_of_collectives_beside_kernels_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "topologies" / "chips" / "fits"
    folder.mkdir(parents=True)
    text = find("fits", "h200_sxm").text
    (folder / "h200_sxm.yaml").write_text(text + "all_reduce: {ring: {latency: 9 us}}\n")
    with pytest.warns(OldFormWarning, match=r"all_reduce: old and without effect"):
        machine = load_topology("h200_nvl8")
    assert not hasattr(machine.fits, "all_reduce")
