"""Traces of texts: conversations of ShareGPT and its kin, lists of prompts; tokens estimated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster_sim.serving.estimated_tokens import ESTIMATED, text_of, tokens_of
from cluster_sim.serving.json_rows import Place, as_object, json_rows, short
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_columns import as_requests, as_requests_of_blocks
from cluster_sim.serving.trace_rows import (
    FailedRequestError,
    Row,
    TraceOptions,
    collect,
    seconds,
    whole,
)

CONVERSATIONS = ("conversations", "conversation")  # ShareGPT; LMSYS-Chat and WildChat
SPEAKERS = ("from", "role")
ANSWERERS = ("gpt", "assistant", "chatgpt", "bing", "bard", "model")
PROMPTS = ("prompt", "text")  # vLLM and GuideLLM; AIPerf
ANSWERS = ("output_tokens", "output_tokens_count", "output_length", "max_tokens")


def read_sharegpt(path: Path, text: str, options: TraceOptions) -> Requests:
    """Conversations in ShareGPT's form (or that of LMSYS-Chat and WildChat): each is a session,
    each answer a request whose prompt is all that was said before; no times.

    Turns follow each other's end at once: how long people thought is not known. A conversation
    without an answer is left out and counted. Token counts are estimated.
    """
    lines = _turns(json_rows(text, str(path)))
    rows = collect(path, lines, _turn, options, time_key="timestamp", order="none")
    return as_requests(rows, options, notes=[ESTIMATED])


def read_prompts(path: Path, text: str, options: TraceOptions) -> Requests:
    """Prompts as text with the length of their answer where known: the custom datasets of vLLM and
    GuideLLM (``prompt``) and of AIPerf (``text``, ``timestamp`` and ``delay`` in ms, sessions).

    Turns carry what is new in them. Token counts of prompts are estimated. Sources: vllm bench
    serve --dataset-name custom; github.com/vllm-project/guidellm and ai-dynamo/aiperf, datasets.
    """
    lines = json_rows(text, str(path))
    rows = collect(path, lines, _prompt, options, time_key="timestamp", order="sessions")
    options = replace(options, turns=options.turns or "new")
    return as_requests_of_blocks(path, rows, options, 1, coarse=False, notes=[ESTIMATED])


def _turns(values: Iterator[tuple[Place, Any]]) -> Iterator[tuple[Place, Any]]:
    """The answers of all conversations; what is none is passed on for its error."""
    for number, (place, value) in enumerate(values):
        try:
            found = list(_answers(f"{number}", as_object(value)))
        except ValueError as error:
            yield place, error
            continue
        if not found:
            yield place, FailedRequestError()
        for turn in found:
            yield place, turn


def _answers(session: str, value: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Session, prompt and answer in tokens of each answer of a conversation."""
    key = next((key for key in CONVERSATIONS if key in value), CONVERSATIONS[0])
    said = value.get(key)
    if not isinstance(said, list):
        raise ValueError(f"{key}: must be a list of what was said (got {short(said)})")
    before = 0
    for place, one in enumerate(said):
        where = f"{key}[{place}]"
        speaker = next((one[k] for k in SPEAKERS if k in one), None) if isinstance(one, dict) else 0
        if not isinstance(speaker, str):
            raise ValueError(f"{where}: must have 'from' or 'role' as text (got {short(one)})")
        text = one.get("value", one.get("content"))
        if not isinstance(text, str):
            raise ValueError(f"{where}: must have 'value' or 'content' as text (got {short(one)})")
        tokens = tokens_of(text)
        if speaker.lower() in ANSWERERS and before and text:
            yield session, before, tokens
        before += tokens


def _turn(turn: Any) -> Row:
    if isinstance(turn, ValueError):
        raise turn
    session, isl, osl = turn
    return Row(at_s=None, isl=isl, osl=osl, session=session, prefix=(session, isl + osl))


def _prompt(line: object) -> Row:
    value = as_object(line, form=PROMPTS[:1])
    key = next((key for key in PROMPTS if value.get(key) is not None), None)
    if key is None:
        raise ValueError(f"{PROMPTS[0]}: missing")
    osl = next((name for name in ANSWERS if value.get(name) is not None), None)
    at, delay, session = value.get("timestamp"), value.get("delay"), value.get("session_id")
    return Row(
        at_s=None if at is None else seconds("timestamp", at) / 1e3,
        stamp=at,
        isl=tokens_of(text_of(key, value[key])),
        osl=0 if osl is None else whole(osl, value[osl]),
        session="" if session is None else str(session),
        think_s=0.0 if delay is None else seconds("delay", delay) / 1e3,
    )
