"""Traces of token counts in JSON: Mooncake and its kin, Bailian, RAGPulse, LLMServingSim."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from cluster_sim.serving.csv_traces import csv_objects
from cluster_sim.serving.estimated_tokens import ESTIMATED, text_of, tokens_of
from cluster_sim.serving.json_rows import Place, as_object, json_rows, short
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_blocks import OWN_BLOCKS
from cluster_sim.serving.trace_columns import as_requests, as_requests_of_blocks
from cluster_sim.serving.trace_rows import (
    Row,
    TraceOptions,
    collect,
    seconds,
    whole,
)
from cluster_sim.specs.workload import TimeUnit, Turns

MOONCAKE_UNIT = 512  # tokens of a block of hash_ids
BAILIAN_UNIT = 16
COMPONENTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")
PROMPTS = ("input_length", "text_input", "messages")  # one of them says what a prompt is
MOONCAKE = ("timestamp", "input_length", "output_length", "hash_ids")
LOOKED_AT = 1000  # rows that tell the unit of times
# Below this mean gap, fractions of seconds are likelier than of milliseconds: 50 requests/s, beside
# one in 20 s. Assumed.
SECONDS_BELOW = 20.0
UNITS = {"s": 1.0, "ms": 1e-3}
_FRACTION = re.compile(r'"timestamp"\s*:\s*"?\s*\d*(?:\.\d*[1-9]|\.?\d*[eE]-)')


def read_mooncake(path: Path, text: str, options: TraceOptions) -> Requests:
    """A trace in Mooncake's form: milliseconds of a clock that may tick slowly, lengths, and the
    ids of the blocks of each prompt, of 512 tokens unless they cannot be; as JSON or as CSV.

    Model: any of ``timestamp``, ``output_length`` and ``hash_ids`` may be absent; ``text_input``
    or ``messages`` instead of ``input_length`` is estimated. Rows of one ``session_id`` are turns,
    ``delay`` ms after the former one's end. Times with fractions whose mean gap is below
    ``SECONDS_BELOW`` are seconds. A block that the prompt does not fill is left out: its id says
    nothing about what follows. Sources: github.com/kvcache-ai/Mooncake, FAST25-release/traces;
    github.com/ai-dynamo/aiperf, docs/benchmark-modes/trace-replay.md; github.com/vllm-project/
    guidellm, docs/guides/datasets.md (seconds).
    """
    unit, notes = options.time_unit or _time_unit(text, str(path)), list[str]()
    if options.time_unit is None and unit == "s":
        notes.append(
            "times have fractions and are taken for seconds, as GuideLLM writes them (assumed; "
            "--set workload.arrivals.trace_time_unit=ms for milliseconds)"
        )
    scale, seen = UNITS[unit], set[str]()

    def parse(value: object) -> Row:
        row = as_object(value, form=MOONCAKE)
        found = _mooncake(row, scale)
        if row.get("input_length") is None:
            seen.add("delta" if row.get("message_mode") == "delta" else _stated(row, PROMPTS))
        return found

    rows = collect(
        path, _values(text, str(path)), parse, options, time_key="timestamp", order="sessions"
    )
    if seen:
        notes.append(ESTIMATED)
        turns: Turns = "whole" if seen == {"messages"} else "new"
        options = replace(options, turns=options.turns or turns)
    return as_requests_of_blocks(path, rows, options, MOONCAKE_UNIT, coarse=True, notes=notes)


def read_bailian(path: Path, text: str, options: TraceOptions) -> Requests:
    """A trace of Alibaba's Bailian: seconds, lengths, ids of the 16-token blocks of each prompt,
    and the chat that a request goes on; the chats behind one are turns of a session.

    Turns are whole prompts. Source: github.com/alibaba-edu/qwen-bailian-usagetraces-anon.
    """
    scale, root = UNITS[options.time_unit or "s"], dict[str, str]()

    def parse(value: object) -> Row:
        row = as_object(value, ("chat_id", "timestamp", "input_length"))
        isl = whole("input_length", row["input_length"])
        chat, parent = _name("chat_id", row["chat_id"]), ""
        if row.get("parent_chat_id") is not None:
            parent = _name("parent_chat_id", row["parent_chat_id"])
        root[chat] = root.get(parent, chat)
        return Row(
            at_s=seconds("timestamp", row["timestamp"]) * scale,
            stamp=row["timestamp"],
            isl=isl,
            osl=_answer(row),
            session=root[chat],
            units=_ids("hash_ids", row.get("hash_ids") or []),
        )

    rows = collect(
        path, json_rows(text, str(path)), parse, options, time_key="timestamp", order="none"
    )
    return as_requests_of_blocks(path, rows, options, BAILIAN_UNIT, coarse=False, notes=())


def read_ragpulse(path: Path, text: str, options: TraceOptions) -> Requests:
    """A RAGPulse trace: seconds, lengths, sessions; sorted by time, since the published one is not.

    Limits: its ``hash_ids`` name components of a prompt without their token counts; they are
    checked, but no prefixes can be made of them. Source: github.com/flashserve/RAGPulse.
    """
    lines = json_rows(text, str(path))
    rows = collect(path, lines, _ragpulse, options, time_key="timestamp", order="none")
    return as_requests(rows, options, coarse=True)


def read_llmservingsim(path: Path, text: str, options: TraceOptions) -> Requests:
    """A workload of LLMServingSim, or what its bench has measured: tokens of prompts and answers,
    arrivals in s (``arrival_time``) or ns (``arrival_time_ns``); as JSON or as CSV.

    Source: github.com/casys-kaist/LLMServingSim, workloads and bench/examples.
    """
    values = _values(text, str(path))
    rows = collect(path, values, _llmservingsim, options, time_key="arrival_time", order="none")
    return as_requests(rows, options)


def _values(text: str, shown: str) -> Iterator[tuple[Place, Any]]:
    """Rows of a JSON or of a CSV text."""
    return json_rows(text, shown) if text.lstrip()[:1] in ("{", "[") else csv_objects(text, shown)


def _time_unit(text: str, shown: str) -> TimeUnit:
    """The unit that the first times are in."""
    if text.lstrip()[:1] in ("{", "[") and not _FRACTION.search(text):
        return "ms"
    times: list[float] = []
    for _, value in islice(_values(text, shown), LOOKED_AT):
        try:
            stamp = as_object(value, form=MOONCAKE).get("timestamp")
            times += [] if stamp in (None, "") else [seconds("timestamp", stamp)]
        except ValueError:
            continue
    broken = any(at % 1 for at in times)  # no whole numbers
    return "s" if broken and (max(times) - min(times)) / len(times) < SECONDS_BELOW else "ms"


def _mooncake(value: dict[str, Any], scale: float) -> Row:
    at, delay, session = value.get("timestamp"), value.get("delay"), value.get("session_id")
    ids = value.get("hash_ids")
    return Row(
        at_s=None if at is None else seconds("timestamp", at) * scale,
        stamp=at,
        isl=_prompt(value),
        osl=_answer(value),
        session="" if session is None else _name("session_id", session),
        think_s=0.0 if delay is None else seconds("delay", delay) * scale,
        units=() if ids is None else _ids("hash_ids", ids),
    )


def _stated(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The first of some keys that has a value; none."""
    return next((key for key in keys if value.get(key) is not None), "")


