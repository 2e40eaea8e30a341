"""A layer of a training step on one device: forward, gradient of the inputs, of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster_sim.collectives.network import Network
from cluster_sim.collectives.shape import unique_destinations
from cluster_sim.kernels.experts import group_imbalance
from cluster_sim.kernels.layout import Layout
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES, Gemm, kv_heads_per_device, layer_gemms
from cluster_sim.kernels.stream import activation_elements, mixer_elements, norm_elements
from cluster_sim.perf.train_groups import Groups
from cluster_sim.perf.train_kernels import (
    LOGIT_BYTES,
    Kernels,
    Shape3,
    attention_s,
    curve_of,
)
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.kept import MIXERS
from cluster_sim.specs.model import Model
from cluster_sim.specs.training import Part, TrainingPlan, TrainingWorkload

Seconds = dict[str, float]
NORM_VECTORS_AGAIN = 2  # that a norm which is computed again reads and writes
# Bytes of a backward kernel between products over those of the forward one: it reads what came in
# and the gradient of what went out, and writes the gradient of what came in (counted for norms and
# gated activations, 1.7 to 2; parameters' gradients and what was kept besides).
BACKWARD_BYTES = 2
LATENTS = ("q_up", "kv_up")  # products that latent attention expands with
REFERENCE_WIDTH = 2880.0  # sqrt(n k) at which ``rate`` of groups of products is given
GROUPS = 2  # of products, before and after the activation of routed experts


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds by part of one pass over something: forward, gradient of inputs, of weights."""

    forward: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def times(self, factor: float) -> Work:
        """So many times the same."""
        return Work(
            *(
                {part: factor * seconds for part, seconds in side.items()}
                for side in (self.forward, self.inputs, self.weights)
            )
        )

    def plus(self, *others: Work) -> Work:
        """One after the other."""
        sides: list[Seconds] = []
        for name in ("forward", "inputs", "weights"):
            total: Seconds = {}
            for work in (self, *others):
                for part, seconds in getattr(work, name).items():
                    total[part] = total.get(part, 0.0) + seconds
            sides.append(total)
        return Work(*sides)


@dataclass(frozen=True, slots=True)
class Case:
    """What the layers of a job are priced from. ``tokens`` are those of a micro-batch that one
    context-parallel rank has, before tensor parallelism cuts them.
    """

    kernels: Kernels
    network: Network
    groups: Groups
    model: Model
    job: TrainingWorkload
    plan: TrainingPlan

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch on a context-parallel rank."""
        return self.plan.micro_batch * self.job.seq_len / self.plan.cp

    def dtype(self, part: Part) -> str:
        """The dtype of the products of a part; the head's are bf16 unless given."""
        default = "bf16" if part == "head" else self.job.precision
        return self.job.precisions.get(part, default)


@dataclass(frozen=True, slots=True)
class Layers:
    """Work of the pieces that virtual stages are made of, for one micro-batch."""

    dense: Work
    experts: Work
    head: Work
    mtp: Work
    attention_core_s: float
    norm_s: float
    latents_s: float
    activation_s: tuple[float, float]

    def modules_again(self, modules: Sequence[str], dense: int, experts: int) -> Work:
        """Modules of so many layers of both kinds once more, before their backward pass."""
        parts: Seconds = {}
        layers = dense + experts
        if "core_attention" in modules:
            parts["attention"] = layers * self.attention_core_s
        if "mla_up" in modules:
            parts["gemm"] = layers * self.latents_s
        moved = layers * self.norm_s if "norm" in modules else 0.0
        if "activation" in modules:
            moved += dense * self.activation_s[0] + experts * self.activation_s[1]
        if moved:
            parts["elementwise"] = moved
        return Work(inputs=parts)


