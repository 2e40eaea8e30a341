"""Typed access to a Hugging Face ``config.json``: what was read, what was wrong, what is left."""

from __future__ import annotations

import json
import re
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.constraints import MOST_LAYERS
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
_TOWER = re.compile(r"^(vision|visual|audio|speech|image|img|video|projector|mm|multimodal)_")
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
        "moe_router_dtype",
        "original_max_position_embeddings",
        "pruned_heads",
        "qk_norm_type",
        "query_pre_attn_scalar",
        "reorder_and_upcast_attn",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
    }
)


MOST = 10**10  # of any number that a config counts, so that sums stay numbers
MOST_LINES = 50  # problems whose lines are looked up


def json_object(text: str, shown: str) -> Data:
    """The object in a JSON text; SpecError for anything else.

    Infinity and NaN are numbers here, as in Python, which writes them in public configs (limits of
    time steps); whoever reads a key refuses them.
    """
    value = parse_json(text, shown, infinite=True)
    if not isinstance(value, dict):
        raise SpecError(f"{shown}: must be a JSON object, as Hugging Face's config.json is")
    return value


def with_lines(problems: list[str], text: str, shown: str) -> list[str]:
    """Problems of keys that stand once in a file of several lines, with those lines."""
    if "\n" not in text.strip() or len(problems) > MOST_LINES:
        return problems
    return [_with_line(problem, text, shown) for problem in problems]


def _with_line(problem: str, text: str, shown: str) -> str:
    place, _, rest = problem.removeprefix(f"{shown}: ").partition(": ")
    key = re.escape(place.rpartition(".")[2])
    found = [match.start() for match in re.finditer(rf'"{key}"\s*:', text)]
    if not problem.startswith(f"{shown}: ") or len(found) != 1:
        return problem
    line = text.count("\n", 0, found[0]) + 1
    return f"{shown}:{line}: {place}: {rest}"


class ConfigReader:
    """Typed access to the keys of a config, which remembers what was read and what was wrong."""

    def __init__(self, data: Data, shown: str, prefix: str = "") -> None:
        self.data, self.shown, self.prefix = data, shown, prefix
        self.problems: list[str] = []
        self.other_names: dict[str, str] = {}
        self.read = {"model_type", "quantization_config"}

    def wrong(self, key: str, text: str) -> None:
        """Note a problem of a key."""
        key = self.other_names.get(key, key)
        self.problems.append(f"{self.shown}: {self.prefix}{key}: {text}")

    def named(self, **others: str | tuple[str, ...]) -> None:
        """Take keys that a family calls otherwise for those that are read: key = other name, or
        several of which the first that is there counts.
        """
        for key, names in others.items():
            for other in (names,) if isinstance(names, str) else names:
                self.read.add(other)
                if self.data.get(key) is None and self.data.get(other) is not None:
                    self.data = {**self.data, key: self.data[other]}
                    self.other_names[key] = other

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
        limit = MOST_LAYERS if key == "num_hidden_layers" else MOST
        if value > limit:
            self.wrong(key, f"must be at most {limit:,} (got {value})")
            return least
        return int(value)

    def inner(self, key: str) -> ConfigReader:
        """A reader of the object behind a key, whose problems are those of this one."""
        found = ConfigReader(self.mapping(key), self.shown, f"{self.prefix}{key}.")
        found.problems = self.problems
        return found

    def defaults(self, **values: Any) -> None:
        """What the family's configuration class says where a config does not."""
        for key, value in values.items():
            if self.data.get(key) is None:
                self.imply(key, value)

    def imply(self, key: str, value: Any) -> None:
        """Take a value that other keys imply for that of a key."""
        self.data = {**self.data, key: value}

    def count_or_auto(self, key: str, auto: int) -> int:
        """A whole number; absent, null or the word "auto" means ``auto``."""
        if self.data.get(key) == "auto":
            self.read.add(key)
            return auto
        return self.count(key, auto)

    def same_in_all(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number, or a list of one for each layer that are all the same."""
        value = self.data.get(key)
        if not isinstance(value, list):
            return self.count(key, default, least)
        self.read.add(key)
        if len(set(map(str, value))) != 1:
            self.wrong(key, "layers that differ are not supported, only the same number in all")
            return least
        alone = ConfigReader({key: value[0]}, self.shown, self.prefix)
        found = alone.count(key, default, least)
        self.problems += alone.problems
        return found

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

    def left_overs(self) -> list[str]:
        """Keys that nobody read, have a value and may change the cost."""
        return [
            key
            for key, value in self.data.items()
            if key not in self.read
            and key not in _HARMLESS_KEYS
            and value
            and not key.startswith("_")
            and not _TOWER.match(key.lower())  # no tower is priced
            and _COST.search(key.lower())
            and not _HARMLESS.search(key.lower())
        ]

    def refuse_left_overs(self) -> None:
        """Refuse what is left over."""
        for key in self.left_overs():
            self.wrong(key, "is not understood and may change the cost; leave it out if not")
