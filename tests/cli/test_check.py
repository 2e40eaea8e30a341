"""``check`` knows every kind of file by what it holds, whatever its name and folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cluster_sim.cli import cli
from cluster_sim.specs.find import FOLDERS

FAMILY = {folder: family for family, folder in FOLDERS.items()}
FILES = sorted(path for folder in FAMILY for path in (ROOT / folder).glob("*.yaml"))


def checked(runner: CliRunner, *arguments: str) -> tuple[int, str]:
    done = runner.invoke(cli, ["check", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def family(path: Path) -> str:
    return FAMILY[path.parent.relative_to(ROOT).as_posix()]


def test_every_packaged_file_is_checked_by_path_from_another_folder(runner: CliRunner) -> None:
    code, told = checked(runner, *map(str, FILES))
    assert told.splitlines() == [f"{path}: ok ({family(path)})" for path in FILES]
    assert (code, len(FILES) > 300) == (0, True)


def test_every_packaged_file_is_checked_under_another_name_elsewhere(
    runner: CliRunner, tmp_path: Path
) -> None:
    folder = tmp_path / "some where"
    folder.mkdir()
    copies = [folder / f"mine-{index}.yaml" for index in range(len(FILES))]
    for path, copy in zip(FILES, copies, strict=True):
        shutil.copy(path, copy)
    code, told = checked(runner, *map(str, copies))
    expected = [f"{c}: ok ({family(p)})" for p, c in zip(FILES, copies, strict=True)]
    assert told.splitlines() == expected
    assert code == 0


@pytest.mark.parametrize(
    ("folder", "content", "says"),
    [
        # a misspelt key does not make another kind of it
        (".", "title: mine\nchip: h100_sxm\nchps: 8\nsources: {}\n", "did you mean 'chips'"),
        (".", "title: m\nhost: gb200_nvl72\nhosts: 4\nfabrc: {}\n", "did you mean 'fabric'"),
        (".", "extends: llama70b\nmodell: llama3.1-8b\n", "did you mean 'model'"),
        (".", "extends: vllm-0.19\nschedular: sglang\n", "did you mean 'scheduler'"),
        (".", "extends: h200_sxm\ntitel: x\n", "did you mean 'title'"),
        (".", "chip: h200_sxm\nborows: h100_sxm\n", "did you mean 'borrows'"),
        # a file that holds nothing of its kind goes by its folder
        ("topologies/chips", "colour: red\n", "mine.yaml:1: colour: unknown key"),
        (".", "colour: red\n", "cannot tell what kind of file this is; tried: topology, chip, "),
        (".", "extends: lama70b\ntitle: x\n", "mine.yaml:1: extends: no file of any kind is named"),
        (".", "title: m\nhost: nothing\nhosts: 4\n", "mine.yaml:2: host: no topology named"),
        (".", "title: m\nchip: h100\nchips: 8\nsources: {}\n", "mine.yaml:2: chip: no chip named"),
        (".", "extends: llama70b\nmodel: llama4\n", "mine.yaml:2: model: no model named"),
        (".", "extends: llama70b\nsoftware: vlm\n", "mine.yaml:2: software: no software named"),
        (".", "extends: llama3_8b_train\nsoftware: vlm\n", "mine.yaml:2: software: no training"),
    ],
)
def test_what_is_wrong_is_told_of_the_kind_that_is_meant(
    runner: CliRunner, tmp_path: Path, folder: str, content: str, says: str
) -> None:
    path = tmp_path / folder / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    code, told = checked(runner, str(path))
    assert (code, says in told) == (2, True), told


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        ("{plan: {tpp: 3}}", "mine.yaml:4: presets.fast.plan.tpp: unknown key; did you mean 'tp'"),
        ("{tpp: 3}", "mine.yaml:4: presets.fast.tpp: unknown key"),
        ("{plan: {pp: 0}}", "mine.yaml:4: presets.fast.plan.pp: must be > 0 (got 0)"),
        ("{precision: fp9}", "mine.yaml:4: presets.fast.precision: must be one of 'bf16'"),
        ("7", "presets.fast"),
        (
            "{plan: {cp: nan}}",
            "mine.yaml:4: presets.fast.plan.cp: must be a whole number (got nan)",
        ),
        ("{plan: {cp: .nan}}", "mine.yaml:4: presets.fast.plan.cp: must be a whole number"),
        ("{plan: }", "mine.yaml:4: presets.fast.plan: must be a mapping"),
        ("{presets: {}}", "mine.yaml:4: presets.fast.presets: has no effect here"),
        ("{model: nothing}", "mine.yaml:4: presets.fast.model: no model named"),
        ("{plan: {tp: 7}}", "mine.yaml:4: presets.fast: "),
        ("{plan: {pp: 999}}", "exceeds the 32 layers of llama3.1-8b"),
        ("{plan: {ep: 2}}", "ep=2 needs experts"),
        ("{plan: {dp: 3}}", "is not a multiple of dp 3"),
        ("{seq_len: 100, plan: {cp: 3}}", "does not divide the 100 tokens of a sequence"),
    ],
)
def test_every_preset_is_checked(runner: CliRunner, tmp_path: Path, preset: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: llama3_8b_train\ntitle: mine\npresets:\n  fast: {preset}\n")
    code, told = checked(runner, str(path))
    assert (code, says in told) == (2, True), told


def test_a_name_is_found_as_loosely_as_elsewhere(runner: CliRunner) -> None:
    code, told = checked(runner, "H200-NVL8", "vllm", "llama-70b", "qwen3-32b", "qwen3_32b")
    kinds = [line.split("(")[1].rstrip(")") for line in told.splitlines()]
    assert (code, kinds) == (0, ["topology", "software", "workload", "model", "workload"])
    code, told = checked(runner, "h200_nv8")
    assert (code, "did you mean 'h200_nvl8'" in told) == (2, True)