def layers_of(case: Case) -> Layers:
    """Price a dense layer, a layer with experts, the head with its loss, and an MTP layer."""
    model, tokens = case.model, case.tokens
    gemms = layer_gemms(model, Layout(case.plan.tp))
    mixers = [gemm for gemm in gemms if gemm.part in MIXERS]
    attention = _products(case, mixers, "attention", model.layers)
    core, core_back = attention_s(
        case.kernels, model, case.job.seq_len, case.plan.micro_batch / case.plan.cp, case.plan.tp
    )
    context = _context_parallel(case, core, core_back)
    mixer = attention.plus(Work({"attention": core}, {"attention": core_back}), context)
    dense = mixer.plus(
        _products(case, [g for g in gemms if g.name.startswith("dense")], "dense", None),
        _elementwise(case, model.ffn_hidden),
        _tensor_parallel(case, 2),
    )
    dense = _launched(dense, case.kernels.software.layer)
    experts = Work()
    if model.moe is not None:
        inside = [gemm for gemm in gemms if gemm.name.startswith(("shared", "router"))]
        gathers = 2 if model.moe.shared_hidden else 1
        experts = mixer.plus(
            _products(case, inside, "dense", None),
            _elementwise(case, model.moe.shared_hidden),
            _tensor_parallel(case, gathers),
            _experts(case),
        )
        experts = _launched(experts, case.kernels.software.experts.launch)
    head = _head(case, tokens)
    last = experts if model.moe is not None and model.moe.layers else dense
    mtp = Work()
    if case.job.mtp:
        shape = (tokens / case.plan.tp, model.hidden, 2.0 * model.hidden)
        mtp = last.plus(_product(case, "dense", [shape]), head)
    latents = [gemm for gemm in mixers if gemm.name in LATENTS]
    return Layers(
        dense,
        experts,
        head,
        mtp,
        core,
        norm_s=_moved_s(case, NORM_VECTORS_AGAIN * model.norms * model.hidden / _split(case)),
        latents_s=_products(case, latents, "attention", model.layers).forward.get("gemm", 0.0),
        activation_s=(
            _activation_s(case, model.ffn_hidden),
            0.0 if model.moe is None else _activation_s(case, _expert_width(case)),
        ),
    )


def _split(case: Case) -> int:
    """Over how many ranks norms and residuals are spread."""
    return case.plan.tp if case.plan.sequence_parallel else 1


def _moved_s(case: Case, elements: float) -> float:
    """Seconds in which kernels move so many elements for each token."""
    share = case.kernels.software.elementwise
    return case.kernels.stream(share * elements * ACTIVATION_BYTES * case.tokens)


def _activation_s(case: Case, width: float) -> float:
    return _moved_s(case, activation_elements(case.model, width) / case.plan.tp)


def _expert_width(case: Case) -> float:
    """Activations of a token in a layer with experts."""
    moe = case.model.moe
    assert moe is not None
    rows = moe.top_k * (1 - case.plan.routing.dropped) * expert_imbalance(case)
    return moe.shared_hidden + rows * moe.expert_hidden


def _launched(layer: Work, host_s: float) -> Work:
    """A layer whose kernels the host launches in ``host_s`` in each direction: what is longer than
    the kernels themselves shows.
    """
    forward = max(0.0, host_s - sum(layer.forward.values()))
    backward = host_s - sum(layer.inputs.values()) - sum(layer.weights.values())
    return layer.plus(Work({"host": forward}, {"host": max(0.0, backward)}))


def _products(case: Case, gemms: list[Gemm], part: Part, layers: int | None) -> Work:
    """The products of a part of a layer; with ``layers`` the mean over so many."""
    work = Work()
    for dtype, mine in (
        (case.dtype(part), [g for g in gemms if g.part != "router"]),
        ("bf16", [g for g in gemms if g.part == "router"]),
    ):
        if mine:
            shares = [1.0 if layers is None else gemm.layers / layers for gemm in mine]
            shapes: list[Shape3] = [(case.tokens, gemm.n, gemm.k) for gemm in mine]
            work = work.plus(_product(case, part, shapes, dtype, shares))
    return work


