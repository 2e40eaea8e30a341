"""Laws of fitted curves: what is borrowed stays what it was; nothing beats physics."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import PEAK_OF, Chip, Fits
from cluster_sim.specs.find import names
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.load_curves import load_fits

BY_DTYPE = ("gemm", "moe", "attention_prefill", "attention_decode", "mla_prefill", "mla_decode")
MEASURED = ("a100_80g_sxm", "h100_sxm", "h200_sxm", "b200", "gb200", "h100_pcie")
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
def test_every_chip_has_curves_of_all_families(name: str) -> None:
    chip, fits = fits_of(name)
    assert fits.chip == name
    if "bf16" not in chip.peak:
        return
    for dtype, peak in PEAK_OF.items():
        if peak in chip.peak:
            assert dtype in fits.gemm
            assert dtype in fits.moe
    for section in BY_DTYPE[2:]:
        assert {"bf16", "fp8"} <= set(getattr(fits, section))
    assert (fits.power is None) == (chip.tdp is None)


@pytest.mark.parametrize("name", names("chip"))
def test_curves_are_physically_possible(name: str) -> None:
    """No share of a peak above 1, but for fp8 products against the bf16 peak; floors of kernels."""
    chip, fits = fits_of(name)
    for section in BY_DTYPE:
        for key, curve in getattr(fits, section).items():
            values = dataclasses.asdict(curve)
            attention = section.startswith(("attention", "mla"))
            most = 1.2 if attention and key == "fp8" else 1.0
            assert values.get("compute", 1.0) <= most, (section, key)
            assert values.get("memory", 1.0) <= 1.0, (section, key)
            assert values.get("activations", 1.0) <= 1.0, (section, key)
            assert values.get("efficiency", 1.0) <= 1.0, (section, key)
            assert 0.5e-6 <= values.get("floor", 1e-6) <= 60e-6, (section, key)
            assert values["source"]
            assert curve.provenance in ("measured", "transferred", "assumed")
            assert curve.provenance != "measured" or name in MEASURED
    if fits.power is not None and chip.tdp is not None:
        assert all(0 < getattr(fits.power, key) <= 1.01 * chip.tdp for key in WATTS)


def test_borrowed_curves_are_the_relatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mine", "chip: mine\nborrows: H100-SXM\n")
    monkeypatch.chdir(tmp_path)
    chip, mine = fits_of("mine")
    relative, theirs = fits_of("h100_sxm")
    for section in BY_DTYPE:
        ours, lent = getattr(mine, section), getattr(theirs, section)
        assert list(ours) == list(lent)
        for key, curve in ours.items():
            assumed = lent[key].provenance == "assumed"
            assert curve.provenance == ("assumed" if assumed else "transferred")
            assert curve.source == f"curve of h100_sxm: {lent[key].source}"
            same = {"source": "x", "provenance": "measured", "taken": None}
            assert dataclasses.replace(curve, **same) == dataclasses.replace(lent[key], **same)
            first = lent[key].taken
            assert curve.taken.of == (first.of if first else f"{section} {key} of h100_sxm")
    assert mine.power is not None
    assert theirs.power is not None
    for key in WATTS:
        scaled = getattr(theirs.power, key) * chip.tdp / relative.tdp
        assert getattr(mine.power, key) == pytest.approx(scaled, rel=1e-12)
    files = [record.name for record in load_fits(chip)[1]]
    assert files == ["mine", "h100_sxm", "h100_sxm"]


@pytest.mark.parametrize(
    ("name", "curve", "of", "distance"),
    [
        ("h800_sxm", "bf16", "gemm bf16 of h100_sxm", "architecture"),
        ("l40s", "fp8", "gemm fp8 of h100_sxm", "generation"),
        ("b30a", "fp8", "gemm fp8 of b200", "architecture"),
        ("mi300x", "fp8", "gemm fp8 of h100_sxm", "other"),
        ("ascend_960", "bf16", "gemm bf16 of h100_sxm", "other"),
        ("ascend_910c", "fp8_block", "gemm fp8_block of h100_sxm", "other"),
        ("h200_sxm", "int8", "gemm fp8 of h200_sxm", "other"),
        ("b300", "mxfp4", "gemm fp4 of b200", "other"),
    ],
)
def test_curves_say_whose_they_are(name: str, curve: str, of: str, distance: str) -> None:
    taken = fits_of(name)[1].gemm[curve].taken  # type: ignore[index]
    assert (taken.of, taken.distance) == (of, distance)
    assert taken.fit is not None


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
    write(tmp_path, "b", "borrows: h100_sxm\n")
    chips = tmp_path / "topologies" / "chips"
    (chips / "fits" / "b.yaml").rename(chips / "b.curves")
    monkeypatch.chdir(tmp_path)
    lent = fits_of("b")[1]  # those of the chip that its file extends, as if it borrowed them
    (chips / "b.curves").rename(chips / "fits" / "b.yaml")
    assert lent == fits_of("b")[1]
    (chips / "fits" / "b.yaml").unlink()
    shutil.copy(ROOT / "topologies" / "chips" / "h100_sxm.yaml", chips / "b.yaml")
    with pytest.raises(SpecError, match=r"b: no curves; write topologies/chips/fits/b\.yaml"):
        fits_of("a")


GEMM = "{floor: 4 us, per_k: 1 us, compute: 0.5, memory: 0.6, provenance: measured, source: lab}"
HEAD = f"borrows: h100_sxm\ngemm:\n  bf16: {GEMM}\n"
CHANGES = """in_engine:
  launch_overlap: {floors: 0.5, source: seen}
  gemm:
    every: {per_k: 0 us, source: hidden}
    bf16: {floor: 3 us, provenance: transferred, source: fused}
