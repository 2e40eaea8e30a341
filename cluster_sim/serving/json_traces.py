"""Traces with one JSON object a line: Mooncake and RAGPulse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_rows import (
    Row,
    TraceOptions,
    as_requests,
    block_prefixes,
    collect,
    seconds,
    whole,
)
from cluster_sim.text_file import json_value

MOONCAKE_UNIT = 512  # tokens of a block of hash_ids
COMPONENTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")


def read_mooncake(path: Path, text: str, options: TraceOptions) -> Requests:
    """A Mooncake trace: milliseconds of a clock that ticks every 3 s, lengths, and the ids of the
    512-token blocks of each prompt.

    A block that the prompt does not fill is left out: its id says nothing about what follows.
    Source: github.com/kvcache-ai/Mooncake, FAST25-release/traces.
    """
    rows = collect(path, _lines(text), _mooncake, options, time_key="timestamp")
    requests = as_requests(rows, options, coarse=True)
    if options.block_tokens is None:
        return requests
    return dataclasses.replace(requests, prefixes=block_prefixes(rows.kept, MOONCAKE_UNIT))


def read_ragpulse(path: Path, text: str, options: TraceOptions) -> Requests:
    """A RAGPulse trace: seconds, lengths, sessions; sorted by time, since the published one is not.

    Limits: its ``hash_ids`` name components of a prompt without their token counts; they are
    checked, but no prefixes can be made of them. Source: github.com/flashserve/RAGPulse.
    """
    lines = _lines(text)
    rows = collect(path, lines, _ragpulse, options, time_key="timestamp", unordered=True)
    return as_requests(rows, options, coarse=True)


def first_object(text: str) -> dict[str, Any] | None:
    """The first line that holds anything, if that is a JSON object."""
    for line in text.split("\n"):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                return None
            return value if isinstance(value, dict) else None
    return None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that hold anything."""
    return ((i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip())


def _object(line: str, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        value = json_value(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be an object with {', '.join(keys)} (got {_short(value)})")
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"{missing[0]}: missing")
    return value


def _mooncake(line: str) -> Row:
    value = _object(line, ("timestamp", "input_length", "output_length", "hash_ids"))
    isl = whole("input_length", value["input_length"])
    osl = whole("output_length", value["output_length"])
    units = _ids("hash_ids", value["hash_ids"])
    needed = -(-isl // MOONCAKE_UNIT)
    if len(units) != needed:
        raise ValueError(
            f"hash_ids: input_length {isl} has {needed} blocks of {MOONCAKE_UNIT} tokens "
            f"(got {len(units)})"
        )
    at_s = seconds("timestamp", value["timestamp"]) / 1e3
    return Row(at_s=at_s, stamp=value["timestamp"], isl=isl, osl=osl, units=units)


def _ragpulse(line: str) -> Row:
    value = _object(line, ("timestamp", "input_length", "output_length", "hash_ids", "session_id"))
    isl = whole("input_length", value["input_length"])
    osl = whole("output_length", value["output_length"])
    components = value["hash_ids"]
    if not isinstance(components, dict):
        raise ValueError(f"hash_ids: must be an object of lists (got {_short(components)})")
    for name, ids in components.items():
        if name not in COMPONENTS:
            raise ValueError(f"hash_ids.{name}: unknown; it has {', '.join(COMPONENTS)}")
        _ids(f"hash_ids.{name}", ids)
    session = value["session_id"]
    if not isinstance(session, str):
        raise ValueError(f"session_id: must be text (got {_short(session)})")
    at_s = seconds("timestamp", value["timestamp"])
    return Row(at_s=at_s, stamp=value["timestamp"], isl=isl, osl=osl, session=session)


def _ids(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{key}: must be a list of whole numbers (got {_short(value)})")
    for one in value:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < 1 << 62:
            raise ValueError(f"{key}: must hold whole numbers from 0 on (got {_short(one)})")
    return tuple(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