def _prompt(value: dict[str, Any]) -> int:
    """Tokens of a prompt, counted or estimated."""
    length = value.get("input_length")
    if length is not None:
        return whole("input_length", length)
    key = _stated(value, PROMPTS)
    if not key:
        raise ValueError(f"input_length: missing; {' or '.join(PROMPTS[1:])} would do too")
    return tokens_of(text_of(key, value[key]))


def _answer(value: dict[str, Any]) -> int:
    """Tokens of an answer; 0 where the row does not say."""
    osl = value.get("output_length")
    return 0 if osl is None else whole("output_length", osl)


def _ragpulse(line: object) -> Row:
    needs = ("timestamp", "input_length", "output_length", "hash_ids", "session_id")
    value = as_object(line, needs)
    isl = whole("input_length", value["input_length"])
    osl = whole("output_length", value["output_length"])
    components = value["hash_ids"]
    if not isinstance(components, dict):
        raise ValueError(f"hash_ids: must be an object of lists (got {short(components)})")
    for name, ids in components.items():
        if name not in COMPONENTS:
            raise ValueError(f"hash_ids.{name}: unknown; it has {', '.join(COMPONENTS)}")
        _ids(f"hash_ids.{name}", ids)
    session = value["session_id"]
    if not isinstance(session, str):
        raise ValueError(f"session_id: must be text (got {short(session)})")
    at_s = seconds("timestamp", value["timestamp"])
    return Row(at_s=at_s, stamp=value["timestamp"], isl=isl, osl=osl, session=session)


def _llmservingsim(line: object) -> Row:
    value = as_object(line, ("input_toks", "output_toks"))
    at, scale, key = value.get("arrival_time"), 1.0, "arrival_time"
    if at is None:
        at, scale, key = value.get("arrival_time_ns"), 1e-9, "arrival_time_ns"
    return Row(
        at_s=None if at is None else seconds(key, at) * scale,
        stamp=at,
        isl=whole("input_toks", value["input_toks"]),
        osl=whole("output_toks", value["output_toks"]),
    )


def _name(key: str, value: object) -> str:
    """A name of a session, a text or a number."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{key}: must be text or a whole number (got {short(value)})")
    return str(value)


def _ids(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{key}: must be a list of whole numbers (got {short(value)})")
    if value and (set(map(type, value)) != {int} or min(value) < 0 or max(value) >= OWN_BLOCKS):
        one = next(one for one in value if type(one) is not int or not 0 <= one < OWN_BLOCKS)
        raise ValueError(f"{key}: must hold whole numbers from 0 on (got {short(one)})")
    return tuple(value)
