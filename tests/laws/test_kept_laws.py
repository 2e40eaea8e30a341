"""Laws of parts in dtypes of their own: memory and time follow what is kept, part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_sim.kernels.curves import kernel_curves
from cluster_sim.kernels.layout import Layout, Recipe, missing, recipe
from cluster_sim.kernels.model_ops import weight_bytes_per_device
from cluster_sim.perf.checkpoint import counted_bytes, loaded_bytes_per_device
from cluster_sim.perf.drafts import one_mtp_layer, with_mtp_layers
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.residuals import step_residuals
from cluster_sim.specs.find import names
from cluster_sim.specs.kept import LAYERED, Kept, Part, layers_with
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

MODELS = {name: load_spec("model", name, Model)[1] for name in names("model")}
B200, H100 = load_topology("b200_nvl8"), load_topology("h100_nvl8")
SOFTWARE = replace(
    load_spec("software", "trtllm-1.0", Software)[1], max_num_batched_tokens=64, max_num_seqs=8
)
LAYOUT = Layout(tp=8)


def in_dtype(name: str, dtype: str, *kept: Kept) -> Model:
    plain = replace(MODELS[name], kept=(), bytes_per_element={})
    return replace(plain, native_dtype=dtype, kept=kept)


def own(model: Model, **more: Any) -> Recipe:
    return replace(recipe(B200.chip, model, model.native_dtype, "bf16"), **more)


def weights(model: Model, layout: Layout = LAYOUT) -> float:
    return weight_bytes_per_device(model, layout, own(model))


def everything(model: Model, dtype: str) -> tuple[Kept, ...]:
    parts = [part for part in LAYERED if layers_with(model, part)]
    return tuple(Kept(part=part, dtype=dtype) for part in parts)  # type: ignore[arg-type]


def seconds(model: Model, name: str) -> float:
    """Seconds of an operator family in a step of eight tokens on one device."""
    families = operator_families(B200, model, SOFTWARE, Layout(), own(model))
    table = next(family.tokens_s for family in families if family.name == name)
    assert table is not None
    return float(table[8])


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp4", "mxfp4", "w4a16"])
def test_nothing_kept_is_the_rule_of_a_precision(dtype: str) -> None:
    """The checkpoint's own precision costs what the same precision costs of another checkpoint."""
    for name in MODELS:
        mine, other = in_dtype(name, dtype), in_dtype(name, "int8")
        asked = recipe(B200.chip, other, dtype, "bf16")
        same = replace(recipe(B200.chip, mine, dtype, "bf16"), own=False)
        assert same == asked
        assert weights(mine) == weight_bytes_per_device(other, LAYOUT, asked)


def test_everything_kept_in_bf16_has_the_bytes_of_bf16() -> None:
    for name in MODELS:
        model = in_dtype(name, "fp8")
        kept = replace(model, kept=everything(model, "bf16"))
        for layout in (Layout(), Layout(8), Layout(tp=4, pp=2)):
            assert weights(kept, layout) == weights(in_dtype(name, "bf16"), layout), name


@given(st.data())
def test_weights_grow_with_what_is_kept(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(MODELS)))
    model = in_dtype(name, "fp8")
    parts = [part for part in LAYERED if layers_with(model, part)]
    part: Part = data.draw(st.sampled_from(parts))
    most = layers_with(model, part)
    few, many = sorted(data.draw(st.tuples(*[st.floats(0.01, most)] * 2)))
    kept = [Kept(part=part, dtype="bf16", layers=layers) for layers in (few, many, None)]
    found = [weights(model), *(weights(replace(model, kept=(one,))) for one in kept)]
    assert found == sorted(found)
    assert found[3] > found[0]
    whole = replace(model, kept=(Kept(part=part, dtype="bf16", layers=most),))
    assert weights(whole) == found[3]


@given(
    st.sampled_from(sorted(MODELS)),
    st.lists(st.tuples(st.sampled_from(["bf16", "fp8", "fp4"]), st.floats(0.01, 0.3)), max_size=3),
)
def test_shares_add_up_to_the_layers(name: str, entries: list[tuple[str, float]]) -> None:
    model = in_dtype(name, "fp8")
    layers = layers_with(model, "attention")
    kept = tuple(
        Kept(part="attention", dtype=dtype, layers=share * layers)  # type: ignore[arg-type]
        for dtype, share in entries
    )
    shares = own(model).shares(replace(model, kept=kept), "attention", layers)
    assert sum(count for _, count in shares) == pytest.approx(layers)
    assert len({dtype for dtype, _ in shares}) == len(shares)
    assert all(count > 0 for _, count in shares)


@pytest.mark.parametrize(
    ("name", "part", "family"),
    [
        ("llama3.1-70b", "attention", "gemm_weights"),
        ("llama3.1-70b", "output", "gemm_weights"),
        ("llama3.1-70b", "dense", "gemm_weights"),
        ("deepseek-v3", "shared", "gemm_weights"),
        ("deepseek-v3.2", "index", "gemm_weights"),
        ("deepseek-v3", "experts", "expert_weights"),
    ],
)
def test_time_follows_each_part(name: str, part: Part, family: str) -> None:
    model = in_dtype(name, "fp8")
    layers = layers_with(model, part)
    found = [seconds(model, family)]
    for count in (layers / 2, None):
        kept = (Kept(part=part, dtype="bf16", layers=count),)
        found.append(seconds(replace(model, kept=kept), family))
    # Short products are bound by their floor, which bf16 has the lowest of.
    assert found[0] < found[1] < found[2] or part == "index"
    assert found[0] != found[2]
    assert found[1] == pytest.approx((found[0] + found[2]) / 2)


