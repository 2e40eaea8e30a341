"""Laws of the timeline: slices nest, parts add up to the whole, counters stay in bounds, both paths
write the same file, and sampling keeps the number of slices.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from cluster_sim.kernels.power import chip_power_w
from cluster_sim.ledger import close_ledger
from cluster_sim.output import timeline as module
from cluster_sim.output import timeline_requests
from cluster_sim.output.timeline import Timeline, choose_windows, timeline
from cluster_sim.output.timeline_steps import inside
from cluster_sim.perf.family import Family
from cluster_sim.prepare import make_service
from cluster_sim.result import Result
from cluster_sim.serving.records import Status
from cluster_sim.serving.service import serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.summary import summarise_run
from cluster_sim.testing import facts, random_case

US = 1e-6
SEEDS = [*range(10), *range(12, 19), 28, 30, 33, 42, 58]  # of random cases that are short
OPEN = {"arrivals": {"kind": "open", "rate": "6 requests/s"}}
CLOSED = {"arrivals": {"kind": "closed", "concurrency": 12}}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "open": ("llama70b", {**OPEN, "requests": 150}),
    "closed": ("llama8b", {**CLOSED, "requests": 80, "plan.replicas": 2}),
    "offline": ("llama70b_offline", {"requests": 100}),
    "pipeline": ("llama70b", {**OPEN, "requests": 60, "plan.tp": 2, "plan.pp": 2}),
    "groups": ("llama70b", {**CLOSED, "requests": 60, "plan.tp": 2, "plan.replicas": 1}),
}
Recorded = tuple[Result, list[dict[str, Any]]]


def recorded_run(name: str) -> Result:
    workload, changes = RUNS[name]
    result = simulate(load_topology("h200_nvl8"), load_workload(workload, (), changes), record=True)
    return with_groups(result) if name == "groups" else result


def with_groups(result: Result) -> Result:
    """The same traffic on four attention groups that share what was the glue of each."""
    facts = result.facts
    assert facts is not None
    price = facts.price
    glue = next(family for family in price.families if family.name == "glue")
    assert glue.tokens_s is not None
    own = [family for family in price.families if family.name != "glue"]
    shared = np.interp(np.arange(4 * len(glue.tokens_s)), range(len(glue.tokens_s)), glue.tokens_s)
    price = dataclasses.replace(
        price,
        families=(*own, Family("expert_weights", glue.provenance, shared_s=shared)),
        tokens_s=(np.array(price.tokens_s) - glue.tokens_s).tolist(),
        decode_base_s=(
            np.array(price.decode_base_s) - glue.tokens_s[: len(price.decode_base_s)]
        ).tolist(),
        shared_s=shared,
    )
    choice = dataclasses.replace(
        facts.choice, layout=dataclasses.replace(facts.choice.layout, attn_dp=4)
    )
    service = make_service(facts.job, choice, price, facts.cache, facts.requests)
    run = serve(service, facts.requests, record=True)
    facts = dataclasses.replace(facts, price=price, choice=choice, run=run)
    return dataclasses.replace(result, facts=facts, requests=dict(summarise_run(facts)[1]))


@pytest.fixture(scope="module", params=sorted(RUNS))
def recorded(request: pytest.FixtureRequest) -> Recorded:
    """A run and the events of its timeline."""
    result = recorded_run(request.param)
    return result, list(timeline(result).events)


def slices(events: list[dict[str, Any]]) -> dict[int, list[tuple[float, float, dict[str, Any]]]]:
    """Slices by lane in order of the file: start, end (us), event."""
    lanes: dict[int, list[tuple[float, float, dict[str, Any]]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event))
    return lanes


def trees(lane: list[tuple[float, float, dict[str, Any]]]) -> list[tuple[Any, list[Any]]]:
    """Top slices of a lane with their children; fails where slices overlap without nesting."""
    roots: list[tuple[Any, list[Any]]] = []
    for start, end, event in sorted(lane, key=lambda slice_: (slice_[0], -slice_[1])):
        assert end > start, event
        if roots and start < roots[-1][0][1]:
            parent, children = roots[-1]
            assert end <= parent[1], (parent, event)
            assert not children or start >= children[-1][1], (children[-1], event)
            children.append((start, end, event))
        else:
            roots.append(((start, end, event), []))
    return roots


def is_request(event: dict[str, Any]) -> bool:
    return "request" in event.get("args", {})


def test_slices_nest_and_children_fill_their_parents(
    recorded: Recorded,
) -> None:
    _, events = recorded
    parents = 0
    for lane in slices(events).values():
        for (start, end, event), children in trees(lane):
            if event["name"] == "wait":
                assert not children
                continue
            parents += 1
            assert children, event
            assert children[0][0] == start
            assert sum(c[1] - c[0] for c in children) == pytest.approx(end - start, rel=1e-9)
            if not is_request(event):
                # The seconds of the price list, and those on the clock.
                seconds = event["args"]["seconds"]
                took = sum(seconds.values())
                assert took * 1e6 == pytest.approx(end - start, abs=0.2 + len(seconds) * 1e-3)
                assert {c[2]["name"] for c in children} <= set(seconds)
    assert parents > 100


def test_pairs_of_lane_and_name_are_told(recorded: Recorded) -> None:
    _, events = recorded
    named = {e["tid"]: e["pid"] for e in events if e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    for event in events:
        assert event["pid"] in processes
        if event["ph"] == "X":
            assert named[event["tid"]] == event["pid"]
            assert event["ts"] * 8 == int(event["ts"] * 8)  # a binary fraction, exact in ns
            assert int(event["ts"] * 1000.0) == event["ts"] * 1000


def test_busy_time_and_energy_are_those_of_the_ledger(
    recorded: Recorded,
) -> None:
    result, events = recorded
    assert result.facts is not None
    known, ranks = result.facts, result.facts.choice.layout.ranks
    ledger = close_ledger(known.price, known.run)
    busy_us = waiting_us = 0.0
    for tid, lane in slices(events).items():
        if tid % 100_000 <= ranks:
            for (start, end, event), children in trees(lane):
                busy_us += end - start
                inner = [c for c in children if c[2]["name"] == "wait"]
                waiting_us += sum(c[1] - c[0] for c in inner)
                waiting_us += (end - start) if event["name"] == "wait" else 0.0
    steps = sum(len(log.end_s) for log in known.run.logs)
    grid = steps * ranks * 1e-6
    assert busy_us * US == pytest.approx(ledger.busy_s, abs=grid)
    assert waiting_us * US == pytest.approx(ledger.bubble_s, abs=grid)

    end_s, chips = known.run.end_s, known.chips_used / known.choice.replicas
    energy = 0.0
    for process in range(1, known.choice.replicas + 1):
        values = counter(events, process, "power")
        times = [at for at, _ in values] + [end_s / US]
        energy += sum(w * (b - a) * US for (a, w), b in zip(values, times[1:], strict=True))
    shares = {name: ledger.share(name) for name in ledger.families_s}
    mean = chip_power_w(
        known.machine, {**shares, "bubble": ledger.share("bubble"), "idle": ledger.share("idle")}
    )
    expected = mean * chips * known.choice.replicas * end_s
    assert energy == pytest.approx(expected, rel=2e-3)


def counter(events: list[dict[str, Any]], process: int, name: str) -> list[tuple[float, float]]:
    return [
        (e["ts"], next(iter(e["args"].values())))
        for e in events
        if e["ph"] == "C" and e["pid"] == process and e["name"] == name
    ]


def test_every_request_is_there_once_with_phases_that_add_up(
    recorded: Recorded,
) -> None:
    """Slices are the engine's time; what clients see comes later."""
    result, events = recorded
    assert result.facts is not None
    outcomes, client = result.facts.run.outcomes, result.facts.run.client
    first_s, last_s = np.array(outcomes.first_s), np.array(outcomes.finish_s)
    token_s = (last_s - first_s) / np.maximum(1, np.array(outcomes.osl) - 1)
    held_s = client.held_s(outcomes.others, token_s, last_s - first_s)
    assert (held_s > 0).any()
    seen = {}
    for lane in slices(events).values():
        for (start, end, event), children in trees(lane):
            if is_request(event):
                args = event["args"]
                assert args["request"] not in seen
                seen[args["request"]] = args
                assert sum(c[1] - c[0] for c in children) == end - start
                later, held = client.idle_s * 1e3, held_s[args["request"]] * 1e3
                assert (end - start) / 1e3 == pytest.approx(args["e2e_ms"] - later, abs=1e-3)
                first = sum(c[1] - c[0] for c in children if c[2]["name"] != "decode")
                if args["preemptions"] == 0:
                    assert first / 1e3 == pytest.approx(args["ttft_ms"] - later - held, abs=1e-3)
    assert sorted(seen) == list(range(len(result.requests["request"])))


