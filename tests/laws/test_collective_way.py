"""Laws of the way between domains: its latency counts once for every step over it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cluster_sim.collectives.shape import EXPERT_OPERATIONS, OPERATIONS, Shape, hop_s
from cluster_sim.collectives.time import collective
from cluster_sim.specs.collective_fits import CollectiveFits, load_collective_fits

SIZES = 2.0 ** np.arange(10, 34, 4)
HOSTS = 8
WAYS = (0.0, 0.65e-6, 1.55e-6, 5e-6, 50e-6)


def group(fits: CollectiveFits, hosts: int = HOSTS) -> Shape:
    return Shape(
        ranks=8 * hosts,
        domains=hosts,
        hosts=hosts,
        link_bytes_per_s=fits.link,
        nic_bytes_per_s=25e9 if fits.nccl is None else 50e9,
        in_switch=fits.nccl is not None,
    )


def way_of(fits: CollectiveFits) -> float:
    constants = fits.hosts or fits.hccl
    assert constants is not None
    return constants.way


@pytest.mark.parametrize("chip", ["h100_sxm", "b200", "ascend_910b", "ascend_910c"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_longer_way_is_never_faster(chip: str, operation: str) -> None:
    fits = load_collective_fits(chip)
    shape = group(fits)
    times = [collective(fits, replace(shape, way_s=way), operation, SIZES).seconds for way in WAYS]
    for nearer, farther in zip(times, times[1:], strict=False):
        assert (nearer <= farther + 1e-15).all()
    assert (times[-1] >= WAYS[-1]).all()
    measured = collective(fits, shape, operation, SIZES).seconds
    same = collective(fits, replace(shape, way_s=way_of(fits)), operation, SIZES).seconds
    assert same == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize(
    ("operation", "algorithm", "steps"),
    [
        ("all_reduce", "ring", 2 * (HOSTS - 1)),
        ("all_gather", "ring", HOSTS - 1),
        ("reduce_scatter", "ring", HOSTS - 1),
        ("all_reduce", "nvlstree", 2 * math.log2(HOSTS)),
        ("all_to_all", None, 1),
        ("send_recv", None, 1),
    ],
)
def test_each_step_takes_the_way_once(operation: str, algorithm: str | None, steps: float) -> None:
    fits = load_collective_fits("h100_sxm")
    protocol = None if algorithm is None else "simple"
    near, far = (
        collective(
            fits,
            replace(group(fits), way_s=way),
            operation,
            SIZES,
            algorithm=algorithm,
            protocol=protocol,
        ).seconds
        for way in (2e-6, 12e-6)
    )
    assert far - near == pytest.approx(np.full_like(SIZES, steps * 10e-6), rel=1e-6)


def test_each_step_of_hccl_takes_the_way_once() -> None:
    """Halving-doubling over eight hosts: three steps there, three back."""
    fits = load_collective_fits("ascend_910c")
    near, far = (
        collective(fits, replace(group(fits), way_s=way), "all_reduce", SIZES).seconds
        for way in (2e-6, 12e-6)
    )
    assert far - near == pytest.approx(np.full_like(SIZES, 6 * 10e-6), rel=1e-6)


@pytest.mark.parametrize("chip", ["h100_sxm", "ascend_910c"])
@pytest.mark.parametrize("library", ["deepep_normal", "deepep_low_latency"])
@pytest.mark.parametrize("operation", EXPERT_OPERATIONS)
def test_tokens_of_experts_take_the_way_once(chip: str, library: str, operation: str) -> None:
    fits = load_collective_fits(chip)
    shape = group(fits)
    near, far = (
        collective(fits, replace(shape, way_s=way), operation, SIZES, library=library).seconds
        for way in (200e-6, 300e-6)
    )
    over_nics = far - near
    assert (over_nics <= 100e-6 * (1 + 1e-9)).all()
    assert over_nics[0] == pytest.approx(100e-6)


def test_a_hop_is_never_less_than_its_way() -> None:
    fits = load_collective_fits("h100_sxm")
    shape = replace(group(fits), way_s=4e-6)
    assert hop_s(3e-6, 1.55e-6, shape) == pytest.approx(5.45e-6)
    assert hop_s(1e-6, 1.55e-6, shape) == 4e-6
    assert hop_s(3e-6, 1.55e-6, replace(shape, way_s=None)) == 3e-6