def _product(
    case: Case,
    part: Part,
    shapes: list[Shape3],
    dtype: str | None = None,
    shares: list[float] | None = None,
) -> Work:
    """Products y = x w, each so many times: forward (m, n, k), inputs' gradient (m, k, n), weights'
    gradient (k, n, m), whose sides both others have brought into the dtype. Adapters of low rank
    leave the weights' gradient of the frozen products out.
    """
    used, times = dtype or case.dtype(part), shares or [1.0] * len(shapes)
    kernels, name = case.kernels, "head" if part == "head" else "gemm"

    def total(turned: list[Shape3], *, quantise: bool = True) -> float:
        seconds = kernels.products(used, turned, quantise=quantise)
        return sum(one * share for one, share in zip(seconds, times, strict=True))

    forward, inputs = total(shapes), total([(m, k, n) for m, n, k in shapes])
    if case.job.task == "lora":
        return Work({name: forward}, {name: inputs})
    weights = total([(k, n, m) for m, n, k in shapes], quantise=False)
    return Work({name: forward}, {name: inputs}, {name: weights})


def _head(case: Case, tokens: float) -> Work:
    """Logits and loss on the last stage: three products, and the bytes of the logits."""
    model, tp = case.model, case.plan.tp
    products = _product(case, "head", [(tokens, model.vocab / tp, model.hidden)])
    logits = case.kernels.stream(LOGIT_BYTES / 2 * tokens * model.vocab / tp)
    return products.plus(Work({"head": logits}, {"head": logits}))


def _elementwise(case: Case, width: float) -> Work:
    """Norms, residuals, what is between the products of mixers, and the activation of an MLP of a
    width; that of routed experts comes with their products.
    """
    model, tp, software = case.model, case.plan.tp, case.kernels.software
    moved = software.norms * norm_elements(model) / _split(case)
    moved += mixer_elements(model, tp, cached=False) + activation_elements(model, width) / tp
    seconds = _moved_s(case, moved)
    return Work({"elementwise": seconds}, {"elementwise": BACKWARD_BYTES * seconds})


def _tensor_parallel(case: Case, blocks: int) -> Work:
    """Gathers and scatters around each block of a layer, or all-reduces.

    Model: with sequence parallelism each block gathers its input and scatters its output, forward
    and backward; without it one all-reduce each way. What the software overlaps with products is
    exposed by its share ``exposed_tp``.
    """
    plan, groups = case.plan, case.groups
    if plan.tp == 1:
        return Work()
    message = case.tokens * case.model.hidden * ACTIVATION_BYTES
    if plan.sequence_parallel:
        once = case.network.seconds("all_gather", groups.tp, message)
        once += case.network.seconds("reduce_scatter", groups.tp, message)
    else:
        once = case.network.seconds("all_reduce", groups.tp, message)
    exposed = case.kernels.software.exposed_tp if plan.overlap_tp else 1.0
    seconds = blocks * once * exposed
    return Work({"tp": seconds}, {"tp": seconds})


def _context_parallel(case: Case, core: float, core_back: float) -> Work:
    """Keys and values round a ring while attention runs, gathered before it, or heads against
    tokens in an all-to-all.

    Model: of a ring ``exposed_cp`` shows in any case, of the rest what attention is too short for.
    """
    plan, groups, model = case.plan, case.groups, case.model
    if plan.cp == 1:
        return Work()
    width = ACTIVATION_BYTES * case.tokens
    if model.mla is not None:
        keys = model.heads / plan.tp * (model.mla.nope_dim + model.mla.rope_dim + model.mla.v_dim)
        queries = model.heads / plan.tp * (model.mla.nope_dim + model.mla.rope_dim)
    else:
        keys = 2.0 * kv_heads_per_device(model, plan.tp) * model.head_dim
        queries = model.heads / plan.tp * model.head_dim
    network, cp = case.network, groups.cp
    if plan.context == "all_to_all":
        moved = (2 * queries + keys) * width
        seconds = network.seconds("all_to_all", cp, moved)
        return Work({"cp": seconds}, {"cp": seconds})
    if plan.context == "all_gather":
        message = keys * width * plan.cp
        return Work(
            {"cp": network.seconds("all_gather", cp, message)},
            {
                "cp": network.seconds("all_gather", cp, message)
                + network.seconds("reduce_scatter", cp, message)
            },
        )
    ring = (plan.cp - 1) * network.seconds("send_recv", cp, keys * width)
    share = case.kernels.software.exposed_cp
    forward = share * ring + max(0.0, (1 - share) * ring - core)
    backward = share * 2 * ring + max(0.0, (1 - share) * 2 * ring - core_back)
    return Work({"cp": forward}, {"cp": backward})


