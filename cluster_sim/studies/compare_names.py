"""Headings that tell runs apart, as short as they can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cluster_sim.columns import SHORT_HASH
from cluster_sim.errors import counted

Row = Mapping[str, str]
MOST_COMBINED = 3  # marks in a heading; beyond that the hash is shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What a run is called: workload, topology, and what tells it from others of both."""

    workload: str
    topology: str
    mark: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (f"{self.workload}@{self.topology}", self.mark) if part)


def precision(row: Row) -> str:
    """Precision of weights and, where it is another, of the KV cache."""
    weights, kv = row.get("weights_dtype", ""), row.get("kv_dtype", "")
    return weights if kv in ("", weights) else f"{weights}, {kv} KV"


def traffic(row: Row) -> str:
    """Clients of a closed loop, the rate that open traffic was asked for, or the load in words."""
    many, asked, load = (row.get(key, "") for key in ("concurrency", "rate_asked_per_s", "load"))
    if many:
        return f"{many} client{'' if many == '1' else 's'}"
    return _per_s(asked) if asked and load == "open" else load


def _per_s(rate: str) -> str:
    try:
        return (
            f"{float(rate):,.4g} requests/s"
            if float(rate) < 1e4
            else f"{float(rate):,.0f} requests/s"
        )
    except ValueError:
        return ""


def _after(word: str, column: str) -> Callable[[Row], str]:
    """A number with its noun."""

    def mark(row: Row) -> str:
        text = row.get(column, "")
        return counted(int(text), word) if text.isdecimal() else text

    return mark


def _before(word: str, column: str) -> Callable[[Row], str]:
    return lambda row: f"{word} {row[column]}" if row.get(column) else ""


def _plain(column: str) -> Callable[[Row], str]:
    return lambda row: row.get(column, "")


# What may tell runs apart, those first that a reader looks for first.
MARKS: tuple[Callable[[Row], str], ...] = (
    _plain("plan"),
    traffic,
    _after("chip", "n_chips"),
    _plain("software"),
    precision,
    _plain("model"),
    _plain("scheduler"),
    _after("request", "requests"),
    _before("seed", "seed"),
    _plain("slo"),
    _plain("price_basis"),
    _before("version", "version"),
    lambda row: _per_s(row.get("rate_per_s", "")),
)


def headings(rows: Sequence[Row]) -> list[Heading]:
    """A heading for each run, no two alike.

    Runs of one workload on one topology get the fewest marks that tell most of them apart, then
    digits of the hash of their inputs; the same run given again gets a number.
    """
    bases = [(row.get("workload", ""), row.get("topology", "")) for row in rows]
    marks = [""] * len(rows)
    for base in dict.fromkeys(bases):
        mine = [i for i, other in enumerate(bases) if other == base]
        for i, mark in zip(mine, _marks([rows[i] for i in mine]), strict=True):
            marks[i] = mark
    return [
        Heading(workload=workload, topology=topology, mark=mark)
        for (workload, topology), mark in zip(bases, marks, strict=True)
    ]


def _marks(rows: Sequence[Row]) -> list[str]:
    """What tells runs of one workload and topology apart."""
    if len(rows) == 1:
        return [""]
    found = _fewest([[mark(row) for row in rows] for mark in MARKS])
    hashes = _hashes(rows)
    pairs = set(zip(found, hashes, strict=True))
    several = Counter(text for text, _ in pairs)
    found = [
        f"{text} {short}".strip() if several[text] > 1 else text
        for text, short in zip(found, hashes, strict=True)
    ]
    many, seen = Counter(found), Counter[str]()
    for i, text in enumerate(found):
        seen[text] += 1
        found[i] = f"{text} #{seen[text]}".strip() if many[text] > 1 else text
    return found


def _fewest(texts: Sequence[Sequence[str]]) -> list[str]:
    """The smallest set of marks that tells most runs apart, joined for each run."""
    useful = [column for column in texts if len(set(column)) > 1]
    best, most = [""] * len(texts[0]), 1
    for size in range(1, MOST_COMBINED + 1):
        for chosen in combinations(useful, size):
            joined = [
                " ".join(part for part in parts if part) for parts in zip(*chosen, strict=True)
            ]
            apart = len(set(joined))
            if apart > most:
                best, most = joined, apart
        if most == len(best):
            break
    return best


def _hashes(rows: Sequence[Row]) -> list[str]:
    """As many digits of the hashes as tell different ones apart; without a hash the run_id."""
    full = [row.get("config_hash", "") or row.get("run_id", "") for row in rows]
    different = len(set(full))
    longest = max(map(len, full))
    digits = next(
        (n for n in range(SHORT_HASH, longest) if len({text[:n] for text in full}) == different),
        longest,
    )
    return [
        text[:digits] if row.get("config_hash") else text
        for text, row in zip(full, rows, strict=True)
    ]
