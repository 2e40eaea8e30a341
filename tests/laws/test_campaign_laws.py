"""Laws of a whole training run: nothing is lost without failures, every chip-hour has one owner,
and where formulas hold they come out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from campaign_reference import Script, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.errors import SimulationError, SpecError
from cluster_sim.specs.build import Source, build
from cluster_sim.specs.campaign import (
    Campaign,
    Checkpoint,
    Component,
    Degradation,
    Evaluation,
    Failures,
    FleetName,
    LearningPhase,
)
from cluster_sim.training import campaign as campaign_module
from cluster_sim.training.campaign import (
    CampaignResult,
    Outcome,
    Site,
    close,
    closed_forms,
    prepare_campaign,
    simulate_campaign,
)
from cluster_sim.training.campaign_checkpoints import daly_s, ettr, exact_ettr, young_s
from cluster_sim.training.campaign_failures import poisson_quantile, strikes_on, units_of
from cluster_sim.training.campaign_fleets import FLEETS
from cluster_sim.training.campaign_play import play
from cluster_sim.training.campaign_schedule import StepFacts, straggler_factor

DEFAULT = LearningPhase(global_batch=16, seq_len=1024)
STEP = 16 * 1024
HOUR = 3600.0


def price(global_batch: int, seq_len: int) -> StepFacts:
    step_s = 10.0 * global_batch * seq_len / STEP
    return StepFacts(
        step_s=step_s, energy_j=step_s * 8e3, exposed_communication=0.1, bubble=0.05, recompute=0.2
    )


def site(**changed: Any) -> Site:
    return replace(
        Site(
            chip="h100_sxm",
            hosts=100,
            chips_per_host=8,
            replicas=25,
            parameters=1e9,
            idle_w_per_host=20.0,
            usd_per_chip_hour=2.0,
        ),
        **changed,
    )


def rate(mtbf_s: float, hosts: int = 100, *, loses_host: bool = False) -> dict[str, Component]:
    """One component that strikes a job on so many hosts every so many seconds."""
    per = 86400.0 / mtbf_s / hosts * 1e3
    return {"part": Component(per_1000_host_days=per, loses_host=loses_host)}


def run(
    campaign: Campaign, where: Site | None = None, seed: int = 1, step_sigma: float = 0.0
) -> CampaignResult:
    return simulate_campaign(
        campaign, where or site(), price, DEFAULT, seed=seed, step_sigma=step_sigma
    )


def outcomes(campaign: Campaign, where: Site | None = None) -> list[Outcome]:
    made = prepare_campaign(campaign, where or site(), price, DEFAULT)
    streams = np.random.SeedSequence(1).spawn(campaign.replications)
    return [close(made, play(made.schedule, made.rules, np.random.default_rng(s))) for s in streams]


def sync(interval: str, save: float, load: float = 0.0) -> Checkpoint:
    return Checkpoint(interval=interval, mode="sync", save=save, load=load)


QUIET = Failures(fleet="none")
STEADY = Failures(
    components=rate(5 * HOUR), job_per_day=0.0, detection=100.0, restart=200.0, spares=0
)


def test_without_failures_nothing_is_lost() -> None:
    campaign = Campaign(
        tokens=1000.0 * STEP,
        failures=QUIET,
        evaluation=Evaluation(every_steps=100, time=60.0),
        checkpoints=(sync("50 steps", 20.0),),
        replications=2,
    )
    one = run(campaign).first
    wall_s = 1000 * 10.0 + 10 * 60.0 + 20 * 20.0
    assert one.days * 86400 == pytest.approx(wall_s, rel=1e-12)
    hours = 800 / HOUR
    expected = {
        "productive": 6500 * hours,
        "exposed_communication": 1000 * hours,
        "bubble": 500 * hours,
        "recompute": 2000 * hours,
        "evaluation": 600 * hours,
        "checkpoint": 400 * hours,
    }
    for owner, chip_hours in one.ledger.items():
        assert chip_hours == pytest.approx(expected.get(owner, 0.0), rel=1e-12), owner
    assert (one.lost_steps, one.interruptions, one.checkpoints) == (0, 0, 20)
    assert one.ettr == pytest.approx(10_000 / wall_s)
    assert one.usd == pytest.approx(wall_s * hours * 2.0)
    energy_j = 10_600 * 8e3 + 400 * 20.0 * 100
    assert one.energy_kwh == pytest.approx(energy_j / 3.6e6)


gaps = st.lists(st.floats(0.5, 400.0), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    gaps=gaps,
    points=st.lists(st.floats(0.0, 0.999), max_size=12),
    every=st.tuples(st.integers(1, 9), st.integers(3, 20)),
    tail=st.floats(0.0, 9.0),
    look=st.one_of(st.none(), st.integers(1, 12)),
    until=st.integers(3, 30),
    down=st.floats(0.0, 90.0),
)
def test_skipping_ahead_equals_walking(
    gaps: list[float],
    points: list[float],
    every: tuple[int, int],
    tail: float,
    look: int | None,
    until: int,
    down: float,
) -> None:
    """Two kinds of checkpoint, two phases: the same clock, losses and counts as step by step."""
    campaign = Campaign(
        tokens=60.0 * STEP,
        phases=(
            LearningPhase(until=float(until * STEP), global_batch=16, seq_len=1024),
            LearningPhase(global_batch=8, seq_len=4096, switch=7.0),
        ),
        evaluation=Evaluation(every_steps=look, time=3.0) if look else None,
        checkpoints=(
            Checkpoint(interval=f"{every[0]} steps", target="local", save=0.5, block=0.25, load=1),
            Checkpoint(interval=f"{every[1]} steps", save=0.5 + tail, block=0.5, load=4.0),
        ),
        failures=Failures(
            components={
                "soft": Component(per_1000_host_days=10.0, loses_host=False),
                "hard": Component(per_1000_host_days=5.0),
            },
            detection=down,
            restart=5.0,
            repair=0.0,
            spares=50,
        ),
    )
    made = prepare_campaign(campaign, site(), price, DEFAULT)
    fast = play(made.schedule, made.rules, Script(gaps, points))  # type: ignore[arg-type]
    slow = walk(made.schedule, made.rules, Script(gaps, points))
    assert fast.wall_s == pytest.approx(slow.wall_s, rel=1e-9)
    assert fast.lost_s == pytest.approx(slow.lost_s, rel=1e-9, abs=1e-6)
    assert (fast.lost_steps, sum(fast.strikes)) == (slow.lost_steps, slow.strikes)
    assert fast.checkpoints == slow.checkpoints
    close(made, fast)


@settings(max_examples=40, deadline=None)
@given(
    mtbf_h=st.floats(0.3, 50.0),
    spares=st.one_of(st.none(), st.integers(0, 3)),
    elastic=st.booleans(),
    domain=st.sampled_from([(1, None, 0), (5, "tray", 1), (5, "domain", 0), (10, "tray", 0)]),
    slow=st.booleans(),
    jitter=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 1000),
)
def test_every_chip_hour_has_one_owner(
    mtbf_h: float,
    spares: int | None,
    elastic: bool,
    domain: tuple[int, Any, int],
    slow: bool,
    jitter: float,
    seed: int,
) -> None:
    hosts, blast, inside = domain
    failures = Failures(
        components=rate(mtbf_h * HOUR, loses_host=True),
        job_per_day=1.0,
        spares=spares,
        elastic=elastic,
        blast=blast,
        spares_in_domain=inside,
        repair=4 * HOUR,
        slow_hosts=Degradation(per_1000_host_days=50.0, slowdown=1.5, repair=HOUR)
        if slow
        else None,
        degraded_links=Degradation(per_1000_host_days=20.0, slowdown=2.0, repair=0.5 * HOUR)
        if slow
        else None,
    )
    campaign = Campaign(tokens=20_000.0 * STEP, failures=failures, jitter=jitter, replications=1)
    where = site(domain_hosts=hosts)
    one = run(campaign, where, seed).first
    assert math.fsum(one.ledger.values()) == pytest.approx(one.chip_hours, rel=1e-9)
    assert min(one.ledger.values()) >= 0
    assert one.interruptions == sum(one.failures.values())
    kept = 20_000 * 10.0 * 800 / HOUR
    shares = ("productive", "exposed_communication", "bubble", "recompute")
    assert math.fsum(one.ledger[name] for name in shares) == pytest.approx(kept, rel=1e-9)


def test_a_ledger_that_does_not_close_is_ours_to_answer_for() -> None:
    made = prepare_campaign(Campaign(tokens=1e6, failures=STEADY), site(), price, DEFAULT)
    played = play(made.schedule, made.rules, np.random.default_rng(1))
    played.wall_s *= 1 + 1e-7
    with pytest.raises(SimulationError, match="are paid"):
        close(made, played)


def mean_ettr(campaign: Campaign) -> tuple[float, float]:
    """Mean over replications and its standard error."""
    values = np.array([one.ettr for one in outcomes(campaign)])
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize(
    ("mtbf_h", "interval", "save"), [(5.0, 600, 20.0), (1.0, 300, 30.0), (0.4, 1200, 60.0)]
)
def test_played_equals_closed_form(mtbf_h: float, interval: int, save: float) -> None:
    """Synchronous checkpoints and hosts that are there at once: the exact form within sampling
    error, the first-order one where failures are rare beside everything else.
    """
    failures = replace(STEADY, components=rate(mtbf_h * HOUR))
    campaign = Campaign(
        tokens=600.0 * mtbf_h * 360 * STEP,
        failures=failures,
        checkpoints=(sync(f"{interval} s", save, load=40.0),),
        replications=16,
    )
    mean, error = mean_ettr(campaign)
    exact = exact_ettr(mtbf_h * HOUR, 340.0, interval, save)
    assert mean == pytest.approx(exact, abs=4 * error + 1e-4)
    forms = closed_forms(prepare_campaign(campaign, site(), price, DEFAULT))
    assert forms["ettr_exact"] == pytest.approx(exact, rel=1e-12)
    assert forms["ettr"] == pytest.approx(ettr(mtbf_h * HOUR, 340.0, interval, save), rel=1e-12)
    if mtbf_h == 5.0:
        assert forms["ettr"] == pytest.approx(mean, abs=0.002)


def test_the_best_interval_is_that_of_young_and_daly() -> None:
    """A sweep of intervals: the played optimum lies where the formulas put it, and no interval
    beats theirs by more than the sampling error.
    """
    mtbf_s, save = 2 * HOUR, 25.0
    best_s = young_s(save, mtbf_s)  # 600 s
    swept = {}
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        campaign = Campaign(
            tokens=360_000.0 * STEP,
            failures=replace(STEADY, components=rate(mtbf_s)),
            checkpoints=(sync(f"{best_s * factor} s", save),),
            replications=12,
        )
        swept[factor] = mean_ettr(campaign)
    assert max(swept, key=lambda factor: swept[factor][0]) == 1.0
    for factor, (mean, error) in swept.items():
        assert mean == pytest.approx(
            exact_ettr(mtbf_s, 300.0, best_s * factor, save), abs=4 * error + 1e-4
        )
    fine = np.geomspace(best_s / 3, best_s * 3, 4001)
    exact = [exact_ettr(mtbf_s, 300.0, float(one), save) for one in fine]
    assert daly_s(save, mtbf_s) == pytest.approx(float(fine[int(np.argmax(exact))]), rel=2e-3)
    assert best_s == pytest.approx(daly_s(save, mtbf_s), rel=0.05)
    automatic = Campaign(
        tokens=1e6,
        failures=replace(STEADY, components=rate(mtbf_s)),
        checkpoints=(sync("auto", save),),
    )
    made = prepare_campaign(automatic, site(), price, DEFAULT)
    assert made.schedule.stretches[0].every == (60,)


def test_more_failures_and_longer_checkpoints_never_help() -> None:
    def mean(mtbf_h: float, save: float) -> float:
        campaign = Campaign(
            tokens=100_000.0 * STEP,
            failures=replace(STEADY, components=rate(mtbf_h * HOUR)),
            checkpoints=(sync("900 s", save),),
            replications=8,
        )
        return mean_ettr(campaign)[0]

    by_rate = [mean(mtbf_h, 20.0) for mtbf_h in (64.0, 16.0, 4.0, 1.0)]
    assert by_rate == sorted(by_rate, reverse=True)
    by_save = [mean(4.0, save) for save in (1.0, 10.0, 60.0, 300.0)]
    assert by_save == sorted(by_save, reverse=True)


def test_spares_never_hurt() -> None:
    """The same failures meet more spares: each replication loses at most as much time."""
    before = None
    for spares in (0, 1, 2, 4, 8, 30):
        failures = Failures(components=rate(6 * HOUR, loses_host=True), spares=spares)
        campaign = Campaign(tokens=40_000.0 * STEP, failures=failures, replications=4)
        now = [one.ettr for one in outcomes(campaign)]
        if before is not None:
            assert all(b <= a + 1e-12 for a, b in zip(now, before, strict=True))
        before = now
    auto = Campaign(
        tokens=40_000.0 * STEP,
        failures=Failures(components=rate(6 * HOUR, loses_host=True)),
        replications=4,
    )
    made = prepare_campaign(auto, site(), price, DEFAULT)
    assert made.units.spares == poisson_quantile(4.0, 0.999)
    assert min(one.ettr for one in outcomes(auto)) > min(before or []) - 0.02


def test_an_elastic_job_goes_on_where_another_waits() -> None:
    base = Failures(components=rate(20 * HOUR, loses_host=True), spares=0)
    days = {}
    for elastic in (False, True):
        failures = replace(base, elastic=elastic)
        campaign = Campaign(tokens=40_000.0 * STEP, failures=failures, replications=4)
        days[elastic] = float(np.mean([one.days for one in outcomes(campaign)]))
    assert days[True] < 0.7 * days[False]
    lone = Campaign(tokens=40_000.0 * STEP, failures=replace(base, elastic=True), replications=4)
    waits = [one.days for one in outcomes(lone, site(replicas=1))]
    assert float(np.mean(waits)) == pytest.approx(days[False], rel=1e-9)


def test_blast_radius() -> None:
    """What stops whole waits more than what loses a tray, and spares inside a domain help."""
    waited = []
    for blast, inside, spares in (("domain", 0, 1), ("tray", 1, 1), ("tray", 2, 1)):
        failures = Failures(
            components=rate(6 * HOUR, loses_host=True),
            blast=blast,  # type: ignore[arg-type]
            spares_in_domain=inside,
            spares=spares,
        )
        campaign = Campaign(tokens=40_000.0 * STEP, failures=failures, replications=4)
        where = site(domain_hosts=18, hosts=96)
        found = outcomes(campaign, where)
        waited.append(float(np.mean([one.ledger["repair"] for one in found])))
    assert waited[0] > waited[1] > waited[2]
    tray = Failures(components=rate(HOUR), spares_in_domain=2, spares=1)
    units = units_of(tray, 96, 18, 0.0)
    assert (units.working, units.hosts_each, units.hosts_paid) == (6, 18, 126)


def test_slow_links_cost_what_their_share_of_the_time_says() -> None:
    """Links degrade at random for a fixed time: some is slow with probability 1 - exp(-a b)."""
    links = Degradation(per_1000_host_days=24.0, slowdown=1.5, repair=5 * HOUR)  # 0.5 of them
    campaign = Campaign(
        tokens=400_000.0 * STEP,
        failures=replace(QUIET, degraded_links=links),
        checkpoints=(),
        replications=8,
    )
    shares = [one.days * 86400 / 4e6 - 1 for one in outcomes(campaign)]
    # Time is counted on the wall, work at 1 / 1.5 of it while slow.
    slow = 1 - math.exp(-0.1 * 5 * 24 / 24)
    expected = 1 / (1 - slow + slow / 1.5) - 1
    assert float(np.mean(shares)) == pytest.approx(expected, rel=0.08)


def test_the_slowest_of_many_hosts() -> None:
    draws = np.random.default_rng(1).normal(size=(4000, 256)).max(axis=1)
    assert straggler_factor(0.02, 256) == pytest.approx(1 + 0.02 * draws.mean(), rel=1e-3)
    assert straggler_factor(0.0, 256) == straggler_factor(0.02, 1) == 1.0


def fleet_hours(fleet: FleetName, gpus: int) -> tuple[float, float]:
    """Hours between failures of the machine, and of everything."""
    strikes = strikes_on(Failures(fleet=fleet), gpus // 8, 8, "h100_sxm")
    return 1 / strikes.host_per_s / HOUR, 1 / strikes.total_per_s / HOUR


def test_fleets_fail_as_published() -> None:
    assert set(FLEETS) == set(get_args(FleetName))
    assert fleet_hours("rsc1", 16384)[0] == pytest.approx(1.8, rel=0.01)
    assert fleet_hours("rsc1", 131072)[0] == pytest.approx(0.23, rel=0.03)
    assert fleet_hours("rsc1", 1024)[1] == pytest.approx(7.9, rel=1e-3)
    assert fleet_hours("rsc2", 16384)[0] == pytest.approx(1.803 * 6.50 / 2.34, rel=1e-3)
    assert fleet_hours("llama3_h100", 16384)[1] == pytest.approx(54 * 24 / 419, rel=1e-9)
    assert fleet_hours("meta_32k", 32768)[1] == pytest.approx(2.55, rel=0.01)
    assert fleet_hours("crusoe_h200", 1600)[1] == pytest.approx(14.0, rel=0.01)
    assert fleet_hours("opt_a100", 1024)[1] == pytest.approx(8.8, rel=1e-9)
    counts = [c.per_1000_host_days for c in FLEETS["llama3_h100"].components.values()]
    job = FLEETS["llama3_h100"].job_per_day
    assert math.fsum(counts) / 1e3 * 54 * 2048 + job * 54 == pytest.approx(419)


def test_llama_3_trains_over_nine_tenths_of_the_time() -> None:
    """16,384 H100, 405 B parameters, 5 s a step, asynchronous checkpoints to shared storage: a
    failure every 3.1 h when played, and over 90 % effective time as published.
    """
    where = site(hosts=2048, replicas=128, parameters=405e9)
    campaign = Campaign(tokens=54 * 8640.0 * STEP, replications=8)
    result = run(campaign, where)
    assert result.band["interruption_h"][1] == pytest.approx(3.09, rel=0.08)
    assert 0.9 < result.band["ettr"][0] < result.band["ettr"][2] < 0.99
    assert result.failures["gpu"] == pytest.approx(148, rel=0.15)


@pytest.mark.parametrize("replications", [1, 3, 40])
def test_the_band_holds_the_doubt_in_the_step(replications: int) -> None:
    """Failures or none: days reach as far as the step may be off, and money and hours with them;
    the first replication and its ledger stay those of the step as priced.
    """
    for failures in (QUIET, STEADY):
        campaign = Campaign(tokens=50_000.0 * STEP, failures=failures, replications=replications)
        certain, doubtful = run(campaign), run(campaign, step_sigma=0.1)
        assert repr(certain.first) == repr(doubtful.first)
        assert certain.ledger == doubtful.ledger
        for name in ("days", "chip_hours"):
            low, middle, high = doubtful.band[name]
            assert low <= certain.band[name][0]
            assert high >= certain.band[name][2]
            assert middle == pytest.approx(certain.band[name][1], rel=0.02)
            assert math.log(high / middle) >= 0.11
            assert math.log(middle / low) >= 0.11
        wider = run(campaign, step_sigma=0.2).band["days"]
        assert wider[0] < doubtful.band["days"][0]
        assert wider[2] > doubtful.band["days"][2]


def test_without_failures_the_band_is_that_of_the_step() -> None:
    campaign = Campaign(tokens=50_000.0 * STEP, failures=QUIET)
    low, middle, high = run(campaign, step_sigma=0.1).band["days"]
    assert high / middle == pytest.approx(math.exp(0.1 * 1.2816), rel=0.01)
    assert middle / low == pytest.approx(math.exp(0.1 * 1.2816), rel=0.01)


def test_same_seed_same_bytes() -> None:
    campaign = Campaign(tokens=50_000.0 * STEP, failures=STEADY, replications=3)
    assert repr(run(campaign)) == repr(run(campaign))
    assert repr(run(campaign)) != repr(run(campaign, seed=2))


def test_events_are_bounded_and_in_order() -> None:
    campaign = Campaign(
        tokens=400_000.0 * STEP,
        phases=(
            LearningPhase(until=1000.0 * STEP, global_batch=4, seq_len=1024),
            LearningPhase(global_batch=16, seq_len=1024, switch=600.0),
        ),
        failures=replace(STEADY, components=rate(HOUR)),
        replications=1,
    )
    one = run(campaign).first
    assert len(one.events) == 1000
    assert one.more_events > 0
    assert [e.at_s for e in one.events] == sorted(e.at_s for e in one.events)
    assert [(e.what, e.step) for e in one.events if e.event == "phase"] == [("16 x 1024", 4000)]


class Stopped(Script):
    """Ctrl-C at the fifth failure."""

    def exponential(self, scale: float) -> float:
        if len(self.gaps) == 1:
            raise KeyboardInterrupt
        return super().exponential(scale)


def test_ctrl_c_leaves_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign(tokens=50_000.0 * STEP, failures=STEADY, replications=3)
    monkeypatch.setattr(np.random, "default_rng", lambda _: Stopped([9000.0] * 5))
    result = run(campaign)
    assert result.partial
    assert result.first.partial
    assert 0 < result.first.tokens < 50_000 * STEP


def test_ctrl_c_in_what_the_band_adds_leaves_a_partial_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All replications are there, those with other steps are not: the band is not the whole one."""
    campaign = Campaign(tokens=5_000.0 * STEP, failures=STEADY, replications=2)
    whole = run(campaign, step_sigma=0.1)
    assert not whole.partial
    plays, real = [], campaign_module.play

    def third_stops(*given: Any) -> Any:
        plays.append(given)
        played = real(*given)
        played.partial = len(plays) == 3
        return played

    monkeypatch.setattr(campaign_module, "play", third_stops)
    stopped = run(campaign, step_sigma=0.1)
    assert stopped.partial
    assert stopped.replications == 2
    assert not stopped.first.partial


