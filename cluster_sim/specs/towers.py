"""How many weights the vision tower of a config has, which engines load beside the decoder.

Model: patches, blocks and what maps their outputs to the decoder, norms and biases included, by the
form of tower. Source: modelling files of transformers (qwen2_vl, qwen2_5_vl, qwen3_vl, siglip,
pixtral, mistral3, gemma3) and of Kimi-VL. Limits: other forms are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_sim.specs.config_reader import Data

MOST = 10**6  # of any size of a tower
CHANNELS = 3


class UnsaidError(Exception):
    """A size that a form needs is absent or no size."""


class Sizes:
    """The sizes of a tower and, as ``outer``, those of the config around it."""

    def __init__(self, data: Data, outer: Data) -> None:
        self.data, self.outer = data, outer

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of the tower; raises UnsaidError."""
        return _size(self.data.get(key, default))

    @property
    def text_width(self) -> int | None:
        """The width of the decoder as its own config says it."""
        text = self.outer.get("text_config")
        width = text.get("hidden_size") if isinstance(text, dict) else None
        return width if isinstance(width, int) else None

    @property
    def decoder(self) -> int:
        """The width of the decoder that reads what the tower makes; raises UnsaidError."""
        return _size(self.text_width)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST:
        raise UnsaidError
    return value


def vision_tower(outer: Data) -> int | None:
    """Weights of the vision tower of a config; None without one, or for one of another form."""
    tower = outer.get("vision_config")
    if not isinstance(tower, dict):
        return None
    kinds = (tower.get("model_type"), outer.get("model_type"))
    count = next((FORMS[kind] for kind in kinds if isinstance(kind, str) and kind in FORMS), None)
    try:
        return None if count is None else count(Sizes(tower, outer))
    except UnsaidError:
        return None


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _block(hidden: int, inner: int) -> int:
    """Attention and two products with biases behind two norms with biases."""
    attention = _linear(hidden, 3 * hidden) + _linear(hidden, hidden)
    return attention + _linear(hidden, inner) + _linear(inner, hidden) + 4 * hidden


def _merger(hidden: int, merged: int, outputs: int) -> int:
    """Two products of so many patches side by side, without its norm."""
    wide = merged * hidden
    return _linear(wide, wide) + _linear(wide, outputs)


def _qwen_patches(s: Sizes, hidden: int) -> int:
    return CHANNELS * s.size("temporal_patch_size", 2) * s.size("patch_size") ** 2 * hidden


def _qwen2_vl(s: Sizes) -> int:
    hidden, merged = s.size("embed_dim"), s.size("spatial_merge_size", 2) ** 2
    blocks = s.size("depth") * _block(hidden, s.size("mlp_ratio", 4) * hidden)
    merger = _merger(hidden, merged, s.size("hidden_size")) + 2 * hidden
    return _qwen_patches(s, hidden) + blocks + merger


def _qwen2_5_vl(s: Sizes) -> int:
    """Gated MLPs, norms without biases."""
    hidden, inner = s.size("hidden_size"), s.size("intermediate_size")
    attention = _linear(hidden, 3 * hidden) + _linear(hidden, hidden)
    block = attention + 2 * _linear(hidden, inner) + _linear(inner, hidden) + 2 * hidden
    merged = s.size("spatial_merge_size", 2) ** 2
    merger = _merger(hidden, merged, s.size("out_hidden_size")) + hidden
    return _qwen_patches(s, hidden) + s.size("depth") * block + merger


def _qwen3_vl(s: Sizes) -> int:
    """Learned positions; one more merger for each layer whose outputs enter the decoder."""
    hidden, merged = s.size("hidden_size"), s.size("spatial_merge_size", 2) ** 2
    blocks = s.size("depth") * _block(hidden, s.size("intermediate_size"))
    merger = _merger(hidden, merged, s.size("out_hidden_size"))
    taken = s.data.get("deepstack_visual_indexes")
    stacked = len(taken) if isinstance(taken, list) else 0
    mergers = merger + 2 * hidden + stacked * (merger + 2 * merged * hidden)
    tables = _qwen_patches(s, hidden) + hidden + s.size("num_position_embeddings") * hidden
    return tables + blocks + mergers


def _siglip(s: Sizes) -> int:
    """Of Gemma 3: learned positions, one product behind a norm to the decoder."""
    hidden, patch = s.size("hidden_size"), s.size("patch_size")
    blocks = s.size("num_hidden_layers") * _block(hidden, s.size("intermediate_size"))
    tables = _linear(CHANNELS * patch**2, hidden) + (s.size("image_size") // patch) ** 2 * hidden
    return tables + blocks + 3 * hidden + hidden * s.decoder


def _pixtral(s: Sizes) -> int:
    """Of Mistral 3: gated MLPs, no biases, patches merged in one product before two others."""
    hidden, inner = s.size("hidden_size"), s.size("intermediate_size")
    blocks = s.size("num_hidden_layers") * (4 * hidden**2 + 3 * hidden * inner + 2 * hidden)
    merged = _size(s.outer.get("spatial_merge_size", 2)) ** 2
    projector = hidden + merged * hidden**2 + (hidden + s.decoder) * s.decoder
    return CHANNELS * s.size("patch_size") ** 2 * hidden + hidden + blocks + projector


def _moonvit(s: Sizes) -> int:
    """Of Kimi: learned positions in the plane, patches merged in two products. K2.5 calls the sizes
    of its blocks otherwise.
    """
    prefix = "vt_" if "vt_hidden_size" in s.data else ""
    hidden, outputs = s.size(f"{prefix}hidden_size"), s.size("text_hidden_size", s.text_width)
    inner = s.size(f"{prefix}intermediate_size")
    blocks = s.size(f"{prefix}num_hidden_layers") * _block(hidden, inner)
    places = s.size("init_pos_emb_height") * s.size("init_pos_emb_width")
    tables = _linear(CHANNELS * s.size("patch_size") ** 2, hidden) + places * hidden
    return tables + blocks + 4 * hidden + _merger(hidden, 4, outputs)


FORMS: dict[str, Callable[[Sizes], int]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "qwen3_5": _qwen3_vl,
    "qwen3_5_moe": _qwen3_vl,
    "gemma3": _siglip,
    "mistral3": _pixtral,
    "kimi_k25": _moonvit,
    "kimi_vl": _moonvit,
}
