"""Laws of traffic: sessions, classes, prefixes, priorities, time scales."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_sim.metrics import Targets, latencies
from cluster_sim.prepare import read_requests
from cluster_sim.serving.generators import draw_lengths, draw_requests, planned
from cluster_sim.serving.prefix_cache import PrefixCache
from cluster_sim.serving.records import Status
from cluster_sim.serving.requests import Requests, prefixes_of_runs
from cluster_sim.serving.service import serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.workload import Lengths, Slo
from cluster_sim.testing import random_case

SHORT = "isl: {mean: 400, cv: 1, max: 5000}, osl: {mean: 60, cv: 0.7, max: 500}"
SESSIONS = "sessions: {turns: {mean: 3, cv: 0.5, max: 9}, think: {mean: 300 ms, cv: 1}}"
PREFIX = "prefix: {tokens: 700, groups: 3, share: 80 %}"
SLO = "slo: {ttft: 200 ms, tpot: 20 ms, attainment: 90 %}"


def written(
    tmp_path: Path, traffic: str, arrivals: str = "{kind: open, rate: 9 requests/s}"
) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"title: mine\nmodel: llama3.1-8b\nsoftware: vllm\ntraffic: made up\nrequests: 300\n"
        f"arrivals: {arrivals}\nplan: {{tp: 1, replicas: 2}}\n{traffic}"
    )
    return str(path)


def lines(*parts: str) -> str:
    """Keys of the workload from the parts of a class."""
    keys = load_yaml("{" + ", ".join(parts) + "}")
    return "\n".join(f"{key}: {value}" for key, value in keys.items())


def load_yaml(text: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(text)
    return found


def same_results(first: str, second: str, machine: TopologyInput) -> None:
    one, two = (simulate(machine, load_workload(path)) for path in (first, second))
    hidden = {"run_id", "workload", "config_hash"}
    assert {k: v for k, v in one.summary.items() if k not in hidden} == {
        k: v for k, v in two.summary.items() if k not in hidden
    }
    assert list(one.requests) == list(two.requests)
    for name, column in one.requests.items():
        assert np.array_equal(
            np.array(column), np.array(two.requests[name]), equal_nan=name.endswith("ms")
        )


@pytest.mark.parametrize("parts", [(), (PREFIX,), (SESSIONS,), (PREFIX, SESSIONS)])
@pytest.mark.parametrize("arrivals", ["{kind: open, load: 60 %}", "{kind: closed, concurrency: 9}"])
def test_a_mix_of_one_class_is_the_class(
    h200: TopologyInput, tmp_path: Path, parts: tuple[str, ...], arrivals: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = written(tmp_path / "a", lines(SHORT, SLO, *parts), arrivals)
    inside = ", ".join((SHORT, SLO, *parts))
    mix = f"classes: [{{name: all, share: 100 %, priority: 4, {inside}}}]\n"
    same_results(alone, written(tmp_path / "b", mix, arrivals), h200)


def test_a_cache_that_is_off_is_no_cache(h200: TopologyInput, tmp_path: Path) -> None:
    off = written(tmp_path, lines(SHORT, PREFIX, SESSIONS) + "\nengine: {prefix_cache: false}\n")
    job = load_workload(off)
    size = job.software.memory.block_tokens
    requests = draw_requests(job.workload, 100, seed=0, block_tokens=size)
    assert requests.prefixes is not None
    result = simulate(h200, job)
    assert result.summary["prefix_hit_share"] is None
    on = load_workload(off, ["engine.prefix_cache=true"])
    assert simulate(h200, on).summary["prefix_hit_share"] > 0.3
    # prompts that share nothing: the cache finds nothing, and the times are those without it
    alone = "prefix: {tokens: 700, groups: 1000000}"
    strangers = written(tmp_path, lines(SHORT, alone))
    found = simulate(h200, load_workload(strangers))
    assert found.summary["prefix_hit_share"] == 0
    none = simulate(h200, load_workload(strangers, ["engine.prefix_cache=false"]))
    assert list(found.requests["e2e_ms"]) == list(none.requests["e2e_ms"])


def test_turns_come_when_the_end_of_the_former_was_seen() -> None:
    sessions = rejected = 0
    for seed in range(2000, 2060):
        service, requests = random_case(seed)
        if requests.after is None or requests.think_s is None:
            continue
        for slow in (False, True):
            run = serve(service, requests, step_by_step=slow)
            arrival, finish = np.array(run.outcomes.arrival_s), np.array(run.outcomes.finish_s)
            status = run.outcomes.status
            for i, former in enumerate(requests.after.tolist()):
                if former < 0:
                    continue
                if status[former] == Status.FINISHED:
                    earliest = 0.0 if service.concurrency else requests.arrival_s[i]
                    seen_s = service.client.seen_s(finish[former])
                    assert arrival[i] == max(earliest, seen_s + requests.think_s[i])
                else:
                    rejected += 1
                    assert status[i] > Status.FINISHED
                    assert arrival[i] == arrival[former]
                sessions += 1
    assert sessions > 300
    assert rejected > 0


def test_at_a_rate_sessions_start_and_gaps_scale() -> None:
    job = load_workload("mixed").workload
    requests = draw_requests(job, 3000, seed=1)
    assert requests.starts < len(requests)
    timed = requests.at_rate(4.0)
    assert timed.arrival_s[-1] == pytest.approx(timed.starts / 4.0)
    assert requests.faster(2.0).arrival_s.tolist() == (requests.arrival_s / 2).tolist()
    first = requests.first(100)
    assert first.after is not None
    assert requests.after is not None
    assert first.after.tolist() == requests.after[:100].tolist()


def test_twice_as_fast_halves_every_gap_exactly(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    rows = np.cumsum(draw.gamma(0.5, 0.7, 500))
    text = "arrival_s,isl,osl\n" + "".join(f"{at!r},9,9\n" for at in rows.tolist())
    (tmp_path / "trace.csv").write_text(text)

    def replayed(scale: float) -> Requests:
        arrivals = f"{{kind: trace, trace: {tmp_path}/trace.csv, time_scale: {scale}}}"
        path = written(tmp_path, "", arrivals)
        requests = read_requests(load_workload(path, ["workload.requests=auto"]))
        assert requests is not None
        return requests

    slow, fast = replayed(1), replayed(2)
    assert (fast.arrival_s * 2 == slow.arrival_s).all()
    assert (np.diff(fast.arrival_s) * 2 == np.diff(slow.arrival_s)).all()


def test_drawn_traffic_has_the_shares_that_were_asked_for() -> None:
    job = load_workload("mixed")
    requests = draw_requests(job.workload, 40_000, seed=3, block_tokens=16)
    assert requests.slo_class is not None
    assert requests.after is not None
    assert requests.prefixes is not None
    label = requests.slo_class[requests.after < 0]
    for k, part in enumerate(job.workload.classes):
        assert (label == k).mean() == pytest.approx(part.share, abs=0.015)
    chat = requests.slo_class == 0
    sessions = chat & (requests.after < 0)
    turns = job.workload.classes[0].sessions
    assert turns is not None
    assert chat.sum() / sessions.sum() == pytest.approx(turns.turns.average, rel=0.04)
    with_prompt = [
        requests.prefixes.of(i)[0][0] < 1 << 40 for i in np.flatnonzero(sessions).tolist()
    ]
    assert np.mean(with_prompt) == pytest.approx(0.8, abs=0.02)
    later = np.flatnonzero(chat & (requests.after >= 0))
    before = requests.after[later]
    assert (requests.isl[later] > requests.isl[before] + requests.osl[before]).all()


@pytest.mark.parametrize("cv", [0.1, 0.6, 2.0])
def test_log_normal_lengths_have_their_mean(cv: float) -> None:
    lengths = Lengths(mean=700, cv=cv, max=1500)
    drawn = draw_lengths(lengths, 200_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(lengths.average, rel=0.005)
    assert drawn.max() <= 1500
    wide = Lengths(mean=700, cv=cv, max=10_000_000)
    drawn = draw_lengths(wide, 400_000, np.random.default_rng(2))
    assert wide.average == pytest.approx(700, rel=1e-6)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.05)


def test_the_plan_of_a_mix_does_not_depend_on_the_seed() -> None:
    shapes = set()
    for seed in (0, 1):
        job = load_workload("mixed", [f"workload.seed={seed}"])
        shapes.add(planned(job, None, block_tokens=16).workload.shape)
    assert len(shapes) == 1


def test_priorities_serve_the_urgent_first() -> None:
    """Statistically: over 20 overloaded services, urgent requests wait less, the others more."""
    urgent, patient = [], []
    for seed in range(20):
        service, requests = random_case(4000 + seed)
        draw = np.random.default_rng(seed)
        spec = dataclasses.replace(service.spec, max_num_seqs=8, swap=False)
        service = dataclasses.replace(service, spec=spec, concurrency=None, max_context=10**6)
        plain = Requests(requests.arrival_s * 0.2, requests.isl, requests.osl)
        priority = draw.integers(0, 2, len(plain))
        waits = []
        for given in (None, priority):
            timed = dataclasses.replace(plain, priority=given)
            waits.append(latencies(serve(service, timed), timed).ttft_s)
        if (priority == 0).any() and (priority == 1).any():
            urgent.append(np.nanmean((waits[1] - waits[0])[priority == 0]))
            patient.append(np.nanmean((waits[1] - waits[0])[priority == 1]))
    assert np.mean(urgent) < 0 < np.mean(patient)
    assert np.mean(np.array(urgent) <= 1e-9) > 0.85


def test_each_request_is_judged_by_its_own_class() -> None:
    slos = (Slo(ttft=1.0), Slo(tpot=0.5), Slo())
    wanted = Targets(slos, np.array([0, 1, 2, 0]))
    limit = wanted.limit("ttft")
    assert isinstance(limit, np.ndarray)
    assert limit.tolist() == [1.0, np.inf, np.inf, 1.0]
    assert wanted.limit("e2e") is None
    assert wanted.limits


class NaiveCache:
    """Every unit on its own: who uses it, and since when nobody does."""

    def __init__(self) -> None:
        self.users: dict[tuple[int, ...], set[int]] = {}

    def match(self, chain: list[int], most: int) -> int:
        found = 0
        while found < min(most, len(chain)) and tuple(chain[: found + 1]) in self.users:
            found += 1
        return found

    def idle(self) -> int:
        return sum(not users for users in self.users.values())


def test_the_cache_by_runs_finds_what_one_by_units_finds() -> None:
    """Random acquiring, inserting, releasing and forgetting."""
    rng = random.Random(1)
    hits = forgotten = 0
    for _ in range(60):
        count = 30
        first = np.array([rng.randrange(0, 6) for _ in range(count)])
        second = np.array([rng.randrange(0, 6) for _ in range(count)])
        texts = [np.array([rng.randrange(2) for _ in range(count)]) for _ in range(2)]
        prefixes = prefixes_of_runs([(texts[0], first), (texts[1], second)], 4)
        if prefixes is None:
            continue
        cache, naive = PrefixCache(prefixes, 2, 100), NaiveCache()
        chains = [
            [10 * text + 0 for text, units in prefixes.of(i)[:1] for _ in range(units)]
            + [100 + text for text, units in prefixes.of(i)[1:] for _ in range(units)]
            for i in range(count)
        ]
        running: dict[int, int] = {}
        for step in range(120):
            waiting = [i for i in range(count) if i not in running]
            if waiting and (rng.random() < 0.5 or not running):
                i = rng.choice(waiting)
                tokens = 4 * len(chains[i]) + rng.randrange(1, 4)
                expected = naive.match(chains[i], (tokens - 1) // 4)
                used = sum(bool(naive.users[tuple(chains[i][: k + 1])]) for k in range(expected))
                assert cache.match(i, tokens) == (4 * expected, 2 * used)
                assert cache.acquire(i, tokens) == 4 * expected
                hits += expected
                for k in range(expected):
                    naive.users[tuple(chains[i][: k + 1])].add(i)
                held = expected
                cache.insert(i, tokens)
                while held < len(chains[i]) and tuple(chains[i][: held + 1]) not in naive.users:
                    naive.users[tuple(chains[i][: held + 1])] = {i}
                    held += 1
                running[i] = held
            elif running:
                i = rng.choice(list(running))
                held = running.pop(i)
                keys = [tuple(chains[i][: k + 1]) for k in range(held)]
                assert cache.shared_blocks(i) == 2 * sum(len(naive.users[k]) > 1 for k in keys)
                assert cache.release(i, leaves=step % 2 == 0) == 2 * held
                for key in keys:
                    naive.users[key].discard(i)
            assert cache.idle_blocks == 2 * naive.idle()
        for i in list(running):
            running.pop(i)
            cache.release(i, leaves=True)
        for users in naive.users.values():
            users.clear()
        everything = cache.idle_blocks
        assert everything == 2 * len(naive.users)
        half = cache.forget(everything // 2)
        assert everything // 2 <= half <= everything // 2 + 1
        assert half + cache.forget(10**6) == everything
        assert all(cache.match(i, 10**6) == (0, 0) for i in range(count))
        forgotten += everything
    assert hits > 500
    assert forgotten > 500
