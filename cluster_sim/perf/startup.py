"""Whether an engine starts: its own checks, in its own words.

Sources: vLLM ``kv_cache_utils._check_enough_kv_cache_memory``, ``ModelConfig``; SGLang
``model_runner.profile_max_num_token``, ``ModelConfig``; TensorRT-LLM
``_torch/pyexecutor/_util.py`` (behaviour as of 2026).
"""

from __future__ import annotations

from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.memory import GIB, DeviceMemory, KvCache, device_memory
from cluster_sim.specs.chip import PEAK_OF, Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

# What the flags that decide are called by each engine.
FRACTION = {
    "vllm": "gpu_memory_utilization",
    "sglang": "mem_fraction_static",
    "trtllm": "free_gpu_memory_fraction",
}
LENGTH = {"vllm": "max_model_len", "sglang": "context_length", "trtllm": "max_seq_len"}
FP8_BLOCK = 128  # rows and columns of a block that shares a scale
VOCABULARY = 64  # rows that an embedding is padded to a multiple of
LEAST_GROUP = 32  # weights that share a scale in four bits, which experts are cut down to
SCALE = (2.0, 2.5)  # bytes of a scale of four-bit weights, without and with a zero of theirs


def kv_cache(
    chip: Chip, model: Model, software: Software, layout: Layout, recipe: Recipe
) -> KvCache:
    """The cache of an engine that starts.

    Raises DoesNotFitError where it does not, with the engine's reason.
    """
    memory = device_memory(chip, model, software, layout, recipe)
    reason = why_not(chip, model, software, layout, recipe, memory)
    if reason:
        raise DoesNotFitError(reason)
    return KvCache(
        blocks=memory.blocks,
        block_tokens=memory.block_tokens,
        bytes_per_token=memory.bytes_per_token,
        weights_bytes=memory.weights,
        reserve_bytes=memory.counted + memory.outside,
        capacity_bytes=memory.capacity,
        state_blocks=memory.state_blocks,
    )


def why_not(
    chip: Chip,
    model: Model,
    software: Software,
    layout: Layout,
    recipe: Recipe,
    memory: DeviceMemory,
) -> str:
    """Why the engine does not start; empty if it does."""
    for reason in (
        _unmultiplied(chip, model, software, recipe),
        _uncut(model, software, layout, recipe),
        _overlong(model, software),
        _overfull(chip, model, software, layout, recipe, memory),
        _too_short(model, software, memory),
    ):
        if reason:
            return reason
    return ""


def _unmultiplied(chip: Chip, model: Model, software: Software, recipe: Recipe) -> str:
    """A dtype that the chip does not multiply in: TensorRT-LLM has no kernels for such weights,
    others multiply them as bf16. Source: support matrix of TensorRT-LLM (fp8 from Ada and Hopper
    on, nvfp4 from Blackwell).
    """
    if software.framework != "trtllm":
        return ""
    experts = recipe.experts_in(model) if model.moe is not None else ()
    lacking = [d for d in (*recipe.products_in(model), *experts) if PEAK_OF[d] not in chip.peak]
    if not lacking:
        return ""
    return (
        f"{software.title} does not start: it has no kernels for {lacking[0]} weights on "
        f"{chip.title}, which multiplies in {', '.join(chip.peak)}."
    )


