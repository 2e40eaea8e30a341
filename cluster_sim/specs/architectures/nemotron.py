"""NVIDIA's families whose layers differ: Nemotron-H and Nemotron 3 (Mamba-2, attention, MLP and
experts each in a block of its own), and the searched Llama-Nemotrons (DeciLM).

Sources: configuration_nemotron_h of transformers; nemotron_h and nemotron_nas of vLLM.
"""

from __future__ import annotations

from collections import Counter

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.architectures.mamba import state_dtype
from cluster_sim.specs.config_reader import ConfigReader, Data

_BLOCKS = {
    **{"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"},
    **{"mamba": "mamba", "linear_attention": "mamba"},
    **{"attention": "attention", "full_attention": "attention", "mlp": "mlp", "moe": "moe"},
}


def _blocks(c: ConfigReader, listed: str, pattern: str, default: list[str]) -> list[str]:
    """The kind of each block, from a list of words or a pattern of letters."""
    key = listed if c.has(listed) else pattern
    words = c.items(listed) or list(c.text(pattern)) or default
    c.read |= {listed, pattern}
    for word in dict.fromkeys(map(str, words)):
        if word not in _BLOCKS:
            c.wrong(key, f"'{word}' is not known, only {', '.join(_BLOCKS)}")
    if not words:
        c.wrong(key, "missing")
    return [_BLOCKS.get(str(word), "mlp") for word in words]


def _nemotron_h(c: ConfigReader) -> Data:
    """Every block is one mixer, one MLP or one set of experts behind one norm."""
    c.named(head_dim="attention_head_dim", layers_block_type="layer_types")
    kinds = _blocks(c, "layers_block_type", "hybrid_override_pattern", [])
    c.named(num_hidden_layers="num_layers")
    if c.count("num_hidden_layers", len(kinds)) != len(kinds):
        c.wrong("num_hidden_layers", f"is not the {len(kinds)} blocks of the pattern")
    c.imply("num_hidden_layers", len(kinds))
    data = base(c, dense=False, context=4096, head_dim=128)
    found = Counter(kinds)
    bias, mlp_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias, mlp=mlp_bias, router=found["moe"] > 0)
    c.must_be("sliding_window", None)
    c.read |= {"intermediate_size", "expand", "chunk_size", "use_mamba_kernels", "time_step_rank"}
    data |= {
        "gated": False,
        "attention_layers": found["attention"] or None,
        "mlps": [{"hidden": c.same_in_all("intermediate_size", 21504), "layers": found["mlp"]}]
        if found["mlp"]
        else [],
    }
    # Configs say sizes of blocks that the pattern does not have, too.
    mamba, experts = _state_space(c, found["mamba"]), _experts(c, found["moe"])
    data["state_space"] = mamba if found["mamba"] else None
    data["moe"] = experts if found["moe"] else None
    if not found["attention"]:
        c.wrong("layers_block_type", "a model without attention is not supported")
    _drafts(c, data)
    return data


def _state_space(c: ConfigReader, layers: int) -> Data:
    heads, width = c.count("mamba_num_heads", 128), c.count("mamba_head_dim", 64)
    c.named(n_groups="mamba_n_groups", conv_kernel="mamba_d_conv", use_conv_bias="mamba_conv_bias")
    return {
        "kind": "mamba2",
        "layers": layers,
        "inner": heads * width,
        "heads": heads,
        "groups": c.count("n_groups", 8),
        "state": c.count("ssm_state_size", 128),
        "conv": c.count("conv_kernel", 4),
        "gated_norm": True,
        "conv_bias": c.flag("use_conv_bias", True),
        "projection_bias": any([c.flag("use_bias", False), c.flag("mamba_proj_bias", False)]),
        "state_dtype": state_dtype(c, "float32"),
    }


