"""Laws of the capacity search and of runs that are broken off."""

import pytest

from cluster_sim.capacity import _try
from cluster_sim.metrics import Targets, keeps_slo, latencies, targets
from cluster_sim.perf.memory import kv_cache
from cluster_sim.perf.plan import resolve
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.serving.generators import planned
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Service, serve
from cluster_sim.simulation import make_requests, make_service, simulate
from cluster_sim.specs.load import load_topology, load_workload


def _set_up(workload: str, count: int, *changes: str) -> tuple[Service, Requests, Targets]:
    machine = load_topology("h200_nvl8")
    job = load_workload(workload, [f"workload.requests={count}", *changes])
    size = job.software.memory.block_tokens
    requests = make_requests(job.workload, block_tokens=size)
    choice = resolve(machine, planned(job, requests, block_tokens=size))
    parts = (job.model, job.software, choice.layout, choice.recipe)
    price = compile_step_price(machine, *parts)
    cache = kv_cache(machine.chip, *parts)
    service = make_service(job, choice, price, cache, requests)
    return service, requests, targets(job.workload, requests)


SESSIONS = "workload.sessions={turns: {mean: 3, cv: 0.5, max: 9}, think: {mean: 20 s, cv: 1}}"
CLASSES = (
    "workload.isl=~",
    "workload.osl=~",
    "workload.classes=[{name: talk, share: 60 %, isl: {fixed: 900}, osl: {fixed: 200}, slo:"
    " {ttft: 1 s, tpot: 40 ms}}, {name: essay, share: 40 %, isl: {fixed: 3000}, osl: {fixed: 900},"
    " slo: {ttft: 9 s, attainment: 90 %}, priority: 1}]",
)


@pytest.mark.parametrize(
    ("rate", "slow"),
    [
        *((rate, False) for rate in (0.002, 0.1, 1.0)),
        (1.0, True),
        *(pytest.param(rate, True, marks=pytest.mark.slow) for rate in (0.002, 0.1)),
    ],
)
def test_breaking_off_never_changes_the_verdict(rate: float, slow: bool) -> None:
    service, requests, wanted = _set_up("reasoning", 300)
    timed = requests.at_rate(rate)
    full = latencies(serve(service, timed), timed, open_loop=True)
    assert _try(service, timed, wanted, step_by_step=slow)[0] == keeps_slo(full, wanted)


# Clients see tokens two seconds later than the engine.
LATER = ("engine.client_idle=0.2 s", "engine.client_loaded_steps=40")


@pytest.mark.parametrize(
    "changes", [[SESSIONS], CLASSES, LATER], ids=["sessions", "classes", "later"]
)
def test_breaking_off_never_changes_the_verdict_of_sessions_and_classes(
    changes: list[str],
) -> None:
    service, requests, wanted = _set_up("llama70b", 600, *changes)
    verdicts = set()
    for rate in (0.3, 1.0, 3.0, 6.0, 10.0, 14.0, 20.0, 60.0):
        timed = requests.at_rate(rate)
        full = latencies(serve(service, timed), timed, open_loop=True)
        kept = keeps_slo(full, wanted)
        verdicts.add(kept)
        assert _try(service, timed, wanted, step_by_step=False)[0] == kept
    assert verdicts == {True, False}


def test_capacity_stays_below_the_saturated_rate_when_no_rate_breaks_the_slo() -> None:
    job = load_workload("llama8b", ["workload.requests=300"])
    result = simulate(load_topology("h100_nvl8"), job)
    capacity = result.manifest["capacity"]
    saturation = result.manifest["saturation"]
    assert capacity["requests_per_s"] <= saturation["requests_per_s"] * (1 + 1e-12)
    assert (capacity["first_limit"] is None) == any("--requests" in n for n in _notes(result))


def _notes(result: object) -> list[str]:
    return result.manifest["notes"]  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("workload", ["llama70b", "llama70b_closed"])
def test_a_run_that_is_broken_off_reports_what_the_whole_run_did_until_then(
    workload: str, slow: bool
) -> None:
    service, requests, _ = _set_up(workload, 400)
    timed = requests.at_rate(8.0)

    def stop(_: Outcomes, arrivals: int, __: float) -> bool:
        return arrivals >= 250

    part = serve(service, timed, step_by_step=slow, watch=stop)
    whole = serve(service, timed, step_by_step=slow)
    assert part.interrupted
    assert 0 < part.known_s < whole.end_s
    early = [i for i, at_s in enumerate(whole.outcomes.first_s) if at_s < part.known_s]
    assert early
    for request in early:
        assert part.outcomes.first_s[request] == whole.outcomes.first_s[request]
