"""One memory of a device: what it delivers at most is the same for services, training, replays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_sim import load_topology, load_workload
from cluster_sim.beside import make_site
from cluster_sim.errors import SpecError
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.build import build_machine
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.serving.plan import resolve
from cluster_sim.training.replay_price import Place, capacities


@pytest.mark.parametrize(
    ("topology", "tb_s"), [("h100_nvl8", 2.97), ("h200_nvl8", 4.15), ("gb200_nvl72", 7.35)]
)
def test_the_ceiling_is_the_best_rate_that_was_measured(topology: str, tb_s: float) -> None:
    assert hbm_bytes_per_s(load_topology(topology)) == pytest.approx(tb_s * 1e12, rel=1e-4)


@pytest.mark.parametrize("topology", ["h200_nvl8", "b200_nvl8", "mi300x_8", "ascend_910c_8"])
def test_the_ceiling_scales_with_the_bandwidth(topology: str) -> None:
    plain = load_topology(topology)
    double = 2 * plain.chip.memory.bandwidth
    changed = load_topology(topology, [f"chip.memory.bandwidth={double!r} B/s"])
    assert hbm_bytes_per_s(changed) == pytest.approx(2 * hbm_bytes_per_s(plain), rel=1e-12)
    half = load_topology(topology, ["chip.memory.ceiling=0.5"])
    assert hbm_bytes_per_s(half) == plain.chip.device_bandwidth / 2


def test_without_a_ceiling_it_is_the_largest_share_of_a_curve() -> None:
    machine = load_topology("b200_nvl8")
    assert machine.chip.memory.ceiling is None
    share = hbm_bytes_per_s(machine) / machine.chip.device_bandwidth
    assert share == max(
        curve.memory
        for table in (machine.fits.gemm, machine.fits.moe, machine.fits.attention_decode)
        for curve in table.values()
    )


def test_services_and_replays_have_the_same_memory() -> None:
    machine, job = load_topology("h200_nvl8"), load_workload("llama8b")
    choice = resolve(machine, job)
    price = compile_step_price(machine, job.model, job.software, choice.layout, choice.recipe)
    served = make_site(machine, job, choice, price).capacity["host0/gpu3/hbm"]
    place = Place(topology=machine, machine=build_machine(machine), devices=(0, 1))
    replayed = capacities(place)[place.machine.n_links + 2 * 3 + 1]
    assert served == replayed == hbm_bytes_per_s(machine)
    assert np.isfinite(served)


def test_a_service_alone_refuses_it(runner: CliRunner, tmp_path: Path) -> None:
    from cluster_sim.cli import cli

    line = "run --topo h200_nvl8 --workload llama8b --rate 5 --requests 10 --quiet --set"
    words = [*line.split(), "chip.memory.ceiling=0.5", "--out", str(tmp_path)]
    done = runner.invoke(cli, words)
    assert done.exit_code != 0
    assert "nobody else reads the memory" in str(done.exception)


def test_a_ceiling_above_the_bandwidth_is_refused() -> None:
    with pytest.raises(SpecError, match="ceiling"):
        load_topology("h200_nvl8", ["chip.memory.ceiling=1.2"])
