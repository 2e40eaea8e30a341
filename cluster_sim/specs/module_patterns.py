"""Which modules of a model a list of names, wildcards and regular expressions means.

Model: engines and quantisers differ in small ways; here a plain name means a module whose path has
it as a run of whole parts (``lm_head``, ``layers.0.self_attn``, ``gate``), a name with ``*`` the
paths that it matches as file names are matched, ``re:`` those that begin with a match; and each of
them all that lies inside. What stands before ``layers`` is no part of a path. Source: vLLM
(``is_layer_skipped``, ``should_ignore_layer``, ModelOpt's ``is_layer_excluded``) and transformers
(``should_convert_module``), recalled.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

REGEX = "re:"
MOST_FREE = 200  # wildcards and expressions that name no layer: each is tried on every module
LONGEST = 500  # characters of an expression
MOST_LOOPS, MOST_OPTIONS = 2, 8  # repetitions and optional parts inside an expression
MOST_ALL_LOOPS = 4  # repetitions inside all expressions that name no layer
_ROOTS = re.compile(r"(?:(?:model|language_model|backbone|transformer|llm)\.)+")
_LAYER = re.compile(r"layers\.(\d+)(?=\.|$)")
_LAYER_IN_REGEX = re.compile(r"layers\\?\.(\d+)\\\.")
_EXPERT = re.compile(
    r"(?:.*\.)?layers\.(\d+)\.(?:.*\.)?experts\.(\d+)(?:\.(\w+)(?:\.weight|\.?\*)?|\.\*)?"
)
_LOOP = re.compile(r"(?<!\\)[*+]|\{\d*,\d*\}")
_OPTIONAL = re.compile(r"(?<![\\(*+?}])\?")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
_VARIANTS = ("", "model.", "language_model.model.", "model.language_model.")


class Patterns:
    """A list of patterns, ready to be asked about many modules."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.experts: dict[int, set[tuple[int, str]]] = defaultdict(set)  # by layer
        self._plain: set[str] = set()
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._loose: dict[str, list[re.Pattern[str]]] = defaultdict(list)
        self._free: list[re.Pattern[str]] = []
        self._loops = 0
        prefixes: dict[str, list[str]] = defaultdict(list)
        for text in dict.fromkeys(texts):
            if text.startswith(REGEX):
                self._keep(text, _expression(text))
            elif expert := _EXPERT.fullmatch(text):
                self.experts[int(expert[1])].add((int(expert[2]), expert[3] or ""))
            elif re.search(r"[*?\[]", text):
                glob = _ROOTS.sub("", text) if _ROOTS.match(text) else text
                layer = _LAYER.match(glob)
                if layer and not re.search(r"[*?\[]", glob[:-1]) and glob.endswith("*"):
                    prefixes[layer[1]].append(glob[:-1])
                else:
                    body = fnmatch.translate(glob).removesuffix(r"\Z")
                    self._keep(glob, re.compile(body + r"(?:\..*)?\Z", re.DOTALL))
            else:
                self._plain.add(_ROOTS.sub("", text, count=1).removesuffix(".weight"))
        self._prefixes = {layer: tuple(mine) for layer, mine in prefixes.items()}

    def _keep(self, text: str, pattern: re.Pattern[str]) -> None:
        """Keep a pattern where it can match: among a layer's own only if it names that alone."""
        regex = text.startswith(REGEX)
        layers = set((_LAYER_IN_REGEX if regex else _LAYER).findall(text))
        if len(layers) == 1 and not (regex and re.search(r"\||\(\?", text)):
            self._loose[layers.pop()].append(pattern)
        else:
            self._loops += _loops(_core(text)) if regex else 0
            if len(self._free) == MOST_FREE or self._loops > MOST_ALL_LOOPS:
                raise ValueError(
                    f"more than {MOST_FREE} patterns that name no layer, or {MOST_ALL_LOOPS} "
                    "of * and + inside them"
                )
            self._free.append(pattern)

    def means(self, path: str) -> bool:
        """Whether a module, such as ``layers.3.self_attn.q_proj``, is meant."""
        if self._plain and any(run in self._plain for run in _runs(path)):
            return True
        layer = _LAYER.match(path)
        number = layer[1] if layer else ""
        if path.startswith(self._prefixes.get(number, ())):
            return True
        found = [*self._free, *self._loose.get(number, ())]
        return any(one.match(name + path) for one in found for name in _VARIANTS)

    def expert_share(self, layer: int, experts: int, products: int) -> float:
        """The share of a layer's experts that are listed one by one."""
        listed = self.experts.get(layer)
        if not listed:
            return 0.0
        whole = sum(not product for _, product in listed)
        return min(1.0, (whole + (len(listed) - whole) / products) / experts)


def _runs(path: str) -> Iterator[str]:
    """All runs of whole parts of a path."""
    parts = path.split(".")
    for start in range(len(parts)):
        for stop in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:stop])


def _core(text: str) -> str:
    """An expression without what matches anything at its ends."""
    body = re.sub(r"^\^?(?:\.\*)+", "", text.removeprefix(REGEX))
    return re.sub(r"(?<!\\)(?:\.\*)+\$?$", "", body)


def _loops(body: str) -> int:
    return len(_LOOP.findall(body))


def _expression(text: str) -> re.Pattern[str]:
    """An expression that cannot take for ever; raises ValueError for others."""
    body, core = text.removeprefix(REGEX), _core(text)
    shown = text if len(text) <= 60 else text[:57] + "..."
    options = len(_OPTIONAL.findall(core))
    many = len(body) > LONGEST or _loops(core) > MOST_LOOPS or options > MOST_OPTIONS
    if many or _REPEATED_GROUP.search(core):
        raise ValueError(
            f"'{shown}' is too complicated: at most {LONGEST} characters, {MOST_LOOPS} of * and + "
            f"inside, {MOST_OPTIONS} of ?, and no repeated group"
        )
    anywhere = body != core and re.match(r"\^?\.\*", body)
    try:
        re.compile(body)
        return re.compile(f".*?(?:{core})" if anywhere else core)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"'{shown}' is no regular expression: {error}") from None
