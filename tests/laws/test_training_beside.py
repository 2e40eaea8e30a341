"""Laws of a training step beside processes: who is slower, by how much, and who is not."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from training_jobs import bare, job, pod, priced

from cluster_sim.collectives.shape import bus_factor
from cluster_sim.engine.cluster import Cluster, Process
from cluster_sim.errors import ClusterSimError
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.train import train
from cluster_sim.training.events import PlayedStep, play
from cluster_sim.training.machine_use import Seen, seen
from cluster_sim.training.play import played_step
from cluster_sim.training.priced import Priced, schedule_of
from cluster_sim.training.step_loads import work_of

SMALL = {"global_batch": 16, "layers": 8}
PLANS: dict[str, dict[str, Any]] = {
    "tp, pp": {"plan__tp": 2, "plan__pp": 2},
    "tp over a host": {"plan__tp": 8},
    "fsdp": {"plan__zero": 3},
    "ep": {"name": "mixtral_8x7b_train", "plan__pp": 2, "plan__ep": 4},
}
Steps = Generator[Any, Any, None]


def small(name: str = "tp, pp", chips: int = 16) -> Priced:
    changes = {"name": "llama3_8b_train", **SMALL, **PLANS[name]}
    return priced(pod(chips), bare(job(**changes)))


def whole(one: Priced) -> PlayedStep:
    return play(work_of(one, schedule_of(one.job)))


def link(cluster: Cluster, start: str, end: str) -> str:
    return next(n for n in cluster.names if n.startswith(f"{start}>") and end in n)


def spans(played: PlayedStep, lane: str, stage: int) -> list[float]:
    return [r.end_s - r.start_s for r in played.records if (r.lane, r.stage) == (lane, stage)]


@pytest.mark.parametrize("name", PLANS)
def test_nobody_else_changes_nothing(name: str) -> None:
    def watching(cluster: Cluster) -> Steps:
        for at in ("host0/gpu3/hbm", "host1/gpu1/sm", link(cluster, "host0/gpu5", "nvswitch")):
            yield cluster.env.timeout(0.03)
            cluster.index(at)

    one = small(name)
    alone_s = whole(one).end_s
    assert seen(one).steps[0].end_s == pytest.approx(alone_s, rel=1e-9)
    assert seen(one, [watching]).steps[0].end_s == pytest.approx(alone_s, rel=1e-9)


def test_a_step_without_processes_has_the_bytes_that_it_had() -> None:
    machine, given = pod(16), job("llama3_8b_train", **SMALL)
    (one, _), (other, _) = train(machine, given), train(machine, given, processes=[])
    assert (one.summary, one.requests) == (other.summary, other.requests)
    assert one.manifest == other.manifest
    assert "machine" not in one.manifest


@pytest.mark.parametrize("name", PLANS)
def test_sm_seconds_are_those_of_the_ledger(name: str) -> None:
    one = small(name)
    step, _ = played_step(one, whole=True)
    used = seen(one).use()
    ledger_s = sum(step.owners[owner] for owner in ("compute", "recompute", "optimizer"))
    sms = [use for at, use in used.items() if at.endswith("/sm")]
    assert sum(use.carried for use in sms) == pytest.approx(one.job.devices * ledger_s)
    assert all(use.busy_s >= use.carried * (1 - 1e-9) for use in sms)
    if name != "ep":  # where experts wait for each other nothing holds kernels up
        assert sum(use.busy_s for use in sms) == pytest.approx(one.job.devices * ledger_s, rel=1e-3)


def test_nics_carry_what_collectives_send() -> None:
    """Gradients and parameters of two replicas over two hosts, rank by rank."""
    one = small("tp over a host")
    used = seen(one).use()
    stage = one.stages[0]
    size = sum(
        bus_factor(call.operation, 2) * call.message_bytes
        for call in (*stage.gradients.calls, *stage.gather.calls)
    )
    nics = [use.carried for at, use in used.items() if "/nic" in at.split(">")[0] and "leaf" in at]
    assert nics == pytest.approx([size] * 16)


def test_a_switch_gives_what_it_gets() -> None:
    used = seen(small("ep")).use()
    ends = [(at.partition(">")[0], at.partition(">")[2].partition("#")[0], use.carried)
            for at, use in used.items() if ">" in at]  # fmt: skip
    for switch in {start for start, _, _ in ends if "gpu" not in start and "cpu" not in start}:
        into = sum(carried for _, end, carried in ends if end == switch)
        out = sum(carried for start, _, carried in ends if start == switch)
        assert into == pytest.approx(out)


def test_half_the_memory_of_a_chip_delays_its_replica_by_the_fluid_rule() -> None:
    """All of the update streams at a share m of the memory's rate: beside a user of half of it that
    goes at 0.5 / m.
    """
    one = small("tp over a host")
    case = one.job.case
    alone = whole(one)
    update = next(r for r in alone.records if r.kind == "optimizer")
    rate = case.kernels.stream_bytes_per_s / hbm_bytes_per_s(case.kernels.machine)
    taken_s = 0.3 * (update.end_s - update.start_s)

    def user(cluster: Cluster) -> Steps:
        yield cluster.env.timeout(update.start_s + 0.1 * taken_s)
        yield cluster.use("host1/gpu2/hbm", taken_s, share=0.5)

    found = seen(one, [user])
    delay_s = found.steps[0].end_s - alone.end_s
    assert delay_s == pytest.approx(taken_s * (1 - 0.5 / rate), rel=1e-6)
    assert sorted(found.columns) == [(0,), (1,)]
    other = found.steps[found.columns.index((0,))]
    assert [r for r in other.records if r.kind == "optimizer"][0].end_s == pytest.approx(
        update.end_s, rel=1e-9
    )


def halving(start: str, end: str, factor: float = 0.5) -> Process:
    def user(cluster: Cluster) -> Steps:
        yield cluster.env.timeout(0.0)
        name = link(cluster, start, end)
        cluster.set_capacity(name, factor * cluster.engine.capacity[cluster.index(name)])

    return user


def test_a_slow_nic_slows_the_collectives_of_its_stage_alone() -> None:
    one = priced(pod(32), bare(job("llama3_8b_train", **SMALL, plan__tp=8, plan__pp=2)))
    alone, slow = seen(one).steps[0], seen(one, [halving("host0/nic0", "leaf")]).steps[0]
    for before, now in zip(
        spans(alone, "collective", 0), spans(slow, "collective", 0), strict=True
    ):
        assert 1.5 * before < now < 2.01 * before
    assert spans(slow, "collective", 1) == pytest.approx(spans(alone, "collective", 1), rel=1e-6)
    assert slow.end_s > alone.end_s


def test_a_slow_port_slows_the_passes_of_its_replica_alone() -> None:
    one = small()
    found = seen(one, [halving("host0/gpu3", "nvswitch", 0.2)])
    (alone,) = seen(one).steps
    assert sorted(found.columns) == [(0, 2, 3), (1,)]
    for replicas, step in zip(found.columns, found.steps, strict=True):
        busy_s, before_s = step.stages[0].busy_s, alone.stages[0].busy_s
        if replicas == (1,):
            assert busy_s > 1.02 * before_s
        else:
            assert busy_s == pytest.approx(before_s, rel=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_split_on_the_way_or_from_the_start(name: str) -> None:
    """Everything apart before anything runs, and only what a process names when it does."""

    def user(cluster: Cluster) -> Steps:
        yield cluster.env.timeout(0.04)
        yield cluster.use("host0/gpu3/hbm", 0.05, share=0.7)
        at = link(cluster, "host0/gpu6", "nvswitch")
        cluster.set_capacity(at, 0.3 * cluster.engine.capacity[cluster.index(at)])

    def every(cluster: Cluster) -> Steps:
        for at in cluster.names:
            cluster.index(at)
        yield cluster.env.timeout(0.0)

    one = small(name)
    folded, apart = seen(one, [user]), seen(one, [every, user])
    assert len(apart.columns) >= len(folded.columns)
    assert folded.steps[0].end_s > seen(one).steps[0].end_s
    assert folded.steps[0].end_s == pytest.approx(apart.steps[0].end_s, rel=1e-9)
    same(folded, apart)


def same(one: Seen, other: Seen) -> None:
    mine, theirs = one.use(), other.use()
    assert {at: use.carried for at, use in mine.items()} == pytest.approx(
        {at: use.carried for at, use in theirs.items()}, rel=1e-9
    )


def test_the_same_bytes_twice() -> None:
    one, other = (seen(small(), [halving("host0/gpu3", "nvswitch")]) for _ in range(2))
    assert (one.steps, one.use()) == (other.steps, other.use())


def test_a_link_that_is_down_holds_all_up_until_it_is_back() -> None:
    def cut(back_s: float | None) -> Process:
        def user(cluster: Cluster) -> Steps:
            yield cluster.env.timeout(0.05)
            name = link(cluster, "host0/gpu3", "nvswitch")
            before = cluster.engine.capacity[cluster.index(name)]
            cluster.set_capacity(name, 0.0)
            if back_s is not None:
                yield cluster.env.timeout(back_s)
                cluster.set_capacity(name, before)

        return user

    one = small()
    end_s = [seen(one, [cut(back_s)]).steps[0].end_s for back_s in (0.1, 1.0)]
    assert end_s[0] < end_s[1]
    assert end_s[1] > whole(one).end_s + 0.9
    with pytest.raises(ClusterSimError, match="the training step does not end: .* on stage 0"):
        seen(one, [cut(None)])


def test_a_process_that_never_ends_does_not_hold_the_step() -> None:
    def forever(cluster: Cluster) -> Steps:
        while True:
            yield cluster.env.timeout(0.01)

    one = small()
    assert seen(one, [forever]).steps[0].end_s == pytest.approx(whole(one).end_s, rel=1e-9)


def test_results_show_the_machine() -> None:
    machine, given = pod(16), job("llama3_8b_train", **SMALL)
    alone, _ = train(machine, given)
    slow, facts = train(machine, given, processes=[halving("host0/nic0", "leaf")])
    assert slow.cluster.keys() == alone.cluster.keys()
    assert slow.summary["step_time_s"] > alone.summary["step_time_s"]
    assert slow.summary["config_hash"] != alone.summary["config_hash"]
    row = slow.manifest["machine"]
    assert row["lost_s"] == pytest.approx(
        slow.summary["step_time_s"] - alone.summary["step_time_s"]
    )
    (name,) = row["resources"]
    assert row["resources"][name]["carried"] == pytest.approx(slow.cluster[name].carried)
    assert facts.step.seconds == slow.summary["step_time_s"]
    served = load_workload("llama8b", ["workload.requests=5", "workload.arrivals={kind: offline}"])
    with pytest.raises(ClusterSimError, match="keep=True"):
        simulate(load_topology("h200_nvl8"), served).cluster  # noqa: B018
    kept = simulate(load_topology("h200_nvl8"), served, keep=True).cluster
    assert kept["host0/gpu0/sm"].busy_s > 0
