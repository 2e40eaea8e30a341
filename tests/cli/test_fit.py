"""The page of ``fit``: what it asks, what it refuses, what it says of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli

LLAMA = "fit --model llama3.1-8b --chip h100_sxm --tp 1"
DENSE = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def run(line: str) -> Result:
    return CliRunner().invoke(cli, line.split())


def rows(line: str) -> list[dict[str, object]]:
    done = run(f"{line} --format json")
    assert done.exit_code == 0, done.output or done.exception
    found: list[dict[str, object]] = json.loads(done.output)
    return found


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--length 200000", "--length 200,000: trtllm-1.0 takes sequences up to 131,072 tokens"),
        ("--length 9000 --max-model-len 4096", "takes sequences up to 4,096 tokens"),
        ("--tp 16 --chips 8", "--tp 16: more than the 8 devices of --chips 8"),
        ("--max-model-len 4096 --set engine.max_seq_len=8192", "--max-model-len says it already"),
        ("--set topology.chips=4", "--set topology.chips: has no effect on fit"),
    ],
)
def test_options_that_contradict_or_do_nothing_are_refused(more: str, says: str) -> None:
    done = run(f"{LLAMA} {more}")
    assert done.exit_code != 0
    assert says in str(done.exception)


@pytest.mark.parametrize("precision", ["fp16", "mxfp8"])
def test_precisions_of_training_are_no_choice(precision: str) -> None:
    done = run(f"{LLAMA} --precision {precision}")
    assert done.exit_code == 2
    assert f"'{precision}' is not one of" in done.output


def test_what_is_asked_twice_is_answered_once() -> None:
    found = rows(f"{LLAMA} --tp 1 --software vllm --software vllm-0.19 --precision fp8")
    assert len(found) == 1


def test_a_plan_may_be_larger_than_a_host() -> None:
    (one,) = rows(f"{LLAMA} --tp 8 --precision bf16".replace("--tp 1 ", ""))
    assert one["devices"] == 8


def test_sequences_are_none_that_the_model_does_not_take() -> None:
    found = rows("fit --model gpt-j-6b --chip h100_sxm --tp 1")
    assert {row["sequence_tokens"] for row in found} == {2048}


def test_the_name_of_a_framework_is_near() -> None:
    assert "did you mean 'vllm'?" in run(f"{LLAMA} --software vlm").output


def test_no_engine_may_use_more_than_there_is() -> None:
    printed = " ".join(run("fit --model llama3.1-70b --chip h100_sxm --tp 1").output.split())
    assert "it may use 79.1 of 79.1 GiB" in printed


def test_notes_of_the_model_end_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "Small-1B-NVFP4"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DENSE))
    printed = " ".join(run(f"fit --model {folder} --chip h100_sxm --tp 1").output.split())
    assert "Note the name says NVFP4" in printed