"""


def test_changes_in_engines_come_on_top_of_own_curves_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "mine", f"chip: mine\n{HEAD}{CHANGES}")
    monkeypatch.chdir(tmp_path)
    fits, lent = fits_of("mine")[1], fits_of("h100_sxm")[1]
    curve = fits.gemm["bf16"]
    assert (curve.floor, curve.per_k, curve.compute) == (pytest.approx(1.5e-6), 0.0, 0.5)
    assert curve.provenance == "transferred"
    told = (
        "lab; in engines per_k 0 us: hidden; in engines floor 3 us, provenance transferred: fused"
    )
    assert curve.source == f"{told}; floor x 0.5: seen"
    assert fits.gemm["fp8"].floor == lent.gemm["fp8"].floor
    assert fits.moe["bf16"].floor == lent.moe["bf16"].floor


def test_a_curve_like_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the own chip with what engines change, of the relative, and of one like the relative's."""
    text = "chip: mine\n" + HEAD
    text += "  w8a16: {like: bf16, times: {compute: 0.5}, memory: 0.9, source: half}\n"
    text += "  fp8: {like: fp8, times: {compute: 0.8}, source: slower}\n"
    text += "  int8: {like: fp8, source: equal}\n"
    write(tmp_path, "mine", text + CHANGES)
    monkeypatch.chdir(tmp_path)
    gemm, lent = fits_of("mine")[1].gemm, fits_of("h100_sxm")[1].gemm["fp8"]
    assert (gemm["w8a16"].floor, gemm["w8a16"].compute) == (gemm["bf16"].floor, 0.25)
    assert gemm["w8a16"].memory == 0.9
    assert gemm["w8a16"].source.startswith("half; bf16: lab; in engines")
    assert gemm["fp8"].compute == gemm["int8"].compute == pytest.approx(0.8 * lent.compute)
    assert gemm["fp8"].floor == lent.floor
    assert gemm["fp8"].fit is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  fp8: {like: bf61}\n", "a.yaml:5: gemm.fp8.like: no such curve to copy (there are bf16"),
        ("  fp8: {like: bf16, times: {floor: 2}}\n", "gemm.fp8.times.floor: must be a factor of a"),
        ("  fp8: {like: int8}\n  int8: {like: fp8}\n", "gemm.fp8.like: no such curve to copy"),
        (
            "in_engine:\n  gemm:\n    bf16: {flor: 1 us, source: x}\n",
            "a.yaml:7: in_engine.gemm.bf16.flor: unkn",
        ),
        (
            "in_engine:\n  gemm:\n    bf16: {floor: 1}\n",
            "a.yaml:7: in_engine.gemm.bf16.source: mis",
        ),
        ("in_engine:\n  launch_overlap: {floors: 2, source: x}\n", "floors: must be at most 1.5"),
        ("in_engine: yes\n", "a.yaml:5: in_engine: must be a mapping"),
    ],
)
def test_bad_changes_and_likes(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", f"chip: a\n{HEAD}{text}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as error:
        fits_of("a")
    assert says in str(error.value)