def _uncut(model: Model, software: Software, layout: Layout, recipe: Recipe) -> str:
    """A vocabulary that tensor parallelism does not divide, and scales that it would cut in two: of
    blocks of 128 x 128 in fp8, of groups in four bits. TensorRT-LLM pads instead (recalled); of
    four-bit experts vLLM and SGLang halve the groups down to 32 (``moe_wna16.create_weights``).
    """
    if software.framework == "trtllm":
        return ""
    rows = -(-model.vocab // VOCABULARY) * VOCABULARY
    if rows % layout.tp:
        return (
            f"{software.title} does not start: the vocabulary of {model.name}, {rows:,} with its "
            f"padding, is not divisible by tp={layout.tp}."
        )
    widths = [
        ("intermediate size", mlp.hidden, layout.tp, recipe.dense) for mlp in model.dense_mlps
    ]
    if model.moe is not None:
        moe = ("expert intermediate size", model.moe.expert_hidden)
        widths.append((*moe, layout.expert_slices, recipe.experts))
    for words, width, slices, dtype in widths:
        block = 0 if recipe.weight_only else _sharing(model, recipe, dtype)
        if "expert" in words and dtype == "w4a16":
            block = min(block, LEAST_GROUP)
        if block and width and slices > 1 and width / slices % block:
            return (
                f"{software.title} does not start: the {words} {width:,} of {model.name} over "
                f"{slices} devices is {width / slices:g} each, no multiple of the {block} weights "
                f"that share a scale in {dtype}."
            )
    return ""


def _sharing(model: Model, recipe: Recipe, dtype: str) -> int:
    """Weights of a row that share a scale; 0 where a whole row does. The size of a group of
    four-bit weights follows from their width.
    """
    if dtype == "fp8_block":
        return FP8_BLOCK
    if dtype != "w4a16":
        return 0
    scale = recipe.width(model, dtype) - 0.5
    if scale <= 0:
        return 0
    groups = [each / scale for each in SCALE]
    return next((round(group) for group in groups if abs(group - round(group)) < 1e-6), 0)


def _overlong(model: Model, software: Software) -> str:
    """A longest sequence beyond the model's; TensorRT-LLM warns only."""
    longest, flag = software.longest(model), LENGTH[software.framework]
    if longest <= model.max_context or software.framework == "trtllm":
        return ""
    return (
        f"{software.title} does not start: {flag} {longest:,} is greater than the "
        f"{model.max_context:,} tokens that {model.name} was made for."
    )


def _overfull(
    chip: Chip,
    model: Model,
    software: Software,
    layout: Layout,
    recipe: Recipe,
    memory: DeviceMemory,
) -> str:
    """Weights and what the engine takes leave no block."""
    rest = memory.capacity - memory.usable
    if memory.blocks > memory.state_blocks and memory.outside <= rest:
        return ""
    need = (
        f"weights need {memory.weights / GIB:.1f} GiB per {chip.title} at {degrees(layout)} in "
        f"{recipe.name} and the engine {memory.counted / GIB:.1f} GiB, it may "
        f"use {memory.usable / GIB:.1f} of {memory.capacity / GIB:.1f} GiB"
    )
    if memory.blocks > memory.state_blocks:
        what = "graphs" if software.memory.reserve is None else "activations and graphs"
        return (
            f"{software.title} runs out of memory while it starts: what "
            f"{FRACTION[software.framework]} leaves, {rest / GIB:.1f} GiB, does not hold {what}, "
            f"{memory.outside / GIB:.1f} GiB."
        )
    return f"{model.name} does not fit: {need}."


def _too_short(model: Model, software: Software, memory: DeviceMemory) -> str:
    """vLLM refuses a cache that one sequence of the longest length does not fit in; SGLang and
    TensorRT-LLM start and take shorter requests alone.
    """
    longest = software.longest(model)
    if software.framework != "vllm" or memory.longest >= longest:
        return ""
    need = memory.state_bytes + longest * memory.bytes_per_token / memory.batches
    return (
        f"{software.title} does not start: to serve one request of max_model_len {longest:,} "
        f"tokens, {need / GIB:.2f} GiB of KV cache are needed, and {memory.room / GIB:.2f} GiB are "
        f"left; the longest that fits has {memory.longest:,} tokens."
    )


def degrees(layout: Layout) -> str:
    """The degrees of a layout that are not 1, in words."""
    named = (("tp", layout.tp), ("pp", layout.pp), ("ep", layout.ep), ("attn_dp", layout.attn_dp))
    return ", ".join(f"{name}={degree}" for name, degree in named if degree > 1 or name == "tp")
