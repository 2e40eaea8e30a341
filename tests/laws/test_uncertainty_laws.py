"""Bands of headlines: what must hold whatever the constants are."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_sim import uncertainty
from cluster_sim.columns import HEADLINES
from cluster_sim.perf import residuals
from cluster_sim.perf.residuals import Residual, fit_sigma, of_curve
from cluster_sim.perf.steady import capacity_elasticity, steady_state
from cluster_sim.perf.step_price import scaled_price
from cluster_sim.prepare import make_service
from cluster_sim.result import Result
from cluster_sim.serving.service import serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.chip import FitError, StreamCurve, Taken
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.studies.band import REPLICATIONS, band_study, draw
from cluster_sim.studies.compare import compare_bands, verdict
from cluster_sim.summary import summarise_run
from cluster_sim.uncertainty import Band, contributions, total_sigma

# Nobody waits beyond the engine, so that all time is that of steps.
CLOSED = (
    "workload.arrivals={kind: closed, concurrency: 16}",
    "workload.requests=320",
    "engine.client_idle=0 s",
)
OPEN = ("workload.arrivals={kind: open, rate: 8 requests/s}", "workload.requests=500")
LOAD = ("workload.requests=1500",)
OFFLINE = (
    "workload.arrivals={kind: offline}",
    "workload.requests=3000",
    "engine.max_num_seqs=32",
)
SIGMAS = st.lists(st.floats(0, 0.5), min_size=1, max_size=6)


@cache
def run(topology: str, changes: tuple[str, ...], workload: str = "llama8b") -> Result:
    return simulate(load_topology(topology), load_workload(workload, list(changes)), keep=True)


def headlines(result: Result) -> dict[str, Any]:
    return result.manifest["bands"]["headlines"]


def residual(key: str, sigma: float) -> Residual:
    return Residual(key=key, sigma=sigma, provenance="measured", source="here")


def band_of(sigmas: list[float]) -> Band:
    weights = {str(k): 1 / len(sigmas) for k in range(len(sigmas))}
    named = {str(k): (residual(f"r{k}", sigma),) for k, sigma in enumerate(sigmas)}
    return Band(base=10.0, contributions=contributions(weights, named, ()))


@pytest.mark.parametrize("changes", [CLOSED, OPEN, LOAD, OFFLINE])
def test_bands_hold_their_headlines_and_add_up(changes: tuple[str, ...]) -> None:
    result = run("h200_nvl8", changes)
    row, found = result.summary, headlines(result)
    for name in HEADLINES:
        if name not in found:
            assert row[f"{name}_low"] is None
            continue
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert (row[f"{name}_low"], row[f"{name}_high"]) == (
            found[name]["low"],
            found[name]["high"],
        )
        effects = [part["effect"] for part in found[name]["contributions"]]
        assert math.fsum(e * e for e in effects) == pytest.approx(found[name]["sigma"] ** 2)
        assert [abs(e) for e in effects] == sorted(map(abs, effects), reverse=True)
        for part in found[name]["contributions"]:
            assert part["effect"] == pytest.approx(part["share"] * part["sigma"])
    assert ("output_tokens_per_s" in found) == (changes in (CLOSED, OFFLINE))


def test_the_residuals_of_a_band_stand_with_their_sources() -> None:
    found = run("h200_nvl8", LOAD).manifest["bands"]
    keys = [entry["key"] for entry in found["residuals"]]
    used = {p["key"] for band in found["headlines"].values() for p in band["contributions"]}
    assert set(keys) == used
    assert all(entry["source"] for entry in found["residuals"])


@given(SIGMAS)
def test_without_residuals_a_band_has_no_width(sigmas: list[float]) -> None:
    band = band_of([0.0 for _ in sigmas])
    assert band.low == band.base == band.high
    assert not band.contributions


@given(SIGMAS, st.floats(1, 4), st.integers(0, 5))
def test_wider_residuals_never_make_a_band_narrower(
    sigmas: list[float], factor: float, which: int
) -> None:
    wider = [s * factor if k == which else s for k, s in enumerate(sigmas)]
    assert band_of(wider).sigma >= band_of(sigmas).sigma


def test_a_residual_of_two_families_counts_as_one() -> None:
    both = {"a": (residual("r", 0.1),), "b": (residual("r", 0.1),)}
    (part,) = contributions({"a": 0.3, "b": 0.5}, both, ())
    assert part.effect == pytest.approx(0.08)
    assert part.families == ("a", "b")


def test_what_is_known_of_a_chip_narrows_its_band() -> None:
    """Measured, of the same architecture, of another generation, of another vendor."""
    widths = []
    for distance in (None, "architecture", "generation", "other"):
        taken = distance and Taken(of="glue of one", distance=distance)  # type: ignore[arg-type]
        curve = StreamCurve(
            floor=1e-6,
            memory=0.8,
            provenance="transferred" if distance else "measured",
            fit=FitError(points=12, median=0.03, p90=0.08),
            taken=taken or None,
            source="here",
        )
        parts = of_curve("glue", "", curve, "mine")
        widths.append(total_sigma(part.sigma for part in parts))
    assert widths == sorted(set(widths))


@pytest.mark.parametrize(("relative", "chip"), [("h100_sxm", "h800_sxm"), ("h100_sxm", "mi300x")])
def test_a_transferred_chip_has_a_wider_band(relative: str, chip: str) -> None:
    changes = (*CLOSED, "workload.precision=fp8", "plan.tp=1")
    wide, narrow = (headlines(run(f"8x{name}", changes)) for name in (chip, relative))
    for name in ("tpot_mean_ms", "output_tokens_per_s"):
        assert wide[name]["sigma"] > 1.05 * narrow[name]["sigma"]


def test_fit_errors_are_read_from_the_worse_percentile() -> None:
    assert fit_sigma(0.06745, 0.0) == pytest.approx(0.1)
    assert fit_sigma(0.0, 0.1645) == pytest.approx(0.1)


def test_no_sigma_anywhere_gives_bands_without_width(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = run("h200_nvl8", CLOSED).facts
    assert facts is not None
    made = residuals._residual
    monkeypatch.setattr(residuals, "_residual", lambda key, _, *rest: made(key, 0.0, *rest))
    monkeypatch.setattr(uncertainty, "_chance", lambda *_: [])
    row, _, _ = summarise_run(facts)
    for name in HEADLINES:
        if row[name] is not None and row[f"{name}_low"] is not None:
            assert row[f"{name}_low"] == row[name] == row[f"{name}_high"]


# --- elasticities ---


@pytest.mark.parametrize("changes", [CLOSED, OFFLINE])
def test_full_runs_answer_in_proportion_to_the_step_time(changes: tuple[str, ...]) -> None:
    facts = run("h200_nvl8", changes).facts
    assert facts is not None
    slower = scaled_price(facts.price, {f.name: 1.25 for f in facts.price.families})
    service = make_service(facts.job, facts.choice, slower, facts.cache, facts.requests)
    again = dataclasses.replace(facts, price=slower, run=serve(service, facts.requests))
    row, base = summarise_run(again)[0], summarise_run(facts)[0]
    for name, factor in (("tpot_mean_ms", 1.25), ("output_tokens_per_s", 0.8)):
        assert row[name] == pytest.approx(base[name] * factor, rel=1e-6)


def test_a_price_times_one_is_the_same_price() -> None:
    facts = run("h200_nvl8", CLOSED).facts
    assert facts is not None
    same = scaled_price(facts.price, {})
    for step in ((3, 900, 0, 0, 0, 0.0), (3, 900, 0, 500, 1, 1e-3)):
        assert same.step_s(*step) == facts.price.step_s(*step)
    assert same.prefill_attention_s(0, 700) == facts.price.prefill_attention_s(0, 700)


def test_scaled_families_scale_their_part_of_a_step() -> None:
    facts = run("h200_nvl8", CLOSED).facts
    assert facts is not None
    price, step = facts.price, (7, 9000, 0, 500, 1, 1e-3)
    more = sum(
        scaled_price(price, {f.name: 2.0}).step_s(*step) - price.step_s(*step)
        for f in price.families
    )
    attention_s = step[-1]  # comes in seconds, from prefill_attention_s
    assert more == pytest.approx(price.step_s(*step) - attention_s, rel=1e-9)
    twice = scaled_price(price, {"attention_prefill": 2.0})
    assert twice.prefill_attention_s(0, 99) == 2 * price.prefill_attention_s(0, 99)


def test_the_capacity_follows_the_step_time_as_its_elasticity_says() -> None:
    facts = run("h200_nvl8", LOAD, "llama70b").facts
    assert facts is not None
    slo, rates = facts.job.workload.slo, []
    for factor in (1 / 1.1, 1.0, 1.1):
        price = scaled_price(facts.price, {f.name: factor for f in facts.price.families})
        steady = steady_state(price, facts.job, 1)
        batch = max(n for n in range(1, 300) if steady.kept(n, slo.tpot) >= slo.attainment)
        rates.append((batch, batch / steady.tpot_s(batch)))
    steady = steady_state(facts.price, facts.job, 1)
    expected = capacity_elasticity(steady, rates[1][0], 1000, slo.attainment)
    seen = math.log(rates[2][1] / rates[0][1]) / math.log(1.1**2)
    assert expected == pytest.approx(seen, rel=0.1)
    assert expected < -1.2
    assert capacity_elasticity(steady, rates[1][0], rates[1][0], slo.attainment) > expected


# --- replications and comparisons ---


def test_draws_are_the_same_quantiles_in_an_order_of_their_own() -> None:
    one, two = draw("a", 0), draw("b", 0)
    assert one == draw("a", 0)
    assert one != two
    assert sorted(one) == sorted(two)
    assert len(one) == REPLICATIONS
    assert math.fsum(one) == pytest.approx(0, abs=1e-9)
    assert draw("a", 1) != one


@pytest.mark.parametrize("changes", [CLOSED, OPEN])
def test_replications_agree_with_the_first_order(changes: tuple[str, ...]) -> None:
    result = run("h200_nvl8", changes)
    again = band_study(result, "run")
    assert again == band_study(result, "run")
    for name, seen in again["headlines"].items():
        parts = headlines(result)[name]["contributions"]
        drawn = [p["effect"] for p in parts if not p["key"].startswith("draw of")]
        width = 2 * 1.2816 * total_sigma(drawn)  # the requests stay the same
        assert math.log(seen["high"] / seen["low"]) == pytest.approx(width, rel=0.35)
    assert set(again["headlines"]) >= {"tpot_mean_ms", "ttft_mean_ms"}


def test_equal_runs_show_no_difference() -> None:
    found = headlines(run("h200_nvl8", CLOSED))
    same = compare_bands(found, found)
    assert len(same) == len(found)
    for one in same:
        assert (one.ratio.value, one.low, one.high) == (1.0, 1.0, 1.0)
        assert one.verdict == "no difference"


def test_what_runs_have_in_common_cancels() -> None:
    one = headlines(run("h200_nvl8", CLOSED))["tpot_mean_ms"]
    other = headlines(run("h200_nvl8", (*CLOSED, "plan.tp=2")))["tpot_mean_ms"]
    far = headlines(run("h100_nvl8", CLOSED))["tpot_mean_ms"]

    def width(there: dict[str, Any]) -> float:
        (band,) = compare_bands({"tpot_mean_ms": one}, {"tpot_mean_ms": there})
        assert band.high is not None
        assert band.ratio.value is not None
        return math.log(band.high / band.ratio.value)

    alone = 1.2816 * math.hypot(one["sigma"], other["sigma"])
    assert 0 < width(other) < 0.95 * alone
    assert width(other) < width(far)


@pytest.mark.parametrize(
    ("ratio", "reach", "says"),
    [
        (1.0, 1.0, "no difference"),
        (1.2, 1.1, "higher"),
        (0.8, 1.1, "lower"),
        (1.05, 1.1, "not significant"),
        (0.95, 1.1, "not significant"),
        (1.05, 1.0, "higher"),
    ],
)
def test_verdicts(ratio: float, reach: float, says: str) -> None:
    assert verdict(ratio, reach) == says
