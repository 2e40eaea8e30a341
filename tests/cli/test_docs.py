"""Every command and every Python block of README and docs runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cluster_sim.cli import cli

TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """All blocks but those of the README's recipes, whose files stand beside them."""
    pattern = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    texts = [re.sub(r"\n## Add your own\n.*?\n## ", "", p.read_text(), flags=re.S) for p in TEXTS]
    return [block for text in texts for block in pattern.findall(text)]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("cluster-sim ")]


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_docs(runner: CliRunner, line: str) -> None:
    result = runner.invoke(cli, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_docs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {})


def test_the_readme_shows_what_the_program_prints(runner: CliRunner) -> None:
    line = "run --topo h200_nvl8 --workload llama70b"
    shown = (ROOT / "README.md").read_text().split(f"$ cluster-sim {line}\n")[1].split("```")[0]
    printed = runner.invoke(cli, line.split()).stdout

    def stable(text: str) -> list[str]:
        return re.sub(r"simulated in [\d.]+ s", "", text).strip().splitlines()

    assert stable(shown) == stable(printed)


def test_the_readme_shows_the_accuracy_of_the_docs() -> None:
    def table(path: Path) -> str:
        return path.read_text().split("<!-- accuracy table -->")[1].split("<!-- end of")[0]

    assert table(ROOT / "README.md") == table(ROOT / "docs" / "accuracy.md")
