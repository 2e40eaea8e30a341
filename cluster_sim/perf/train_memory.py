"""Bytes that a training job keeps on a device: states, activations, buffers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster_sim.kernels.model_ops import ACTIVATION_BYTES, kv_heads_per_device
from cluster_sim.perf.train_kernels import curve_of
from cluster_sim.perf.train_layer import Case, expert_imbalance
from cluster_sim.perf.train_stage import REDUCE_BYTES, Stage
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.model import Model

WEIGHT_BYTES = 2.0  # of weights that change: bf16, whatever dtype products run in
OPTIMIZER_BYTES = 12.0  # fp32 master weights and the two moments of Adam
LOGIT_BYTES = 6.0  # of a logit: bf16 and fp32
# A process, its CUDA context and communication buffers, and what the allocator cannot use.
# Source: zhebrak/llm-cluster-simulator PHYSICS.md (1 GB and 7 % of the capacity).
CONTEXT_BYTES, FRAGMENTED = 1e9, 0.07
PREFETCHED_LAYERS = 2  # whole layers that FSDP holds at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes of one device of a stage at its fullest moment."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    reserve: float

    @property
    def total(self) -> float:
        """All of it."""
        kept = self.weights + self.gradients + self.optimizer
        return kept + self.activations + self.logits + self.buffers + self.reserve


def layer_activation_bytes(case: Case, *, experts: bool) -> float:
    """Bytes that a layer keeps of a micro-batch until its backward pass, on one device.

    Model, layers without a gate (GPT): s b h (34 + 5 a s / h), the last term not with fused
    attention or selective recomputation, 32 instead of 34 without dropout; with tensor parallelism
    s b h (10 + 24 / t + 5 a s / (h t)), with sequence parallelism all of it over t; full
    recomputation 2 s b h (over t). Source: arXiv 2205.05198. Gated layers: two bytes for inputs of
    norms, queries, keys, values and both halves of the gate, one in a narrow dtype for inputs of
    products; frozen products keep no inputs. Of experts, those of the rows that come to the device.
    Modules that are computed again leave out what they make: norms and activations inputs of
    products, latent attention its queries, keys and values.
    """
    plan, model, software = case.plan, case.model, case.kernels.software
    tp, tokens, h = plan.tp, case.tokens, model.hidden
    split = tp if plan.sequence_parallel else 1
    if plan.recompute == "full" and plan.recompute_layers is None:
        return 2.0 * tokens * h / split
    if not model.gated and model.moe is None and case.job.lora is None:
        masks = (2.0, 1.0) if case.job.dropout else (1.0, 0.0)  # outside and inside TP regions
        scores = 0.0
        if software.attention.kind == "unfused" and plan.recompute == "none":
            scores = 5.0 * model.heads * case.job.seq_len / h
        outside, inside = 8.0 + masks[0], 23.0 + masks[1]
        return tokens * h * (outside / split + (inside + scores) / tp)
    again = plan.recompute_modules if plan.recompute == "selective" else ()
    kept, inputs = 2.0 * h / split, 0.0 if "norm" in again else 2.0 * h / split
    kept += _mixer_elements(model, tp, expanded="mla_up" not in again)
    active = 0.0 if "activation" in again else 1.0
    inputs += model.heads / tp * (model.mla.v_dim if model.mla else model.head_dim)
    halves = 2.0 if model.gated else 1.0
    if experts and model.moe is not None:
        moe, routing = model.moe, plan.routing
        rows = moe.top_k * (1 - routing.dropped) * expert_imbalance(case) / tp
        kept += halves * (moe.shared_hidden / tp + rows * moe.expert_hidden)
        inputs += rows * h + active * (moe.shared_hidden / tp + rows * moe.expert_hidden)
    else:
        kept += halves * model.ffn_hidden / tp
        inputs += active * model.ffn_hidden / tp
    width = input_bytes(case) if case.job.lora is None else 0.0
    return tokens * (ACTIVATION_BYTES * kept + width * inputs)


def _mixer_elements(model: Model, tp: int, *, expanded: bool) -> float:
    """Queries, keys and values of a token on a device; of latent attention the latents, and what is
    expanded from them.
    """
    if model.mla is not None:
        mla, heads = model.mla, model.heads / tp
        wide = heads * (2 * (mla.nope_dim + mla.rope_dim) + mla.v_dim) if expanded else 0.0
        return wide + mla.q_rank + mla.kv_rank + mla.rope_dim
    queries = model.heads / tp * model.head_dim
    return queries + 2.0 * kv_heads_per_device(model, tp) * model.head_dim


def input_bytes(case: Case) -> float:
    """Bytes of an element that a product keeps of its input."""
    return min(ACTIVATION_BYTES, BYTES_PER_ELEMENT[curve_of(case.dtype("dense"))])


def stage_memory(
    case: Case, parts: list[Stage], stored: float, capacity_bytes: float
) -> StageMemory:
    """What a stage of these parts keeps, with at most so many bytes ``stored`` for backward passes.

    Model: two bytes a weight (frozen ones in the dtype of their products), gradients in the dtype
    of their reduction, twelve bytes of optimizer; sharding divides optimizer (1), gradients (2),
    weights (3). What is on the host is not here.
    """
    plan, groups = case.plan, case.groups
    dense = sum(part.parameters - part.expert_parameters for part in parts)
    experts = sum(part.expert_parameters for part in parts)
    trained = sum(part.trained - part.trained_experts for part in parts)
    trained_experts = sum(part.trained_experts for part in parts)
    shards = (groups.sharded.ranks, groups.expert_sharded.ranks)

    def kept(plain: float, routed: float, stage: int) -> float:
        by = shards if plan.zero >= stage else (1, 1)
        return plain / by[0] + routed / by[1]

    width = REDUCE_BYTES[plan.reduce_dtype]
    layers = sum(part.content.layers for part in parts)
    fetched = 0.0
    if plan.zero >= 3 and layers:
        fetched = PREFETCHED_LAYERS * (dense + experts) / layers * (WEIGHT_BYTES + width)
    head = any(part.content.head for part in parts)
    logits = LOGIT_BYTES * case.tokens * case.model.vocab / plan.tp if head else 0.0
    optimizer = OPTIMIZER_BYTES * kept(trained, trained_experts, 1)
    return StageMemory(
        weights=_weight_bytes(case) * kept(dense, experts, 3),
        gradients=width * kept(trained, trained_experts, 2),
        optimizer=optimizer * (1 - plan.offload.optimizer),
        activations=stored + working_bytes(case, parts),
        logits=logits,
        buffers=fetched,
        reserve=CONTEXT_BYTES + FRAGMENTED * capacity_bytes,
    )


def _weight_bytes(case: Case) -> float:
    """Bytes of a weight: bf16, and the dtype of the products where it is frozen."""
    return WEIGHT_BYTES if case.job.lora is None else input_bytes(case)


def stored_bytes(case: Case, part: Stage) -> float:
    """Activations that a part of the model keeps of a micro-batch, on the host too: layers that
    predict further tokens as well; those that are not computed again keep all.
    """
    content, plan, model = part.content, case.plan, case.model
    each = {kind: layer_activation_bytes(case, experts=kind) for kind in (False, True)}
    held = content.dense * each[False] + content.experts * each[True]
    again = plan.recompute_layers
    if plan.recompute == "full" and again is not None and content.layers:
        split = case.plan.tp if plan.sequence_parallel else 1
        few = 2.0 * case.tokens * model.hidden / split
        share = min(again, content.layers) / content.layers
        held = held * (1 - share) + few * share * content.layers
    if content.head and case.job.mtp:
        held += model.mtp_layers * each[model.moe is not None]
    return held


def working_bytes(case: Case, parts: list[Stage]) -> float:
    """With full recomputation: all that one layer keeps while its backward pass runs."""
    if case.plan.recompute != "full":
        return 0.0
    plan = replace(case.plan, recompute="none", recompute_layers=None)
    whole = replace(case, plan=plan)
    routed = any(part.content.experts for part in parts)
    return layer_activation_bytes(whole, experts=routed)
