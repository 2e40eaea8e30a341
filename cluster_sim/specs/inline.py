"""Topologies written inline, ``4 x h200_sxm``, and what a topology takes from its chip."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.constraints import MOST_CHIPS, is_count
from cluster_sim.specs.find import FileRecord, find
from cluster_sim.units import parse_quantity

FORMS = "'4 x h200_sxm' or '16 x h100_sxm, 8 per host'"
_BEGUN = re.compile(r"\s*([-+]?\d[\d.]*)\s*[x×*]\s*(.*)", re.IGNORECASE)
_PER_HOST = re.compile(r"([-+]?\d[\d.]*)\s*per[ _-]?host", re.IGNORECASE)
_NETWORK = re.compile(r"(ib|roce|eth|nic)[ -]?\d+\w*", re.IGNORECASE)


def is_inline(text: str) -> bool:
    """Whether a text is meant as an inline topology and not as a name."""
    words = text.lower().split()
    counted = text[:1].isdigit() and len(words) > 1
    return bool(_BEGUN.fullmatch(text)) or "x" in words or "," in text or counted


def inline_topology(text: str) -> FileRecord:
    """The topology that an inline text describes, as the file that says the same.

    The name is normalised so that it can name a folder and be read again: ``4xh200_sxm``,
    ``16xh100_sxm-4perhost``. Raises SpecError for a text that is no topology, UnknownNameError for
    an unknown chip.
    """
    begun = _BEGUN.fullmatch(text)
    if begun is None:
        raise SpecError(f"'{text}' is no topology; write {FORMS}")
    first, *more = (part.strip() for part in begun[2].split(","))
    short = re.fullmatch(r"(.*?)-(\d+perhost)", first)
    if short:
        first, more = short[1], [short[2], *more]
    if not re.search(r"\w", first):
        raise SpecError(f"'{text}' names no chip; write {FORMS}")
    chips = _count(begun[1], "chips", text)
    chip = find("chip", first).name
    name, lines = f"{chips}x{chip}", [f"title: {chips} x {chip}", f"chip: {chip}"]
    lines.append(f"chips: {chips}")
    per_host = _per_host(more, text)
    if per_host is not None:
        name += f"-{per_host}perhost"
        lines.append(f"chips_per_host: {per_host}")
    lines.append("sources: {all: written inline; links and host as in the file of the chip}")
    content = "\n".join(lines) + "\n"
    digest = hashlib.sha256(content.encode()).hexdigest()
    return FileRecord(
        name=name, path=f"inline:{name}", sha256=digest, origin="inline", text=content
    )


def _per_host(parts: list[str], text: str) -> int | None:
    found: list[int] = []
    for part in parts:
        match = _PER_HOST.fullmatch(part)
        if match:
            found.append(_count(match[1], "chips per host", text))
        elif _NETWORK.fullmatch(part):
            raise SpecError(
                f"'{text}': '{part}' would have no effect: the network between hosts is that of a "
                "pod, a file with host, hosts and fabric such as h100_superpod; leave it out"
            )
        else:
            raise SpecError(f"'{text}': cannot read '{part}'; write {FORMS}")
    if len(found) > 1:
        raise SpecError(f"'{text}': chips per host are given twice")
    return found[0] if found else None


def _count(number: str, what: str, text: str) -> int:
    if not number.isdecimal() or not 0 < int(number) <= MOST_CHIPS:
        raise SpecError(f"'{text}': {what} must be a whole number from 1 to {MOST_CHIPS:,}")
    return int(number)


def with_chip_facts(
    data: Mapping[str, Any], chip: Chip, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A topology's mapping with what it leaves out taken from its chip: links, chips in a host,
    power and board of the hosts.

    ``facts`` is the mapping of the chip's file. A ``scale_up`` without ``technology`` changes that
    of the chip, one with it stands alone. A domain that lies inside a host is no larger than the
    chips in one.
    """
    full, given = dict(data), data.get("scale_up", {})
    links = facts.get("scale_up") if isinstance(given, dict) and "technology" not in given else None
    if links:
        full["scale_up"] = {**links, **given}
        if links.get("kind") == "torus" and "inner" not in given:
            whole = chip.scale_up.inner.shape if chip.scale_up and chip.scale_up.inner else ()
            full["scale_up"]["inner"] = {"kind": "torus", "shape": slice_of(whole, full)}
    board = facts["host"].get("board") if chip.host is not None else None
    if board and isinstance(data.get("board", {}), dict):
        full["board"] = {**board, **data.get("board", {})}
    chips, per_host = data.get("chips"), data.get("chips_per_host")
    if chip.host is None or not is_count(chips, MOST_CHIPS):
        return full  # the count itself is refused with its place
    if per_host is None:
        per_host = full["chips_per_host"] = min(chips, chip.host.chips)
    if links and "domain" not in given and isinstance(per_host, int):
        inside = links.get("domain", 0) <= chip.host.chips
        if inside and 0 < per_host < links.get("domain", 0):
            full["scale_up"]["domain"] = per_host
    if "host_power" not in data and chip.host.power is not None:
        full["host_power"] = f"{parse_quantity(facts['host']['power'], 'power') * chips!r} W"
    return full


def slice_of(whole: Sequence[int], data: Mapping[str, Any]) -> list[int]:
    """The block of a torus that a topology's chips fill, as near to a cube as they allow.

    Raises SpecError when no block of the pod has so many chips.
    """
    chips = data.get("chips")
    if not is_count(chips, MOST_CHIPS):
        return list(whole)  # the count itself is refused with its place
    blocks: list[list[int]] = [[]]
    for size in whole[:-1]:
        longer = [[*b, n] for b in blocks for n in range(1, size + 1) if chips % prod([*b, n]) == 0]
        blocks = longer
    blocks = [[*b, chips // prod(b)] for b in blocks]
    possible = [b for b in blocks if b[-1] <= whole[-1]]
    if not possible:
        shape = " x ".join(map(str, whole))
        raise SpecError(
            f"{data.get('chip')}: no block of a torus of {shape} has {chips} chips; take a number "
            "with small factors"
        )
    return min(possible, key=lambda block: (max(block), block[::-1]))
