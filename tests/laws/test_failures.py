"""Links that fail: flows take the ways that are left, and no byte is lost."""

from __future__ import annotations

import numpy as np
import pytest
from simpy.core import Environment

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.errors import SpecError
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Machine
from cluster_sim.machine.routes import Routes, Routing, paths
from cluster_sim.specs.load import load_topology
from cluster_sim.work import Activity, traffic

BYTES = 1e9


def pod() -> Machine:
    return build_machine(load_topology("h100_superpod", ["topology.chips=512"]))


def some_flows(machine: Machine, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    sources = draw.permutation(machine.devices)[:count]
    return sources, (sources + machine.devices // 2) % machine.devices


def uplinks(machine: Machine) -> np.ndarray:
    cables = machine.link_class("leaf-spine")
    return np.arange(cables.first, cables.first + cables.count)


@pytest.mark.parametrize("mode", ["ecmp", "adaptive"])
def test_only_flows_over_the_failed_links_change_their_way(mode: str) -> None:
    machine = pod()
    sources, targets = some_flows(machine, 64)
    rules = Routing(mode=mode)
    before = paths(machine, sources, targets, routing=rules)
    down = uplinks(machine)[:16]  # all of a leaf's to half of the spines
    after = paths(machine.without(down), sources, targets, routing=rules)
    cut = before.using(down.tolist())
    assert cut.any()
    assert not after.using(down.tolist()).any()
    for flow in np.flatnonzero(~cut):
        for old, new in zip(before.of(flow), after.of(flow), strict=True):
            assert (old == new).all()
    for flow in np.flatnonzero(cut):
        links, shares = after.of(flow)
        assert machine.link_from[links[0]] == machine.link_from[before.of(flow)[0][0]]
        into = machine.link_to[links] == machine.link_to[before.of(flow)[0][-1]]
        assert float(shares[into].sum()) == pytest.approx(1)


def test_a_device_without_any_way_is_named() -> None:
    machine = build_machine(load_topology("h200_nvl8"))
    out = np.flatnonzero(
        machine.link_from == machine.link_from[paths(machine, [0], [1]).of(0)[0][0]]
    )
    with pytest.raises(SpecError, match="no way from"):
        paths(machine.without(out.tolist()), [0], [1])


def activity(machine: Machine, routes: Routes, flow: int) -> Activity:
    links, shares = routes.of(flow)
    amounts = dict(zip(links.tolist(), (shares * BYTES).tolist(), strict=True))
    alone_s = max(amount / machine.link_bandwidth[link] for link, amount in amounts.items())
    return traffic(alone_s, amounts, {})


def test_a_failure_in_the_middle_of_transfers_loses_no_byte() -> None:
    machine = pod()
    sources, targets = some_flows(machine, 40)
    rules = Routing(mode="ecmp", seed=1)
    routes = paths(machine, sources, targets, routing=rules)
    env = Environment()
    engine = FluidEngine(env, machine.link_bandwidth.tolist())
    running = {flow: engine.start(activity(machine, routes, flow)) for flow in range(40)}
    down = int(np.intersect1d(uplinks(machine), routes.links)[0])
    failed_s = 0.5 * BYTES / 50e9
    ends = list(running.values())
    carried_then = []

    def fail():  # type: ignore[no-untyped-def]
        yield env.timeout(failed_s)
        engine.set_capacity(down, 0.0)
        left = machine.without([down])
        others = paths(left, sources, targets, routing=rules)
        for flow in np.flatnonzero(routes.using([down])).tolist():
            done = running[flow].cancel()
            assert 0 < done < 1
            ends.append(engine.start(activity(machine, others, flow), share=1 - done))
            ends.remove(running[flow])
        carried_then.append(engine.counters().carried[down])

    env.process(fail())
    env.run()
    assert all(end.triggered for end in ends)
    carried = np.array(engine.counters().carried)
    assert carried[down] == carried_then[0] > 0
    last = [int(routes.of(flow)[0][-1]) for flow in range(40)]
    domain_in = [np.flatnonzero(machine.link_to == machine.link_to[link]) for link in last]
    for links in domain_in:  # all bytes of a flow arrive at its device
        assert float(carried[links].sum()) == pytest.approx(BYTES, rel=1e-9)
