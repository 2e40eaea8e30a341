"""What each operator family adds to an engine step: tables over what the step consists of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.in_step import (
    InStep,
    all_reduce,
    everywhere,
    expert_exchange,
    handoff,
)
from cluster_sim.collectives.ranks import shape_of
from cluster_sim.collectives.reach import word_of
from cluster_sim.collectives.shape import Shape
from cluster_sim.kernels.attention import (
    decode_attention,
    prompt_attention,
    provenance,
    recurrent_s,
)
from cluster_sim.kernels.counts import LINEAR_FLOP, index_key_bytes, read_share
from cluster_sim.kernels.curves import from_others, gemm_curve
from cluster_sim.kernels.experts import expert_time
from cluster_sim.kernels.gemm import WEIGHT_ONLY, gemm_memory_s, gemm_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import (
    ACTIVATION_BYTES,
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
    summed_elements,
)
from cluster_sim.kernels.stream import glue_bytes, stream_bytes_per_s
from cluster_sim.perf.drafts import one_mtp_layer, with_passes
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

FloatArray = NDArray[np.float64]
EACH, KNOTS_A_FOLD = 64, 30  # knots of tables: below each number, then so many an e-fold


@dataclass(frozen=True, slots=True)
class Family:
    """Seconds of one operator family, as tables and slopes over what a step consists of.

    ``tokens_s`` by tokens in the step, ``sequences_s`` by sequences in the batch, ``decodes_s`` by
    decoding sequences (None: nothing); ``context_s`` per token of context that decode attention
    reads and ``local_context_s`` per token inside the window of local layers; ``prefill_floor_s``
    once per step with a prompt, and ``prompts`` if the seconds of prompt attention belong here;
    ``swap_s`` per token moved to or from the host; ``shared_s`` by tokens of all batches of the
    replica; ``filling_s`` by decoding sequences, in steps without prompts. All over all layers.

    A decoding sequence has ``decode_tokens`` tokens in a step: its own and those drafted for it.

    ``use`` has amounts instead of seconds in tables of the same form: bytes that a device sends, or
    of work bound by arithmetic the seconds that its bytes take at the full rate of the memory.
    """

    name: str
    provenance: str
    tokens_s: FloatArray | None = None
    sequences_s: FloatArray | None = None
    decodes_s: FloatArray | None = None
    context_s: float = 0.0
    local_context_s: float = 0.0
    prefill_floor_s: float = 0.0
    prompts: bool = False
    swap_s: float = 0.0
    shared_s: FloatArray | None = None
    filling_s: FloatArray | None = None
    decode_tokens: int = 1
    use: Family | None = None


class Batch(NamedTuple):
    """What one step of one batch consists of: decoding sequences, the context that they read and
    the part of it in local layers, prompt tokens, prompts, seconds of their attention, tokens moved
    to or from the host.
    """

    decodes: int
    context: int
    local_context: int
    prefill_tokens: int
    prompts: int
    prefill_s: float
    swapped: int


NOTHING = Batch(0, 0, 0, 0, 0, 0.0, 0)


def family_s(family: Family, steps: Any, all_tokens: Any) -> Any:
    """Seconds of an operator family in a step; ``steps`` is a Batch, or has arrays of its fields,
    ``all_tokens`` are those of all batches.

    Model: the terms of StepPrice.step_s and round_s that belong to the family.
    """
    seconds = family.context_s * steps.context + family.local_context_s * steps.local_context
    for table, count in (
        (family.tokens_s, steps.decodes * family.decode_tokens + steps.prefill_tokens),
        (family.sequences_s, steps.decodes + steps.prompts),
        (family.decodes_s, steps.decodes),
        (family.shared_s, all_tokens),
    ):
        if table is not None:
            seconds = seconds + table[count]
    if family.filling_s is not None:
        seconds = seconds + (steps.prefill_tokens == 0) * family.filling_s[steps.decodes]
    if family.prefill_floor_s or family.prompts:
        prompt_s = family.prefill_floor_s + (steps.prefill_s if family.prompts else 0.0)
        seconds = seconds + (steps.prefill_tokens > 0) * prompt_s
    return seconds + family.swap_s * steps.swapped


@dataclass(frozen=True, slots=True)
class _Case:
    """What all families are computed from, and the counts that their tables run over."""

    machine: TopologyInput
    model: Model
    software: Software
    layout: Layout
    recipe: Recipe
    together: int | None = None

    @property
    def width(self) -> int:
        """Tokens of a decoding sequence in a step: the next one and those drafted."""
        return 1 + self.software.draft_tokens

    @property
    def tokens(self) -> FloatArray:
        most = self.software.max_num_batched_tokens + self.software.max_num_seqs * self.width
        return np.arange(most + 1, dtype=float)

    @property
    def sequences(self) -> FloatArray:
        return np.arange(self.software.max_num_seqs + 1, dtype=float)

    def group(self, ranks: int, *, apart: bool = False) -> Shape:
        """Ranks side by side; ``apart``: on a chip each."""
        stride = self.machine.chip.devices_per_chip if apart else 1
        return shape_of(self.machine, np.arange(ranks, dtype=np.int64) * stride)

    def shares(self, part: str, layers: int) -> tuple[tuple[str, float], ...]:
        """The dtypes of a part, each with its number of layers."""
        return self.recipe.shares(self.model, part, layers)

    @property
    def all_tokens(self) -> FloatArray:
        """Tokens of all batches together: as many as the limits allow, ``together`` at most."""
        most = (len(self.tokens) - 1) * self.layout.attn_dp
        return np.arange(min(most, self.together or most) + 1, dtype=float)


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
    case = _Case(machine, model, software, layout, recipe, together)
    families = [*_gemm_families(case), _prefill_family(case), _decode_family(case)]
    families.append(_glue_family(case))
    families += _recurrent_families(case)
    families.append(_all_reduce_family(case))
    if model.moe is not None:
        families += _expert_families(case)
    if layout.pp > 1:
        families.append(_handoff_family(case))
    families += [_host_family(case), _swap_family(case)]
    families = _of_other_software(case, families)
    return tuple(_drafting(case, families)) if software.draft_tokens else tuple(families)


def _of_other_software(case: _Case, families: list[Family]) -> list[Family]:
    """The families with those of kernels that were timed in another framework extrapolated."""
    far = from_others(case.machine, case.model, case.recipe, case.software.framework)
    return [
        replace(family, provenance=word_of(family.provenance, float(family.name in far)))
        for family in families
    ]


def _drafting(case: _Case, families: list[Family]) -> list[Family]:
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


def _gemm_families(case: _Case) -> tuple[Family, Family]:
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


def _products(case: _Case, tokens: FloatArray, shape: Gemm) -> FloatArray:
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


def _prefill_family(case: _Case) -> Family:
    prompt = prompt_attention(case.machine, case.model, case.layout, case.recipe)
    return Family(
        "attention_prefill",
        prompt.provenance,
        prefill_floor_s=prompt.floor_s * case.software.in_situ.attention_floor_factor,
        prompts=True,
    )


def _decode_family(case: _Case) -> Family:
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


def _glue_family(case: _Case) -> Family:
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


def _recurrent_family(case: _Case, name: str, layers: int, flop: int, held: float) -> Family:
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


def _recurrent_families(case: _Case) -> list[Family]:
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


def _all_reduce_family(case: _Case) -> Family:
    """Sums of T x hidden activations over the devices of an attention, or of a stage; none without
    tensor parallelism.

    One after each mixer and each MLP (parallel blocks: one), and in Mamba-1 one more of what drives
    its state. Experts of several attention groups exchange tokens instead, see the expert families.
    """
    model, layout, in_situ = case.model, case.layout, case.software.in_situ
    sums = model.summed_blocks
    if layout.attn_dp > 1 and model.moe is not None:
        sums -= model.moe.layers
    tokens, sent, words = np.zeros_like(case.tokens), np.zeros_like(case.tokens), []
    if layout.tp == 1:
        return Family("all_reduce", "datasheet", tokens)
    kinds = [(sums, model.hidden)]
    if model.state_space is not None and (inside := summed_elements(model.state_space)):
        kinds.append((model.state_space.layers, inside))
    for count, elements in kinds:
        at = knots(len(case.tokens))
        message = at * (elements * ACTIVATION_BYTES)
        alone = all_reduce(case.machine, case.software.all_reduce, case.group(layout.tp), message)
        seconds = launched_s(case.machine, alone) * in_situ.all_reduce_factor
        tokens += count * (np.interp(case.tokens, at, seconds) + in_situ.all_reduce_skew)
        sent += count * np.interp(case.tokens, at, alone.sent)
        words.append(alone.word)
    tokens[0] = 0.0
    use = Family("all_reduce", "", sent)
    return Family("all_reduce", weakest(words), tokens, use=use)


def knots(count: int) -> FloatArray:
    """Where a table of so many whole numbers from 0 is priced, and straight lines drawn between:
    each of the first 64, then about one in thirty, the last at or beyond the end. Longer tables
    have the same knots and more.
    """
    folds = math.log(max(1.0, (count - 1) / EACH))
    steps = np.arange(1, 2 + math.ceil(KNOTS_A_FOLD * folds))
    beyond = np.rint(EACH * np.exp(steps / KNOTS_A_FOLD))
    return np.unique(np.concatenate([np.arange(EACH + 1), beyond]))


def launched_s(machine: TopologyInput, alone: InStep) -> FloatArray:
    """Seconds of a collective by message, the shortest first, with the launch of its kernel
    overlapped as the chip overlaps those of others.
    """
    inside = machine.fits.in_engine
    overlap = inside.launch_overlap if inside is not None else None
    hidden = 0.0 if overlap is None else (1 - overlap.floors) * alone.seconds[0]
    return np.asarray(alone.seconds - hidden)


def _expert_families(case: _Case) -> list[Family]:
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
        _exchange_family(case, counts),
    ]


def _exchange_family(case: _Case, counts: FloatArray) -> Family:
    """Dispatch in the experts' dtype and combine in bf16, once a layer with experts; latents if the
    experts work on those.

    Model: the devices of a group share its tokens, and each sends its part to the devices that hold
    a slice of a chosen expert; with experts on every device of a stage (ep 1) to all others.
    """
    model, layout = case.model, case.layout
    assert model.moe is not None
    ranks = layout.stage_devices
    shares = case.shares("experts", model.moe.layers)
    width = sum(layers * _sent_bytes(dtype) for dtype, layers in shares) / model.moe.layers
    own = np.ceil(counts / ranks).astype(np.int64)  # tokens of a device
    at = knots(int(own[-1]) + 1)
    copy = at * model.expert_input
    copies = (copy * width, copy * ACTIVATION_BYTES)
    if layout.ep == 1:
        alone = everywhere(case.machine, case.group(ranks), copies)
    else:
        slices = layout.expert_slices
        routing = Routing(top_k=model.moe.top_k * slices, experts=model.moe.experts * slices)
        libraries = case.software.experts
        alone = expert_exchange(case.machine, libraries, case.group(ranks), copies, routing)
    shared = model.moe.layers * np.interp(own, at, launched_s(case.machine, alone))
    shared[0] = 0.0
    sent = model.moe.layers * np.interp(own, at, alone.sent)
    use = Family("expert_exchange", "", shared_s=sent)
    return Family("expert_exchange", alone.word, shared_s=shared, use=use)


def _sent_bytes(dtype: str) -> float:
    """Bytes of an activation on its way to experts of a dtype."""
    return ACTIVATION_BYTES if dtype in WEIGHT_ONLY else BYTES_PER_ELEMENT[dtype]


def _handoff_family(case: _Case) -> Family:
    """Activations from stage to stage and the sampled tokens back to the first: pp hand-offs."""
    at = knots(len(case.tokens))
    width = case.model.hidden * ACTIVATION_BYTES / case.layout.tp
    alone = handoff(case.machine, case.group(2, apart=True), at * width)
    message = case.tokens * width
    tokens = case.layout.pp * np.interp(case.tokens, at, alone.seconds)
    tokens[0] = 0.0
    use = Family("handoff", "", case.layout.pp * message)
    return Family("handoff", alone.word, tokens, use=use)


def _host_family(case: _Case) -> Family:
    """CPU time that delays the next step: per step and per sequence; assumed on chips of a vendor
    that it was not fitted on.
    """
    host = case.software.host
    sequences = host.per_step + case.sequences * host.per_sequence
    sequences[0] = 0.0
    return Family("host", host.on(case.machine.chip.vendor), sequences_s=sequences)


def _swap_family(case: _Case) -> Family:
    """KV that preempted sequences move to the host and back, over the device's host link."""
    moved = kv_bytes_per_token(case.model, case.layout.tp, case.recipe.kv) / case.layout.pp
    link, use = case.software.memory.host_link, Family("swap", "", swap_s=moved)
    return Family("swap", "datasheet", swap_s=moved / link, use=use)