def _experts(c: ConfigReader, layers: int) -> Data:
    shared = c.count("n_shared_experts", 1, least=0)
    width = c.count("moe_shared_expert_intermediate_size", 7688, least=0)
    c.read.add("moe_shared_expert_overlap")
    return {
        "experts": c.count("n_routed_experts", 8),
        "top_k": c.count("num_experts_per_tok", 2),
        "expert_hidden": c.count("moe_intermediate_size", 7688),
        "latent": c.count("moe_latent_size", 0, least=0),
        "shared_hidden": shared * width,
        "layers": layers,
    }


def _drafts(c: ConfigReader, data: Data) -> None:
    """Blocks that predict further tokens: attention and experts."""
    layers = c.count("num_nextn_predict_layers", 0, least=0)
    kinds = _blocks(c, "mtp_layers_block_type", "mtp_hybrid_override_pattern", ["*", "E"])
    c.read.add("mtp_use_repeated_layers")
    if layers and (kinds != ["attention", "moe"] or data["moe"] is None):
        c.wrong("mtp_layers_block_type", "only attention and then moe are supported")
    data["mtp_layers"] = layers


def _searched(c: ConfigReader) -> Data:
    """DeciLM: blocks with and without attention or MLP, and MLPs of several widths."""
    heads = c.count("num_attention_heads")
    blocks = [block for block in c.items("block_configs") if isinstance(block, dict)]
    if not blocks:
        c.wrong("block_configs", "missing or empty; its entries say what each block has")
    attention = [_part(block, "attention") for block in blocks]
    mlps = [_part(block, "ffn") for block in blocks]
    groups = Counter(_grouped(c, part) for part in attention if _present(part))
    first = next(iter(groups), 1)
    for part in attention:
        if part.get("window_length") or part.get("num_sink_tokens") or part.get("sparsify"):
            c.wrong("block_configs", "attention with windows, sinks or sparsity is not supported")
            break
    c.imply("num_key_value_heads", max(1, heads // first))
    c.read |= {"intermediate_size", "architectures"}
    data = base(c, dense=False)
    if not groups:
        c.wrong("block_configs", "a model without attention is not supported")
    if data["layers"] != len(blocks):
        c.wrong("num_hidden_layers", f"is not the {len(blocks)} entries of block_configs")
    bias, mlp_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    widths = Counter(_width(c, part, data["hidden"]) for part in mlps if _present(part))
    linear = sum(bool(part.get("replace_with_linear")) for part in (*attention, *mlps))
    return data | {
        "biases": biases(qkv=bias, attention_output=bias, mlp=mlp_bias),
        "attention_layers": groups.total() or None,
        "other_attention": [
            {
                "layers": count,
                "heads": data["heads"],
                "kv_heads": max(1, data["heads"] // group),
                "head_dim": data["head_dim"],
            }
            for group, count in groups.items()
            if group != first
        ],
        "mlps": [{"hidden": width, "layers": count} for width, count in sorted(widths.items())],
        "projections": linear,
    }


def _part(block: Data, name: str) -> Data:
    part = block.get(name)
    return part if isinstance(part, dict) else {"no_op": True}


def _present(part: Data) -> bool:
    return not part.get("no_op") and not part.get("replace_with_linear")


def _grouped(c: ConfigReader, part: Data) -> int:
    """Query heads that share a head of keys and values."""
    group = part.get("n_heads_in_group")
    if isinstance(group, int) and group > 0:
        return group
    c.wrong("block_configs", f"attention: n_heads_in_group must be a number (got {group})")
    return 1


def _width(c: ConfigReader, part: Data, hidden: int) -> int:
    """The width of an MLP: given, or 2/3 of a multiple of the hidden size, rounded up to 256."""
    given, multiple = part.get("intermediate_size"), part.get("ffn_mult")
    if isinstance(given, int) and given > 0:
        return given
    if not isinstance(multiple, int | float) or not 0 < multiple < 1000:
        c.wrong("block_configs", f"ffn: ffn_mult must be a positive number (got {multiple})")
        return 1
    return -(-int(2 * multiple * hidden / 3) // 256) * 256


ARCHITECTURES: Architectures = {
    "nemotron_h": _nemotron_h,
    "nemotron-nas": _searched,
    "deci": _searched,
}
