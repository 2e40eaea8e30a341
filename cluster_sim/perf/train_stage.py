"""Virtual stages of a training job: their work for a micro-batch, and what they do once a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from cluster_sim.collectives.network import Axis
from cluster_sim.kernels.counts import (
    attention_parameters,
    index_parameters,
    linear_attention_parameters,
    mlp_parameters,
    router_parameters,
)
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES
from cluster_sim.perf.train_layer import Case, Layers, Work, layers_of
from cluster_sim.specs.model import Model
from cluster_sim.specs.training import TrainingPlan, TrainingWorkload

REDUCE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}
ADAPTED = 4.0  # products of attention that adapters of low rank stand beside


@dataclass(frozen=True, slots=True)
class Content:
    """What a virtual stage holds: layers of both kinds, the embedding, the head (with what predicts
    further tokens).
    """

    dense: int
    experts: int
    embedding: bool
    head: bool

    @property
    def layers(self) -> int:
        """Layers of both kinds."""
        return self.dense + self.experts


class Called(NamedTuple):
    """A collective: operation, group, how it is done, and bytes of message as nccl-tests counts."""

    operation: str
    axis: Axis
    algorithm: str
    message_bytes: float


@dataclass(frozen=True, slots=True)
class Transfers:
    """Collectives one after the other, and their seconds alone."""

    seconds: float = 0.0
    calls: tuple[Called, ...] = ()

    def times(self, factor: float) -> Transfers:
        """So many times the same."""
        calls = tuple(one._replace(message_bytes=factor * one.message_bytes) for one in self.calls)
        return Transfers(factor * self.seconds, calls)


@dataclass(frozen=True, slots=True)
class Stage:
    """A virtual stage. ``work`` of one micro-batch; ``recompute`` of its forward pass before the
    backward one; ``parameters`` on one device, ``expert_parameters`` of them in experts,
    ``trained`` those that change; ``gradients`` and ``gather`` are collectives once a step,
    ``micro_gather`` and ``micro_scatter`` those of sharded parameters in every pass.
    """

    content: Content
    work: Work
    recompute: Work
    parameters: float
    expert_parameters: float
    trained: float
    trained_experts: float
    gradients: Transfers
    gather: Transfers
    micro_gather: Transfers
    micro_scatter: Transfers


def cut_to(model: Model, layers: int | None) -> Model:
    """The model with so many layers, of each kind about its share and at least one.

    Published runs of cut models keep one dense layer of DeepSeek's, as the memory that they measure
    says (SimuMax B200: 104 GiB with four layers).
    """
    if layers is None or layers == model.layers:
        return model
    moe = model.moe
    share = layers / model.layers
    dense = layers
    if moe is not None:
        dense = max(min(model.dense_layers, 1), round(model.dense_layers * share))
    local, linear = model.local, model.linear
    return replace(
        model,
        layers=layers,
        moe=None if moe is None or layers == dense else replace(moe, layers=layers - dense),
        local=None if local is None else replace(local, layers=max(1, round(local.layers * share))),
        linear=None
        if linear is None
        else replace(linear, layers=max(1, min(layers - 1, round(linear.layers * share)))),
    )


def contents(
    model: Model, plan: TrainingPlan, ahead: int = 0, count: int | None = None
) -> list[Content]:
    """What each virtual stage holds, in order of the forward pass.

    Model: an even split where the layers divide; else embedding, head and each layer that predicts
    further tokens (``ahead``) count as a layer each; what is then left goes to the first stages.
    Dense layers come before others, as published models with both kinds have them. Source: layouts
    of Megatron-Core recipes, such as ``Et*3|(t*4|)*14tmL`` of DeepSeek-V3.
    """
    count = count or plan.pp * plan.vpp
    held = list(plan.layers) or _even(model.layers, count, ahead)
    found, before = [], 0
    for place, layers in enumerate(held):
        dense = max(0, min(model.dense_layers - before, layers))
        before += layers
        found.append(Content(dense, layers - dense, place == 0, place == count - 1))
    return found


def _even(layers: int, stages: int, ahead: int) -> list[int]:
    each, left = divmod(layers, stages)
    if not left or stages == 1:
        return [each] * stages
    each, left = divmod(layers + 2 + ahead, stages)
    held = [each + (place < left) for place in range(stages)]
    held[0] -= 1
    held[-1] -= 1 + ahead
    for place in range(stages - 1, 0, -1):  # a last stage that would have to hold less than nothing
        if held[place] < 0:
            held[place - 1] += held[place]
            held[place] = 0
    return held


def stages_of(case: Case, count: int | None = None) -> list[Stage]:
    """Price every virtual stage of a job, ``count`` of them; equal ones share their work."""
    layers = layers_of(case)
    priced: dict[Content, Stage] = {}
    found = []
    ahead = case.model.mtp_layers if case.job.mtp else 0
    for content in contents(case.model, case.plan, ahead, count):
        if content not in priced:
            priced[content] = _stage(case, layers, content)
        found.append(priced[content])
    return found


def _stage(case: Case, layers: Layers, content: Content) -> Stage:
    body = layers.dense.times(content.dense).plus(layers.experts.times(content.experts))
    work = body
    if content.embedding:
        moved = case.kernels.stream(2 * ACTIVATION_BYTES * case.tokens * case.model.hidden)
        work = work.plus(Work({"elementwise": moved}, {"elementwise": moved}))
    if content.head:
        work = work.plus(layers.head)
        if case.job.mtp:
            work = work.plus(layers.mtp.times(case.model.mtp_layers))
    dense, experts = local_parameters(case.model, case.plan, case.job, content)
    trained, trained_experts = trained_parameters(case, content, dense, experts)
    gradients, gather = _once_a_step(case, trained, trained_experts)
    fetch, scatter = _in_every_pass(case, dense, experts, trained, trained_experts)
    return Stage(
        content=content,
        work=work.times(case.kernels.software.step_factor),
        recompute=_again(case, layers, body, content),
        parameters=dense + experts,
        expert_parameters=experts,
        trained=trained + trained_experts,
        trained_experts=trained_experts,
        gradients=gradients,
        gather=gather,
        micro_gather=fetch,
        micro_scatter=scatter,
    )


def _again(case: Case, layers: Layers, body: Work, content: Content) -> Work:
    """What is computed again before the backward pass: all of the layers' forward pass with its
    communication, or modules of them.
    """
    plan = case.plan
    if plan.recompute == "none" or not content.layers:
        return Work()
    share = min(plan.recompute_layers or content.layers, content.layers) / content.layers
    factor = share * case.kernels.software.step_factor
    if plan.recompute == "full":
        return Work(inputs=body.times(factor).forward)
    again = layers.modules_again(plan.recompute_modules, content.dense, content.experts)
    return again.times(factor)


def layer_parameters(model: Model, *, experts: bool) -> tuple[float, float]:
    """Weights of a layer that tensor parallelism cuts, and of its routed experts."""
    mixers = model.cached_layers * attention_parameters(model, model.kinds[0])
    mixers += model.local_layers * index_parameters(model)
    mixers += model.linear_layers * linear_attention_parameters(model)
    mixer = mixers / model.layers
    if not experts or model.moe is None:
        return mixer + mlp_parameters(model, model.ffn_hidden), 0.0
    moe = model.moe
    dense = mixer + mlp_parameters(model, moe.shared_hidden) + router_parameters(model)
    return dense, float(moe.experts * mlp_parameters(model, moe.expert_hidden))


def local_parameters(
    model: Model, plan: TrainingPlan, job: TrainingWorkload, content: Content
) -> tuple[float, float]:
    """Weights of a virtual stage on one device: those cut by TP, and those of its experts."""
    plain, _ = layer_parameters(model, experts=False)
    beside, routed = layer_parameters(model, experts=True)
    dense = content.dense * plain + content.experts * beside
    experts = content.experts * routed
    table = model.vocab * model.hidden
    if content.embedding:
        dense += table + model.learned_positions * model.hidden
    if content.head:
        # A tied table lies on the last stage once more if that is not the first.
        dense += 0 if model.tied_embeddings and content.embedding else table
        if job.mtp:
            last_dense, last_experts = layer_parameters(model, experts=model.moe is not None)
            dense += model.mtp_layers * (last_dense + 2 * model.hidden**2)
            experts += model.mtp_layers * last_experts
    return dense / plan.tp, experts / (plan.ep * plan.etp)


def trained_parameters(
    case: Case, content: Content, dense: float, experts: float
) -> tuple[float, float]:
    """Of these, the weights that change: all, or the adapters beside the products of attention
    (and of the MLP).
    """
    if case.job.lora is None:
        return dense, experts
    model, rank = case.model, case.job.lora.rank
    adapters = ADAPTED * 2 * rank * model.hidden
    if case.job.lora.mlp:
        adapters += 3 * rank * (model.hidden + model.ffn_hidden)
    return adapters * content.layers / case.plan.tp, 0.0


def _call(case: Case, *calls: tuple[str, Axis, float]) -> Transfers:
    """Collectives one after the other: operation, group and message."""
    network, seconds, found = case.network, 0.0, []
    for operation, axis, message in calls:
        if axis.ranks == 1 or message <= 0:
            continue
        seconds += network.seconds(operation, axis, message)
        algorithm = network.algorithm(operation, axis, message)
        found.append(Called(operation, axis, algorithm, message))
    return Transfers(seconds, tuple(found))


def _once_a_step(case: Case, dense: float, experts: float) -> tuple[Transfers, Transfers]:
    """The gradients' reduction and the parameters' gather, once a step."""
    plan, groups = case.plan, case.groups
    width = REDUCE_BYTES[plan.reduce_dtype]
    between = (
        ("all_reduce", groups.outer, dense * width / groups.sharded.ranks),
        ("all_reduce", groups.expert_outer, experts * width / groups.expert_sharded.ranks),
    )
    if plan.zero >= 3:
        return _call(case, *between), Transfers()
    if plan.zero == 0:
        reduce = ("all_reduce", groups.sharded, dense * width)
        return _call(
            case, reduce, ("all_reduce", groups.expert_sharded, experts * width)
        ), Transfers()
    gradients = _call(
        case,
        ("reduce_scatter", groups.sharded, dense * width),
        ("reduce_scatter", groups.expert_sharded, experts * width),
        *between,
    )
    gather = REDUCE_BYTES[plan.gather_dtype]
    return gradients, _call(
        case,
        ("all_gather", groups.sharded, dense * gather),
        ("all_gather", groups.expert_sharded, experts * gather),
    )


def _in_every_pass(
    case: Case, dense: float, experts: float, trained: float, trained_experts: float
) -> tuple[Transfers, Transfers]:
    """What a pass over sharded parameters gathers, and the gradients that it scatters."""
    plan, groups = case.plan, case.groups
    if plan.zero < 3:
        return Transfers(), Transfers()
    gather, width = REDUCE_BYTES[plan.gather_dtype], REDUCE_BYTES[plan.reduce_dtype]
    fetch = _call(
        case,
        ("all_gather", groups.sharded, dense * gather),
        ("all_gather", groups.expert_sharded, experts * gather),
    )
    scatter = _call(
        case,
        ("reduce_scatter", groups.sharded, trained * width),
        ("reduce_scatter", groups.expert_sharded, trained_experts * width),
    )
    return fetch, scatter
