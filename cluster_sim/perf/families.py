"""What each operator family adds to an engine step: tables over what the step consists of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster_sim.collectives.reach import word_of
from cluster_sim.kernels.attention import (
    decode_attention,
    prompt_attention,
    provenance,
    recurrent_s,
)
from cluster_sim.kernels.counts import LINEAR_FLOP, index_key_bytes, read_share
from cluster_sim.kernels.curves import from_others, gemm_curve
from cluster_sim.kernels.experts import expert_time
from cluster_sim.kernels.gemm import gemm_memory_s, gemm_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import (
    Gemm,
    draft_projections,
    kv_bytes_per_token,
    layer_gemms,
    linear_state_bytes,
    linear_state_elements,
    lm_head,
)
from cluster_sim.kernels.state_space import (
    STATE_FLOP,
    state_elements,
    state_space_bytes,
)
from cluster_sim.kernels.stream import glue_bytes, stream_bytes_per_s
from cluster_sim.perf.communication import all_reduce_family, exchange_family, handoff_family
from cluster_sim.perf.drafts import one_mtp_layer, with_passes
from cluster_sim.perf.family import Family, FamilyCase, FloatArray
from cluster_sim.specs.chip import weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software


def operator_families(
    machine: TopologyInput,
    model: Model,
    software: Software,
    layout: Layout,
    recipe: Recipe,
    together: int | None = None,
) -> tuple[Family, ...]:
    """All families that a model has under a layout; raises SpecError when a curve is missing.

    With drafts the model is one ``with_mtp_layers``. ``together``: how many tokens of all batches
    the tables of what they share reach to, if not as far as the limits of the engine.
    """
    case = FamilyCase(machine, model, software, layout, recipe, together)
    families = [*_gemm_families(case), _prefill_family(case), _decode_family(case)]
    families.append(_glue_family(case))
    families += _recurrent_families(case)
    families.append(all_reduce_family(case))
    if model.moe is not None:
        families += _expert_families(case)
    if layout.pp > 1:
        families.append(handoff_family(case))
    families += [_host_family(case), _swap_family(case)]
    families = _of_other_software(case, families)
    return tuple(_drafting(case, families)) if software.draft_tokens else tuple(families)


def _of_other_software(case: FamilyCase, families: list[Family]) -> list[Family]:
    """The families with those of kernels that were timed in another framework extrapolated."""
    far = from_others(case.machine, case.model, case.recipe, case.software.framework)
    return [
        replace(family, provenance=word_of(family.provenance, float(family.name in far)))
        for family in families
    ]


def _drafting(case: FamilyCase, families: list[Family]) -> list[Family]:
    """The families with drafts in their steps, and with further passes of an MTP layer."""
    model, software = case.model, case.software
    passes = software.draft_tokens - model.mtp_layers
    if passes > 0:
        bare = replace(software, draft_tokens=0, max_num_batched_tokens=0)
        layer = operator_families(
            case.machine, one_mtp_layer(model), bare, case.layout, case.recipe
        )
        families = list(with_passes(families, layer, passes, case.width))
    wide = [family.use and replace(family.use, decode_tokens=case.width) for family in families]
    return [
        replace(family, decode_tokens=case.width, use=use)
        for family, use in zip(families, wide, strict=True)
    ]


def _gemm_families(case: FamilyCase) -> tuple[Family, Family]:
    """GEMM time, split by which side of the roofline binds; the LM head runs on one row a sequence.

    With k drafts the LM head runs on k + 1 rows a sequence, and on one row a draft.
    """
    machine, tokens, rows = case.machine, case.tokens, case.sequences
    drafts, layers = case.software.draft_tokens, np.zeros((3, len(tokens)))
    used, head = {"bf16"}, lm_head(case.model, case.layout.tp)
    for shape in (*layer_gemms(case.model, case.layout), head):
        used |= {dtype for dtype, _ in case.shares(shape.part, shape.layers)}
    for shape in layer_gemms(case.model, case.layout):
        layers += _products(case, tokens, shape)
    heads = _products(case, rows * case.width, head)
    if drafts:
        projection = draft_projections(case.model, drafts)
        layers += _products(case, tokens, projection)
        once = projection.layers * _products(case, rows, head)
        again = drafts - projection.layers
        heads += once + again * _product(machine, "bf16", rows, projection)
    layers[:, 0] = heads[:, 0] = 0.0
    use = Family("gemm_math", "", layers[2], heads[2])
    provenance = weakest(gemm_curve(machine, dtype).provenance for dtype in sorted(used))
    return (
        Family("gemm_math", provenance, layers[0], heads[0], use=use),
        Family("gemm_weights", provenance, layers[1], heads[1]),
    )


def _products(case: FamilyCase, tokens: FloatArray, shape: Gemm) -> FloatArray:
    """What ``_product`` gives of all layers that have a product, each in its dtype."""
    found = np.zeros((3, len(tokens)))
    for dtype, layers in case.shares(shape.part, shape.layers):
        width = case.recipe.width(case.model, dtype)
        found += layers * _product(case.machine, dtype, tokens, shape, width)
    return found


def _product(
    machine: TopologyInput,
    dtype: str,
    tokens: FloatArray,
    shape: Gemm,
    weight_bytes: float | None = None,
) -> FloatArray:
    """Seconds of one layer's product where arithmetic binds, where bytes do, and what it reads (s)
    where arithmetic binds.
    """
    size = (tokens, shape.n, shape.k, weight_bytes)
    seconds, bound = gemm_s(machine, dtype, *size)
    read_s = gemm_memory_s(machine.chip, dtype, gemm_curve(machine, dtype), *size)
    rows = (np.where(bound, seconds, 0.0), np.where(bound, 0.0, seconds))
    return np.array((*rows, np.where(bound, read_s, 0.0)))


def _prefill_family(case: FamilyCase) -> Family:
    prompt = prompt_attention(case.machine, case.model, case.layout, case.recipe)
    return Family(
        "attention_prefill",
        prompt.provenance,
        prefill_floor_s=prompt.floor_s * case.software.in_situ.attention_floor_factor,
        prompts=True,
    )


def _decode_family(case: FamilyCase) -> Family:
    """Decode attention of all layers; sparse layers read the index of all tokens besides, and every
    query its own choice.
    """
    model = case.model
    decodes, context_s, local_context_s, words = 0.0 * case.sequences, 0.0, 0.0, []
    for kind in model.kinds:
        parts = (case.machine, kind, case.layout, case.recipe)
        layer = decode_attention(*parts, case.width)
        floor = layer.floor_s * case.software.in_situ.attention_floor_factor
        decodes += kind.layers * (floor + case.sequences * layer.sequence_s)
        share, near_s = read_share(kind), layer.token_s
        context_s += (kind.layers - kind.local_layers) * layer.token_s * share
        if model.local is not None and kind == model.indexed:
            index = model.local.indexed_layers * index_key_bytes(model)
            context_s += index / layer.bytes_per_s * share
            near_s = case.width * decode_attention(*parts).token_s
        local_context_s += kind.local_layers * near_s * share
        words.append(layer.provenance)
    decodes[0] = 0.0
    return Family(
        "attention_decode",
        provenance(model, words),
        decodes_s=decodes,
        context_s=context_s,
        local_context_s=local_context_s,
    )


def _glue_family(case: FamilyCase) -> Family:
    """Norms, rotary embedding, KV write, activation, residual: kernels x floor + bytes / (bandwidth
    u_m) a layer; of layers without a mixer or an MLP half the kernels.
    """
    curve = case.machine.fits.glue
    bandwidth = stream_bytes_per_s(case.machine)
    floors = case.software.in_situ.glue_kernels_per_layer * curve.floor
    floors *= case.model.residual_blocks / (2 * case.model.layers)
    moved = case.tokens * glue_bytes(case.model, case.layout.tp)
    tokens = case.model.layers * (floors + moved / bandwidth)
    tokens[0] = 0.0
    return Family("glue", curve.provenance, tokens)


def _recurrent_family(case: FamilyCase, name: str, layers: int, flop: int, held: float) -> Family:
    """Layers with a state of ``held`` bytes a sequence: every sequence reads and writes it once a
    step, every token costs ``flop``.

    Model: decode bytes 2 x state a sequence over the glue curve, and one more state a draft, since
    any of them may be the last that is kept; the FLOP at the rate of prompt attention. Limits:
    assumed, no timings of such kernels; scans of Mamba-1 are no products and may take longer.
    """
    machine = case.machine
    curve, moved = machine.fits.glue, (1 + case.width) * held
    bandwidth = stream_bytes_per_s(machine)
    flop_s = recurrent_s(machine, flop, case.recipe.kv)
    tokens = layers * (curve.floor + case.tokens * flop_s)
    sequences = layers * case.sequences * (moved / bandwidth)
    tokens[0] = 0.0
    use = Family(name, "", sequences_s=sequences)
    return Family(name, "assumed", tokens, sequences, use=use)


def _recurrent_families(case: FamilyCase) -> list[Family]:
    """Gated-delta layers in their chunked form, 6 FLOP an element of the state, and Mamba's."""
    linear, ssm, tp = case.model.linear, case.model.state_space, case.layout.tp
    found = []
    if linear is not None:
        flop = LINEAR_FLOP * linear_state_elements(linear, tp)
        held = linear_state_bytes(linear, tp)
        found.append(_recurrent_family(case, "linear_attention", linear.layers, flop, held))
    if ssm is not None:
        flop, bytes_ = STATE_FLOP * state_elements(ssm, tp), state_space_bytes(ssm, tp)
        found.append(_recurrent_family(case, "state_space", ssm.layers, flop, bytes_))
    return found


