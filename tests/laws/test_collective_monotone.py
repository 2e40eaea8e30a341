"""Laws of all libraries: more bytes or ranks never take less time, and nothing beats its links.

Ranks double with as many in each domain. What was measured to be otherwise is left out: a mesh
gives each further rank a link of its own, and NCCL sends less through switches on eight ranks than
on four without them.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.shape import (
    EXPERT_OPERATIONS,
    LIBRARIES,
    OPERATIONS,
    Shape,
    bus_factor,
    unique_destinations,
)
from cluster_sim.collectives.time import CUSTOM, NCCL_CALLS, collective
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.collective_fits import CollectiveFits, load_collective_fits
from cluster_sim.specs.load import load_spec

OWN = ("a100_80g_sxm", "h100_sxm", "h200_sxm", "b200", "gb200", "l40s", "rtx4090")
ASCEND = ("ascend_910b", "ascend_910c")
CHIPS = (*OWN, *ASCEND)
MESHES = ("ascend_910b",)
CARDS = ("l40s", "rtx4090")
SIZES = 2.0 ** np.arange(8, 35, 2)
NIC = 50e9
HOP_S = 0.2e-6  # between the dies of a package, the shortest there is
TOP_K = 8
ROUNDING = 1 + 1e-12


@cache
def fits_of(chip: str) -> CollectiveFits:
    return load_collective_fits(chip)


@cache
def chip_of(chip: str) -> Chip:
    return load_spec("chip", chip, Chip)[1]


def pairs_of(chip: str) -> list[tuple[str, str]]:
    """Every library of a chip with every operation that it does; of NCCL the newest, to which other
    calls add a constant.
    """
    fits, found = fits_of(chip), []
    for library in LIBRARIES:
        if library in NCCL_CALLS:
            if fits.nccl is not None and library == "nccl":
                found += [(library, name) for name in OPERATIONS]
        elif library == "hccl":
            if fits.hccl is not None:
                found += [(library, name) for name in OPERATIONS]
        elif library in CUSTOM:
            if library in fits.custom:
                found.append((library, "all_reduce"))
        elif library in fits.experts:
            found += [(library, name) for name in EXPERT_OPERATIONS]
    return found


def shape_of(chip: str, ranks: int, domains: int, *, in_switch: bool) -> Shape:
    facts = chip_of(chip)
    return Shape(
        ranks=ranks,
        domains=domains,
        hosts=max(domains, -(-ranks // 8)),
        link_bytes_per_s=fits_of(chip).link,
        nic_bytes_per_s=NIC if domains > 1 else 0.0,
        in_switch=in_switch,
        mesh=chip in MESHES,
        pcie=chip in CARDS,
        architecture=facts.architecture,
        ranks_per_package=facts.devices_per_chip,
    )


def placements(chip: str, library: str) -> list[list[tuple[int, int]]]:
    """Ranks and domains of groups that double, by kind of placement."""
    kinds = [] if chip in MESHES else [[(2**k, 1) for k in range(3, 11)]]
    if "nvlink" in library:  # knows no NICs
        return kinds
    per_domain = (8,) if chip in MESHES else (1, 2, 8, 72)
    return kinds + [[(p * 2**k, 2**k) for k in range(11) if p * 2**k <= 1200] for p in per_domain]


def seconds(chip: str, library: str, operation: str, shape: Shape) -> np.ndarray:
    routing = Routing(top_k=TOP_K) if operation in EXPERT_OPERATIONS else None
    priced = collective(fits_of(chip), shape, operation, SIZES, library=library, routing=routing)
    return priced.seconds


def bound_s(operation: str, shape: Shape) -> np.ndarray:
    """What no library can beat: bytes that must leave a rank, or a domain, over their links."""
    n, domains, share = shape.ranks, shape.domains, 1.0
    if operation in ("all_gather", "reduce_scatter", "all_to_all"):
        share = bus_factor(operation, n)
    if operation in EXPERT_OPERATIONS:
        share = unique_destinations(TOP_K, n) / TOP_K
    inside = share * SIZES / shape.link_bytes_per_s
    if domains == 1:
        return inside + HOP_S
    out = (1 - 1 / domains) * SIZES / NIC
    if operation == "all_to_all":
        inside = inside * (shape.per_domain - 1) / (n - 1)
    elif operation in EXPERT_OPERATIONS:  # a token may go to as few domains as it likes
        return np.full_like(SIZES, HOP_S)
    else:
        out = (2 if operation == "all_reduce" else 1) * out / shape.per_domain
    if shape.per_domain == 1:
        inside = np.zeros_like(SIZES)
    return np.asarray(np.maximum(inside, out) + HOP_S)


@pytest.mark.parametrize("in_switch", [False, True])
@pytest.mark.parametrize("chip", CHIPS)
def test_more_bytes_or_ranks_never_take_less(chip: str, in_switch: bool) -> None:
    scale_up = chip_of(chip).scale_up
    if in_switch and not (scale_up and scale_up.in_switch_reduction):
        pytest.skip("no switches that reduce")
    for library, operation in pairs_of(chip):
        for placement in placements(chip, library):
            groups = [shape_of(chip, n, d, in_switch=in_switch) for n, d in placement if n > 1]
            times = [seconds(chip, library, operation, shape) for shape in groups]
            for (fewer, more), shape in zip(pairwise(times), groups[1:], strict=True):
                assert (fewer <= more * ROUNDING).all(), (library, operation, shape)
            for time, shape in zip(times, groups, strict=True):
                assert (np.diff(time) >= -1e-12).all(), (library, operation, shape)


@pytest.mark.parametrize("chip", CHIPS)
def test_nothing_beats_its_links(chip: str) -> None:
    for library, operation in pairs_of(chip):
        if operation == "send_recv":
            continue
        for placement in placements(chip, library):
            for ranks, domains in placement:
                if ranks == 1:
                    continue
                shape = shape_of(chip, ranks, domains, in_switch=False)
                time = seconds(chip, library, operation, shape)
                assert (time >= bound_s(operation, shape)).all(), (library, operation, shape)


@pytest.mark.parametrize("domains", [1, 2])
@pytest.mark.parametrize(("library", "operation"), pairs_of("gb200"))
def test_two_racks_take_no_less_than_one(library: str, operation: str, domains: int) -> None:
    """144 ranks of one domain, or of two of 72, against 72 of one."""
    if domains == 2 and "nvlink" in library:
        pytest.skip("knows no NICs")
    one = shape_of("gb200", 72, 1, in_switch=True)
    two = shape_of("gb200", 144, domains, in_switch=True)
    fewer = seconds("gb200", library, operation, one)
    assert (fewer <= seconds("gb200", library, operation, two) * ROUNDING).all()


@pytest.mark.parametrize("library", ["nccl", "vllm_custom", "trtllm_custom"])
def test_a_short_message_on_a_rack(library: str) -> None:
    """64 KiB on 72 GB200: tens of us, whoever is asked."""
    shape = shape_of("gb200", 72, 1, in_switch=True)
    priced = collective(fits_of("gb200"), shape, "all_reduce", np.array([2.0**16]), library=library)
    assert 30e-6 < priced.seconds[0] < 70e-6
    assert priced.word(0) == "extrapolated"
