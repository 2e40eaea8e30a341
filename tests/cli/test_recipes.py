"""README's recipe of a chip works as it is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli

ROOT = Path(__file__).parents[2]
RECIPE = " ".join(
    re.search(r"- \*\*Add a chip\*\*:(.*?)\n- ", (ROOT / "README.md").read_text(), re.DOTALL)[
        1
    ].split()  # type: ignore[index]
)


@pytest.mark.parametrize("own_curves", [False, True])
def test_a_chip_is_two_or_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_curves: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    chip, fits = re.findall(r"`(topologies/chips/\S*h200_sxm.yaml)`", RECIPE)
    collectives = re.search(r"`(topologies/\S*collectives/my_chip.yaml)`", RECIPE)
    borrowing = re.findall(r"`(borrows: \w+)`", RECIPE)
    run = re.search(r"run `(--topo '[^']*')`", RECIPE)
    assert collectives
    assert run
    assert len(borrowing) == 2

    def mine(name: str) -> Path:
        path = tmp_path / name.replace("h200_sxm", "my_chip")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    shutil.copy(ROOT / chip, mine(chip))
    mine(fits).write_text(borrowing[0] + "\n")
    if own_curves:
        mine(fits).write_text((ROOT / fits).read_text().replace("chip: h200_sxm", "chip: my_chip"))
        mine(collectives[1]).write_text(borrowing[1] + "\n")
    topo = ["--topo", run[1].split("'")[1]]
    runner = CliRunner()
    for words in (
        ["check", str(mine(chip)), str(mine(fits))],
        ["run", *topo, "--workload", "llama70b", "--rate", "5", "--requests", "20"],
        ["run", *topo, "--workload", "llama3_8b_train"],
    ):
        done = runner.invoke(cli, words)
        assert done.exit_code == 0, f"{done.output}{done.exception}"