def _experts(case: Case) -> Work:
    """Routed experts of a layer: grouped products, permutation, exchange, host.

    Model: ``ep`` devices times ``etp`` slices share the rows of all their tokens. A group's rate is
    that of the chip's experts times ``rate`` (w / 2880)^``width_power``, w^2 the mean n k of its
    products. Every token goes once to each device that holds a chosen expert.
    """
    model, plan, software = case.model, case.plan, case.kernels.software
    moe = model.moe
    assert moe is not None
    routing, kernels = plan.routing, software.experts
    kept = moe.top_k * (1 - routing.dropped)
    own = case.tokens / plan.tp
    imbalance = expert_imbalance(case)
    rows = own * kept * plan.etp * imbalance
    grouped = _grouped(case, rows, moe.expert_hidden / plan.etp, moe.experts / plan.ep)
    moved = case.kernels.stream(kernels.permute_bytes * model.hidden * rows / plan.etp)
    work = grouped.plus(
        Work({"permute": moved}, {"permute": 2 * moved}),
        Work({"host": kernels.sync}, {"host": kernels.sync}),
    )
    if plan.etp > 1:
        message = rows * model.hidden * ACTIVATION_BYTES
        slices = case.network.seconds("all_gather", case.groups.etp, message)
        slices += case.network.seconds("reduce_scatter", case.groups.etp, message)
        work = work.plus(Work({"ep": slices}, {"ep": slices}))
    if plan.ep == 1:
        return work
    shape = case.groups.ep
    copies = min(kept, unique_destinations(moe.top_k, plan.ep) / (1 - 1 / plan.ep))
    if routing.nodes is not None and shape.domains > 1:
        copies = min(copies, routing.nodes * copies / min(shape.domains, copies))
    nominal = own * copies * model.hidden * imbalance
    there = min(BYTES_PER_ELEMENT[curve_of(case.dtype("experts"))], ACTIVATION_BYTES)
    dispatch = case.network.seconds("all_to_all", shape, nominal * there)
    combine = case.network.seconds("all_to_all", shape, nominal * ACTIVATION_BYTES)
    exposed = kernels.exposed if shape.domains == 1 else kernels.exposed_nic
    return work.plus(Work({"ep": exposed * (dispatch + combine)}, {"ep": exposed * 2 * combine}))


def expert_imbalance(case: Case) -> float:
    """Rows of the fullest expert group over the mean: as given, or of a power law of loads."""
    routing, moe = case.plan.routing, case.model.moe
    if routing.kind == "balanced" or moe is None:
        return routing.imbalance
    return routing.imbalance * group_imbalance(moe, case.plan.ep)


def _grouped(case: Case, rows: float, width: float, experts: float) -> Work:
    """Products of the local experts for ``rows`` rows in all, the passes that quantise what goes
    in, and the activation between.

    Model: the arithmetic of the rows and the weights of the experts as in ``expert_units``, those
    of the weights' gradient in the dtype of outputs, over the rate of the software's groups. What
    sorts and moves rows is the framework's own instead of the curve's (see ``_experts``).
    """
    model, kernels, dtype = case.model, case.kernels, case.dtype("experts")
    inner = activation_elements(model, width)
    elements, rule = inner * model.expert_input, kernels.software.experts
    mean_width = (elements / 2) ** 0.5
    rate = min(1.0, rule.rate * (mean_width / REFERENCE_WIDTH) ** rule.width_power)
    quantised = kernels.quantised_s(dtype, rows * (model.expert_input + width))
    active = _moved_s(case, inner) * rows / case.tokens

    def products(*, gradient: bool = False) -> float:
        unit = kernels.experts(dtype, model.expert_input, elements, gradient=gradient)
        seconds = (rows * unit.math_s + experts * unit.weights_s) / rate
        return float(GROUPS * unit.floor_s + seconds)

    once = products() + quantised
    return Work(
        {"experts": once, "elementwise": active},
        {"experts": once, "elementwise": BACKWARD_BYTES * active},
        {"experts": products(gradient=True)},
    )
