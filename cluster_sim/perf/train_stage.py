"""Virtual stages of a training job: their work for a micro-batch, and what they do once a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster_sim.perf.counts import (
    attention_parameters,
    index_parameters,
    linear_attention_parameters,
    mlp_parameters,
    router_parameters,
)
from cluster_sim.perf.train_layer import Case, Layers, Work, layers_of
from cluster_sim.perf.transformer import ACTIVATION_BYTES
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


@dataclass(frozen=True, slots=True)
class Stage:
    """A virtual stage. ``work`` of one micro-batch; ``recompute`` of its forward pass before the
    backward one; ``parameters`` on one device, ``expert_parameters`` of them in experts;
    ``gradient_s`` and ``gather_s`` are collectives once a step, ``micro_gather_s`` and
    ``micro_scatter_s`` those of sharded parameters in every pass.
    """

    content: Content
    work: Work
    recompute: Work
    parameters: float
    expert_parameters: float
    gradient_s: float
    gather_s: float
    micro_gather_s: float
    micro_scatter_s: float


def cut_to(model: Model, layers: int | None) -> Model:
    """The model with so many layers, the first ones; dense ones come before those with experts."""
    if layers is None or layers == model.layers:
        return model
    dense = min(model.dense_layers, layers)
    moe = model.moe
    share = layers / model.layers
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


def contents(model: Model, plan: TrainingPlan, ahead: int = 0) -> list[Content]:
    """What each virtual stage holds, in order of the forward pass.

    Model: an even split where the layers divide; else embedding, head and each layer that predicts
    further tokens (``ahead``) count as a layer each; what is then left goes to the first stages.
    Dense layers come before others, as published models with both kinds have them. Source: layouts
    of Megatron-Core recipes, such as ``Et*3|(t*4|)*14tmL`` of DeepSeek-V3.
    """
    count = plan.pp * plan.vpp
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


def stages_of(case: Case) -> list[Stage]:
    """Price every virtual stage of a job; equal ones share their work."""
    layers = layers_of(case)
    priced: dict[Content, Stage] = {}
    found = []
    ahead = case.model.mtp_layers if case.job.mtp else 0
    for content in contents(case.model, case.plan, ahead):
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
    gradients, gathers = _once_a_step(case, dense, experts)
    fetch = _fetched(case, dense, experts)
    return Stage(
        content=content,
        work=work.times(case.kernels.software.step_factor),
        recompute=_again(case, layers, body, content),
        parameters=dense + experts,
        expert_parameters=experts,
        gradient_s=gradients,
        gather_s=gathers,
        micro_gather_s=fetch[0],
        micro_scatter_s=fetch[1],
    )


def _again(case: Case, layers: Layers, body: Work, content: Content) -> Work:
    """What is computed again before the backward pass: all of the layers' forward pass with its
    communication, or the core of attention.
    """
    plan = case.plan
    if plan.recompute == "none" or not content.layers:
        return Work()
    share = min(plan.recompute_layers or content.layers, content.layers) / content.layers
    factor = share * case.kernels.software.step_factor
    if plan.recompute == "full":
        return Work(inputs=body.times(factor).forward)
    return Work(inputs={"attention": factor * content.layers * layers.attention_core_s})


def layer_parameters(model: Model, *, experts: bool) -> tuple[float, float]:
    """Weights of a layer that tensor parallelism cuts, and of its routed experts."""
    mixers = model.cached_layers * attention_parameters(model)
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


def trained_parameters(case: Case, dense: float, experts: float) -> tuple[float, float]:
    """Of these, the weights that change: all, or the adapters of attention."""
    if case.job.lora is None:
        return dense, experts
    model, rank = case.model, case.job.lora.rank
    layers = model.layers / (case.plan.pp * case.plan.vpp)
    adapters = ADAPTED * 2 * rank * model.hidden * layers
    if case.job.lora.mlp:
        adapters += 3 * rank * (model.hidden + model.ffn_hidden) * layers
    return adapters / case.plan.tp, 0.0


def _once_a_step(case: Case, dense: float, experts: float) -> tuple[float, float]:
    """Seconds of the gradients' reduction and of the parameters' gather, once a step."""
    plan, groups, network = case.plan, case.groups, case.network
    dense, experts = trained_parameters(case, dense, experts)
    width = REDUCE_BYTES[plan.reduce_dtype]
    if plan.zero >= 3:
        return network.seconds("all_reduce", groups.outer, dense * width / groups.sharded.ranks), 0
    if plan.zero == 0:
        seconds = network.seconds("all_reduce", groups.sharded, dense * width)
        return seconds + network.seconds(
            "all_reduce", groups.expert_sharded, experts * width
        ), 0.0
    reduce = network.seconds("reduce_scatter", groups.sharded, dense * width)
    reduce += network.seconds("reduce_scatter", groups.expert_sharded, experts * width)
    reduce += network.seconds("all_reduce", groups.outer, dense * width / groups.sharded.ranks)
    gather = REDUCE_BYTES[plan.gather_dtype]
    back = network.seconds("all_gather", groups.sharded, dense * gather)
    back += network.seconds("all_gather", groups.expert_sharded, experts * gather)
    return reduce, back


def _fetched(case: Case, dense: float, experts: float) -> tuple[float, float]:
    """Seconds in which a pass of sharded parameters gathers them, and scatters the gradients."""
    plan, groups, network = case.plan, case.groups, case.network
    if plan.zero < 3:
        return 0.0, 0.0
    gather = REDUCE_BYTES[plan.gather_dtype]
    fetch = network.seconds("all_gather", groups.sharded, dense * gather)
    fetch += network.seconds("all_gather", groups.expert_sharded, experts * gather)
    dense, experts = trained_parameters(case, dense, experts)
    width = REDUCE_BYTES[plan.reduce_dtype]
    scatter = network.seconds("reduce_scatter", groups.sharded, dense * width)
    scatter += network.seconds("reduce_scatter", groups.expert_sharded, experts * width)
    return fetch, scatter
