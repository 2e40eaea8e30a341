"""Typed access to a Hugging Face ``config.json``: what was read, what was wrong, what is left."""

from __future__ import annotations

import json
import re
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.text_file import parse_json

Data = dict[str, Any]
# Left-over keys with these words may change what a token costs, unless they are listed as harmless.
_COST = re.compile(
    r"expert|moe|attn|attention|window|rank|lora|layer|head|_dim$|_size|state|conv|ssm|mamba|index"
    r"|compress|sparse|kv|mlp|ffn|inner|chunk|hidden|embd|mtp|nextn|depth|block|pattern|shar|loop"
)
_HARMLESS = re.compile(
    r"_dropout|_pdrop|_eps$|_epsilon$|_token_id|_token_index|_coef|_loss|initializer|softcap"
    r"|^rope_|^rotary_|_act$|_activation$|_range$|_implementation$|^output_|_rope_interleave$"
)
_HARMLESS_KEYS = frozenset(
    {
        "attention_softmax_in_fp32",
        "attn_scale",
        "attn_temperature_tuning",
        "chunk_size_feed_forward",
        "ep_size",
        "full_attn_mod",
        "layernorm_compute_fp32",
        "mamba_ssm_dtype",
        "original_max_position_embeddings",
        "pruned_heads",
        "qk_norm_type",
        "query_pre_attn_scalar",
        "reorder_and_upcast_attn",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
    }
)


def json_object(text: str, shown: str) -> Data:
    """The object in a JSON text; SpecError for anything else."""
    value = parse_json(text, shown)
    if not isinstance(value, dict):
        raise SpecError(f"{shown}: must be a JSON object, as Hugging Face's config.json is")
    return value


class ConfigReader:
    """Typed access to the keys of a config, which remembers what was read and what was wrong."""

    def __init__(self, data: Data, shown: str, prefix: str = "") -> None:
        self.data, self.shown, self.prefix = data, shown, prefix
        self.problems: list[str] = []
        self.read = {"model_type", "quantization_config"}

    def wrong(self, key: str, text: str) -> None:
        """Note a problem of a key."""
        self.problems.append(f"{self.shown}: {self.prefix}{key}: {text}")

    def _get(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        self.read.add(key)
        value = self.data.get(key)
        right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if value is None or right:
            return value
        shown = json.dumps(value)
        self.wrong(key, f"must be {what} (got {shown if len(shown) < 60 else shown[:57] + '...'})")
        return None

    def has(self, key: str) -> bool:
        """Whether a key is there and not null."""
        self.read.add(key)
        return self.data.get(key) is not None

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; absent or null means the default, without one it is missing."""
        before = len(self.problems)
        value = self._get(key, (int,), "a whole number")
        if value is None:
            if default is None and len(self.problems) == before:
                self.wrong(key, "missing")
            return least if default is None else default
        if value < least:
            self.wrong(key, f"must be at least {least} (got {value})")
            return least
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, (bool,), "true or false")
        return default if value is None else bool(value)

    def text(self, key: str) -> str:
        """A text, or an empty one."""
        return self._get(key, (str,), "text") or ""

    def items(self, key: str) -> list[Any]:
        """A list, or an empty one."""
        return self._get(key, (list,), "a list") or []

    def mapping(self, key: str) -> Data:
        """An object, or an empty one."""
        return self._get(key, (dict,), "an object") or {}

    def must_be(self, key: str, *allowed: object) -> None:
        """Refuse a key whose value would be another architecture."""
        self.read.add(key)
        value = self.data.get(key)
        if value is not None and value not in allowed:
            self.wrong(key, f"{json.dumps(value)} is not supported, only {json.dumps(allowed[0])}")

    def refuse_left_overs(self) -> None:
        """Refuse keys that nobody read, have a value and may change the cost."""
        for key, value in self.data.items():
            if key in self.read or key in _HARMLESS_KEYS or not value or key.startswith("_"):
                continue
            if _COST.search(key.lower()) and not _HARMLESS.search(key.lower()):
                self.wrong(key, "is not understood and may change the cost; leave it out if not")


def native_dtype(c: ConfigReader, scheme: object) -> str:
    """The dtype that a checkpoint's weights are kept in; sixteen and thirty-two bits are bf16."""
    method = str(scheme.get("quant_method", "")) if isinstance(scheme, dict) else ""
    if not scheme:
        kept = c.text("dtype") or c.text("torch_dtype")
        if kept not in ("", "auto", "bfloat16", "float16", "float32"):
            c.wrong("torch_dtype", f"'{kept}' is not known without a quantization_config")
        return "bf16"
    assert isinstance(scheme, dict)
    found = None
    if method in ("fp8", "fbgemm_fp8"):
        found = "fp8_block" if scheme.get("weight_block_size") else "fp8"
    elif method == "mxfp4":
        found = "mxfp4"
    elif method in ("gptq", "awq"):
        bits = scheme.get("bits", scheme.get("w_bit"))
        found = {4: "w4a16", 8: "w8a16"}.get(bits) if isinstance(bits, int) else None
    elif method == "modelopt" or "quant_algo" in scheme:
        found = {"FP8": "fp8", "NVFP4": "fp4"}.get(str(scheme.get("quant_algo")))
    elif method == "compressed-tensors":
        found = _compressed(scheme)
    if found is None:
        c.wrong(
            "quantization_config",
            f"not known: quant_method '{method}'; known are fp8, mxfp4, gptq and awq of 4 or 8 "
            "bits, modelopt FP8 or NVFP4, compressed-tensors of 4 or 8 bits",
        )
    return found or "bf16"


def _compressed(scheme: Data) -> str | None:
    """The dtype of a compressed-tensors scheme whose groups all agree."""
    groups = scheme.get("config_groups")
    kinds = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            return None
        activations = isinstance(group.get("input_activations"), dict)
        kinds.add((weights.get("num_bits"), weights.get("type"), activations))
    known = {
        (8, "float", True): "fp8",
        (8, "int", True): "int8",
        (8, "int", False): "w8a16",
        (4, "int", False): "w4a16",
        (4, "float", True): "fp4",
    }
    return known.get(kinds.pop()) if len(kinds) == 1 else None  # type: ignore[arg-type]
