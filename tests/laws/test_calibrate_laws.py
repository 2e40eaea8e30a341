"""Laws of calibration: known parameters are found again, left-out shapes stay unseen, the forms are
those that steps are priced with, and curves are monotone and never beat the roofline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from calibrate_cases import timings

from cluster_sim.kernels.gemm import gemm_kernel_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import kv_heads_per_device
from cluster_sim.perf.families import operator_families
from cluster_sim.specs.chip import PEAK_OF, Chip, DecodeCurve, GemmCurve, LatentCurve
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_spec, load_workload
from cluster_sim.specs.load_curves import load_fits
from cluster_sim.specs.model import Mla
from cluster_sim.studies.calibrate import calibrate
from cluster_sim.studies.calibrate_fit import Parameter, Points, fit, left_out_errors
from cluster_sim.studies.calibrate_forms import problem_of
from cluster_sim.studies.calibrate_loads import expert_load

MEASURED = ("a100_80g_sxm", "h100_sxm", "h200_sxm", "b200", "gb200")
GEMM = {"floor": 3e-6, "per_k": 0.4e-6, "compute": 0.7, "memory": 0.8}
KNOWN: list[tuple[str, str, Mapping[str, float]]] = [
    ("gemm", "bf16", GEMM),
    ("gemm", "fp8", {**GEMM, "quantise": 0.4}),
    ("gemm", "w4a16", GEMM),
    ("attention_prefill", "bf16", {"floor": 14e-6, "compute": 0.55, "half_length": 1200}),
    ("mla_prefill", "fp8", {"floor": 18e-6, "compute": 0.9, "half_length": 2000}),
    ("attention_decode", "bf16", {"floor": 11e-6, "memory": 0.8}),
    ("attention_decode", "bf16", {"floor": 11e-6, "memory": 0.9, "row": 40e-9}),
    ("mla_decode", "bf16", {"floor": 16e-6, "compute": 0.6, "memory": 0.9}),
    ("mla_decode", "fp8", {"floor": 12e-6, "compute": 0.9, "memory": 0.85, "queries": 0.1}),
    ("moe_ffn", "bf16", {"floor": 28e-6, "compute": 0.7, "memory": 0.8, "activations": 0.3}),
    ("glue", "bf16", {"floor": 1.2e-6, "memory": 0.8}),
]


def chip_of(name: str) -> Chip:
    return load_spec("chip", name, Chip)[1]


@pytest.mark.parametrize(("op", "dtype", "values"), KNOWN)
def test_known_parameters_are_found_again(op: str, dtype: str, values: Mapping[str, float]) -> None:
    chip = chip_of("h200_sxm")
    rows = timings(chip, op, dtype, values, {"routing_balanced"} if op == "moe_ffn" else ())
    (curve,) = calibrate(chip, rows, {}, load_fits(chip)[0]).curves
    assert curve.new == pytest.approx(values, rel=0.01)
    assert curve.new_errors == pytest.approx((0, 0), abs=1e-3)
    assert curve.meets_target
    assert (curve.points, curve.date) == (len(rows), "2026-01")


def test_noise_moves_parameters_little_and_shows_in_the_errors() -> None:
    chip, known = chip_of("h200_sxm"), {**GEMM, "quantise": 0.4}
    noise = np.random.default_rng(7).normal(0, 0.05, 25)
    rows = [
        dataclasses.replace(row, time_s=row.time_s * float(np.exp(part)))
        for row, part in zip(timings(chip, "gemm", "fp8", known), noise, strict=True)
    ]
    (curve,) = calibrate(chip, rows, {}, load_fits(chip)[0]).curves
    assert curve.new["compute"] == pytest.approx(0.7, rel=0.06)
    assert curve.new["floor"] == pytest.approx(3e-6, rel=0.15)
    assert 0.01 < curve.new_errors[0] < 0.07


def test_a_shape_that_is_left_out_is_not_seen() -> None:
    """Of two shapes that contradict each other, each is predicted from the other alone."""
    groups = [(1,)] * 3 + [(2,)] * 3
    measured = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    used: list[frozenset[int]] = []

    def seconds(values: Mapping[str, float], at: np.ndarray) -> np.ndarray:
        used.append(frozenset(at.tolist()))
        return np.full(len(at), values["level"])

    points, level = Points(measured, groups, seconds), Parameter("level", 2.0, 0.01, 100.0)
    errors = left_out_errors(points, (level,))
    assert errors == pytest.approx([2, 2, 2, -2 / 3, -2 / 3, -2 / 3], rel=1e-6)
    assert set(used) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}


def test_bounds_hold_and_the_fit_is_repeatable() -> None:
    chip = chip_of("h200_sxm")
    problem = problem_of(chip, "gemm", "bf16", timings(chip, "gemm", "bf16", {**GEMM, "memory": 1}))
    every = np.arange(len(problem.rows))
    values = fit(problem.points, problem.base, every)
    for parameter in problem.base:
        assert parameter.low * (1 - 1e-9) <= values[parameter.name]
        assert values[parameter.name] <= parameter.high * (1 + 1e-9)
    assert values["memory"] == pytest.approx(0.95)
    assert fit(problem.points, problem.base, every) == values


def priced(machine: TopologyInput, section: str, curve: Any, model: Any, kv: str) -> Any:
    """The decode family of a model of one layer with a curve put into the machine."""
    fits = dataclasses.replace(machine.fits, **{section: {kv: curve}})
    machine = dataclasses.replace(machine, fits=fits)
    software = load_workload("llama8b").software
    in_situ = dataclasses.replace(software.in_situ, attention_floor_factor=1.0)
    software = dataclasses.replace(software, in_situ=in_situ)
    recipe = Recipe("bf16", "bf16", "bf16", "bf16", kv)
    families = operator_families(machine, model, software, Layout(), recipe)
    return next(family for family in families if family.name == "attention_decode")


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_decode_is_priced_as_it_is_fitted(h200: TopologyInput, kv: str) -> None:
    values = {"floor": 11e-6, "memory": 0.9, "row": 40e-9}
    curve = DecodeCurve(**values, provenance="measured", source="-")  # type: ignore[arg-type]
    dense = load_workload("llama8b").model
    for row in timings(h200.chip, "attention_decode", kv, values):
        shape = row.shape
        model = dataclasses.replace(
            dense, layers=1, heads=shape["heads"], kv_heads=shape["kv_heads"], head_dim=128
        )
        assert kv_heads_per_device(model, 1) == shape["kv_heads"]
        family = priced(h200, "attention_decode", curve, model, kv)
        batch = shape["batch"]
        if batch < len(family.decodes_s):
            seconds = family.decodes_s[batch] + family.context_s * batch * shape["seq_len"]
            assert seconds == pytest.approx(row.time_s, rel=1e-9)


def test_latent_decode_is_priced_as_it_is_fitted(h200: TopologyInput) -> None:
    values = {"floor": 16e-6, "compute": 0.6, "memory": 0.9, "queries": 0.3}
    curve = LatentCurve(**values, provenance="measured", source="-")  # type: ignore[arg-type]
    mla = Mla(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
    dense = load_workload("llama8b").model
    for row in timings(h200.chip, "mla_decode", "bf16", values):
        model = dataclasses.replace(dense, layers=1, heads=row.shape["heads"], mla=mla)
        family = priced(h200, "mla_decode", curve, model, "bf16")
        batch = row.shape["batch"]
        seconds = family.decodes_s[batch] + family.context_s * batch * row.shape["seq_len"]
        assert seconds == pytest.approx(row.time_s, rel=1e-9)


FORMS = [{}, {"knee": 3.0}, {"tiles": 1.0}, {"tiles": 0.4, "knee": 2.0}]


@pytest.mark.parametrize("extra", FORMS)
def test_gemm_grows_with_every_size_and_never_beats_the_roofline(extra: dict[str, float]) -> None:
    chip = chip_of("a100_80g_sxm")
    curve = GemmCurve(**GEMM, **extra, provenance="measured", source="-")  # type: ignore[arg-type]
    sizes = np.unique(np.rint(np.geomspace(1, 70_000, 400)))
    for m, n, k in ((sizes, 5000, 4096), (300, sizes, 4096), (300, 5000, sizes)):
        seconds = gemm_kernel_s(chip, "bf16", curve, np.asarray(m), n, k)[0]
        assert (np.diff(seconds) >= 0).all()
        flop_s = 2.0 * np.asarray(m) * n * k / chip.device_peak("bf16")
        bytes_s = 2.0 * (np.asarray(m) * k + np.asarray(k) * n + np.asarray(m) * n)
        assert (seconds > np.maximum(flop_s, bytes_s / chip.device_bandwidth)).all()


def test_a_wave_of_tiles_costs_as_much_as_a_full_one() -> None:
    """120 tiles on 108 SMs take two waves, with tiles = 1; 108 take one."""
    chip = chip_of("a100_80g_sxm")
    assert chip.sm_count == 108
    curve = GemmCurve(**GEMM, tiles=1.0, provenance="measured", source="-")
    k = 65_536
    one, two = (
        gemm_kernel_s(chip, "bf16", curve, np.array([128.0 * count]), 12 * 128, k)[0][0]
        for count in (9, 10)
    )
    rest = GEMM["floor"] + GEMM["per_k"] * k / 1000
    assert (two - rest) / (one - rest) == pytest.approx(2)


@pytest.mark.parametrize("name", MEASURED)
def test_packaged_gemm_curves_are_monotone(name: str) -> None:
    chip = chip_of(name)
    sizes = np.unique(np.rint(np.geomspace(1, 40_000, 150)))
    curves = load_fits(chip)[0].gemm
    for dtype in (dtype for dtype in curves if PEAK_OF[dtype] in chip.peak):
        curve = curves[dtype]
        for n, k in ((1536, 8192), (28672, 4096)):
            seconds, bound = gemm_kernel_s(chip, dtype, curve, sizes, n, k)
            assert (np.diff(seconds) >= 0).all(), dtype
            assert bound[-1], dtype


def test_loads_of_experts() -> None:
    """Balanced: known; power law: the fullest rank has more than its share, up to everything."""
    chip = chip_of("h200_sxm")
    values = {"floor": 28e-6, "compute": 0.7, "memory": 0.8, "activations": 0.3}
    for row in timings(chip, "moe_ffn", "bf16", values):
        for ranks in (1, 4):
            spread = dataclasses.replace(row, shape={**row.shape, "ep": ranks})
            picks = spread.shape["tokens"] * 2
            even = dataclasses.replace(spread, flags=frozenset({"routing_balanced"}))
            assert expert_load(even)[1] == max(1.0, picks / ranks)
            skewed = dataclasses.replace(spread, flags=frozenset({"routing_power_law_1.2"}))
            touched, heaviest = expert_load(skewed)
            assert picks / ranks <= heaviest <= picks
            assert 0 < touched <= min(spread.shape["experts"] / ranks, picks)
            assert expert_load(skewed) == (touched, heaviest)
