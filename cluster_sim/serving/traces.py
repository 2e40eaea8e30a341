"""Request traces: which format a file is in, told from what it holds, and its reader."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.serving.csv_traces import (
    AZURE,
    BURSTGPT,
    NEUTRAL,
    SPLITWISE,
    VIDUR,
    header_of,
    read_azure,
    read_burstgpt,
    read_neutral,
    read_splitwise,
    read_vidur,
)
from cluster_sim.serving.genai_perf_traces import read_genai_perf
from cluster_sim.serving.json_rows import first_object
from cluster_sim.serving.json_traces import (
    read_bailian,
    read_llmservingsim,
    read_mooncake,
    read_ragpulse,
)
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.result_traces import read_aiperf, read_benchmark
from cluster_sim.serving.servegen import read_servegen
from cluster_sim.serving.text_traces import read_prompts, read_sharegpt
from cluster_sim.serving.trace_rows import TraceOptions, read_text
from cluster_sim.specs.find import Files

Reader = Callable[[Path, str, TraceOptions], Requests]
Keys = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files: its reader, what is written in it, and what tells it: one key of each
    group of its JSON objects, or the columns of its CSV.
    """

    reader: Reader
    about: str
    keys: tuple[tuple[str, ...], ...] = ()
    columns: tuple[str, ...] = ()

    def lacks(self, first: Keys) -> list[str]:
        """The groups of keys that an object has none of."""
        return [" or ".join(group) for group in self.keys if not set(group) & set(first)]


# In the order in which they are tried: those that ask for more stand first.
FORMATS: dict[str, Format] = {
    "azure": Format(read_azure, "Azure LLM inference", columns=AZURE),
    "burstgpt": Format(read_burstgpt, "BurstGPT", columns=BURSTGPT),
    "neutral": Format(read_neutral, "the project's own", columns=NEUTRAL),
    "splitwise": Format(read_splitwise, "Splitwise", columns=SPLITWISE),
    "vidur": Format(read_vidur, "Vidur", columns=VIDUR),
    "bailian": Format(
        read_bailian, "Alibaba Bailian", keys=(("chat_id",), ("input_length",), ("timestamp",))
    ),
    "ragpulse": Format(read_ragpulse, "RAGPulse", keys=(("hash_ids of components",),)),
    "mooncake": Format(
        read_mooncake,
        "Mooncake, AIPerf, Dynamo, GuideLLM",
        keys=(("input_length", "text_input", "messages", "hash_ids", "output_length"),),
        columns=("input_length", "output_length"),
    ),
    "llmservingsim": Format(
        read_llmservingsim,
        "LLMServingSim",
        keys=(("input_toks",), ("output_toks",)),
        columns=("input_toks", "output_toks"),
    ),
    "aiperf": Format(read_aiperf, "AIPerf's records", keys=(("metadata",), ("metrics",))),
    "genai-perf": Format(read_genai_perf, "GenAI-Perf's raw export", keys=(("experiments",),)),
    "benchmark": Format(
        read_benchmark,
        "results of vLLM and SGLang",
        keys=(("input_lens", "total_input_tokens"), ("output_lens", "total_output_tokens")),
    ),
    "sharegpt": Format(
        read_sharegpt, "ShareGPT, LMSYS-Chat, WildChat", keys=(("conversations", "conversation"),)
    ),
    "prompts": Format(read_prompts, "lists of prompts", keys=(("prompt", "text"),)),
}
SERVEGEN = "servegen (a folder of chunk-*-trace.csv with chunk-*-dataset.json)"
STATISTICS = ("time_to_first_token", "request_throughput", "input_sequence_length")


def read_trace(
    path: Path, form: str | None, options: TraceOptions, files: Files | None = None
) -> Requests:
    """The requests of a trace; the format is told from what it holds unless given. The records of
    the files that it is in go into ``files``.

    Raises SpecError with file, line, key and value for what is broken; with ``skip_bad_rows`` such
    rows are left out and counted. A trace may lack times, and lengths of answers (0 unless the
    options have some).
    """
    if os.path.isdir(path):
        if form not in (None, "servegen"):
            raise SpecError(f"{path}: is a folder, not a trace file; only servegen is a folder")
        requests = read_servegen(path, options, files)
    elif form == "servegen" and os.path.exists(path):
        raise SpecError(f"{path}: is a file; servegen is a folder of chunk-*-trace.csv files")
    else:
        text = read_text(path, files)
        requests = FORMATS[form or recognise(path, text)].reader(path, text, options)
    if not options.timed:
        return dataclasses.replace(requests, arrival_s=np.zeros(len(requests)), timed=False)
    return requests


def has_times(path: Path, form: str | None = None) -> bool:
    """Whether the first request of a trace has a time; of one that cannot be read it is assumed."""
    if os.path.isdir(path):
        return True
    options = TraceOptions(limit=1, skip_bad_rows=True)
    try:
        text = read_text(path)
        return FORMATS[form or recognise(path, text)].reader(path, text, options).timed
    except (SpecError, KeyError):
        return True


def recognise(path: Path, text: str) -> str:
    """The format of a trace, from the keys of its first object or the columns of its header; raises
    SpecError saying what was tried and what each lacks.
    """
    try:
        first = first_object(text)
    except ValueError as error:
        raise SpecError(f"{path}:1: {error}") from None
    if first is not None:
        return _by_keys(path, text, first)
    if text.lstrip()[:1] in ("{", "["):
        raise _unknown(path, text, first={})
    header = header_of(text)
    shared = {
        name: sum(column in header for column in form.columns) for name, form in FORMATS.items()
    }
    best = max(shared, key=shared.__getitem__)
    if shared[best] == 0:
        raise _unknown(path, text, header=header)
    return best


def _by_keys(path: Path, text: str, first: Keys) -> str:
    if isinstance(first.get("hash_ids"), dict):
        return "ragpulse"
    for name, form in FORMATS.items():
        if form.keys and not form.lacks(first):
            return name
    if any(isinstance(first.get(key), dict) for key in STATISTICS):
        raise SpecError(
            f"{path}: holds statistics of AIPerf or GenAI-Perf, no requests; replay the records, "
            "profile_export.jsonl of AIPerf, or hold the statistics against a simulation with "
            "validate --against"
        )
    raise _unknown(path, text, first=first)


def _unknown(
    path: Path, text: str, *, first: Keys | None = None, header: list[str] | None = None
) -> SpecError:
    """What was tried, and what each format lacks."""
    line = text.strip().splitlines()[0]
    shown = line if len(line) <= 60 else line[:57] + "..."
    tried = []
    for name, form in FORMATS.items():
        if first is not None and form.keys:
            tried.append(f"{name} ({form.about}: no {', no '.join(form.lacks(first))})")
        elif header is not None and form.columns:
            tried.append(f"{name} ({form.about}: no {','.join(form.columns)})")
    what = "JSON" if first is not None else "CSV"
    others = "CSV with a header" if first is not None else "JSON, an object a line or a list"
    return SpecError(
        f"{path}:1: unknown trace format (got {shown!r}); known are {'; '.join(tried)} as {what}; "
        f"{len(FORMATS) - len(tried)} more as {others}; {SERVEGEN}"
    )