def test_wide_scales_take_memory_and_time() -> None:
    narrow = in_dtype("deepseek-v3", "w4a16")
    wide = replace(narrow, bytes_per_element={"w4a16": 0.5625})
    assert weights(wide) / weights(narrow) == pytest.approx(0.5625 / 0.515625, rel=0.01)
    for family in ("gemm_weights", "expert_weights"):
        assert seconds(wide, family) > seconds(narrow, family)


def test_another_precision_takes_no_notice() -> None:
    model = in_dtype("deepseek-v3", "fp8_block", Kept(part="attention", dtype="bf16"))
    model = replace(model, bytes_per_element={"fp8": 3.0})
    asked = recipe(B200.chip, model, "fp8", "bf16")
    plain = replace(model, kept=(), bytes_per_element={})
    assert weight_bytes_per_device(model, LAYOUT, asked) == weight_bytes_per_device(
        plain, LAYOUT, asked
    )


def test_a_chip_needs_the_dtypes_that_are_used_and_no_others() -> None:
    mixed = in_dtype("llama3.1-70b", "fp4", *everything(MODELS["llama3.1-70b"], "fp8"))
    assert not missing(H100.chip, H100.fits, mixed, recipe(H100.chip, mixed, "fp4", "bf16"))
    half = in_dtype("llama3.1-70b", "fp4", Kept(part="dense", dtype="fp8", layers=40))
    used = recipe(H100.chip, half, "fp4", "bf16")
    assert set(used.products_in(half)) == {"fp8", "w4a16", "bf16"}
    assert not missing(H100.chip, H100.fits, half, used)
    other = in_dtype("llama3.1-70b", "bf16")
    assert "fp4" in missing(H100.chip, H100.fits, other, recipe(H100.chip, other, "fp4", "bf16"))
    experts = in_dtype("deepseek-v3", "fp8", Kept(part="experts", dtype="fp4", layers=1))
    assert "fp4" in missing(H100.chip, H100.fits, experts, recipe(H100.chip, experts, "fp8", "fp8"))


def test_curves_and_residuals_are_those_of_the_dtypes_used() -> None:
    kept = (Kept(part="experts", dtype="fp8", layers=20), Kept(part="dense", dtype="bf16"))
    model = in_dtype("deepseek-v3", "fp4", *kept)
    wanted = recipe(B200.chip, model, "fp4", "fp8")
    curves = kernel_curves(B200, model, wanted)
    assert curves["expert_math"] == (B200.fits.moe["fp8"], B200.fits.moe["fp4"])
    assert set(wanted.products_in(model)) == {"bf16", "fp4"}
    assert "expert_math" in step_residuals(B200, model, SOFTWARE, LAYOUT, wanted)


@pytest.mark.parametrize("name", ["gpt-oss-120b", "deepseek-v3"])
def test_four_bits_keep_their_scales_where_they_run_weight_only(name: str) -> None:
    model = in_dtype(name, "mxfp4" if name == "gpt-oss-120b" else "fp4")
    found = [
        weight_bytes_per_device(
            model, Layout(), recipe(machine.chip, model, model.native_dtype, "bf16")
        )
        for machine in (H100, B200)
    ]
    assert found[0] == found[1]


def test_layers_for_drafts_are_in_their_own_dtype() -> None:
    model = in_dtype("deepseek-v3", "fp4", Kept(part="mtp", dtype="bf16"))
    plain = replace(model, kept=())
    more = [
        loaded_bytes_per_device(one, LAYOUT, own(one), 1)
        - loaded_bytes_per_device(one, LAYOUT, own(one))
        for one in (model, plain, in_dtype("deepseek-v3", "bf16"))
    ]
    assert more[0] == pytest.approx(more[2])
    assert more[0] > 2 * more[1]
    assert weights(model) == weights(plain)


def test_layers_for_drafts_keep_what_all_layers_keep() -> None:
    kept = (Kept(part="attention", dtype="bf16"), Kept(part="dense", dtype="bf16", layers=1))
    model = in_dtype("deepseek-v3", "fp8", *kept)
    whole, one = with_mtp_layers(model, 1), one_mtp_layer(model)
    assert own(whole).shares(whole, "attention", 62) == (("bf16", 62),)
    assert one.kept == kept[:1]
    drafted = replace(model, kept=(*kept, Kept(part="mtp", dtype="fp8_block")))
    whole, one = with_mtp_layers(drafted, 1), one_mtp_layer(drafted)
    assert own(whole).shares(whole, "attention", 62) == (("bf16", 61.0), ("fp8_block", 1.0))
    assert {kept.dtype for kept in one.kept} == {"fp8_block"}


@pytest.mark.parametrize(("share", "used"), [(1.03, 1.03), (0.96, 0.96), (1.2, 1.0)])
def test_the_size_of_a_checkpoint_counts_where_it_can_be_true(share: float, used: float) -> None:
    model = in_dtype("llama3.1-8b", "fp8")
    sized = replace(model, checkpoint_bytes=round(share * counted_bytes(model)))
    found = loaded_bytes_per_device(sized, LAYOUT, own(sized))
    assert found == pytest.approx(used * weights(model))
    bf16 = recipe(B200.chip, sized, "bf16", "bf16")
    assert loaded_bytes_per_device(sized, LAYOUT, bf16) == weight_bytes_per_device(
        model, LAYOUT, bf16
    )
