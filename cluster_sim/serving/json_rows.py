"""JSON that traces come in: an object a line, a list of objects, or one object over many lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from cluster_sim.errors import SpecError

Place = int | str  # a line, or a place in a list
_DECODER = json.JSONDecoder()
_START = re.compile(r"\s*(\{|\[\s*\{)")  # of an object, of a list of objects


def first_object(text: str) -> dict[str, Any] | None:
    """The first object of a JSON text, in a line, a list, or over many lines; None without any."""
    begin = text.find("{")
    if begin < 0 or text[:begin].strip() not in ("", "["):
        return None
    try:
        value, _ = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_rows(text: str, shown: str) -> Iterator[tuple[Place, Any]]:
    """What a JSON text holds, with where it stands: lines that hold anything, as they are; the
    members of a list; or its one object. Raises SpecError for a list or object that is broken.
    """
    start = _START.match(text)
    kind = start[0].strip() if start else ""
    if kind.startswith("["):
        for place, member in enumerate(_whole(text, shown)):
            yield f"[{place}]", member
    elif kind and _first_line_is_broken(text):
        yield 1, _whole(text, shown)
    else:
        yield from ((i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip())


def _first_line_is_broken(text: str) -> bool:
    """Whether an object goes on behind the line that it begins in: one that ends with a comma, or
    that has the brace alone.
    """
    line = text[text.find("{") :].partition("\n")[0].strip()
    return line == "{" or line.endswith(("{", "[", ","))


def _whole(text: str, shown: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"{shown}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{shown}: not valid JSON: {error}") from None


def as_object(
    value: object, needs: tuple[str, ...] = (), form: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A line or a value as an object with the keys that it needs; raises ValueError for anything
    else, naming those of its ``form``.
    """
    if isinstance(value, str):
        try:  # NaN and Infinity, which benchmarks write, are left to who reads a key
            value = _DECODER.decode(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        keys = ", ".join(form or needs)
        raise ValueError(f"must be an object with {keys} (got {short(value)})")
    missing = [key for key in needs if key not in value]
    if missing:
        raise ValueError(f"{missing[0]}: missing")
    return value


def short(value: object) -> str:
    """A value as it is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
