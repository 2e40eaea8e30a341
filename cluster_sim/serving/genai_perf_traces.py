"""Requests of GenAI-Perf as a trace: the raw export of its Perf Analyzer, texts and times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.serving.estimated_tokens import ESTIMATED, text_of, tokens_of
from cluster_sim.serving.json_rows import as_object, json_rows, short
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_columns import as_requests
from cluster_sim.serving.trace_rows import (
    FailedRequestError,
    Row,
    TraceOptions,
    collect,
    seconds,
    whole,
)
from cluster_sim.text_file import json_value

PROMPTS = ("text_input", "prompt", "messages")
_EVENT = "data:"  # begins the lines of a stream


def read_genai_perf(path: Path, text: str, options: TraceOptions) -> Requests:
    """The requests of a profile_export.json of GenAI-Perf: starts in ns, prompts and answers as
    texts, whose tokens are estimated unless the server counted them (``usage``).

    Requests without an answer are left out and counted. Raises SpecError for a file of several
    experiments. Source: triton-inference-server/perf_analyzer, genai-perf's parser of profile data.
    """
    place, value = next(json_rows(text, str(path)))
    try:
        experiments = as_object(value, ("experiments",))["experiments"]
        if not isinstance(experiments, list) or not all(
            isinstance(one, dict) for one in experiments
        ):
            raise ValueError(f"experiments: must be a list of objects (got {short(experiments)})")
        if len(experiments) != 1:
            raise ValueError(f"experiments: {len(experiments)}; keep one of them to replay it")
        requests = experiments[0].get("requests")
        if not isinstance(requests, list):
            raise ValueError(f"experiments.0.requests: must be a list (got {short(requests)})")
    except ValueError as error:
        raise SpecError(f"{path}:{place}: {error}") from None
    estimated: list[bool] = []

    def parse(request: object) -> Row:
        row, counted = _request(as_object(request, ("timestamp", "response_outputs")))
        estimated.append(not counted)
        return row

    lines = ((f"requests.{number}", request) for number, request in enumerate(requests))
    rows = collect(path, lines, parse, options, time_key="timestamp", order="none")
    return as_requests(rows, options, notes=[ESTIMATED] if any(estimated) else [])


def _request(value: dict[str, Any]) -> tuple[Row, bool]:
    """A request, and whether all its tokens were counted."""
    said, usage = _answer(value["response_outputs"])
    isl, osl = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
    if osl is None and not said:
        raise FailedRequestError
    row = Row(
        at_s=seconds("timestamp", value["timestamp"]) / 1e9,
        stamp=value["timestamp"],
        isl=_prompt(value.get("request_inputs")) if isl is None else whole("prompt_tokens", isl),
        osl=tokens_of(said) if osl is None else whole("completion_tokens", osl),
    )
    return row, isl is not None and osl is not None


def _prompt(inputs: object) -> int:
    """Tokens of what was asked: texts, or the JSON that was sent."""
    sent = inputs.get("payload", inputs) if isinstance(inputs, dict) else inputs
    asked = as_object(sent, form=("payload", *PROMPTS))
    key = next((key for key in PROMPTS if asked.get(key) is not None), None)
    if key is None:
        raise ValueError(f"request_inputs: has none of {', '.join(PROMPTS)}")
    return tokens_of(text_of(key, asked[key]))


def _answer(outputs: object) -> tuple[str, dict[str, Any]]:
    """The text of all responses, and the counts that the server gave with the last."""
    if not isinstance(outputs, list):
        raise ValueError(f"response_outputs: must be a list (got {short(outputs)})")
    said: list[str] = []
    usage: dict[str, Any] = {}
    for output in outputs:
        response = (
            output.get("response", output.get("text_output"))
            if isinstance(output, dict)
            else output
        )
        if response is not None and not isinstance(response, str):
            raise ValueError(f"response_outputs: must hold texts (got {short(response)})")
        for part in _parts(response or ""):
            if isinstance(part, str):
                said.append(part)
                continue
            counts = part.get("usage")
            usage = counts if isinstance(counts, dict) else usage
            choices = part.get("choices")
            said += [_text(choice) for choice in choices] if isinstance(choices, list) else []
    return "".join(said), usage


def _parts(response: str) -> Iterator[str | dict[str, Any]]:
    """The JSON objects of a response, as they come in lines of a stream or alone; plain text as it
    is.
    """
    for line in response.split("\n") if response.lstrip().startswith(_EVENT) else [response]:
        bare = line.strip().removeprefix(_EVENT).strip()
        if bare in ("", "[DONE]"):
            continue
        try:
            value = json_value(bare)
        except ValueError:
            value = None
        yield value if isinstance(value, dict) else line


def _text(choice: object) -> str:
    """What a choice adds to the answer, thoughts with it."""
    if not isinstance(choice, dict):
        return ""
    inner = choice.get("delta") or choice.get("message") or choice
    found = (
        [inner.get(key) for key in ("reasoning_content", "content", "text")]
        if isinstance(inner, dict)
        else []
    )
    return "".join(text for text in found if isinstance(text, str))
