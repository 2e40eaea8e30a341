"""Execution traces: which format files are in, and the graph that they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.memory_need import check_replay_memory
from cluster_sim.specs.find import Files, read_data
from cluster_sim.text_file import decoded
from cluster_sim.training.aicb import POLICIES, read_workload
from cluster_sim.training.aicb_csv import read_calls
from cluster_sim.training.chakra import read_chakra
from cluster_sim.training.task_graph import TaskGraph, repeated

FORMATS = ("chakra", "simai", "aicb")


def read_traces(
    paths: Sequence[Path],
    *,
    devices: int | None,
    form: str | None = None,
    ranks: int | None = None,
    groups: Mapping[str, tuple[int, ...]] | None = None,
    cut: bool = False,
    repeat: bool = False,
    folded: bool = True,
    most_bytes: float | None = None,
    sizes: Mapping[str, int] | None = None,
    records: Files | None = None,
) -> TaskGraph:
    """The graph of some files, in whatever order they are given: one a rank, or one workload.
    ``sizes``: ranks of groups that a list of calls does not give. ``devices`` are as many ranks as
    a text workload has that does not say so (None: as few as its degrees need). The records of the
    files go into ``records``.

    Raises SpecError for files that cannot be read, are broken, or do not go together, and for
    options that have no effect on them.
    """
    files = [(path, read_data(path, records)) for path in sorted(paths, key=str)]
    forms = {form or recognise(path, data) for path, data in files}
    if len(forms) > 1:
        raise SpecError(f"files of several formats ({', '.join(sorted(forms))}); play them apart")
    form = forms.pop()
    if sizes and form != "aicb":
        raise SpecError("--group-size has no effect: it is for lists of calls (aicb)")
    if form == "chakra":
        if not folded:
            raise SpecError("--unfold has no effect on Chakra traces: every rank is played")
        graph = read_chakra(files, ranks=ranks, groups=groups, cut=cut)
        one = len(graph.nodes) // max(1, len(graph.files))
        check_replay_memory(one * graph.ranks if repeat else len(graph.nodes), most_bytes)
        return repeated(graph, graph.ranks) if repeat else graph
    for name, given in (("--cut", cut), ("--repeat", repeat), ("--groups", groups)):
        if given:
            raise SpecError(f"{name} has no effect on text workloads; it is for Chakra traces")
    if len(files) > 1:
        raise SpecError(
            f"{len(files)} text workloads; each stands for all ranks, so play them one by one"
        )
    path, text = files[0][0], decoded(files[0][1], str(files[0][0]))
    if not text.strip():
        raise SpecError(f"{path}: an empty file")
    if form == "simai":
        return read_workload(path, text, ranks=ranks, devices=devices, folded=folded)
    return read_calls(path, text, ranks=ranks, devices=devices, folded=folded, sizes=sizes)


def recognise(path: Path, data: bytes) -> str:
    """The format of a file from its beginning; what is no text is taken for Chakra."""
    if not data:
        raise SpecError(f"{path}: an empty file")
    try:
        first = data.decode("utf-8-sig").lstrip().partition("\n")[0].strip()
    except UnicodeDecodeError:
        return "chakra"
    if first.startswith("{"):
        return "chakra"
    if re.match(r"\[\s*(?:rank|pp_stage)\d", first) or "comm_type" in first.split(","):
        return "aicb"
    word = first.partition(" ")[0].partition("\t")[0]
    if word in POLICIES or re.fullmatch(r"[A-Z][A-Z_]+", word):
        return "simai"
    if first.replace("\t", " ").isprintable():
        raise SpecError(
            f"{path}:1: unknown trace format (got {first[:40]!r}); tried: chakra (protobuf, or "
            "JSON with workload_graph), simai (text, first word a policy such as "
            f"{POLICIES[0]}), aicb (CSV with comm_type)"
        )
    return "chakra"


def read_map(path: Path, ranks: int, records: Files | None = None) -> tuple[int, ...]:
    """Devices of the ranks from lines ``rank device``; raises SpecError."""
    found: dict[int, int] = {}
    text = decoded(read_data(path, records), str(path))
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isdigit() for word in words):
            raise SpecError(f"{path}:{number}: write 'rank device', such as '0 3' (got {line!r})")
        rank, device = int(words[0]), int(words[1])
        if rank in found:
            raise SpecError(f"{path}:{number}: rank {rank} is placed twice")
        if device in found.values():
            raise SpecError(f"{path}:{number}: device {device} has a rank already")
        found[rank] = device
    absent = [rank for rank in range(ranks) if rank not in found]
    if absent:
        raise SpecError(f"{path}: no device for rank {absent[0]}; there are {ranks} ranks")
    return tuple(found[rank] for rank in range(ranks))
