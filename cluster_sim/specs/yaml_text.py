"""Strict YAML: YAML 1.2 numbers and booleans, no timestamps, no tags, no duplicate keys, bounded
nesting and aliases; and the line of every key.
"""

from __future__ import annotations

import pickle
import re
from functools import lru_cache
from typing import Any

import yaml

from cluster_sim.errors import SpecError
from cluster_sim.text_file import MOST_DEPTH, MOST_DIGITS, MOST_SPEC_BYTES

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

Key = tuple[str | int, ...]
# Values in a file, those that aliases repeat counted each time: the largest packaged file has 900.
MOST_VALUES = 100_000
MOST_KEPT = 256  # texts of which what they hold is kept
_CORE = "tag:yaml.org,2002:"
_TAGS = frozenset(
    _CORE + name for name in ("null", "bool", "int", "float", "str", "map", "seq", "merge")
)


class _StrictLoader(_Base):
    """Resolves like YAML 1.2 core: true/false, decimal integers, floats with or without exponent
    sign.
    """


_StrictLoader.yaml_implicit_resolvers = {
    first: [
        pair for pair in pairs if pair[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, pairs in _Base.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def _plain_int(loader: Any, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        digits = f"a number of {len(node.value):,} digits; at most {MOST_DIGITS} make sense"
        raise ValueError(f"line {node.start_mark.line + 1}: {digits}")
    return int(node.value)


def _plain_float(loader: Any, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".", "", 1) if node.value[-1] in "fFnN" else node.value)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _plain_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _plain_float)


def parse(text: str, shown: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The mapping in a YAML text and the line of each key; SpecError for anything else."""
    found: tuple[dict[str, Any], dict[Key, int]] = pickle.loads(_parsed(text, shown))
    return found


@lru_cache(maxsize=MOST_KEPT)
def _parsed(text: str, shown: str) -> bytes:
    """What ``parse`` gives, as bytes: a file is asked for several times in a run, and whoever asks
    changes what he gets.
    """
    if len(text) > MOST_SPEC_BYTES:
        raise SpecError(f"{shown}: has {len(text):,} characters, at most {MOST_SPEC_BYTES:,} here")
    loader = _loader(text, shown)
    try:
        node = loader.get_single_node()
        if node is None:
            raise SpecError(f"{shown}: empty file")
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(f"{shown}:1: must be a mapping of keys to values")
        walk = _Walk(shown)
        walk.visit(node, ())
        if walk.problems:
            raise SpecError(walk.problems)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _invalid(error, shown) from None
    except RecursionError:
        raise SpecError(f"{shown}: not valid YAML: {_TOO_DEEP}") from None
    except ValueError as error:
        raise SpecError(f"{shown}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    return pickle.dumps((value, walk.lines))


_TOO_DEEP = f"nested more than {MOST_DEPTH} levels deep"


def _loader(text: str, shown: str) -> Any:
    try:
        return _StrictLoader(text)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise _invalid(error, shown) from None
    except UnicodeEncodeError:
        raise SpecError(f"{shown}: not a text (half a character)") from None


def _invalid(error: yaml.YAMLError, shown: str) -> SpecError:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return SpecError(f"{shown}{line}: not valid YAML: {problem}")


class _Walk:
    """Goes through all nodes, those behind aliases each time that they come, before any value is
    made of them: collects the lines of keys and what is wrong.
    """

    def __init__(self, shown: str) -> None:
        self.shown, self.values = shown, 0
        self.lines: dict[Key, int] = {}
        self.problems: list[str] = []

    def visit(self, node: yaml.Node, path: Key) -> None:
        line = node.start_mark.line + 1
        self.values += 1
        if self.values > MOST_VALUES:
            raise SpecError(
                f"{self.shown}:{line}: more than {MOST_VALUES:,} values, those that aliases (*name)"
                " repeat counted each time"
            )
        if len(path) > MOST_DEPTH:
            raise SpecError(f"{self.shown}:{line}: not valid YAML: {_TOO_DEEP}")
        if node.tag not in _TAGS:
            self._wrong(line, path, f"a tag of its own ({node.tag[:60]}); leave it out")
        if isinstance(node, yaml.MappingNode):
            self._keys(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self.lines[(*path, number)] = item.start_mark.line + 1
                self.visit(item, (*path, number))
        elif node.tag == _CORE + "bool" and node.value.lower() not in ("true", "false"):
            self._wrong(line, path, f"must be true or false (got {node.value[:40]})")

    def _keys(self, node: yaml.MappingNode, path: Key) -> None:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._wrong(line, path, "a key must be a word, not a list or a mapping")
                continue
            if key in seen:
                self._wrong(line, (*path, key), f"duplicate key (first on line {seen[key]})")
            seen[key] = line
            self.lines[(*path, key)] = line
            self.visit(value_node, (*path, key))

    def _wrong(self, line: int, path: Key, text: str) -> None:
        where = ".".join(str(part) for part in path)
        self.problems.append(f"{self.shown}:{line}: {where}{': ' if where else ''}{text}")


def located(text: str, shown: str, problem: str) -> str:
    """``key: what`` with the file in front, and the line of the key where the text has it."""
    try:
        lines = parse(text, shown)[1] if text else {}
    except SpecError:
        lines = {}
    words = problem.partition(":")[0].split(".")
    key: Key = tuple(int(word) if word.isdigit() else word for word in words)
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            return f"{shown}:{lines[key[:length]]}: {problem}"
    return f"{shown}: {problem}"
