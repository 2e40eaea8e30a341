"""Constants of collectives: borrowing, rates by the ratio of links, mistakes in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_sim.collectives.custom import kernels_of
from cluster_sim.collectives.time import CUSTOM
from cluster_sim.errors import SpecError
from cluster_sim.specs.collective_fits import load_collective_fits
from cluster_sim.specs.find import names


def write(folder: Path, name: str, text: str) -> None:
    place = folder / "topologies" / "chips" / "fits" / "collectives"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.yaml").write_text(text)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("chip", names("collectives"))
def test_every_file_loads_with_a_source_for_every_constant(chip: str) -> None:
    fits = load_collective_fits(chip)
    assert fits.chip == chip
    assert fits.nccl is not None or fits.hccl is not None


def test_a_relative_lends_with_the_ratio_of_links(tmp_path: Path) -> None:
    write(tmp_path, "half", "chip: half\nborrows: h100_sxm\nlink: 225 GB/s\n")
    half, whole = load_collective_fits("half"), load_collective_fits("h100_sxm")
    assert half.nccl is not None
    assert whole.nccl is not None
    assert half.hosts is not None
    assert whole.hosts is not None
    lent, own = half.nccl.all_reduce, whole.nccl.all_reduce
    assert lent.small.bandwidth == own.small.bandwidth / 2
    assert lent.small.latency == own.small.latency
    assert lent.provenance == "transferred"
    assert lent.source.startswith("constants of h100_sxm: ")
    assert half.hosts.ring.domain_bandwidth == whole.hosts.ring.domain_bandwidth / 2
    assert half.hosts.ring.nic_bandwidth == whole.hosts.ring.nic_bandwidth
    assert half.hosts.send_recv.bandwidth == whole.hosts.send_recv.bandwidth
    lent_ep, own_ep = half.experts["deepep_normal"], whole.experts["deepep_normal"]
    assert lent_ep.dispatch.bandwidth == own_ep.dispatch.bandwidth / 2
    assert lent_ep.dispatch_hosts is not None
    assert own_ep.dispatch_hosts is not None
    assert lent_ep.dispatch_hosts.bandwidth == own_ep.dispatch_hosts.bandwidth


def test_own_constants_stay_and_rates_over_nics_are_filled_in() -> None:
    fits = load_collective_fits("h200_sxm")
    assert fits.nccl is not None
    assert fits.nccl.all_reduce.provenance == "measured"
    assert fits.hosts is not None
    assert fits.hosts.ring.provenance == "transferred"
    assert fits.experts["deepep_normal"].dispatch.provenance == "measured"
    over = fits.experts["deepep_normal"].dispatch_hosts
    assert over is not None
    assert over.provenance == "transferred"


def test_a_chip_without_a_file_takes_those_of_its_relative() -> None:
    fits = load_collective_fits("some_chip", "h100_sxm")
    assert fits.chip == "h100_sxm"
    assert fits.nccl is not None
    assert fits.nccl.all_reduce.provenance == "transferred"


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no constants of collectives; write"):
        load_collective_fits("no_such_chip")
    write(tmp_path, "one", "chip: one\nborrows: two\nlink: 225 GB/s\n")
    write(tmp_path, "two", "chip: two\nborrows: one\nlink: 225 GB/s\n")
    with pytest.raises(SpecError, match="in a circle: one > two > one"):
        load_collective_fits("one")
    write(tmp_path, "bare", "chip: bare\nlink: 225\nncl: {}\n")
    with pytest.raises(SpecError) as caught:
        load_collective_fits("bare")
    assert "bare.yaml:2: link: a bare number has no unit" in str(caught.value)
    assert "bare.yaml:3: ncl: unknown key; did you mean 'nccl'?" in str(caught.value)


def test_every_chip_has_constants_of_every_engines_all_reduce() -> None:
    """Kernels of its own or of a relative, HCCL where there are none; SGLang's are vLLM's."""
    for chip in names("chip"):
        fits = load_collective_fits(chip)
        assert fits.chip == chip
        if fits.nccl is None:
            assert fits.hccl is not None
            continue
        trtllm, like, own = (kernels_of(fits, name) for name in CUSTOM)
        assert trtllm is not None
        assert like is not None
        assert own is not None
        assert own.provenance in ("transferred", "assumed")
        assert own.one_shot == like.one_shot
