"""The command that a page ends with is about the very run that the page shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.cli.options import _OPTIONS


def page(runner: CliRunner, words: list[str]) -> str:
    done = runner.invoke(cli, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def next_words(text: str) -> list[str]:
    """The command behind ``Next``, read as a shell reads it."""
    _, _, command = text.partition("\nNext ")
    assert command
    return shlex.split(command.replace("\\\n", ""))


def folder(text: str) -> str:
    return text.split("Files ")[1].split()[0]


FILE = "run --topo h200_nvl8 --workload ./tuesday.yaml"
LINES = [
    "--topo h200_nvl8 --workload llama70b --rate 5 --requests 20",
    "--topo '4 x h200_sxm' --workload llama70b --concurrency 4 --requests 12 --precision bf16",
    "--topo h200_nvl8 --workload llama70b --model llama3.1-8b --chips 4 --seed 3 --requests 20 "
    "--rate '7 requests/s' --slo ttft=2s,tpot=50ms --set workload.software=vllm "
    "--set 'workload.engine_args=--max-num-seqs 64' --tp 2",
    "--topo h200_nvl8 --workload llama70b --plan tp4x2 --rate 5 --duration '10 s'",
]


@pytest.mark.parametrize("line", LINES)
def test_explain_and_run_lead_to_each_other(runner: CliRunner, line: str) -> None:
    first = page(runner, ["run", *shlex.split(line)])
    explain = next_words(first)
    assert explain[:2] == ["cluster-sim", "explain"]
    assert sorted(explain[2:]) == sorted(shlex.split(line))
    again = next_words(page(runner, explain[1:]))
    assert again == ["cluster-sim", "run", *explain[2:]]
    assert folder(page(runner, again[1:])) == folder(first)  # named after the hash of all inputs


def test_what_a_run_alone_has_is_left_out(runner: CliRunner) -> None:
    line = LINES[0] + " --quiet --timeline --out there --debug"
    explain = next_words(page(runner, ["run", *shlex.split(line)]))
    assert explain[2:] == shlex.split(LINES[0])


def test_a_long_command_is_quoted_and_goes_on_behind_backslashes(runner: CliRunner) -> None:
    text = page(runner, ["run", *shlex.split(LINES[2])])
    lines = text.partition("\nNext ")[2].splitlines()
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert all(len(line) <= 80 for line in lines)


def test_a_training_step_too(runner: CliRunner) -> None:
    line = "--topo h100_nvl8 --workload llama3_8b_train --plan nemo_h100_bf16"
    words = ["run", *shlex.split(line), "--until", "1B"]
    explain = next_words(page(runner, words))
    assert explain == ["cluster-sim", "explain", *shlex.split(line)]
    run = next_words(page(runner, explain[1:]))
    assert run == ["cluster-sim", "run", *shlex.split(line)]


def test_every_option_of_a_run_is_one_of_explain() -> None:
    for command in ("run", "explain"):
        have = {option.name for option in cli.commands[command].params}
        wanted: set[str] = set()
        for option in _OPTIONS:
            wanted |= {str(made.name) for made in option(lambda: None).__click_params__}
        assert wanted <= have


def test_a_trace_is_named_after_its_file(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2024-05-10 00:00:0{n}.0,100,{20 + n}\n" for n in range(8))
    )
    line = "run --topo h200_nvl8 --workload llama70b --trace mine.csv"
    text = page(runner, shlex.split(line))
    assert "\ntraffic    mine.csv, " in text
    manifest = json.loads((tmp_path / folder(text)).with_name("manifest.json").read_text())
    assert manifest["inputs"]["workload"]["traffic"] == "mine.csv"
    (tmp_path / "tuesday.yaml").write_text(
        "extends: llama70b\narrivals: {kind: trace, trace: mine.csv, load: null}\n"
    )
    assert "\ntraffic    mine.csv, " in page(runner, shlex.split(FILE))
    own = page(runner, shlex.split(line + " --set workload.traffic=tuesday"))
    assert "\ntraffic    tuesday, " in own
