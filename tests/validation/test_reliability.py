"""Whole runs against published ones: hours between failures and effective training time.

Rates of a fleet are inputs; what is tested is that they carry over to other sizes of job, and what
a run with them loses. Rows without a number of chips, and those of runs that go on while a replica
is missing, cannot be predicted.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster_sim.specs.campaign import (
    Campaign,
    Checkpoint,
    Component,
    Failures,
    FleetName,
    LearningPhase,
)
from cluster_sim.training.campaign import CampaignResult, Site, simulate_campaign
from cluster_sim.training.campaign_checkpoints import tiers_of
from cluster_sim.training.campaign_failures import strikes_on
from cluster_sim.training.campaign_schedule import StepFacts

Value = Callable[..., float]


@pytest.fixture(scope="module")
def published(shared: Path) -> Value:
    """The value of a row, by the beginning of its system, its metric and, if needed, its event."""
    with (shared / "ground_truth/reliability_cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def value(system: str, metric: str, event: str = "", column: str = "value") -> float:
        found = [
            row
            for row in rows
            if row["system"].startswith(system)
            and row["metric"] == metric
            and row["event"].startswith(event)
        ]
        assert len(found) == 1, (system, metric, event, len(found))
        return float(found[0][column])

    return value


def played(
    chip: str, gpus: int, parameters: float, days: float, failures: Failures
) -> CampaignResult:
    where = Site(chip=chip, hosts=gpus // 8, chips_per_host=8, parameters=parameters)
    campaign = Campaign(tokens=days * 8640.0, failures=failures, replications=6)
    phase = LearningPhase(global_batch=1, seq_len=1)
    return simulate_campaign(campaign, where, lambda *_: StepFacts(step_s=10.0), phase)


def hours(fleet: FleetName, gpus: int, *, machine_alone: bool = False) -> float:
    strikes = strikes_on(Failures(fleet=fleet), gpus // 8, 8, "")
    return 1 / (strikes.host_per_s if machine_alone else strikes.total_per_s) / 3600.0


def test_hours_between_failures(published: Value) -> None:
    for gpus in (16384, 131072):
        row = published(f"Meta RSC ({gpus}-GPU projection)", "mtbf_h")
        assert hours("rsc1", gpus, machine_alone=True) == pytest.approx(row, rel=0.03)
    assert hours("rsc1", 1024) == pytest.approx(published("Meta RSC (1024", "mtbf_h"), rel=1e-3)
    assert hours("meta_32k", 32768) == pytest.approx(published("Meta 32K", "mtbf_h"), rel=0.01)
    assert hours("crusoe_h200", 1600) == pytest.approx(published("Crusoe", "mtbf_h"), rel=0.01)
    assert hours("imbue_h100", 4088) == pytest.approx(published("Imbue", "mtbf_h"), rel=0.01)
    assert hours("opt_a100", 1024) == pytest.approx(published("Meta OPT", "mtbf_h"), rel=0.01)


def test_a_hundred_thousand_gpus_fail_more_often_than_most_fleets_say(published: Value) -> None:
    """A known miss: rates of 16,000 and 32,000 GPUs carried over are 1.9 and 2.8 times too low;
    those of RSC-1 come within 5 %, by chance as far as we know.
    """
    row = published("Meta 100K", "mtbf_h")
    fleets: tuple[tuple[FleetName, float], ...] = (
        ("meta_32k", 2.78),
        ("llama3_h100", 1.9),
        ("rsc1", 0.95),
    )
    for fleet, times in fleets:
        assert hours(fleet, 100_000) / row == pytest.approx(times, rel=0.03)


def test_effective_time_of_megascale(published: Value) -> None:
    """12,288 A100 with the rates of RSC-1, the only large fleet of A100; published is a bound."""
    result = played("a100_80g_sxm", 12288, 175e9, 30, Failures())
    assert result.band["ettr"][0] > published("ByteDance MegaScale", "effective_time_fraction")


def test_effective_time_of_three_months(published: Value) -> None:
    """9,600 Hopper GPUs, whose rates are not published: between those of Llama 3 and RSC-1."""
    row = published("ByteDance dense", "effective_time_fraction")
    fleets: tuple[FleetName, FleetName] = ("llama3_h100", "rsc1")
    high, low = (
        played("h100_sxm", 9600, 175e9, 90, Failures(fleet=fleet)).band["ettr"][1]
        for fleet in fleets
    )
    assert low < row < high
    assert high - low < 0.03


def test_effective_time_of_a_hundred_thousand(published: Value) -> None:
    """With the published rate and the quarter of an hour that a restart from a checkpoint takes
    elsewhere; with the default, a restart of 3.7 minutes, it would be far too good.
    """
    per_day = 24 / published("Meta 100K", "mtbf_h")
    rates = {"host": Component(per_1000_host_days=per_day / 12.5)}
    restart_s = 60 * published("AWS", "restart_min", "from checkpoint")
    row = published("Meta 100K", "effective_time_fraction", "naive")
    for restart, low, high in ((restart_s, -0.05, 0.0), (222.0, 0.3, 0.35)):
        failures = Failures(components=rates, job_per_day=0.0, restart=restart)
        found = played("h100_sxm", 100_000, 405e9, 10, failures).band["ettr"][1]
        assert low < found - row < high


def test_checkpoints(published: Value) -> None:
    """BLOOM's share of time is that of its interval and save time. The default bandwidth to
    storage is BLOOM's own, and that to host memory comes from the 8B model, so that only the bound
    of its asynchronous checkpoint is a test; a known miss is its synchronous one, 34 times as long.
    """
    every, save = (
        published("BigScience", "checkpoint_interval_min") * 60,
        published("BigScience", "checkpoint_save_s"),
    )
    share = published("BigScience", "checkpoint_overhead_fraction")
    assert save / (every + save) == pytest.approx(share, rel=0.01)

    def tier(parameters: float, hosts: int, mode: str) -> float:
        kind = Checkpoint(mode=mode)  # type: ignore[arg-type]
        (one,) = tiers_of(
            [kind], parameters=parameters, hosts=hosts, strikes_per_s=1e-4, loss_per_s=0.0
        )
        return one.block_s

    assert tier(176e9, 48, "sync") == pytest.approx(save, rel=0.08)
    blocked = published("PyTorch DCP", "checkpoint_block_s", "asynchronous")
    assert tier(8e9, 64, "async") < blocked
    slow = published("PyTorch DCP", "checkpoint_block_s", "synchronous")
    assert slow / tier(8e9, 64, "sync") == pytest.approx(34.3, rel=0.01)