def test_counters_stay_in_bounds(recorded: Recorded) -> None:
    result, events = recorded
    assert result.facts is not None
    facts = result.facts
    room = facts.cache.blocks * facts.choice.layout.ranks
    used = []
    for process in range(1, facts.choice.replicas + 1):
        for name in ("batch", "queue", "kv_cache", "power"):
            values = [value for _, value in counter(events, process, name)]
            assert values
            assert min(values) >= 0
            if name != "power":
                assert values[-1] == 0  # everything has ended
        used += [value for _, value in counter(events, process, "kv_cache")]
    assert 0 < max(used) <= room


def facts_of(seed: int, template: Result, step_by_step: bool) -> Result:
    """A random service, recorded, in the clothes of a real run."""
    service, requests = random_case(seed)
    price = service.spec.price
    base = np.array(price.tokens_s)
    families = [
        Family("gemm_math", "measured", tokens_s=base, context_s=price.context_s),
        Family("host", "measured", sequences_s=np.array(price.sequences_s)),
        Family("attention_prefill", "measured", prefill_floor_s=1e-5, prompts=True),
        Family("swap", "assumed", swap_s=price.swap_s),
    ]
    if price.shared_s is not None:
        families.append(Family("expert_exchange", "assumed", shared_s=price.shared_s))
    spec = dataclasses.replace(
        service.spec, price=dataclasses.replace(price, families=tuple(families))
    )
    service = dataclasses.replace(service, spec=spec)
    run = serve(service, requests, step_by_step=step_by_step, record=True)
    assert template.facts is not None
    layout = dataclasses.replace(template.facts.choice.layout, pp=spec.ranks)
    known = dataclasses.replace(
        template.facts,
        price=spec.price,
        requests=requests,
        run=run,
        choice=dataclasses.replace(template.facts.choice, layout=layout, replicas=service.replicas),
    )
    seen = run.outcomes
    table = {
        **{name: getattr(seen, name) for name in ("isl", "osl", "replica", "preemptions")},
        "status": [status.name for status in seen.status],
        "ttft_ms": 1e3 * (np.array(seen.first_s) - np.array(seen.arrival_s)),
        "tpot_ms": np.full(len(seen.isl), np.nan),
        "e2e_ms": 1e3 * (np.array(seen.finish_s) - np.array(seen.arrival_s)),
        "within_slo": [status == Status.FINISHED for status in seen.status],
    }
    return dataclasses.replace(template, facts=known, requests=table)