def _expert_families(case: FamilyCase) -> list[Family]:
    """Routed experts, and with several attention groups the exchange of tokens around them.

    With one attention group all devices have all tokens: no exchange, the all-reduce adds up.
    """
    model, layout = case.model, case.layout
    assert model.moe is not None
    alone = layout.attn_dp == 1
    counts = case.tokens if alone else case.all_tokens
    math, weights, provenances = np.zeros(len(counts)), np.zeros(len(counts)), []
    for dtype, layers in case.shares("experts", model.moe.layers):
        same = replace(case.recipe, experts=dtype)
        time = expert_time(case.machine, model, layout, same, len(counts) - 1)
        math, weights = math + layers * time.math_s, weights + layers * time.weights_s
        provenances.append(time.provenance)
    provenance = weakest(provenances)
    if alone:
        return [
            Family("expert_math", provenance, math),
            Family("expert_weights", provenance, weights),
        ]
    return [
        Family("expert_math", provenance, shared_s=math),
        Family("expert_weights", provenance, shared_s=weights),
        exchange_family(case, counts),
    ]


def _host_family(case: FamilyCase) -> Family:
    """CPU time that delays the next step: per step and per sequence; assumed on chips of a vendor
    that it was not fitted on.
    """
    host = case.software.host
    sequences = host.per_step + case.sequences * host.per_sequence
    sequences[0] = 0.0
    return Family("host", host.on(case.machine.chip.vendor), sequences_s=sequences)


def _swap_family(case: FamilyCase) -> Family:
    """KV that preempted sequences move to the host and back, over the device's host link."""
    moved = kv_bytes_per_token(case.model, case.layout.tp, case.recipe.kv) / case.layout.pp
    link, use = case.software.memory.host_link, Family("swap", "", swap_s=moved)
    return Family("swap", "datasheet", swap_s=moved / link, use=use)
