"""Text workloads of SimAI and AICB: a header with degrees, the number of lines, a line a layer.

A line holds name, dependency, then for forward, input gradient and weight gradient each: compute
time (ns), collective and its bytes (as nccl-tests counts them); last a processing time (ns) that
follows each collective.

Model: forward through all lines, each collective waited for; then backward from the last line:
input gradient with its collective waited for, weight gradient, whose collective runs beside what
follows. Plain names of collectives run over the tensor-parallel group in forward and input
gradient, over the data-parallel group in weight gradient; _EP and _DP_EP name their own. A micro
test (policy MICRO) goes through its lines once, each collective waited for; an inference
(``mode: 1``) has no backward.

Source: aliyun/SimAI astra-sim Workload.cc and Layer.cc, aliyun/aicb
SimAI_training_workload_generator.py, SimAI_inference_workload_generator.py and
workload/simAI/micro_test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.training.task_graph import Pipeline, TaskGraph, did_you_mean
from cluster_sim.training.workload_ops import Degrees, Op, amount, check_degrees, graph_of

MICRO = "MICRO"
POLICIES = ("HYBRID_TRANSFORMER_FWD_IN_BCKWD", "HYBRID_TRANSFORMER", "DATA", MICRO)
COLLECTIVES = {
    "ALLREDUCE": "all_reduce",
    "ALLGATHER": "all_gather",
    "REDUCESCATTER": "reduce_scatter",
    "ALLTOALL": "all_to_all",
    "BROADCAST": "broadcast",
}
SUFFIXES = {"": "", "_EP": "ep", "_DP_EP": "dp_ep"}
PASSES = ("forward", "input gradient", "weight gradient")
COLUMNS = 12
DEGREES = {
    "model_parallel_NPU_group": "tp",
    "ep": "ep",
    "pp": "pp",
    "vpp": "chunks",
    "ga": "micro_batches",
    "all_gpus": "ranks",
    "pp_comm": "pp_bytes",
    "mode": "inference",
}
MAY_BE_ZERO = ("pp_comm", "mode")
LISTS = ("checkpoints", "checkpoint_initiates")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a pass through a layer does."""

    seconds: float
    operation: str = ""
    axis: str = ""
    bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    name: str
    parts: tuple[_Part, _Part, _Part]
    process_s: float
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    policy: str
    degrees: dict[str, int]
    checkpoints: tuple[int, ...]
    initiates: tuple[int, ...]


