"""The files of the chips: the table that they were read from, and what follows from them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.find import chip_marks, names
from cluster_sim.specs.load import load_spec, load_topology

PEAKS = {
    "bf16": "bf16_dense",
    "fp8": "fp8_dense",
    "int8": "int8_dense_tops",
    "fp6": "fp6_dense",
    "fp4": "fp4_dense",
}
# The table calls a card without links of its own a domain of one; here the host is its domain.
CARDS = {"l40s", "rtx4090", "rtx_pro_6000", "rtx_pro_6000d"}
# Chips that the table lacks.
MORE = {"a10", "a100_40g_sxm", "a40", "l20", "l4", "rtx3090", "rtx5090"}
IN_TABLE = [name for name in names("chip") if name not in MORE]
# The table has the full chip, or another one of its family; software sees what is enabled.
ENABLED_SMS = {"b300": 148, "gb300": 152, "gb200": 152, "b30a": 74}


def chip_of(name: str) -> Chip:
    return load_spec("chip", name, Chip)[1]


def rows(shared: Path) -> dict[str, dict[str, str]]:
    text = (shared / "reference" / "chips.csv").read_text()
    return {row["chip"]: row for row in csv.DictReader(text.splitlines())}


def number(text: str) -> float | None:
    return float(text) if text else None


def test_there_is_a_file_for_every_chip_of_the_table(shared: Path) -> None:
    assert set(rows(shared)) <= set(names("chip"))


@pytest.mark.parametrize("name", IN_TABLE)
def test_figures_are_those_of_the_table(shared: Path, name: str) -> None:
    chip, row = chip_of(name), rows(shared)[name]
    assert chip.memory.capacity == float(row["hbm_mib_reported"]) * 2**20
    assert chip.memory.bandwidth == pytest.approx(float(row["hbm_tbps"]) * 1e12)
    peaks = {dtype: float(row[column]) for dtype, column in PEAKS.items() if row[column]}
    assert {dtype: flop / 1e12 for dtype, flop in chip.peak.items()} == pytest.approx(peaks)
    assert chip.tdp == number(row["tdp_w"])
    assert chip.sm_count == ENABLED_SMS.get(name, number(row["sm_count"]))
    assert chip.dies == number(row["die_count"])
    assert chip.die_area_mm2 == number(row["die_mm2_total"])
    assert (chip.vendor, chip.year) == (row["vendor"], int(row["year"]))
    assert (chip.nic or 0) == pytest.approx(float(row["nic_gbps"] or 0) * 1e9 / 8)


@pytest.mark.parametrize("name", names("chip"))
def test_sm_counts_are_those_of_the_notes(name: str) -> None:
    """A note that says how many SMs are enabled says the same as the figure."""
    chip = chip_of(name)
    for note in chip.notes:
        enabled = re.search(r"(\d+) of the (\d+) SMs", note)
        if enabled:
            assert chip.sm_count == int(enabled[1]) < int(enabled[2])


@pytest.mark.parametrize("name", IN_TABLE)
def test_links_are_those_of_the_table(shared: Path, name: str) -> None:
    links, row = chip_of(name).scale_up, rows(shared)[name]
    assert links is not None
    whole = links.bandwidth(links.domain or 2)
    assert whole / 1e9 == pytest.approx(float(row["scaleup_gbps_per_dir"]), rel=1e-3)
    if name not in CARDS:
        assert links.domain == number(row["scaleup_domain"])


@pytest.mark.parametrize("name", IN_TABLE)
def test_tpp_and_density_are_those_of_the_table(shared: Path, name: str) -> None:
    chip, row = chip_of(name), rows(shared)[name]
    for computed, listed in ((chip.tpp, "tpp"), (chip.performance_density, "perf_density")):
        if row[listed]:
            assert computed == pytest.approx(float(row[listed]), rel=0.01)


@pytest.mark.parametrize("name", names("chip"))
def test_a_file_says_where_its_figures_come_from(name: str) -> None:
    chip = chip_of(name)
    assert {"facts", "capacity", "price"} <= set(chip.sources)
    for fact, source in (
        (chip.scale_up, "scale_up"),
        (chip.host, "host"),
        (chip.idle_power, "idle_power"),
    ):
        assert (fact is not None) == (source in chip.sources)
    assert bool(chip.price.rent) == bool(chip.price.rent_basis)
    assert bool(chip.price.purchase) == bool(chip.price.purchase_basis)
    if chip.tdp is not None and chip.idle_power is not None:
        assert chip.idle_power == pytest.approx(chip.tdp / 6, rel=0.03)


@pytest.mark.parametrize("name", names("chip"))
def test_the_quick_scan_sees_what_the_parsed_file_says(name: str) -> None:
    chip, mark = chip_of(name), chip_marks()[name]
    assert (chip.status in mark) == (chip.status != "shipping")
    assert (f"incomplete: {chip.incomplete}" in mark) == bool(chip.incomplete)
    assert mark.endswith("no TDP") == (chip.tdp is None)


def test_the_910c_is_two_devices_of_half_the_package() -> None:
    chip = chip_of("ascend_910c")
    assert chip.devices_per_chip == 2
    assert chip.device_memory == 64 * 2**30
    assert chip.device_bandwidth == pytest.approx(1.6e12)
    assert chip.device_peak("bf16") == pytest.approx(376e12)


def test_a_chip_without_a_tdp_takes_one_from_an_option() -> None:
    options = ["chip.tdp=600 W", "chip.idle_power=100 W"]
    machine = load_topology("8 x ascend_950pr", options)
    assert load_topology("8 x ascend_950pr").fits.power is None
    assert machine.chip.tdp == 600
    assert machine.fits.power is not None
    with pytest.raises(SpecError, match="tdp and idle_power come together"):
        load_topology("8 x ascend_950pr", options[:1])


def test_several_devices_need_the_link_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: h200_sxm\ndevices_per_chip: 2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"mine\.yaml: .* needs scale_up\.package_bandwidth"):
        load_spec("chip", "./mine.yaml", Chip)
    path.write_text(path.read_text() + "scale_up: {package_bandwidth: 1 TB/s}\n")
    assert load_spec("chip", "./mine.yaml", Chip)[1].device_memory == 143771 * 2**19
