"""Decoders before Llama: GPT-2, GPT-J, GPT-NeoX, Falcon, Nemotron-4."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data


def _nemotron(c: ConfigReader) -> Data:
    attention, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    present = {"qkv": attention, "attention_output": attention, "mlp": mlp, "norms": True}
    return base(c) | {"gated": False, "biases": biases(**present)}


def _gpt_neox(c: ConfigReader) -> Data:
    bias = c.flag("attention_bias", True)
    data = base(c) | {"gated": False, "parallel_block": c.flag("use_parallel_residual", True)}
    data["biases"] = biases(qkv=bias, attention_output=bias, mlp=True, norms=True)
    return data


def _gpt2(c: ConfigReader, *, gpt_j: bool = False) -> Data:
    hidden, heads = c.count("n_embd"), c.count("n_head")
    data = {
        "layers": c.count("n_layer"),
        "hidden": hidden,
        "ffn_hidden": c.count("n_inner", 4 * hidden),
        "gated": False,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": max(1, hidden // heads),
        "vocab": c.count("vocab_size"),
        "tied_embeddings": c.flag("tie_word_embeddings", not gpt_j),
        "max_context": c.count("n_positions"),
    }
    c.read |= {"n_ctx", "activation_function"}
    if gpt_j:
        present = biases(mlp=True, norms=True, head=True)
        return data | {"norms": 1, "parallel_block": True, "biases": present}
    present = biases(qkv=True, attention_output=True, mlp=True, norms=True)
    return data | {"learned_positions": data["max_context"], "biases": present}


def _falcon(c: ConfigReader) -> Data:
    new, parallel = c.flag("new_decoder_architecture", False), c.flag("parallel_attn", True)
    bias, one = c.flag("bias", False), c.flag("multi_query", True)
    data = base(c, tied=True, dense=False)
    kv_heads = c.count("num_kv_heads", data["heads"])
    norms = c.count("num_ln_in_parallel_attn", 2 if new else 1) if new or parallel else 2
    return data | {
        "ffn_hidden": c.count("ffn_hidden_size", 4 * data["hidden"]),
        "gated": False,
        "kv_heads": kv_heads if new else 1 if one else data["heads"],
        "norms": norms,
        "parallel_block": parallel or new,
        "biases": biases(qkv=bias, attention_output=bias, mlp=bias, norms=True),
    }


ARCHITECTURES: Architectures = {
    "nemotron": _nemotron,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
    "gptj": lambda c: _gpt2(c, gpt_j=True),
    "falcon": _falcon,
}