def read_workload(
    path: Path, text: str, *, ranks: int | None, devices: int | None, folded: bool
) -> TaskGraph:
    """The graph of a text workload on ``ranks`` ranks (None: as the header says, else one on each
    of the ``devices``, or without them as few as its degrees need).

    Raises SpecError with line, key and value for what is broken.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    header = _header(path, lines[0][1])
    if len(lines) < 2 or not lines[1][1].strip().isdigit():
        raise SpecError(f"{path}:2: must be the number of layers that follow")
    count, rows = int(lines[1][1]), lines[2:]
    if count != len(rows):
        raise SpecError(
            f"{path}:{lines[1][0]}: says {count} layers, but {len(rows)} lines follow; the file "
            "is cut short or the number is wrong"
        )
    if not rows:
        raise SpecError(f"{path}:{lines[1][0]}: no layers")
    given = header.degrees
    problems: list[str] = []
    layers = [layer for row in rows if (layer := _layer(path, row, problems)) is not None]
    if problems:
        more = len(problems) - 8
        raise SpecError(problems if more <= 0 else [*problems[:8], f"and {more} more like these"])
    _check_places(path, header, len(layers))
    tp, ep, pp = (given.get(name, 1) for name in ("tp", "ep", "pp"))
    total = ranks or given.get("ranks") or devices or tp * ep * pp
    degrees = Degrees(ranks=total, tp=tp, ep=ep, pp=pp)
    check_degrees(path, degrees)
    micro_batches = given.get("micro_batches", 1)
    layers = _marked(layers, micro_batches)
    pipeline = None
    if degrees.pp > 1:
        pipeline = Pipeline(
            stages=degrees.pp,
            chunks=given.get("chunks", 1),
            micro_batches=micro_batches,
            bytes=float(given.get("pp_bytes", 0)),
        )
    return graph_of(
        path,
        _ops(layers, header),
        degrees,
        form="simai",
        folded=folded,
        pipeline=pipeline,
        notes=_notes(ranks, given, degrees),
    )


def _notes(ranks: int | None, given: dict[str, int], degrees: Degrees) -> tuple[str, ...]:
    notes = ["compute times are those of the trace, whatever the chip"]
    if not ranks and not given.get("ranks"):
        notes.append(f"the file does not say how many ranks: one on each of {degrees.ranks}")
    elif ranks and given.get("ranks") and ranks != given["ranks"]:
        notes.append(f"--ranks {ranks} instead of the {given['ranks']} of the file: DP changes")
    return tuple(notes)


def _header(path: Path, line: str) -> _Header:
    words = line.split()
    if words[0] not in POLICIES:
        hint = did_you_mean(words[0], POLICIES)
        raise SpecError(
            f"{path}:1: parallel policy '{words[0]}' is unknown{hint} There are "
            f"{', '.join(POLICIES)}"
        )
    degrees: dict[str, int] = {}
    lists: dict[str, tuple[int, ...]] = dict.fromkeys(LISTS, ())
    at = 1
    while at < len(words):
        key = words[at].removesuffix(":")
        if key not in DEGREES and key not in LISTS:
            hint = did_you_mean(key, [*DEGREES, *LISTS])
            raise SpecError(
                f"{path}:1: no key '{key}'{hint} There are {', '.join([*DEGREES, *LISTS])}"
            )
        value = _whole(path, key, words, at + 1)
        at += 2
        if key in LISTS:
            lists[key] = tuple(_whole(path, key, words, at + one) for one in range(value))
            at += value
            continue
        if value < 1 and key not in MAY_BE_ZERO:
            raise SpecError(f"{path}:1: {key}: must be at least 1 (got {value})")
        if key == "mode" and value > 1:
            raise SpecError(f"{path}:1: mode: must be 0 (training) or 1 (inference) (got {value})")
        degrees[DEGREES[key]] = value
    return _Header(
        policy=words[0],
        degrees=degrees,
        checkpoints=lists["checkpoints"],
        initiates=lists["checkpoint_initiates"],
    )


def _whole(path: Path, key: str, words: Sequence[str], at: int) -> int:
    word = words[at] if at < len(words) else "nothing"
    if not word.isdigit():
        raise SpecError(f"{path}:1: {key}: must be a whole number (got {word})")
    return int(word)


def _layer(path: Path, row: tuple[int, str], problems: list[str]) -> _Layer | None:
    number, line = row
    words = line.split()
    if len(words) != COLUMNS:
        problems.append(
            f"{path}:{number}: {len(words)} columns instead of {COLUMNS}: name, dependency, three "
            "times compute, collective, bytes, and a processing time"
        )
        return None
    before = len(problems)
    parts = []
    for place, name in enumerate(PASSES):
        at = 2 + 3 * place
        nanoseconds = amount(f"{path}:{number}: {name} compute", words[at], problems)
        size = amount(f"{path}:{number}: {name} bytes", words[at + 2], problems)
        operation, axis = _collective(
            f"{path}:{number}: {name} collective", words[at + 1], place, problems
        )
        parts.append(_Part(seconds=nanoseconds * 1e-9, operation=operation, axis=axis, bytes=size))
    process_s = amount(f"{path}:{number}: processing time", words[-1], problems) * 1e-9
    if len(problems) > before:
        return None
    return _Layer(name=words[0], parts=(parts[0], parts[1], parts[2]), process_s=process_s)


def _collective(where: str, word: str, place: int, problems: list[str]) -> tuple[str, str]:
    """Our name of a collective and the axis of its group; none for NONE."""
    if word == "NONE":
        return "", ""
    for suffix in ("_DP_EP", "_EP", ""):
        base = word.removesuffix(suffix)
        if word.endswith(suffix) and base in COLLECTIVES:
            return COLLECTIVES[base], SUFFIXES[suffix] or ("dp" if place == 2 else "tp")
    known = ["NONE", *(base + end for base in COLLECTIVES for end in SUFFIXES)]
    hint = did_you_mean(word, known)
    problems.append(
        f"{where}: unknown (got {word}){hint} There are NONE, {', '.join(COLLECTIVES)}, each also "
        "with _EP and _DP_EP"
    )
    return "", ""


def _check_places(path: Path, header: _Header, layers: int) -> None:
    for place in (*header.checkpoints, *header.initiates):
        if place >= layers:
            raise SpecError(f"{path}:1: checkpoints: there is no layer {place} of {layers}")
    for place in header.initiates:
        if not any(one <= place for one in header.checkpoints):
            raise SpecError(
                f"{path}:1: checkpoint_initiates: layer {place} has no checkpoint before it"
            )


def _marked(layers: list[_Layer], micro_batches: int) -> list[_Layer]:
    """The layers with a mark on those that every micro-batch passes: their name occurs as often,
    or a multiple of it; with a single micro-batch all that reduce no gradients.
    """
    times = Counter(layer.name for layer in layers)
    marked = []
    for layer in layers:
        repeats = times[layer.name] % micro_batches == 0
        if micro_batches == 1:
            repeats = not layer.parts[2].operation
        marked.append(
            _Layer(name=layer.name, parts=layer.parts, process_s=layer.process_s, repeats=repeats)
        )
    return marked


def _ops(layers: Sequence[_Layer], header: _Header) -> list[Op]:
    """What a rank does, in order; the last op of the chain is what the next waits for."""
    ops: list[Op] = []
    chain: tuple[int, ...] = ()

    def run(layer: _Layer, place: int, *, waited: bool = True) -> None:
        nonlocal chain
        part, name = layer.parts[place], f"{layer.name} {PASSES[place]}"
        if part.seconds:
            ops.append(
                Op(
                    name=name,
                    kind="compute",
                    after=chain,
                    seconds=part.seconds,
                    repeats=layer.repeats,
                )
            )
            chain = (len(ops) - 1,)
        if not part.operation:
            return
        ops.append(
            Op(
                name=f"{name} {part.operation}",
                kind="collective",
                after=chain,
                operation=part.operation,
                axis=part.axis,
                bytes=part.bytes,
                repeats=layer.repeats,
            )
        )
        last = (len(ops) - 1,)
        if layer.process_s:
            ops.append(
                Op(
                    name=f"{name} processing",
                    kind="host",
                    after=last,
                    seconds=layer.process_s,
                    repeats=layer.repeats,
                )
            )
            last = (len(ops) - 1,)
        if waited:
            chain = last

    if header.policy == MICRO:
        for layer in layers:
            for part in range(len(PASSES)):
                run(layer, part)
        return ops
    for layer in layers:
        run(layer, 0)
    if header.degrees.get("inference"):
        return ops
    for place in reversed(range(len(layers))):
        if place in header.initiates:
            start = max(one for one in header.checkpoints if one <= place)
            for again in range(start, place):
                run(layers[again], 0)
        run(layers[place], 1)
        run(layers[place], 2, waited=False)
    return ops
