"""From a mapping to a frozen dataclass: all problems at once, each in the user's words with the
file and line, or the option, that it comes from.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.units import parse_quantity

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Spec = TypeVar("Spec")
Lines = Mapping[tuple[str | int, ...], int]


def build(kind: type[Spec], data: dict[str, Any], source: Source, name: str = "") -> Spec:
    """Validate a mapping as a spec dataclass; raises SpecError with every problem of it."""
    from pydantic import ValidationError

    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if "name" in fields:
        if "name" in data:
            raise SpecError(
                source.problem(("name",), "is taken from the file's name; leave it out")
            )
        data = {**data, "name": name}
    try:
        adapter: TypeAdapter[Spec] = _adapter(kind)  # type: ignore[arg-type]
        return adapter.validate_python(_prepare(data))
    except ValidationError as error:
        entries = _without_unions(error.errors())
        raise SpecError([source.explain(kind, entry) for entry in entries]) from None


def _without_unions(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Problems by key: one that no member of a union takes is one problem, not one a member."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        path = tuple(part for part in entry["loc"] if not _MEMBER.fullmatch(str(part)))
        same = (path, entry["type"])
        if same in found and path != entry["loc"] and entry["type"] == "literal_error":
            expected = f"{found[same]['ctx']['expected']}, {entry['ctx']['expected']}"
            found[same]["ctx"] = {"expected": expected}
        elif same not in found or path == entry["loc"]:
            key = same if same not in found else (*same, len(found))
            found[key] = {**entry, "loc": path}
    return list(found.values())


# How pydantic marks the member of a union in the path of a problem.
_MEMBER = re.compile(r"(?:literal|function-\w+|dict|tuple|list|constrained-\w+)\[.*\]")


class Source:
    """Where a mapping came from, to name file, line and key of a problem."""

    def __init__(self, shown: str, lines: Lines) -> None:
        self.shown, self.lines = shown, lines
        self.options: dict[str, str] = {}  # dotted key -> the option that set it
        self.renamed: dict[tuple[str | int, ...], str] = {}
        self.moved: dict[str, tuple[str | int, ...]] = {}  # top key -> where the file has it

    def move(self, place: tuple[str | int, ...], keys: Iterable[str]) -> None:
        """Note that keys of the mapping stand at another place of the file."""
        self.moved |= dict.fromkeys(keys, place)

    @contextmanager
    def naming(self, *path: str | int) -> Iterator[None]:
        """Tell of a name that is unknown with the place of the key that gives it."""
        try:
            yield
        except UnknownNameError as error:
            raise SpecError(self.problem(path, str(error))) from None

    def problem(self, path: tuple[str | int, ...], text: str) -> str:
        """A text with the place it is about: the option that set the key, else file and line."""
        if path and self._option(path) == ("", ""):
            path = (*self.moved.get(str(path[0]), ()), *path)
        dotted = self.renamed.get(path) or _dotted(path)
        option, key = self._option(path)
        if option:
            return f"{option}: {text}" if key == dotted else f"{option}: {path[-1]}: {text}"
        line = next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None
        )
        where = f"{self.shown}:{line}" if line else self.shown
        return f"{where}: {dotted}: {text}" if dotted else f"{where}: {text}"

    def _option(self, path: tuple[str | int, ...]) -> tuple[str, str]:
        """The option that set a key, what it is in or, if the file has no such key, something in
        it; and the key that was set. Empty without one.
        """
        for length in range(len(path), 0, -1):
            key = _dotted(path[:length])
            if key in self.options:
                return self.options[key], key
        inside = _dotted(path) + "."
        if path not in self.lines:
            for key, option in self.options.items():
                if key.startswith(inside):
                    return option, key
        return "", ""

    def explain(self, kind: type[Any], entry: Mapping[str, Any]) -> str:
        """One problem as pydantic found it, in the user's words."""
        path = tuple(part for part in entry["loc"] if part not in ("[key]",))
        code, got, context = entry["type"], entry.get("input"), entry.get("ctx", {})
        shown = f" (got {short(got)})"
        if code in ("unexpected_keyword_argument", "extra_forbidden"):
            known = _keys(kind, path[:-1])
            way_out = hint_at(str(path[-1]), known)
            if known and not way_out:
                way_out = f"; the keys are {', '.join(known)}"
            return self.problem(path, "unknown key" + way_out)
        if code in ("missing", "missing_argument", "missing_keyword_only_argument"):
            return self.problem(path, "missing")
        if code == "literal_error":
            text = f"must be one of {context['expected'].replace(' or ', ', ')}"
            known = re.findall(r"'([^']*)'", context["expected"])
            return self.problem(path, text + shown + hint_at(short(got), known))
        if code == "value_error":
            return self.problem(path, str(context["error"]) + (shown if path else ""))
        if code in _BOUNDS:
            words, key = _BOUNDS[code]
            return self.problem(path, f"{words} {_plain(context[key])}{shown}")
        return self.problem(path, _WORDS.get(code, entry["msg"]) + shown)


_BOUNDS = {
    "greater_than": ("must be >", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than_equal": ("must be at most", "le"),
    "string_too_long": ("may have so many characters at most:", "max_length"),
}
_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "dataclass_type": "must be a mapping",
    "dataclass_exact_type": "must be a mapping",
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _prepare(value: Any) -> Any:
    """Make file values fit the dataclasses: quantile mappings become points; booleans are no
    numbers.
    """
    if isinstance(value, dict):
        prepared = {key: _prepare(inner) for key, inner in value.items()}
        if isinstance(prepared.get("quantiles"), dict):
            prepared["quantiles"] = [_point(q, x) for q, x in prepared["quantiles"].items()]
        return prepared
    if isinstance(value, list):
        return [_prepare(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _point(share: object, tokens: object) -> tuple[object, object]:
    """A point of quantiles; keys of JSON are text, numbers too."""
    try:
        return parse_quantity(share, "share"), tokens
    except ValueError:
        plain = isinstance(share, str) and share.replace(".", "", 1).isdecimal()
        return (float(share), tokens) if plain else (share, tokens)  # type: ignore[arg-type]


def _plain(bound: float) -> str:
    """A bound as people write it: 100,000 or 0.001.

    >>> _plain(100_000), _plain(1e5), _plain(0.001)
    ('100,000', '100,000', '0.001')
    """
    whole = float(bound).is_integer() and abs(bound) < 1e15
    return f"{int(bound):,}" if whole else f"{bound:g}"


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path)


def _keys(kind: type[Any], path: tuple[str | int, ...]) -> list[str]:
    """Names of the fields at a path inside a spec dataclass that a file may give."""
    import typing

    for part in path:
        if isinstance(part, int):
            continue  # a place in a list: its entries are of the kind that the list's hint names
        hints = typing.get_type_hints(kind)
        hint = hints.get(str(part))
        found = next(
            (t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)), None
        )
        if not isinstance(found, type):
            return []
        kind = found
    names = [field.name for field in dataclasses.fields(kind)]
    return names if path else [name for name in names if name != "name"]


def hint_at(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """Which of the known names may be meant; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def short(value: object) -> str:
    """A value for an error's text."""
    text = str(value) if isinstance(value, str | int | float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
