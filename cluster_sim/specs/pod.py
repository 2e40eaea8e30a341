"""A pod is a host times a number of hosts, with a fabric between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.constraints import MOST_CHIPS, is_count
from cluster_sim.specs.find import FileRecord, find
from cluster_sim.units import parse_quantity

Problem = Callable[[tuple[str | int, ...], str], str]


def with_host(
    data: dict[str, Any], problem: Problem
) -> tuple[dict[str, Any], tuple[FileRecord, ...]]:
    """The mapping of a topology laid over that of the topology that its ``host`` names, whose
    number of chips is kept as ``_whole``, and the file of that; without ``host`` it stays as it is.
    """
    from cluster_sim.specs.yaml_text import parse

    data = dict(data)
    name = data.pop("host", None)
    if name is None:
        if data.get("hosts") is not None:
            raise SpecError(
                problem(("hosts",), "counts copies of a host; name it with host, or use chips")
            )
        return data, ()
    if not isinstance(name, str):
        raise SpecError(problem(("host",), f"must be a name (got {name!r})"))
    if data.get("chips") is None and data.get("hosts") is None:
        raise SpecError(problem(("host",), "says what a host is; say how many with hosts"))
    try:
        record = find("topology", name)
    except UnknownNameError as error:
        raise SpecError(problem(("host",), str(error))) from None
    base, _ = parse(record.text, record.path)
    if "host" in base or "extends" in base:
        raise SpecError(problem(("host",), f"'{name}' is built on another file itself; one level"))
    base["_whole"] = base.pop("chips", None)
    if not isinstance(base["_whole"], int) or isinstance(base["_whole"], bool):
        raise SpecError(problem(("host",), f"'{name}' does not say how many chips it has"))
    return merge(base, data), (record,)


def with_chips(data: dict[str, Any], chip: Chip, problem: Problem) -> dict[str, Any]:
    """The mapping with ``hosts`` turned into ``chips``; the power of hosts grows with them."""
    if "_whole" not in data:
        return data
    data = dict(data)
    whole, hosts, chips = data.pop("_whole"), data.pop("hosts", None), data.get("chips")
    per_host = data.get("chips_per_host") or (chip.host.chips if chip.host else whole)
    for key, value in (("hosts", hosts), ("chips", chips)):
        if value is not None and not is_count(value, MOST_CHIPS):
            limits = f"must be a whole number > 0 and at most {MOST_CHIPS:,}"
            raise SpecError(problem((key,), f"{limits} (got {value!r})"))
    if not is_count(per_host, MOST_CHIPS):
        raise SpecError(problem(("chips_per_host",), f"must be > 0 (got {per_host!r})"))
    if not is_count(whole, MOST_CHIPS):
        raise SpecError(problem(("host",), f"its chips must be > 0 (got {whole!r})"))
    per_host = min(per_host, whole)
    if chips is None:
        chips = hosts * per_host
    elif hosts is not None and hosts * per_host != chips:
        raise SpecError(
            problem(("hosts",), f"{hosts} hosts of {per_host} are not {chips} chips; give one")
        )
    if chips % per_host:
        raise SpecError(
            problem(("chips",), f"must be whole hosts of {per_host} chips (got {chips})")
        )
    if "host_power" in data:
        data["host_power"] = f"{parse_quantity(data['host_power'], 'power') * chips / whole!r} W"
    scale_up = data.get("scale_up", {})
    known = chip.scale_up is not None and chip.scale_up.domain is not None
    if "domain" not in scale_up and not known:
        data["scale_up"] = {**scale_up, "domain": whole}
    return {**data, "chips": chips, "chips_per_host": per_host}


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A mapping with another laid over it, key by key at every depth."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
