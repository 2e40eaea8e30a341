"""Kernels and layers against the curves that a step is priced with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.kernels.attention import decode_attention, prompt_attention
from cluster_sim.kernels.experts import expert_time
from cluster_sim.kernels.gemm import gemm_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology
from cluster_sim.specs.model import Mla, Model, Moe
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import DTYPES, POOLS, SkippedError

FITTED_ON = "ai-dynamo/aiconfigurator"  # the tables that the curves were fitted to
LATENT = Mla(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)  # DeepSeek-V3
MOST_TOKENS = 65_536  # of a step for which expert time is tabulated; more when a case has more
_ATTENTION = ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode")


def fitted(case: Case) -> bool:
    """Whether the curves were fitted to this row."""
    return case.text("source").startswith(FITTED_ON)


def operator_us(case: Case) -> float:
    """Microseconds of one operator alone, without what engines change of it; raises SkippedError
    for what steps are not made of.
    """
    op = case.text("op")
    try:
        machine = _machine(case.text("chip"))
        if op == "gemm":
            return _gemm_us(machine, case)
        if op in _ATTENTION:
            return _attention_us(machine, case)
        if op == "moe_ffn":
            return _experts_us(machine, case)
        if op.startswith("glue"):
            return _glue_us(machine, case)
    except SpecError as error:
        raise SkippedError("no curve", str(error)) from None
    if op == "kv_transfer":
        raise SkippedError(POOLS)
    raise SkippedError("operator not modelled", op)


@cache
def _machine(chip: str) -> TopologyInput:
    return load_topology(f"1 x {chip}").timed_alone


def _dtype(case: Case, column: str) -> str:
    text = case.text(column) or "bf16"
    return DTYPES.get(text, text)


def _counts(case: Case, columns: Sequence[str]) -> list[int]:
    values = [case.count(column, 0) for column in columns]
    if not all(values):
        raise SkippedError("shape not stated", ", ".join(columns))
    return values


def _gemm_us(machine: TopologyInput, case: Case) -> float:
    m, n, k = _counts(case, ("m", "n", "k"))
    seconds, _ = gemm_s(machine, _dtype(case, "dtype"), np.array([float(m)]), n, k)
    return float(seconds[0]) * 1e6


def _glue_us(machine: TopologyInput, case: Case) -> float:
    (moved,) = _counts(case, ("message_bytes",))
    curve = machine.fits.glue
    return (curve.floor + moved / (machine.chip.device_bandwidth * curve.memory)) * 1e6


def _attention_us(machine: TopologyInput, case: Case) -> float:
    """Heads of a row are those of one device; all sequences of its batch have one length."""
    if "non_causal" in case.flags:
        raise SkippedError("attention without a causal mask is not modelled")
    op = case.text("op")
    batch, length, heads = _counts(case, ("batch", "seq_len", "heads"))
    if op.startswith("mla"):
        model = _model(heads=heads, kv_heads=1, head_dim=192, mla=LATENT)
    else:
        kv_heads, head_dim = _counts(case, ("kv_heads", "head_dim"))
        model = _model(heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    recipe = Recipe("bf16", "bf16", "bf16", "bf16", _dtype(case, "kv_dtype"))
    if op.endswith("prefill"):
        prompt = prompt_attention(machine, model, Layout(1), recipe)
        pairs = length * length * (1 + prompt.half_length / length)
        return (prompt.floor_s + batch * prompt.all_s * pairs) * 1e6
    layer = decode_attention(machine, model.kinds[0], Layout(1), recipe)
    return (layer.floor_s + batch * layer.sequence_s + batch * length * layer.token_s) * 1e6


@cache
def _model(*, heads: int, kv_heads: int, head_dim: int, mla: Mla | None = None) -> Model:
    """A layer that is attention alone."""
    return Model(
        name="operator",
        title="one operator",
        layers=1,
        hidden=heads * head_dim,
        ffn_hidden=1,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=1,
        max_context=1,
        mla=mla,
    )


def _experts_us(machine: TopologyInput, case: Case) -> float:
    if "routing_balanced" in case.flags:
        raise SkippedError("balanced routing is not modelled", "loads of experts are skewed")
    tokens, width, hidden, experts, top_k = _counts(case, ("tokens", "n", "k", "experts", "top_k"))
    dtype = _dtype(case, "dtype")
    if dtype not in machine.fits.moe or dtype not in BYTES_PER_ELEMENT:
        raise SkippedError("no curve", f"{machine.chip.name}: no {dtype} expert curve")
    most = max(MOST_TOKENS, tokens)
    shape = (width, hidden, experts, top_k, case.count("ep"), case.count("tp"))
    return _expert_table(case.text("chip"), dtype, *shape, most)[tokens] * 1e6


@cache
def _expert_table(
    chip: str, dtype: str, width: int, hidden: int, experts: int, top_k: int, ep: int, tp: int,
    most: int,
) -> list[float]:  # fmt: skip
    """Seconds of the slowest rank by tokens of the whole group."""
    model = Model(
        name="experts",
        title="one layer of experts",
        layers=1,
        hidden=hidden,
        heads=1,
        kv_heads=1,
        head_dim=1,
        vocab=1,
        max_context=1,
        moe=Moe(experts=experts, top_k=top_k, expert_hidden=width, layers=1),
    )
    layout, recipe = Layout(ep * tp, 1, ep, 1), Recipe(dtype, dtype, dtype, dtype, "bf16")
    priced = expert_time(_machine(chip), model, layout, recipe, most)
    table: list[float] = (priced.math_s + priced.weights_s).tolist()
    return table
