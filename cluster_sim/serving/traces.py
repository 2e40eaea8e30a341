"""Request traces: which format a file is in, and its reader."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.serving.csv_traces import (
    AZURE,
    BURSTGPT,
    NEUTRAL,
    header_of,
    read_azure,
    read_burstgpt,
    read_neutral,
)
from cluster_sim.serving.json_traces import first_object, read_mooncake, read_ragpulse
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.servegen import chunk_files, read_servegen
from cluster_sim.serving.trace_rows import TraceOptions, read_text
from cluster_sim.text_file import read_bytes

Reader = Callable[[Path, str, TraceOptions], Requests]
FILES: dict[str, Reader] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "mooncake": read_mooncake,
    "neutral": read_neutral,
    "ragpulse": read_ragpulse,
}
HEADERS = {"azure": AZURE, "burstgpt": BURSTGPT, "neutral": NEUTRAL}
KNOWN = (
    "azure (CSV with TIMESTAMP,ContextTokens,GeneratedTokens), burstgpt (CSV with Timestamp,Model,"
    "Request tokens,Response tokens,...), mooncake (JSON lines with hash_ids lists), neutral (CSV "
    "with arrival_s,isl,osl), ragpulse (JSON lines with hash_ids objects and session_id), servegen "
    "(a folder of chunk-*-trace.csv with chunk-*-dataset.json)"
)


def read_trace(path: Path, form: str | None, options: TraceOptions) -> Requests:
    """The requests of a trace; the format is recognised from its first line unless given.

    Raises SpecError with file, line, key and value for what is broken; with ``skip_bad_rows`` such
    rows are left out and counted.
    """
    if path.is_dir():
        if form not in (None, "servegen"):
            raise SpecError(f"{path}: is a folder, not a trace file; only servegen is a folder")
        return read_servegen(path, options)
    if form == "servegen" and path.exists():
        raise SpecError(f"{path}: is a file; servegen is a folder of chunk-*-trace.csv files")
    text = read_text(path)
    return FILES[form or recognise(path, text)](path, text, options)


def recognise(path: Path, text: str) -> str:
    """The format of a trace, from the keys of its first line; raises SpecError listing the known
    ones.
    """
    first = first_object(text)
    if first is not None:
        parts = isinstance(first.get("hash_ids"), dict) or "session_id" in first
        if parts and "input_length" in first:
            return "ragpulse"
        if {"timestamp", "input_length", "output_length", "hash_ids"} & set(first):
            return "mooncake"
    header = header_of(text)
    shared = {name: sum(column in header for column in HEADERS[name]) for name in HEADERS}
    best = max(shared, key=shared.__getitem__)
    if shared[best] == 0:
        line = text.strip().splitlines()[0]
        shown = line if len(line) <= 60 else line[:57] + "..."
        raise SpecError(f"{path}:1: unknown trace format (got {shown!r}); known are {KNOWN}")
    return best


def trace_digest(path: Path) -> str:
    """SHA-256 of what a trace holds, so that results name their input."""
    files = [path]
    if path.is_dir():
        files = [file for pair in chunk_files(path) for file in pair]
    digest = hashlib.sha256()
    for file in files:
        digest.update(read_bytes(file))
    return digest.hexdigest()
