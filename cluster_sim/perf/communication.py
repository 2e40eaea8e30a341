"""The families of an engine step that use links: sums over devices, exchange of tokens around
experts, hand-offs between stages.
"""

from __future__ import annotations

import math

import numpy as np

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.in_step import (
    InStep,
    all_reduce,
    everywhere,
    expert_exchange,
    handoff,
)
from cluster_sim.collectives.ranks import side_by_side
from cluster_sim.kernels.gemm import WEIGHT_ONLY
from cluster_sim.kernels.layout import Layout
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES
from cluster_sim.kernels.state_space import summed_elements
from cluster_sim.perf.family import Family, FamilyCase, FloatArray
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Moe
from cluster_sim.specs.software import Software

EACH, KNOTS_A_FOLD = 64, 30  # knots of tables: below each number, then so many an e-fold


def all_reduce_family(case: FamilyCase) -> Family:
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
    shape, at = side_by_side(case.machine, layout.tp), knots(len(case.tokens))
    for count, elements in kinds:
        message = at * (elements * ACTIVATION_BYTES)
        alone = all_reduce(case.machine, case.software.all_reduce, shape, message)
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
    """Seconds of a sum by message, the shortest first, with the launch of its kernel overlapped as
    the chip overlaps those of others: on sums and kernels that share was fitted.
    """
    inside = machine.fits.in_engine
    overlap = inside.launch_overlap if inside is not None else None
    hidden = 0.0 if overlap is None else (1 - overlap.floors) * alone.seconds[0]
    return np.asarray(alone.seconds - hidden)


def exchange_family(case: FamilyCase, counts: FloatArray) -> Family:
    """Dispatch in the experts' dtype and combine in bf16, once a layer with experts; latents if the
    experts work on those.

    Model: the devices of a group share its tokens, and each sends its part to the devices that hold
    a slice of a chosen expert; with experts on every device of a stage (ep 1) to all others.
    """
    model = case.model
    assert model.moe is not None
    shares = case.shares("experts", model.moe.layers)
    width = sum(layers * _sent_bytes(dtype) for dtype, layers in shares) / model.moe.layers
    own = np.ceil(counts / case.layout.stage_devices).astype(np.int64)  # tokens of a device
    at = knots(int(own[-1]) + 1)
    copy = at * model.expert_input
    copies = (copy * width, copy * ACTIVATION_BYTES)
    alone = exchanged(case.machine, model.moe, case.software, case.layout, copies)
    shared = model.moe.layers * np.interp(own, at, alone.seconds)
    shared[0] = 0.0
    sent = model.moe.layers * np.interp(own, at, alone.sent)
    use = Family("expert_exchange", "", shared_s=sent)
    return Family("expert_exchange", alone.word, shared_s=shared, use=use)


def exchanged(
    machine: TopologyInput,
    moe: Moe,
    software: Software,
    layout: Layout,
    copies: tuple[FloatArray, FloatArray],
) -> InStep:
    """Exchange of tokens around the experts of a layer; ``copies`` are bytes of one copy of all
    tokens of a device, there and back.
    """
    shape = side_by_side(machine, layout.stage_devices)
    if layout.ep == 1:
        return everywhere(machine, shape, copies)
    slices = layout.expert_slices
    routing = Routing(top_k=moe.top_k * slices, experts=moe.experts * slices)
    return expert_exchange(machine, software.experts, shape, copies, routing)


def _sent_bytes(dtype: str) -> float:
    """Bytes of an activation on its way to experts of a dtype."""
    return ACTIVATION_BYTES if dtype in WEIGHT_ONLY else BYTES_PER_ELEMENT[dtype]


def handoff_family(case: FamilyCase) -> Family:
    """Activations from stage to stage and the sampled tokens back to the first: pp hand-offs."""
    at = knots(len(case.tokens))
    width = case.model.hidden * ACTIVATION_BYTES / case.layout.tp
    alone = handoff(case.machine, side_by_side(case.machine, 2, apart=True), at * width)
    message = case.tokens * width
    tokens = case.layout.pp * np.interp(case.tokens, at, alone.seconds)
    tokens[0] = 0.0
    use = Family("handoff", "", case.layout.pp * message)
    return Family("handoff", alone.word, tokens, use=use)
