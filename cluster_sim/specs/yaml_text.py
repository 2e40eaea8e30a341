"""Strict YAML: YAML 1.2 numbers and booleans, no timestamps, no duplicate keys; and the line of
every key.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from cluster_sim.errors import SpecError

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

Key = tuple[str | int, ...]


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
    return int(node.value)


def _plain_float(loader: Any, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _plain_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _plain_float)


def parse(text: str, shown: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The mapping in a YAML text and the line of each key; SpecError for anything else."""
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise SpecError(f"{shown}: empty file")
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(f"{shown}:1: must be a mapping of keys to values")
        lines: dict[Key, int] = {}
        problems: list[str] = []
        _walk(node, (), lines, problems, shown)
        if problems:
            raise SpecError(problems)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{shown}{line}: not valid YAML: {problem}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{shown}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    return value, lines


def _walk(
    node: yaml.Node, path: Key, lines: dict[Key, int], problems: list[str], shown: str
) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                where = ".".join(str(part) for part in (*path, key))
                problems.append(
                    f"{shown}:{line}: {where}: duplicate key (first on line {seen[key]})"
                )
            seen[key] = line
            lines[(*path, key)] = line
            _walk(value_node, (*path, key), lines, problems, shown)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, number)] = item.start_mark.line + 1
            _walk(item, (*path, number), lines, problems, shown)


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
