"""Laws of a training step on the machine: folded or not it is the same, links conserve bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from training_jobs import job, pod, priced

from cluster_sim.machine.classes import Machine
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology
from cluster_sim.training.events import PlayedStep, play
from cluster_sim.training.ground import Ground, Own, Whole, ground_of
from cluster_sim.training.priced import Priced, schedule_of
from cluster_sim.training.ranks import Ranks
from cluster_sim.training.step_loads import axes_of, column_of, fold, work_of

PLANS: dict[str, dict[str, Any]] = {
    "tp, pp": {"plan__tp": 4, "plan__pp": 4},
    "interleaved": {"plan__tp": 2, "plan__pp": 4, "plan__vpp": 2, "plan__schedule": "interleaved"},
    "fsdp": {"plan__pp": 2, "plan__zero": 3},
    "cp over hosts": {"plan__tp": 4, "plan__cp": 4, "plan__pp": 2},
    "ep": {"name": "mixtral_8x7b_train", "plan__pp": 2, "plan__ep": 8},
    "dualpipe": {"plan__tp": 8, "plan__pp": 4, "plan__schedule": "dualpipe", "global_batch": 32},
}


def step(name: str, machine: TopologyInput) -> Priced:
    changes = {"global_batch": 64, "plan__recompute": "full", "layers": 16, **PLANS[name]}
    return priced(machine, job(**changes))


def on(one: Priced, ground: Ground, apart: Any = None) -> PlayedStep:
    plan = schedule_of(one.job)
    return play(fold(one, plan, ground, (column_of(one, plan, 0),), apart).works[0])


def whole(one: Priced) -> Whole:
    return Whole(one, Ranks(one.job), (tuple(range(one.job.dp)),))


def agree(one: PlayedStep, other: PlayedStep) -> None:
    assert one.end_s == pytest.approx(other.end_s, rel=1e-9)
    assert len(one.records) == len(other.records)
    for a, b in zip(sorted(one.records), sorted(other.records), strict=True):
        assert a[:5] == b[:5]
        assert a[5:] == pytest.approx(b[5:], abs=1e-9 * one.end_s)


@pytest.mark.parametrize("name", PLANS)
def test_the_devices_own_links_show_what_a_wide_network_does(name: str) -> None:
    one = step(name, pod(64))
    plan = schedule_of(one.job)
    assert isinstance(ground_of(one, axes_of([column_of(one, plan, 0)])), Own)
    agree(on(one, Own(one, Ranks(one.job))), on(one, whole(one)))


@pytest.mark.parametrize("changes", [[], ["topology.fabric.routing=ecmp"]], ids=["spread", "hash"])
@pytest.mark.parametrize("name", ["tp, pp", "ep", "dualpipe"])
def test_folded_is_unfolded(name: str, changes: list[str]) -> None:
    one = step(name, pod(32, *changes))
    ground = whole(one)
    folded, every = on(one, ground), on(one, ground, apart=range(len(ground.capacity)))
    agree(folded, every)


def test_the_same_bytes_twice() -> None:
    one, other = (step("tp, pp", pod(32, "topology.fabric.routing=ecmp")) for _ in range(2))
    assert play(work_of(one, schedule_of(one.job))) == play(work_of(other, schedule_of(other.job)))


def test_a_narrow_fabric_is_never_quicker() -> None:
    found = []
    for factor in (1, 2, 8):
        one = step("tp, pp", pod(64, f"topology.fabric.oversubscription={factor}"))
        found.append(play(work_of(one, schedule_of(one.job))).end_s)
    assert found == sorted(found)


@pytest.mark.parametrize("topology", ["h100_superpod", "h800_pod", "ascend_910b_pod"])
def test_what_enters_a_switch_leaves_it(topology: str) -> None:
    one = step("tp, pp", load_topology(topology, ["topology.chips=32"]))
    plan, ground = schedule_of(one.job), whole(one)
    machine: Machine = ground.resources.machine
    uses = {u for part in column_of(one, plan, 0).all() for u, _ in part.uses}
    for use in uses:
        links, amounts = ground.load(use)
        if use.what in ("sm", "hbm"):
            continue
        into, out = (
            np.bincount(ends[links], weights=amounts, minlength=machine.n_nodes)
            for ends in (machine.link_to, machine.link_from)
        )
        passing = np.arange(machine.n_nodes) >= machine.devices
        np.testing.assert_allclose(into[passing], out[passing], rtol=1e-9)
        assert into.sum() == pytest.approx(out.sum())