@pytest.fixture(scope="module")
def template() -> Result:
    return recorded_run("open")


def text(drawn: Timeline) -> str:
    return json.dumps([drawn.about, list(drawn.events)], sort_keys=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_paths_write_the_same_timeline(seed: int, template: Result) -> None:
    fast, slow = (facts_of(seed, template, step_by_step) for step_by_step in (False, True))
    assert text(timeline(fast)) == text(timeline(slow))
    assert fast.facts is not None
    end_s = fast.facts.run.end_s
    part = (0.3 * end_s, 0.6 * end_s)
    if end_s > 0:
        assert text(timeline(fast, part)) == text(timeline(slow, part))
    events = list(timeline(fast).events)
    blocks, ranks = service_size(seed)
    for lane in slices(events).values():
        trees(lane)
    for event in events:
        if event["ph"] == "C":
            assert next(iter(event["args"].values())) >= 0
            assert event["name"] != "kv_cache" or event["args"]["blocks"] <= blocks * ranks
    run = fast.facts.run
    finished = [i for i, s in enumerate(run.outcomes.status) if s == Status.FINISHED]
    drawn = sorted(e["args"]["request"] for e in events if e["ph"] == "X" and is_request(e))
    assert drawn == finished
    preempted = sum(e["ph"] == "X" and e["name"] == "preempted" for e in events)
    assert preempted <= sum(run.outcomes.preemptions)


def service_size(seed: int) -> tuple[int, int]:
    service, _ = random_case(seed)
    return service.spec.blocks, service.spec.ranks


def test_the_cases_reach_what_is_drawn() -> None:
    reached = defaultdict(int)
    for seed in SEEDS:
        service, requests = random_case(seed)
        run = serve(service, requests, record=True)
        reached["preempted"] += sum(run.outcomes.preemptions) > 0
        reached["ranks"] += service.spec.ranks > 1
        reached["shared"] += service.spec.price.shared_s is not None
        reached["prefixes"] += run.hit_tokens > 0
        reached["closed"] += service.concurrency is not None
        reached["replicas"] += service.replicas > 1
    assert len(reached) == 6
    assert min(reached.values()) >= 2, reached


@pytest.mark.parametrize("seed", range(9))
def test_recording_changes_no_result(seed: int) -> None:
    service, requests = random_case(seed)
    assert facts(serve(service, requests)) == facts(serve(service, requests, record=True))


@pytest.mark.parametrize("seed", [4, 11])
def test_a_sampled_timeline_keeps_the_bounds(
    seed: int, template: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = facts_of(seed, template, False)
    slices_in_all = sum(e["ph"] == "X" for e in timeline(whole).events)
    monkeypatch.setattr(module, "DETAIL_SLICES", 400)
    monkeypatch.setattr(module, "REQUEST_SLICES", 100)
    monkeypatch.setattr(module, "COUNTER_VALUES", 200)
    monkeypatch.setattr(timeline_requests, "MAX_LANES", 9)
    for overview in (0, 50_000):
        monkeypatch.setattr(module, "OVERVIEW_SLICES", overview)
        drawn = timeline(whole)
        events = list(drawn.events)
        found = sum(e["ph"] == "X" for e in events)
        assert found < slices_in_all
        assert found <= 400 + overview + 100 + module.WINDOWS
        assert sum(e["ph"] == "C" for e in events) <= 200 + module.COUNTERS
        assert "show every step" in drawn.note
        for tid, lane in slices(events).items():
            trees(lane)
            assert tid % 100_000 < timeline_requests.FIRST_LANE + 9
        assert text(drawn := timeline(whole)) == text(timeline(whole))
        assert drawn.about["requests_drawn"] <= drawn.about["requests_in_span"]


def test_with_an_overview_no_step_is_missing(
    template: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DETAIL_SLICES", 3000)
    assert template.facts is not None
    events = list(timeline(template).events)
    counted = sum(
        event["args"].get("steps", 1)
        for tid, lane in slices(events).items()
        for (_, _, event), _ in trees(lane)
        if tid % 100_000 == 1 and event["name"] != "every step"
    )
    assert counted == sum(len(log.end_s) for log in template.facts.run.logs)
    assert any(" steps" in e["name"] for e in events)


def test_windows_are_even_and_small_enough() -> None:
    starts = np.sort(np.random.default_rng(0).random(10_000)) * 100
    for most in (0, 10, 500, 9_999, 10_000):
        windows = choose_windows(starts, most, (0.0, 100.0))
        assert inside(starts, windows).sum() <= most
        assert inside(starts, windows).sum() >= 0.8 * most - module.WINDOWS
        assert windows[0][0] == 0.0
        assert windows[-1][1] == pytest.approx(100.0)
    assert choose_windows(starts, 10_000, (0.0, 100.0)) == [(0.0, 100.0)]
