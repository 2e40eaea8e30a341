"""The schemas that ``cluster-sim schema`` prints, held to files by a validator of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from jsonschema import Draft202012Validator

from cluster_sim.cli import cli
from cluster_sim.specs.find import FOLDERS
from cluster_sim.specs.schema import KINDS, json_schema
from cluster_sim.specs.yaml_text import parse

DRAFT = "https://json-schema.org/draft/2020-12"


def problems(family: str, data: dict[str, Any]) -> list[str]:
    """What a validator finds wrong, keys as JSON has them."""
    schema = json_schema(family)
    Draft202012Validator.check_schema(schema)
    found = Draft202012Validator(schema).iter_errors(json.loads(json.dumps(data)))
    return [error.message for error in found]


def content(family: str, name: str) -> dict[str, Any]:
    path = ROOT / FOLDERS[family] / f"{name}.yaml"
    return parse(path.read_text(), str(path))[0]


@pytest.mark.parametrize("family", KINDS)
def test_a_printed_schema_needs_nothing_else(runner: CliRunner, family: str) -> None:
    done = runner.invoke(cli, ["schema", family])
    schema = json.loads(done.output)
    Draft202012Validator.check_schema(schema)
    assert (done.exit_code, schema["$schema"].rpartition("/")[0]) == (0, DRAFT)
    assert schema["$id"] == f"urn:cluster-sim:{family}"
    found = re.findall(r'"\$ref": "([^"]*)"', done.output)
    assert {one.rpartition("/")[0] for one in found} == {"#/$defs"}
    assert {one.rpartition("/")[2] for one in found} <= schema["$defs"].keys()


@pytest.mark.parametrize("family", KINDS)
def test_every_packaged_file_is_valid(family: str) -> None:
    validator = Draft202012Validator(json_schema(family))
    files = sorted((ROOT / FOLDERS[family]).glob("*.yaml"))
    assert files
    wrong: dict[Path, str] = {}
    for path in files:
        data = json.loads(json.dumps(parse(path.read_text(), str(path))[0]))
        for error in validator.iter_errors(data):
            wrong[path] = error.message
    assert not wrong


@pytest.mark.parametrize(
    ("family", "name", "keys", "value"),
    [
        ("topology", "h200_nvl8", ["chip_s"], 8),
        ("topology", "h200_nvl8", ["title"], None),
        ("topology", "gb200_nvl72_pod", ["fabric", "ports"], "many"),
        ("topology", "gb200_nvl36", ["scale_up", "domains"], 4),
        ("chip", "h200_sxm", ["memory", "bandwidth"], 4.8),
        ("chip", "h200_sxm", ["tdp"], "700 GB"),
        ("chip", "ascend_910b", ["memory", "size"], "64 GB"),
        ("model", "llama3.1-8b", ["layers"], 0),
        ("workload", "llama70b", ["isl"], {"quantiles": {"half": 3}}),
        ("workload", "llama70b", ["isl"], {"quantiles": {"0%": -3}}),
        ("workload", "gpt_oss_120b", ["arrivals"], {"kinds": "open"}),
        ("workload", "deepseek_v3_train", ["presets", "deepseek_h800", "tpp"], 3),
        ("workload", "deepseek_v3_train", ["presets", "deepseek_h800", "plan", "tpp"], 3),
        ("software", "vllm-0.16", ["schedule"], "vllm_v1"),
        ("training", "megatron-26.06", ["launch"], 3),
        ("fits", "h200_sxm", ["gemm", "bf16", "flor"], "1 us"),
        ("collectives", "h200_sxm", ["nccl", "al_reduce"], {}),
    ],
)
def test_a_mistake_is_no_valid_file(family: str, name: str, keys: list[str], value: Any) -> None:
    data = content(family, name)
    assert not problems(family, data)
    inner = data
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    assert problems(family, data)


def test_a_file_that_extends_another_may_change_one_deep_key() -> None:
    assert not problems("workload", {"extends": "llama70b", "arrivals": {"load": "60 %"}})
    assert problems("workload", {"title": "alone", "arrivals": {"load": "60 %"}})
    assert not problems("topology", {"host": "h200_nvl8", "hosts": 2, "scale_up": {"domain": 8}})
    assert not problems("fits", {"borrows": "h200_sxm"})
    assert not problems("fits", {"gemm": {"fp8": {"like": "bf16", "times": {"compute": 0.9}}}})
    assert problems("fits", {"gemm": {"fp8": {"compute": 0.9}}})
