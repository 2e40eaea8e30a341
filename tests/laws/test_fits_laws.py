"""Laws of fitted curves: what is borrowed stays what it was; nothing beats physics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Chip, Fits
from cluster_sim.specs.find import names
from cluster_sim.specs.load import load_fits, load_spec

BY_DTYPE = ("gemm", "moe", "attention_prefill", "attention_decode", "mla_prefill", "mla_decode")
WATTS = ("gemm_compute_bound", "gemm_memory_bound", "communication", "host")


def fits_of(name: str) -> tuple[Chip, Fits]:
    chip = load_spec("chip", name, Chip)[1]
    return chip, load_fits(chip)[0]


def write(folder: Path, chip: str, text: str) -> None:
    """A copy of H100 under another name, with curves of its own."""
    chips = folder / "topologies" / "chips"
    (chips / "fits").mkdir(parents=True, exist_ok=True)
    (chips / f"{chip}.yaml").write_text("extends: h100_sxm\ntdp: 350 W\n")
    (chips / "fits" / f"{chip}.yaml").write_text(text)


@pytest.mark.parametrize("name", names("chip"))
def test_every_chip_has_curves(name: str) -> None:
    _, fits = fits_of(name)
    assert fits.chip == name
    for section in (*BY_DTYPE[:1], *BY_DTYPE[2:4], "all_reduce"):
        assert getattr(fits, section)
    for curve in fits.all_reduce.values():
        assert 0 < curve.efficiency <= 1


def test_borrowed_curves_are_the_relatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mine", "chip: mine\nborrows: H100-SXM\n")
    monkeypatch.chdir(tmp_path)
    chip, mine = fits_of("mine")
    relative, theirs = fits_of("h100_sxm")
    for section in (*BY_DTYPE, "all_reduce"):
        ours, lent = getattr(mine, section), getattr(theirs, section)
        assert list(ours) == list(lent)
        for key, curve in ours.items():
            assumed = lent[key].provenance == "assumed"
            assert curve.provenance == ("assumed" if assumed else "transferred")
            assert curve.source == f"curve of h100_sxm: {lent[key].source}"
            same = dataclasses.replace(curve, source="x", provenance="measured")
            assert same == dataclasses.replace(lent[key], source="x", provenance="measured")
    assert mine.power is not None
    assert theirs.power is not None
    for key in WATTS:
        scaled = getattr(theirs.power, key) * chip.tdp / relative.tdp
        assert getattr(mine.power, key) == pytest.approx(scaled, rel=1e-12)
    files = [record.name for record in load_fits(chip)[2]]
    assert files == ["mine", "h100_sxm", "h100_sxm"]


def test_own_curves_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "{floor: 1 us, compute: 0.5, memory: 0.6, provenance: assumed, source: mine}"
    write(tmp_path, "mine", f"chip: mine\nborrows: h100_sxm\ngemm:\n  bf16: {own}\n")
    monkeypatch.chdir(tmp_path)
    _, fits = fits_of("mine")
    assert fits.gemm["bf16"].compute == 0.5
    assert fits.gemm["fp8"].provenance == "transferred"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a": "h100_sxn"}, "a.yaml:2: borrows: no chip named 'h100_sxn'; did you mean 'h100_sxm'"),
        ({"a": "a"}, "a.yaml:2: borrows: goes round in a circle: a > a"),
        ({"a": "b", "b": "a"}, "b.yaml:2: borrows: goes round in a circle: a > b > a"),
        (
            {"a": "b", "b": "c", "c": "h100_sxm"},
            "c.yaml:2: borrows: the chain a > b > c > h100_sxm",
        ),
        ({"a": "b", "b": "gb_none"}, "b.yaml:2: borrows: no chip named 'gb_none'"),
    ],
)
def test_bad_relatives(
    files: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, relative in files.items():
        write(tmp_path, name, f"chip: {name}\nborrows: {relative}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as error:
        fits_of("a")
    assert says in str(error.value)


def test_a_chip_without_curves_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", "chip: a\nborrows: b\n")
    write(tmp_path, "b", "")
    (tmp_path / "topologies" / "chips" / "fits" / "b.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"b: no curves; write topologies/chips/fits/b\.yaml"):
        fits_of("a")
