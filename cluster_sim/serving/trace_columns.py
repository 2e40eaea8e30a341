"""The rows of a trace as the columns of requests; what they leave open is filled in, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.serving.generators import ANSWERS, draw_lengths
from cluster_sim.serving.requests import FloatArray, IntArray, Requests
from cluster_sim.serving.trace_blocks import (
    block_prefixes,
    block_size,
    blocks_of_turns,
    filled_blocks,
    named_prefixes,
)
from cluster_sim.serving.trace_rows import Row, Rows, TraceOptions

COARSE = 0.5  # share of the rows that share their time with another from which on times are ticks
NO_BLOCKS = "the trace numbers no blocks of prompts (hash_ids): they share nothing"
NEW_TURNS = (
    "turns carry what is new in them: their prompts are taken for that and all that was said before"
)
WHOLE_TURNS = "turns are taken for whole prompts"


def as_requests(
    rows: Rows,
    options: TraceOptions,
    *,
    coarse: bool = False,
    new_turns: bool = False,
    notes: Sequence[str] = (),
) -> Requests:
    """Rows as columns; times count from the first.

    ``coarse``: where most rows share their time with others, the times are ticks of a slow clock,
    and requests are spread evenly at random over their tick, in order. ``new_turns``: a prompt is
    what is new in its turn. ``notes`` are what the reader has assumed.
    """
    timed = options.timed and rows.timed
    kept = rows.kept if timed else _by_session(rows.kept)
    at_s = np.array([row.at_s for row in kept]) if timed else np.zeros(len(kept))
    if coarse and timed and not rows.filled:
        at_s = _spread_ticks(at_s, options.seed)
    slo_class, names = _classes(kept, options)
    after = _turns(kept)
    osl, drawn = _answers(kept, options)
    isl = np.array([row.isl for row in kept], dtype=np.int64)
    said = [*notes, *drawn]
    if after is not None and new_turns:
        isl = _with_history(after, isl, osl)
        said.append(NEW_TURNS)
    return Requests(
        at_s - at_s[0],
        isl,
        osl,
        skipped_rows=rows.bad,
        failed_rows=rows.failed,
        after=after,
        think_s=None if after is None else np.array([row.think_s for row in kept]),
        slo_class=slo_class,
        class_names=names,
        priority=_priorities(kept, options, slo_class),
        prefixes=named_prefixes(kept, options.block_tokens),
        timed=timed,
        assumed=tuple(said),
    )


def as_requests_of_blocks(
    path: Path, rows: Rows, options: TraceOptions, usual: int, *, coarse: bool, notes: Sequence[str]
) -> Requests:
    """As ``as_requests``, of rows with the ids of their blocks, of ``usual`` tokens unless that
    cannot be or the user says otherwise.

    Turns of a session are whole prompts if they begin as its first one, else what is new; without
    ids whole, unless the user says otherwise. Raises SpecError if no size of a block fits.
    """
    timed = options.timed and rows.timed
    kept = rows.kept if timed else _by_session(rows.kept)
    said, unit = list(notes), options.trace_block_tokens
    numbered = [row for row in kept if row.units]
    if unit is None and numbered:
        try:
            unit, note = block_size(numbered, usual)
        except ValueError as error:
            raise SpecError(
                f"{path}: {error}; give the size with --set "
                f"workload.arrivals.trace_block_tokens={usual}: prompts then share as many whole "
                "blocks as they name"
            ) from None
        said += [note] if note else []
    new_turns, note = _new_turns(kept, options)
    said += [note] if note else []
    requests = as_requests(rows, options, coarse=coarse, new_turns=new_turns, notes=said)
    if not numbered and (requests.after is None or not new_turns):
        requests = replace(requests, assumed=(*requests.assumed, NO_BLOCKS))
    engine = options.block_tokens
    if engine is None:
        return requests
    if new_turns:
        unit = unit or engine
        chains = blocks_of_turns(kept, requests.isl, requests.osl, unit)
    elif unit is None:
        return requests
    else:
        chains = filled_blocks(kept, unit)
    return replace(requests, prefixes=block_prefixes(chains, unit, engine))


def _new_turns(kept: Sequence[Row], options: TraceOptions) -> tuple[bool, str]:
    """Whether turns carry only what is new, and a note where nothing says so."""
    if not any(row.session for row in kept):
        return False, ""
    begins: dict[str, int] = {}
    sessions: set[str] = set()
    begun = other = turns = 0
    for row in kept:
        if not row.session:
            continue
        turns += row.session in sessions
        sessions.add(row.session)
        if row.units and row.session in begins:
            begun += row.units[0] == begins[row.session]
            other += row.units[0] != begins[row.session]
        elif row.units:
            begins[row.session] = row.units[0]
    if options.turns is not None:
        return options.turns == "new", ""
    if begun or other:
        return other > begun, ""
    way = " (assumed; --set workload.arrivals.trace_turns=new: what is new alone)"
    return False, WHOLE_TURNS + way if turns else ""


def _by_session(kept: Sequence[Row]) -> list[Row]:
    """The rows of a session behind each other, sessions in order of their first rows."""
    if not any(row.session for row in kept):
        return list(kept)
    place: dict[str, int] = {}
    keys = [place.setdefault(row.session or f"\n{i}", i) for i, row in enumerate(kept)]
    return [kept[i] for i in sorted(range(len(kept)), key=keys.__getitem__)]


def _answers(kept: Sequence[Row], options: TraceOptions) -> tuple[IntArray, list[str]]:
    """Lengths of answers; those that no row states are drawn as the workload has them."""
    osl = np.array([row.osl for row in kept], dtype=np.int64)
    open_rows = np.flatnonzero(osl == 0)
    if options.osl is None or not len(open_rows):
        return osl, []
    many = "the trace gives"
    if len(open_rows) < len(osl):
        many = f"{len(open_rows):,} of {len(osl):,} rows give"
    seeds = np.random.SeedSequence(options.seed, spawn_key=(ANSWERS,))
    osl[open_rows] = draw_lengths(options.osl, len(open_rows), np.random.default_rng(seeds))
    return osl, [f"{many} no output_length: answers are drawn as the workload's osl has them"]


def _with_history(after: IntArray, isl: IntArray, osl: IntArray) -> IntArray:
    """Prompts with all that was said before in their session."""
    whole: list[int] = isl.tolist()
    answers: list[int] = osl.tolist()
    for turn, former in enumerate(after.tolist()):
        if former >= 0:
            whole[turn] += whole[former] + answers[former]
    return np.array(whole, dtype=np.int64)


def _spread_ticks(at_s: FloatArray, seed: int) -> FloatArray:
    stamps, counts = np.unique(at_s, return_counts=True)
    if len(stamps) < 2 or counts[counts > 1].sum() < COARSE * len(at_s):
        return at_s
    gaps = np.diff(stamps)
    tick = float(np.median(gaps))
    width = np.minimum(np.append(gaps, tick), tick)
    offset = np.random.default_rng(seed).random(len(at_s)) * np.repeat(width, counts)
    return np.sort(np.repeat(stamps, counts) + offset)


def _turns(kept: Sequence[Row]) -> IntArray | None:
    """Whom each request waits for: the row before with the same session."""
    latest: dict[str, int] = {}
    after = np.full(len(kept), -1, dtype=np.int64)
    for i, row in enumerate(kept):
        if row.session:
            after[i] = latest.get(row.session, -1)
            latest[row.session] = i
    return after if (after >= 0).any() else None


def _classes(kept: Sequence[Row], options: TraceOptions) -> tuple[IntArray | None, tuple[str, ...]]:
    """Numbers of the rows' classes: those of the workload, else the names in order of appearance.

    A row without a class counts as one of its own name ``-`` where the workload has no classes.
    """
    if not any(row.slo_class for row in kept):
        return None, ()
    names = [part.name for part in options.classes]
    number = {name: i for i, name in enumerate(names)}
    found = [number.setdefault(row.slo_class or "-", len(number)) for row in kept]
    return np.array(found, dtype=np.int64), tuple(number)


def _priorities(
    kept: Sequence[Row], options: TraceOptions, slo_class: IntArray | None
) -> IntArray | None:
    """As the rows say, else as their class does, else 0; None if all are alike."""
    of_class = [part.priority for part in options.classes]
    values = []
    for i, row in enumerate(kept):
        number = -1 if slo_class is None else int(slo_class[i])
        own = of_class[number] if 0 <= number < len(of_class) else 0
        values.append(own if row.priority is None else row.priority)
    return np.array(values, dtype=np.int64) if len(set(values)) > 1 else None
