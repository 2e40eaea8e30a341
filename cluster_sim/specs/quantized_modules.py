"""What a checkpoint keeps apart, part by part: its patterns against the modules of its model.

Model: every product of every layer is looked up under the names that its family gives it. Engines
fuse some of them (queries, keys and values; gate and up): a part is in a dtype for the share of its
elements that is, so that a layer of which only keys are kept counts as a fraction of one. Less than
one hundredth of a part is not kept apart. Source: modelling files of transformers (recalled) and
the lists of published checkpoints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster_sim.specs.chip import BYTES_PER_ELEMENT, Dtype
from cluster_sim.specs.config_reader import Data
from cluster_sim.specs.kept import LAYERED, Part, rule
from cluster_sim.specs.layer_places import layers_of
from cluster_sim.specs.quantization import BF16, Scheme, Stored, neighbours

SMALL = 0.01  # share of a part that is not kept apart
Places = dict[str, tuple[str, ...]]
# Where the modules of a part are inside a layer, unless FAMILIES says otherwise.
PLACES: Places = {
    "attention": ("self_attn",),
    "linear": ("linear_attn",),
    "dense": ("mlp",),
    "shared": ("mlp.shared_experts", "mlp.shared_expert", "mlp.shared_mlp"),
    "experts": ("mlp.experts",),
    "router": ("mlp.gate", "mlp.router"),
}
_SPARSE_BLOCK: Places = {
    "shared": ("block_sparse_moe.shared_experts",),
    "experts": ("block_sparse_moe.experts",),
    "router": ("block_sparse_moe.gate",),
}
_FEED_FORWARD: Places = {
    "dense": ("feed_forward",),
    "shared": ("feed_forward.shared_expert",),
    "experts": ("feed_forward.experts",),
    "router": ("feed_forward.router",),
}
_GRANITE: Places = {
    "linear": ("mamba",),
    "dense": ("shared_mlp",),
    "shared": ("shared_mlp",),
    "experts": ("block_sparse_moe",),
    "router": ("block_sparse_moe.router",),
}
_MIXER: Places = {
    "attention": ("mixer",),
    "linear": ("mixer",),
    "dense": ("mixer",),
    "shared": ("mixer.shared_experts",),
    "experts": ("mixer.experts",),
    "router": ("mixer.gate",),
}
FAMILIES: dict[str, Places] = {
    "mixtral": _SPARSE_BLOCK,
    "minimax_m2": _SPARSE_BLOCK,
    "minimax_m3": _SPARSE_BLOCK,
    "minimax_m3_vl": _SPARSE_BLOCK,
    "kimi_linear": {**_SPARSE_BLOCK, "linear": ("self_attn",)},
    "llama4": _FEED_FORWARD,
    "llama4_text": _FEED_FORWARD,
    "jamba": {**_FEED_FORWARD, "linear": ("mamba",)},
    "bamba": {**_FEED_FORWARD, "linear": ("mamba",)},
    "falcon_h1": {**_FEED_FORWARD, "linear": ("mamba",)},
    "phimoe": _SPARSE_BLOCK,
    "granitemoe": _GRANITE,
    "granitemoeshared": _GRANITE,
    "granitemoehybrid": _GRANITE,
    "bailing_moe": {"attention": ("attention",)},
    "bailing_moe_v2": {"attention": ("attention",)},
    "nemotron_h": _MIXER,
    "deepseek_v4": {
        "attention": ("attn", "self_attn"),
        "dense": ("ffn", "mlp"),
        "shared": ("ffn.shared_experts", "mlp.shared_experts"),
        "experts": ("ffn.experts", "mlp.experts"),
        "router": ("ffn.gate", "mlp.gate"),
    },
    "gemma4": {"experts": ("experts", "moe.experts"), "shared": ("mlp",), "router": ("router",)},
    "gemma4_text": {"experts": ("experts", "moe.experts"), "shared": ("mlp",)},
    "gpt_neox": {"attention": ("attention",)},
    "gpt2": {"attention": ("attn",)},
    "gptj": {"attention": ("attn",)},
    "falcon": {"attention": ("self_attention",)},
}
_UNGATED = ("dense_h_to_4h", "c_fc", "fc_in")
_MLP = (
    ("gate_proj", "w1", "gate_up_proj", "gate_and_up_proj", "input_linear"),
    ("up_proj", "w3", "gate_up_proj", "gate_and_up_proj", "input_linear", *_UNGATED),
    ("down_proj", "w2", "output_linear", "dense_4h_to_h", "c_proj", "fc_out"),
)
_OUTPUTS = ("o_proj", "wo_b", "wo", "dense", "c_proj", "out_proj", "attention_output")


@dataclass(frozen=True, slots=True)
class Module:
    """A product of a part: its names inside a layer, and its elements up to a factor."""

    part: Part
    names: tuple[str, ...]
    elements: float


def apart(config: Data, data: Data, kind: str, scheme: Scheme) -> Data:
    """What a model file says of the checkpoint of a family (``kind``) and of dimensions ``data``:
    native dtype, kept parts, bytes of unusual scales, notes.

    The native dtype is the one of most experts, or of the first part without experts that is
    quantised at all.
    """
    found = {part: _stored(config, data, kind, scheme, part) for part in LAYERED}
    found = {part: shares for part, shares in found.items() if shares}
    native = _native(found)
    base = rule(native, experts=data.get("moe") is not None)
    router = _stored(config, data, kind, scheme, "router")
    found |= {"router": router} if router else {}
    found |= _outside(data, scheme)
    kept = [one for part, shares in found.items() for one in _kept(part, shares, base[part])]
    drafts = _of_drafts(data, kind, scheme)
    if drafts is not None and drafts.dtype != native:
        kept.append({"part": "mtp", "dtype": drafts.dtype})
    widths = _widths(found)
    used = [stored for shares in found.values() for stored in shares]
    return {
        "native_dtype": native,
        "kept": kept,
        "bytes_per_element": widths,
        "kv_dtype": scheme.kv_dtype,
        "notes": [*scheme.notes, *neighbours(used)],
    }


def _native(found: dict[Part, dict[Stored, float]]) -> Dtype:
    order: tuple[Part, ...] = ("experts", "dense", "shared", "attention", "output", "linear")
    for part in order:
        quantised = {s: n for s, n in found.get(part, {}).items() if s.dtype != "bf16"}
        if quantised:
            return max(quantised, key=lambda stored: quantised[stored]).dtype
    return "bf16"


def _kept(part: str, shares: dict[Stored, float], base: Dtype) -> Iterator[Data]:
    """The entries of a part: its dtypes other than the base, without the smallest shares."""
    layers, counts = sum(shares.values()), defaultdict[Dtype, float](float)
    for stored, count in shares.items():
        counts[stored.dtype] += count
    large = {dtype: count for dtype, count in counts.items() if count > SMALL * layers}
    for dtype, count in large.items():
        if dtype != base:
            whole = len(large) == 1
            rounded = round(count * layers / sum(large.values()), 4)
            layered = {} if whole else {"layers": int(rounded) if rounded % 1 == 0 else rounded}
            yield {"part": part, "dtype": dtype, **layered}


def _widths(found: dict[Part, dict[Stored, float]]) -> dict[str, float]:
    """Bytes of dtypes whose scales are unusual: those of most experts, else of the next part."""
    widths: dict[str, float] = {}
    for part in ("experts", "dense", "shared", "attention", "output", "linear", "index", "head"):
        shares = found.get(part, {})
        for stored in sorted(shares, key=lambda one: -shares[one]):
            widths.setdefault(stored.dtype, stored.width)
    usual = BYTES_PER_ELEMENT
    return {dtype: width for dtype, width in widths.items() if abs(width - usual[dtype]) > 1e-6}


def _outside(data: Data, scheme: Scheme) -> dict[Part, dict[Stored, float]]:
    """LM head and embedding: as a rule names them, the head also as all linear layers."""
    found: dict[Part, dict[Stored, float]] = {}
    usual = scheme.usual if scheme.head else BF16
    parts: tuple[tuple[Part, tuple[str, ...], Stored], ...] = (
        ("head", ("lm_head", "head"), usual),
        ("embedding", ("embed_tokens", "embed"), BF16),
    )
    for part, names, stored in parts:
        if part == "head" and data.get("tied_embeddings"):
            continue
        found[part] = {_of_names(scheme, names, stored): 1.0}
    return found


def _of_names(scheme: Scheme, names: Sequence[str], usual: Stored) -> Stored:
    """How a module of one of these names is stored."""
    for patterns, stored in scheme.rules:
        if any(patterns.means(name) for name in names):
            return stored
    return usual


def _stored(config: Data, data: Data, kind: str, scheme: Scheme, part: Part) -> dict[Stored, float]:
    """How a part is stored, each way with the number of its layers."""
    modules = [module for module in _modules(data, kind) if module.part == part]
    total = sum(module.elements for module in modules)
    found: dict[Stored, float] = defaultdict(float)
    usual = scheme.experts if part == "experts" else BF16 if part == "router" else scheme.usual
    for layer in layers_of(config, data, part) if modules else ():
        left = 1.0
        if part == "experts":
            for patterns, stored in scheme.rules:
                experts = data["moe"]["experts"]
                share = min(left, patterns.expert_share(layer, experts, len(modules)))
                if share:
                    found[stored] += share
                    left -= share
        if left < 1e-9:
            continue
        for module in modules:
            names = [f"layers.{layer}.{name}" for name in module.names]
            found[_of_names(scheme, names, usual)] += left * module.elements / total
    return dict(found)


def _of_drafts(data: Data, kind: str, scheme: Scheme) -> Stored | None:
    """How the first layer for drafts is stored: its experts, or its MLP."""
    if not data.get("mtp_layers"):
        return None
    has_experts = data.get("moe") is not None
    part, usual = ("experts", scheme.experts) if has_experts else ("dense", scheme.usual)
    names = [name for one in _modules(data, kind) if one.part == part for name in one.names]
    places = (f"layers.{data['layers']}", "mtp.layers.0", "mtp.0", "mtp")
    return _of_names(scheme, [f"{place}.{name}" for place in places for name in names], usual)


def _modules(data: Data, kind: str) -> Iterator[Module]:
    """The products of one layer of each part."""
    places = PLACES | FAMILIES.get(kind, {})

    def at(part: str, *leaves: str) -> tuple[str, ...]:
        return tuple(f"{place}.{leaf}" for place in places[part] for leaf in leaves)

    for leaves, elements in _before_scores(data):
        yield Module("attention", at("attention", *leaves), elements)
    yield Module("output", at("attention", *_OUTPUTS), 1.0)
    local, moe = data.get("local") or {}, data.get("moe") or {}
    if local.get("kind") == "sparse":
        for leaves, elements in _index(data, local):
            yield Module("index", at("attention", *leaves), elements)
    for leaves, elements in _linear(data):
        yield Module("linear", at("linear", *leaves), elements)
    shared, latent = moe.get("shared_hidden", 0), moe.get("latent", 0)
    for product in _MLP if data.get("gated", True) else _MLP[1:]:
        yield Module("dense", at("dense", *product), 1.0)
        if shared:
            yield Module("shared", at("shared", *product), shared)
        if moe:
            # A listed expert is counted as such; here the last stands for all of them.
            one = [f"{moe['experts'] - 1}.{leaf}" for leaf in product]
            yield Module("experts", at("experts", *one, *product), 1.0)
    if latent:
        yield Module("shared", at("dense", "fc1_latent_proj"), latent)
        yield Module("shared", at("dense", "fc2_latent_proj"), latent)
    if moe:
        yield Module("router", places["router"], 1.0)


def _before_scores(data: Data) -> list[tuple[tuple[str, ...], float]]:
    """Names and elements of the products before the scores."""
    hidden, heads, mla = data["hidden"], data["heads"], data.get("mla")
    if not mla:
        queries = heads * data["head_dim"] * (2 if data.get("output_gate") else 1)
        keys = data["kv_heads"] * data["head_dim"]
        fused = ("qkv_proj", "query_key_value", "c_attn")
        return [
            (("q_proj", "wq_a", *fused), queries),
            (("k_proj", "wkv", *fused), keys),
            (("v_proj", "wkv", *fused), keys),
        ]
    query = heads * (mla["nope_dim"] + mla["rope_dim"])
    rank, latent = mla["q_rank"], mla["kv_rank"]
    found: list[tuple[tuple[str, ...], float]] = [
        (("kv_a_proj_with_mqa", "kv_a_proj"), hidden * (latent + mla["rope_dim"])),
        (("kv_b_proj",), heads * (mla["nope_dim"] + mla["v_dim"]) * latent),
    ]
    if rank:
        return [(("q_a_proj",), hidden * rank), (("q_b_proj",), rank * query), *found]
    return [(("q_proj",), hidden * query), *found]


def _index(data: Data, local: Data) -> list[tuple[tuple[str, ...], float]]:
    """Names and elements of the products of an index."""
    hidden, mla = data["hidden"], data.get("mla") or {}
    source = mla.get("q_rank") or hidden
    dim, heads = local.get("index_dim") or 1, local.get("index_heads") or 1
    return [
        (("indexer.wq_b", "index_q_proj"), source * heads * dim),
        (("indexer.wk", "index_k_proj"), hidden * dim),
        (("indexer.weights_proj", "indexers_proj"), hidden * heads),
    ]


def _linear(data: Data) -> list[tuple[tuple[str, ...], float]]:
    """Names and elements of the products of layers with a constant state, over the hidden width."""
    linear, space = data.get("linear") or {}, data.get("state_space") or {}
    if space:
        inner, groups = space["inner"], space.get("groups") or 1
        entered = 2 * inner + 2 * groups * space["state"] + (space.get("heads") or 0)
        return [(("in_proj",), entered), (("out_proj",), inner)]
    if not linear:
        return []
    heads = linear["value_heads"]
    values, keys = heads * linear["value_dim"], linear["key_heads"] * linear["key_dim"]
    return [
        (("in_proj_qkv", "in_proj_qkvz", "q_proj"), 2 * keys + values),
        (("in_proj_z", "in_proj_qkvz", "g_proj", "g_b_proj"), values),
        (("in_proj_b", "in_proj_ba", "b_proj"), heads),
        (("in_proj_a", "in_proj_ba", "f_b_proj"), heads),
        (("out_proj", "o_proj"), values),
    ]
