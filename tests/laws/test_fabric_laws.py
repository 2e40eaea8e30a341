"""The fabric between hosts acts in training as in a collective: laws on one machine."""

from __future__ import annotations

import numpy as np
import pytest
from training_jobs import bare, job, pod

from cluster_sim.collectives.activity import Call, alone
from cluster_sim.collectives.group import groups_at_once, make_group
from cluster_sim.collectives.network import Network, unblocked
from cluster_sim.collectives.time import collective
from cluster_sim.errors import SpecError
from cluster_sim.machine.build import build_machine
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import load_topology
from cluster_sim.training.job import make_job
from cluster_sim.training.play import played_step
from cluster_sim.training.priced import price

PODS = ("h100_superpod", "b200_superpod", "gb200_nvl72_pod", "h800_pod")
MESSAGE = np.array([float(1 << 16), float(1 << 24), float(1 << 30)])


def step_s(machine: TopologyInput, given: TrainingInput) -> float:
    return played_step(price(make_job(machine, given)))[0].seconds


@pytest.mark.parametrize("name", PODS)
@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all", "send_recv"])
def test_an_unblocked_fabric_is_never_the_fullest(name: str, operation: str) -> None:
    """The short cut by theorem gives what all routes give."""
    topology = load_topology(name, ["topology.fabric.routing=adaptive"])
    machine = build_machine(topology)
    assert unblocked(machine)
    domain = machine.devices_per_domain
    count = max(2 * domain, min(machine.devices, 64) // domain * domain)
    for stride in (1, domain):
        ranks = count // stride
        rows = np.arange(count).reshape(ranks, stride).T
        group = groups_at_once(topology, rows, machine=machine)
        free = collective(topology.constants, group.shape, operation, MESSAGE)
        found = alone(group, Call(operation=operation), MESSAGE)
        assert found.seconds == pytest.approx(free.seconds, rel=1e-9)


@pytest.mark.parametrize("operation", ["all_reduce", "all_to_all", "send_recv"])
def test_less_fabric_is_never_faster(operation: str) -> None:
    before = np.zeros(len(MESSAGE))
    for ratio in (1, 2, 4, 8, 16):
        topology = pod(512, f"topology.fabric.oversubscription={ratio}")
        rows = np.arange(512).reshape(64, 8).T
        group = groups_at_once(topology, rows)
        found = alone(group, Call(operation=operation), MESSAGE).seconds
        assert (found >= before * (1 - 1e-12)).all()
        before = found


@pytest.mark.parametrize("ratio", [2, 4, 16])
@pytest.mark.parametrize(
    ("name", "plan", "crosses"),
    [
        # A ring in host order leaves each leaf once, over the one cable that 16 to 1 leaves it.
        ("llama3_70b_train", {"plan__tp": 8}, False),
        ("deepseek_v3_train", {"plan__tp": 1, "plan__ep": 256, "plan__zero": 0}, True),
    ],
)
def test_oversubscription_slows_a_step_by_what_its_collectives_lose(
    name: str, plan: dict[str, object], crosses: bool, ratio: int
) -> None:
    """Nothing is hidden, so the step grows by the sum over its collectives, to 5 %."""
    given = bare(job(name, global_batch=1024, layers=4, plan__overlap_gradients=False, **plan))
    small = "topology.fabric.hosts_per_leaf=16"
    full, less = pod(512, small), pod(512, small, f"topology.fabric.oversubscription={ratio}")
    grown = step_s(less, given) - step_s(full, given)
    jobs = [make_job(machine, given) for machine in (full, less)]
    lost = 0.0
    for one, sign in zip(jobs, (-1, 1), strict=True):
        priced = price(one)
        passes = (*priced.forward, *priced.backward, *priced.weight)
        inside = sum(sum(p.parts.get(k, 0.0) for k in ("tp", "ep", "cp")) for p in passes)
        once = sum(s.gradients.seconds + s.gather.seconds for s in priced.stages)
        lost += sign * (one.micro_batches * inside + once)
    assert (lost > 1e-3 * step_s(full, given)) == crosses
    assert grown == pytest.approx(lost, rel=0.05, abs=1e-9)


def test_stages_on_other_leaves_send_over_fewer_cables() -> None:
    given = bare(job("llama3_70b_train", global_batch=64, plan__tp=8, plan__pp=8))
    steps = [
        step_s(pod(512, f"topology.fabric.oversubscription={ratio}"), given) for ratio in (1, 4, 16)
    ]
    assert steps[0] == steps[1] < steps[2]  # eight flows over eight cables, then over two


def test_infinite_links_leave_nothing_of_it() -> None:
    given = bare(job("llama3_70b_train", global_batch=1024, layers=4, plan__tp=8))
    fast = ["topology.fabric.link=100 TB/s"]
    one = step_s(pod(512, *fast), given)
    other = step_s(pod(512, *fast, "topology.fabric.oversubscription=16"), given)
    assert other == pytest.approx(one, rel=1e-12)


def test_training_and_collective_ask_one_price() -> None:
    topology = pod(512, "topology.fabric.oversubscription=4", "topology.fabric.routing=ecmp")
    network = Network(topology)
    axis = network.axis(64, 8)
    group = groups_at_once(topology, np.arange(512).reshape(64, 8).T)
    for operation in ("all_gather", "all_to_all"):
        expected = alone(group, Call(operation=operation), MESSAGE).seconds
        found = [network.seconds(operation, axis, size) for size in MESSAGE.tolist()]
        assert found == pytest.approx(expected.tolist(), rel=1e-12)


CABLE = "host3/nic2>rail2/leaf0"


@pytest.mark.parametrize("operation", ["all_reduce", "all_to_all"])
def test_a_slow_cable_slows_those_who_cross_it(operation: str) -> None:
    rates = [f"topology.faults.{CABLE}={rate} GB/s" for rate in (50, 25, 5)]
    crossing, others = np.arange(2, 64, 8), np.arange(3, 64, 8)
    before = np.zeros(1)
    for rate in rates:
        topology = pod(64, rate)
        call, large = Call(operation=operation), MESSAGE[-1:]
        here = alone(make_group(topology, crossing), call, large).seconds
        there = alone(make_group(topology, others), call, large).seconds
        assert (here > before * 1.2).all()
        whole = alone(make_group(pod(64), others), call, large).seconds
        assert there == pytest.approx(whole, rel=1e-12)
        before = here
    free = alone(make_group(pod(64), crossing), Call(operation=operation), MESSAGE[-1:]).seconds
    assert before == pytest.approx(10 * free, rel=0.2)


def test_a_slow_cable_slows_the_step() -> None:
    given = bare(job("llama3_70b_train", global_batch=64, layers=4, plan__tp=8))
    whole, slow = step_s(pod(64), given), step_s(pod(64, f"topology.faults.{CABLE}=5 GB/s"), given)
    assert slow > 1.05 * whole


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("host3/nic2>rail2/leaf9=5 GB/s", "did you mean 'host3/nic2>rail2/leaf0'"),
        ("nonsense=5 GB/s", "no such cable"),
        ("host3/nic2>rail2/leaf0=60 GB/s", "50 GB/s when whole"),
        ("host3/nic2>rail2/leaf0=5", "a bare number has no unit"),
    ],
)
def test_cables_that_are_not_there(key: str, text: str) -> None:
    with pytest.raises(SpecError, match=text.replace("(", r"\(")):
        build_machine(pod(64, f"topology.faults.{key}"))


def test_a_host_that_is_cut_off_is_told_with_its_cause() -> None:
    given = bare(job("llama3_70b_train", global_batch=64, layers=4, plan__tp=8))
    with pytest.raises(SpecError, match=r"no way from .*; cables that are gone \(faults\) cut it"):
        step_s(pod(64, f"topology.faults.{CABLE}=0 GB/s"), given)
