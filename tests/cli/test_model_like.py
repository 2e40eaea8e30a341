"""Configs of unknown families: what the error says, and runs as one of a known family."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster_sim import load_workload
from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.kernels.counts import parameters
from cluster_sim.specs.load_model import load_model

UNKNOWN = {
    **{"model_type": "newnet", "n_layer": 32, "d_model": 4096, "n_head": 32, "n_kv_heads": 8},
    **{"ffn_dim": 14336, "vocab_size": 128256, "max_seq_len": 8192, "hyper_block": 3},
}
EXPERTS = {"n_experts": 64, "experts_per_token": 4, "expert_hidden_size": 1024}


def write(folder: Path, data: dict[str, Any]) -> str:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "config.json").write_text(json.dumps(data))
    return str(folder / "new")


def refused(runner: CliRunner, *words: str) -> str:
    """What ``show model`` says of a file that it refuses."""
    done = runner.invoke(cli, ["show", "model", *words])
    assert isinstance(done.exception, SpecError), done.output
    return str(done.exception)


def test_an_unknown_family_says_which_is_nearest_and_how_to_price_it(
    runner: CliRunner, tmp_path: Path
) -> None:
    text = refused(runner, write(tmp_path, UNKNOWN))
    assert "'newnet' is not known" in text
    assert "nearest to 'llama'; not understood: hyper_block" in text
    assert "--model-like llama" in text
    with_experts = refused(runner, write(tmp_path, {**UNKNOWN, **EXPERTS}))
    assert "nearest to 'qwen3_moe'; not understood: hyper_block" in with_experts


def test_an_unknown_family_says_what_is_missing(runner: CliRunner, tmp_path: Path) -> None:
    text = refused(runner, write(tmp_path, {"model_type": "newnet", "hidden_size": 64}))
    assert "It can be read as none; as 'llama': num_attention_heads: missing" in text
    assert "vocab_size: missing" in text
    assert "--model-like" not in text


def test_a_likeness_is_the_known_family_under_other_names(tmp_path: Path) -> None:
    _, like = load_model(write(tmp_path, UNKNOWN), "llama")
    _, llama = load_model("llama3.1-8b")
    assert parameters(like) == parameters(llama)
    assert like.name == "new (like llama)"
    said = "family newnet is priced as llama, its figures are a guess; "
    assert like.notes[0] == f"{said}keys not understood: hyper_block"


def test_runs_note_it_and_their_csv_names_it(runner: CliRunner, tmp_path: Path) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --rate 2 --requests 20 --tp 8"
    model = ["--model", write(tmp_path, UNKNOWN), "--model-like", "llama"]
    done = runner.invoke(cli, [*line.split(), *model, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "priced as llama" in " ".join(done.output.split())
    folder = next((tmp_path / "out").iterdir())
    with (folder / "summary.csv").open() as file:
        assert next(csv.DictReader(file))["model"] == "new (like llama)"
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert any("keys not understood: hyper_block" in note for note in notes)


def test_workloads_say_it_too(tmp_path: Path) -> None:
    job = load_workload(
        "llama70b", replacements={"model": write(tmp_path, UNKNOWN), "model_like": "llama"}
    )
    assert job.model.name == "new (like llama)"


def test_a_known_family_with_a_new_key_is_priced_without_it(tmp_path: Path) -> None:
    known = write(tmp_path, {**UNKNOWN, "model_type": "llama"})
    with pytest.raises(SpecError, match="missing"):
        load_model(known)
    _, like = load_model(known, "llama")
    assert like.notes[0].startswith("priced as llama, its figures are a guess")


@pytest.mark.parametrize(
    ("data", "like", "text"),
    [
        (UNKNOWN, "lama", "no such family; did you mean 'llama'?"),
        (UNKNOWN, "mixtral", "num_local_experts: missing"),
        ({**UNKNOWN, **EXPERTS}, "llama", "n_experts: says experts, which 'llama' has not"),
        ({**UNKNOWN, "kv_lora_rank": 512}, "llama", "kv_lora_rank: says latents"),
        ({**UNKNOWN, "d_model": "wide"}, "llama", "hidden_size: must be a whole number"),
    ],
)
def test_likenesses_that_would_be_far_off_are_refused(
    data: dict[str, Any], like: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="--model-like") as error:
        load_model(write(tmp_path, data), like)
    assert text in str(error.value)


def test_a_likeness_without_effect_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    llama = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama |= {"intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 64}
    known = write(tmp_path, {"model_type": "llama", **llama})
    assert "whose family is known" in refused(runner, known, "--model-like", "llama")
    assert "has no effect on packaged" in refused(runner, "llama3.1-8b", "--model-like", "llama")
    done = runner.invoke(cli, ["show", "chip", "h200_sxm", "--model-like", "llama"])
    assert "--model-like has no effect" in done.output