BASE: dict[str, Any] = {"tokens": "1B"}
STORE = {"mode": "sync", "save": "60 s"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokens": 1e12}, "write '15.6T' or '300B'"),
        ({"tokens": "0T"}, "must be > 0"),
        ({"tokns": "1T"}, "did you mean 'tokens'"),
        ({"checkpoints": [{"interval": "soon"}]}, "'30 min', '500 steps' or 'auto'"),
        ({"checkpoints": [{"interval": "0 steps"}]}, "at least 1 step"),
        ({"checkpoints": [{"bandwidth": "1 TB/s", "bandwidth_per_host": "1 GB/s"}]}, "or"),
        ({"checkpoints": [{"target": "tape"}]}, "must be one of"),
        ({"checkpoints": [{"mode": "sync", "block": "1 s"}]}, "belongs to mode async"),
        ({"failures": {"fleet": "llama3"}}, "did you mean 'llama3_h100'"),
        ({"failures": {"fleet": "rsc1", "components": {}}}, "not both"),
        ({"failures": {"factor": -1}}, "at least 0"),
        ({"failures": {"factor": math.inf}}, "must be"),
        ({"failures": {"components": {"gpu": {"per_1000_host_days": -3}}}}, "at least 0"),
        ({"failures": {"degraded_links": {"per_1000_host_days": 1, "slowdown": 0.5,
                                          "repair": "1 h"}}}, "at least 1"),
        ({"failures": {"blast": "domain", "spares_in_domain": 2}}, "belongs to 'blast: tray'"),
        ({"failures": {"spares_in_domain": 1}}, "a domain has 1 hosts"),
        ({"phases": [{"global_batch": 8, "seq_len": 8, "until": "1M"}]}, "leave out 'until'"),
        ({"phases": [{"global_batch": 8, "seq_len": 8}] * 2}, "only the last"),
        ({"checkpoints": [{**STORE, "interval": "30 s"}]}, "write every 6 steps"),
        ({"checkpoints": [{**STORE, "interval": "5 steps"}]}, "or give more bandwidth"),
        ({"checkpoints": [{"save": "60 s", "block": "1 s", "interval": "5 steps"}]}, "6 steps"),
        ({"checkpoints": [{"target": "local"}]}, "no copy survives"),
        ({"checkpoints": [], "tokens": "1T"}, "makes no progress"),
        ({"failures": {"restart": "50 h", "factor": 100}}, "makes no progress"),
        ({"tokens": "100000T"}, "take a larger batch"),
        ({"replications": 0}, "must be > 0"),
    ],
)  # fmt: skip
def test_bad_input(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        run(build(Campaign, BASE | changed, Source("mine.yaml", {})))
    assert says in str(caught.value)


def test_bad_facts_of_a_step() -> None:
    with pytest.raises(SpecError, match="positive time"):
        StepFacts(step_s=0.0)
    with pytest.raises(SpecError, match="within 0 and 1"):
        StepFacts(step_s=1.0, bubble=0.7, recompute=0.4)
    with pytest.raises(SpecError, match="at least one host"):
        site(hosts=0)


def test_a_file_gives_what_it_says() -> None:
    text = {
        "tokens": "15.6T",
        "checkpoints": [{"interval": "30 min"}, {"interval": "1,000 steps", "target": "host"}],
        "failures": {"detection": "2 min", "elastic": True},
    }
    campaign = build(Campaign, text, Source("mine.yaml", {}))
    assert campaign.tokens == 15.6e12
    assert campaign.checkpoints[0].interval_s == 1800.0
    assert campaign.checkpoints[1].interval_steps == 1000
    assert campaign.failures.detection == 120.0
