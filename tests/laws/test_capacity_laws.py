"""Laws of capacity and saturation: properties of machine, plan and workload, not of a sample."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from cluster_sim.capacity import Effort, Sample, find_capacity, find_saturation, sample_of
from cluster_sim.capacity.misses import Trial, bracket, fit_line, root_error
from cluster_sim.capacity.search import HOPELESS, _hopeless
from cluster_sim.metrics import Targets, latencies, meets_slo, targets
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.prepare import make_service, seats_of
from cluster_sim.serving.generators import draw_requests, planned
from cluster_sim.serving.plan import resolve
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Service, serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.testing import random_case

SESSIONS = "workload.sessions={turns: {mean: 3, cv: 0.5, max: 9}, think: {mean: 20 s, cv: 1}}"
CLASSES = (
    "workload.isl=~",
    "workload.osl=~",
    "workload.classes=[{name: talk, share: 60 %, isl: {fixed: 900}, osl: {fixed: 200}, slo:"
    " {ttft: 1 s, tpot: 40 ms}}, {name: essay, share: 40 %, isl: {fixed: 3000}, osl: {fixed: 900},"
    " slo: {ttft: 9 s, attainment: 90 %}, priority: 1}]",
)
CAPACITY = "capacity_output_tokens_per_s_per_chip"
SATURATION = "saturation_output_tokens_per_s_per_chip"


def _set_up(
    workload: str, *changes: str, topology: str = "h200_nvl8", seed: int = 0
) -> tuple[WorkloadInput, Service, Sample]:
    machine = load_topology(topology)
    job = load_workload(workload, [f"workload.seed={seed}", *changes]).on(machine.chip)
    size = job.software.memory.block_tokens
    weighed = planned(job, None, block_tokens=size)
    choice = resolve(machine, weighed)
    parts = (job.model, job.software, choice.layout, choice.recipe)
    price = compile_step_price(machine, *parts)
    cache = kv_cache(machine.chip, *parts)
    service = make_service(job, choice, price, cache)
    seats = seats_of(weighed, choice, cache)
    return job, service, sample_of(service, job.workload, block_tokens=size, seats=seats)


def _timed(job: WorkloadInput, count: int, rate: float) -> tuple[Requests, Targets]:
    size = job.software.memory.block_tokens
    requests = draw_requests(job.workload, count, seed=0, block_tokens=size).at_rate(rate)
    return requests, targets(job.workload, requests)


@pytest.mark.parametrize("changes", [(SESSIONS,), CLASSES, ()], ids=["sessions", "classes", "one"])
def test_a_try_is_broken_off_only_where_its_slo_is_missed(changes: tuple[str, ...]) -> None:
    job, service, sample = _set_up("llama70b", *changes)
    verdicts = set()
    for rate in (1.0, 6.0, 14.0, 60.0, 200.0):
        timed, wanted = _timed(job, 600, rate)

        def hopeless(
            outcomes: Outcomes,
            _: int,
            now_s: float,
            requests: Requests = timed,
            slos: Targets = wanted,
        ) -> bool:
            return _hopeless(outcomes, requests, slos, now_s, sample)

        run = serve(service, timed, watch=hopeless)
        verdicts.add(run.interrupted)
        if run.interrupted:
            whole = serve(service, timed)
            missed = ~meets_slo(latencies(whole, timed), wanted)
            shares = [
                missed[wanted.members(k, len(timed))].mean() / (1 - slo.attainment)
                for k, slo in enumerate(wanted.slos)
                if slo.limits
            ]
            assert max(shares) > HOPELESS
    assert verdicts == {True, False}


def test_a_replica_behind_a_round_robin_is_a_replica_on_its_share_of_the_stream() -> None:
    seen = 0
    for seed in range(60):
        service, requests = random_case(seed)
        service = dataclasses.replace(service, router="round_robin", concurrency=None)
        service = dataclasses.replace(service, max_context=10**6)
        if requests.after is not None or service.replicas < 2 or len(requests) < 10:
            continue
        if service.spec.prefixes is not None:
            continue
        whole = serve(service, requests)
        if any(status > 1 for status in whole.outcomes.status):
            continue  # rejected requests take no turn of the router
        for index in range(service.replicas):
            mine = np.arange(index, len(requests), service.replicas)
            alone = serve(dataclasses.replace(service, replicas=1), requests.take(mine))
            for name in ("first_s", "finish_s"):
                expected = np.array(getattr(whole.outcomes, name))[mine]
                assert np.array(getattr(alone.outcomes, name)).tolist() == expected.tolist()
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("every", [1, 4, 72])
def test_every_so_many_th_start_has_the_gaps_of_sums(every: int) -> None:
    job = load_workload("llama70b")
    cv = job.workload.arrivals.cv
    gaps = np.diff(draw_requests(job.workload, 40_000, seed=3, every=every).arrival_s)
    assert gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert gaps.std() == pytest.approx(cv / math.sqrt(every), rel=0.03)


def test_one_seat_gives_one_service_after_the_other() -> None:
    """Closed form: a batch of one, fixed lengths: one answer a service time."""
    fixed = ("workload.isl={fixed: 64}", "workload.osl={fixed: 20}")
    job, service, sample = _set_up("llama8b", "engine.max_num_seqs=1", *fixed)
    alone = serve(sample.service, draw_requests(job.workload, 1, seed=0))
    service_s = alone.outcomes.finish_s[0] - alone.outcomes.arrival_s[0]
    found = find_saturation(sample, Effort())
    assert found.requests_per_s == pytest.approx(service.replicas / service_s, rel=0.01)


def test_no_capacity_beyond_saturation_and_none_breaks_below_it() -> None:
    loose = ("workload.slo={ttft: 30 s, tpot: 2 s, attainment: 90%}", "workload.sampling_error=4%")
    result = simulate("h100_nvl8", load_workload("llama8b", list(loose)))
    capacity, saturation = result.manifest["capacity"], result.manifest["saturation"]
    assert capacity["requests_per_s"] <= saturation["requests_per_s"]
    assert capacity["first_limit"] is None
    assert result.summary[f"{CAPACITY}_status"] == "ok"


def _row(topology: str, workload: str, *changes: str) -> dict[str, object]:
    return simulate(topology, load_workload(workload, list(changes))).summary


def test_a_machine_of_more_equal_replicas_gives_as_much_per_chip() -> None:
    plan = ("plan.tp=1",)
    small, large = (_row(f"{n} x b200", "llama8b", *plan) for n in (2, 16))
    assert large[SATURATION] == pytest.approx(small[SATURATION], rel=0.01)  # type: ignore[arg-type]
    ratio = large[CAPACITY] / small[CAPACITY]  # type: ignore[operator]
    assert 0.99 <= ratio <= 1.05


def test_a_stated_number_of_requests_that_tells_nothing_gives_no_figure() -> None:
    result = simulate("h200_nvl8", load_workload("llama70b", ["workload.requests=60"]))
    row = result.summary
    for name in (CAPACITY, SATURATION, "output_tokens_per_s", "usd_per_m_output_tokens"):
        assert row[name] is None
        assert row[f"{name}_status"] == "too_short"
    assert any("no figure" in note for note in result.manifest["notes"])


def test_requests_too_long_for_the_model_are_named() -> None:
    result = simulate(
        "h200_nvl8",
        load_workload(
            "llama70b",
            [
                "workload.isl={quantiles: {0%: 100, 90%: 200, 100%: 900000}}",
                "workload.requests=600",
                "plan.tp=8",
            ],
        ),
    )
    assert result.summary[f"{CAPACITY}_status"] == "not_kept"
    assert any("longer than the context" in note for note in result.manifest["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "workload", "name"),
    [
        ("h200_nvl8", "llama70b", "capacity"),
        ("h200_nvl8", "llama70b", "saturation"),
        ("b200_nvl8", "reasoning", "saturation"),
        ("h20_nvl8", "qwen3_32b", "capacity"),
    ],
)
def test_the_printed_error_is_what_seeds_show(topology: str, workload: str, name: str) -> None:
    """Over 20 seeds: the deviation of the figure against the one that its interval implies."""
    found, errors = [], []
    for seed in range(20):
        _, _, sample = _set_up(workload, topology=topology, seed=seed)
        flat_out = find_saturation(sample, Effort())
        if name == "saturation":
            found.append(flat_out.output_tokens_per_s)
            errors.append(flat_out.error)
            continue
        bound = (flat_out.starts_per_s, flat_out.error)
        capacity = find_capacity(sample, Effort(), *bound)
        found.append(capacity.requests_per_s * capacity.osl_mean)
        errors.append(capacity.error)
    deviation = float(np.std(found, ddof=1) / np.mean(found))
    assert 0.7 <= deviation / (float(np.mean(errors)) / 1.96) <= 1.3


def _trial(rate: float, missed: list[float], counted: float = 1000.0) -> Trial:
    return Trial(math.log(rate), np.array(missed), np.full(len(missed), counted))


def test_a_line_of_misses_is_found_again() -> None:
    rng = np.random.default_rng(1)
    roots, errors = [], []
    for _ in range(60):
        trials = [
            _trial(rate, rng.poisson(10.0 * rate**8, 4).tolist()) for rate in (0.9, 0.95, 1.0, 1.08)
        ]
        line = fit_line(trials, 0.01)
        roots.append(line.root(0.01))
        errors.append(root_error(trials, 0.01, line))
    assert np.mean(roots) == pytest.approx(0.0, abs=0.01)
    assert np.std(roots) == pytest.approx(np.mean(errors) / 2.1, rel=0.35)


def test_a_try_without_a_request_of_the_class_decides_nothing() -> None:
    seen = [_trial(rate, [10.0 * rate**8] * 2) for rate in (0.9, 1.1)]
    nothing = Trial(math.log(1.05), np.zeros(2), np.zeros(2))
    root = fit_line(seen, 0.01).root(0.01)
    assert fit_line([*seen, nothing], 0.01).root(0.01) == pytest.approx(root, abs=0.02)


@pytest.mark.slow
def test_all_requests_within_the_slo_is_a_capacity_too() -> None:
    slo = "workload.slo={ttft: 4 s, tpot: 60 ms, attainment: 100%}"
    strict = _row("4 x h200_sxm", "llama8b", slo, "workload.sampling_error=8%")
    loose = _row("4 x h200_sxm", "llama8b", slo.replace("100%", "95%"))
    assert 0 < strict[CAPACITY] < loose[CAPACITY] * 1.05  # type: ignore[operator]


def test_a_bracket_pools_tries_in_the_wrong_order() -> None:
    trials = [_trial(1.0, [0.0]), _trial(1.1, [30.0]), _trial(1.2, [5.0]), _trial(1.3, [40.0])]
    low, high = bracket(trials, 0.01)
    assert low == 0.0
    assert math.exp(high) == pytest.approx(1.1)
    low, high = bracket([_trial(1.0, [0.0])], 0.01)
    assert (low, high) == (0.0, math.inf)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("workload", ["llama70b", "llama70b_closed"])
def test_a_run_that_is_broken_off_reports_what_the_whole_run_did_until_then(
    workload: str, slow: bool
) -> None:
    job, service, _ = _set_up(workload)
    timed, _ = _timed(job, 400, 8.0)

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


def test_a_few_sessions_tell_nothing_of_a_machine_that_holds_many() -> None:
    changes = [SESSIONS, "workload.requests=60", "plan.tp=2"]
    result = simulate("h200_nvl8", load_workload("llama70b", changes))
    for name in (CAPACITY, SATURATION):
        assert result.summary[name] is None
        assert result.summary[f"{name}_status"] == "too_short"
    assert any("cannot fill a machine" in note for note in result.manifest["notes"])
    assert result.summary["load"] == "70% of closed form"


def test_a_run_that_ends_while_it_fills_up_is_not_called_overloaded() -> None:
    changes = ["workload.arrivals={kind: open, rate: 280 requests/s}", "workload.requests=1500"]
    result = simulate("h200_nvl8", load_workload("llama8b", [*changes, "plan.tp=1"]))
    assert result.summary["stable"] is None
    assert not any("overloaded" in note for note in result.manifest["notes"])
    assert result.summary["ttft_mean_ms_status"] == "ok"


def test_one_request_has_a_latency_but_no_error() -> None:
    changes = ["workload.arrivals={kind: open, rate: 1 requests/s}", "workload.requests=1"]
    row = simulate("h200_nvl8", load_workload("llama8b", [*changes, "plan.tp=1"])).summary
    assert row["tpot_mean_ms"] > 0
    assert (row["tpot_mean_ms_status"], row["tpot_mean_ms_error"]) == ("too_short", None)


def test_no_rate_beyond_its_error() -> None:
    """A mix of long sessions: few of them say nothing of a rate."""
    result = simulate("h200_nvl8", load_workload("mixed", ["workload.requests=50", "plan.tp=2"]))
    assert result.summary["output_tokens_per_s"] is None
    text = " ".join(result.manifest["notes"])
    assert "no rates and costs" in text
    assert "inf" not in text


@pytest.mark.slow
def test_a_scheduler_that_evicts_gives_less_with_a_backlog_than_within_the_slo() -> None:
    changes = ["engine.scheduler=trtllm_max_utilization", "plan.tp=2"]
    changes.append("workload.sampling_error=9%")
    result = simulate("h200_nvl8", load_workload("reasoning", changes))
    row = result.summary
    assert row[CAPACITY] > 1.2 * row[SATURATION]
    assert row["stable"] is True
    assert any("evicts" in note for note in result.manifest["notes"])
