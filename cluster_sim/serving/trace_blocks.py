"""What the prompts of a trace share: named beginnings, and blocks that the trace itself numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from cluster_sim.serving.requests import IntArray, Prefixes, prefixes_of_runs
from cluster_sim.serving.trace_rows import Row

Chain = tuple[int, ...]
OWN_BLOCKS = 1 << 62  # above the ids of any trace: blocks of a session alone


def block_size(rows: Sequence[Row], usual: int) -> tuple[int, str]:
    """Tokens of a block such that every prompt has as many blocks as ids, and a note where they are
    not the ``usual`` ones.

    Model: n ids of a prompt of L tokens are blocks of B tokens if B (n - 1) < L <= B n. Of the
    sizes that fit all rows the usual one, else the first power of two, else the one with the
    largest factor 2^k. Raises ValueError where none fits.
    """
    isl = np.array([row.isl for row in rows])
    ids = np.array([len(row.units) for row in rows])
    at_least = -(-isl // ids)
    at_most = np.where(ids > 1, (isl - 1) // np.maximum(ids - 1, 1), math.inf)
    least, most = rows[int(at_least.argmax())], rows[int(at_most.argmin())]
    low, high = int(at_least.max()), float(at_most.min())
    if low > high:
        raise ValueError(
            f"hash_ids: no size of a block fits all rows: {len(least.units)} for input_length "
            f"{least.isl} need at least {low} tokens, {len(most.units)} for {most.isl} at most "
            f"{high:.0f}"
        )
    if low <= usual <= high:
        return usual, ""
    unit = _roundest(low, high)
    span = f"any from {low} to {high:.0f} tokens fit"
    if high in (low, math.inf):
        span = "no other size fits" if high == low else f"any from {low} tokens on fit"
    return unit, f"hash_ids are taken for blocks of {unit} tokens ({span})"


def _roundest(low: int, high: float) -> int:
    """The first power of two from ``low`` to ``high``, else what has the largest factor 2^k."""
    step = 1 << (low - 1).bit_length()
    while -(-low // step) * step > high:
        step //= 2
    return -(-low // step) * step


def named_prefixes(rows: Sequence[Row], unit: int | None) -> Prefixes | None:
    """Named prefixes as units of the engine's blocks."""
    if unit is None or not any(row.prefix for row in rows):
        return None
    number: dict[str, int] = {}
    named = [row.prefix or ("", 0) for row in rows]
    ids = np.array([number.setdefault(name, len(number)) for name, _ in named], dtype=np.int64)
    units = np.array([tokens // unit for _, tokens in named], dtype=np.int64)
    return prefixes_of_runs([(ids, units)], unit)


def filled_blocks(rows: Sequence[Row], unit: int) -> list[Chain]:
    """The blocks that each prompt fills."""
    return [row.units[: row.isl // unit] for row in rows]


def blocks_of_turns(rows: Sequence[Row], isl: IntArray, osl: IntArray, unit: int) -> list[Chain]:
    """Blocks of turns that go on what was said before: those that the first prompt of a session
    fills, then its own ones up to the end of the answer.
    """
    first: dict[str, tuple[Chain, int]] = {}
    chains: list[Chain] = []
    for row, tokens in zip(rows, (isl + osl).tolist(), strict=True):
        filled = row.units[: row.isl // unit]
        if row.session:
            filled, own = first.setdefault(row.session, (filled, OWN_BLOCKS + len(first)))
            filled += (own,) * (tokens // unit - len(filled))
        chains.append(filled)
    return chains


def block_prefixes(chains: Sequence[Chain], unit: int, engine: int) -> Prefixes | None:
    """Numbered blocks of ``unit`` tokens; those that are always followed by the same one form one
    text. Blocks that those of the ``engine`` do not divide are taken together until they do.
    """
    together = engine // math.gcd(unit, engine)
    if together > 1:
        chains = _joined(chains, together)
    ends = np.cumsum([0, *map(len, chains)], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(chains), dtype=np.int64, count=int(ends[-1]))
    if not len(ids):
        return None
    goes_on = np.ones(len(ids), dtype=bool)  # the text of the block before
    goes_on[ends[:-1][np.diff(ends) > 0]] = False
    after = np.flatnonzero(goes_on)
    _, number = np.unique(ids, return_inverse=True)
    least, most = np.full(len(ids), len(ids)), np.full(len(ids), -1)  # of a block's followers
    np.minimum.at(least, number[after - 1], number[after])
    np.maximum.at(most, number[after - 1], number[after])
    goes_on[after] = (least == most)[number[after - 1]]
    starts = np.flatnonzero(~goes_on)
    counts = np.diff(starts, append=len(ids))
    return Prefixes(np.searchsorted(starts, ends), ids[starts], counts, unit * together)


def _joined(chains: Sequence[Chain], count: int) -> list[Chain]:
    """So many blocks at a time as one; what is left at the end of a chain is left out."""
    number: dict[Chain, int] = {}
    return [
        tuple(
            number.setdefault(blocks[start : start + count], len(number))
            for start in range(0, len(blocks) - count + 1, count)
        )
        for blocks in chains
    ]
