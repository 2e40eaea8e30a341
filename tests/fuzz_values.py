"""Values and bytes that break readers, and where they may stand in a tree or a text."""

from __future__ import annotations

import copy
import gzip
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

# Written as YAML, JSON or an option would have them. None of them is a value that any number of the
# program may take.
ABSURD = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e300",
        "-1e300",
        "1e-300",
        "8_0",
        "0x10",
        "1e1000",
        "NaN",
        "Infinity",
    ),
    *("99999999999999999999", "-99999999999", "9" * 400, "1,5", "١٢", "--8"),
)
# May be right or wrong, depending on the place.
ODD = (
    *("0", "-1", "1", "2", "3", "7", "1e9", "8.0", "true", "false", "null", "~", "''", "[]", "{}"),
    *("1000000", "1000000000", "0.5", "1e-9", "1e18", "2147483648", "auto", "none", " ", "\t"),
    *("[1, 2]", "{a: 1}", "naïve", "数", "a" * 300, "a" * 30000, "../../etc/passwd", "%s%n", "*x"),
    *(
        "!!python/object:os.system x",
        "!!bool abc",
        "'",
        '"',
        "\\",
        "#",
        "- a",
        "a: b: c",
        "&a [*a]",
    ),
)
NUMBER = re.compile(rb"(?<![A-Za-z0-9_.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def damaged(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes with one kind of damage, and its name; the kinds come equally often."""
    kind = rng.choice(list(DAMAGES))
    return DAMAGES[kind](data, rng), kind


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _without(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 200) :]


def _twice(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[at:]])


def _inserted(piece: bytes) -> Callable[[bytes, random.Random], bytes]:
    def change(data: bytes, rng: random.Random) -> bytes:
        at = rng.randrange(len(data) + 1)
        return data[:at] + piece + data[at:]

    return change


def _number(data: bytes, rng: random.Random) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data + b"\n1e300"
    place = rng.choice(found)
    value = rng.choice([*ABSURD, *ODD]).encode()
    return data[: place.start()] + value + data[place.end() :]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data or b"x")
    for _ in range(rng.randrange(1, 8)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def _lines_swapped(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": _cut,
    "a piece gone": _without,
    "a line twice": _twice,
    "a zero byte": _inserted(b"\0"),
    "no UTF-8": _inserted(b"\xff\xfe"),
    "another number": _number,
    "another number again": _number,
    "bits flipped": _flipped,
    "lines in another order": _lines_swapped,
    "a long line": _inserted(b"x" * 300_000),
    "many columns": _inserted(b"," * 100_000),
    "nested deep": _inserted(b"[" * 100_000),
    "gzipped": lambda data, _: gzip.compress(data),
    "gzip, cut off": lambda data, rng: gzip.compress(data)[: rng.randrange(2, 60)],
    "a gzip bomb": lambda data, _: BOMB,
    "in UTF-16": lambda data, _: data.decode("utf-8", "replace").encode("utf-16"),
    "nothing": lambda data, _: b"",
    "a mark in front": lambda data, _: b"\xef\xbb\xbf" + data,
    "aliases of aliases": lambda data, _: LAUGHS + data,
}
BOMB = gzip.compress(b"\0" * (1 << 20)) * 600  # members one after the other
LAUGHS = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(12)
).encode()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values below a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(tree: Any, rng: random.Random) -> tuple[Any, str, bool]:
    """A tree with one change, what it is, and whether what it says now is absurd: a number of a
    spec that no number may be.
    """
    changed = copy.deepcopy(tree)
    path = rng.choice(list(places(changed)))
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    old, where = parent[path[-1]], ".".join(map(str, path))
    kind = rng.choice(["delete", "value", "value", "value", "rename", "copy", "nest", "retype"])
    if kind == "delete":
        del parent[path[-1]]
        return changed, f"without {where}", False
    if kind == "rename" and isinstance(parent, dict):
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        return changed, f"{where} misspelt", False
    if kind == "copy":
        other = rng.choice(list(places(tree)))
        value = tree
        for key in other:
            value = value[key]
        parent[path[-1]] = copy.deepcopy(value)
        return changed, f"{where} as {'.'.join(map(str, other))}", False
    if kind == "nest":
        for _ in range(rng.choice([1, 3, 200])):
            old = {"a": old}
        parent[path[-1]] = old
        return changed, f"{where} nested", False
    if kind == "retype":
        parent[path[-1]] = rng.choice([[], {}, None, True, 8.0, "", 0, -1, [old], str(old), 10**30])
        return changed, f"{where} retyped", False
    return _with_value(changed, parent, path, old, rng)


def _with_value(
    changed: Any, parent: Any, path: tuple[Any, ...], old: Any, rng: random.Random
) -> tuple[Any, str, bool]:
    """Another number where one stood, its unit kept; elsewhere any odd value."""
    where = ".".join(map(str, path))
    literal = re.match(r"^[-+]?[\d.]+(?:[eE][-+]?\d+)?( ?[A-Za-z%/0-9-]*)$", str(old))
    numeric = isinstance(old, int | float) and not isinstance(old, bool)
    value = rng.choice(ABSURD)
    if numeric:
        parent[path[-1]] = Raw(value)
        return changed, f"{where}: {value:.40}", True
    if literal and literal[1].strip():
        parent[path[-1]] = f"{value}{literal[1]}"
        return changed, f"{where}: {value:.40}{literal[1]}", True
    value = rng.choice([*ABSURD, *ODD])
    parent[path[-1]] = Raw(value) if rng.random() < 0.5 else value
    return changed, f"{where}: {value:.40}", False


class Raw(str):
    """A text that is written without quotes."""


def as_yaml(tree: Any, indent: int = 0) -> str:
    """A tree as YAML in flow style, a key a line at the top."""
    return "".join(f"{_flow(key)}: {_flow(value)}\n" for key, value in tree.items())


def _flow(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")
    return "'" + str(value).replace("'", "''").replace("\n", " ") + "'"
