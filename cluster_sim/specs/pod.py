"""A pod is a host times a number of hosts, with a fabric between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.find import find
from cluster_sim.units import parse_quantity

Problem = Callable[[tuple[str | int, ...], str], str]


def resolve_pod(data: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """The mapping of a topology with ``host`` and ``hosts`` resolved; one without stays as it is.

    ``host`` names the topology whose chips, links and board every host has, ``hosts`` or ``chips``
    say how many there are. A host is ``chips_per_host`` chips of that file, a scale-up domain all
    of its chips; the power of hosts grows with their number.
    """
    from cluster_sim.specs.yaml_text import parse

    data = dict(data)
    name, hosts = data.pop("host", None), data.pop("hosts", None)
    if name is None:
        if hosts is not None:
            raise SpecError(
                problem(("hosts",), "counts copies of a host; name it with host, or use chips")
            )
        return data
    if not isinstance(name, str):
        raise SpecError(problem(("host",), f"must be a name (got {name!r})"))
    record = find("topology", name)
    base, _ = parse(record.text, record.path)
    if "host" in base or "extends" in base:
        raise SpecError(problem(("host",), f"'{name}' is built on another file itself; one level"))
    whole = base.get("chips", 1)
    per_host = base.get("chips_per_host", whole)
    chips = data.get("chips")
    for key, value in (("hosts", hosts), ("chips", chips)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise SpecError(problem((key,), f"must be a whole number > 0 (got {value!r})"))
    if chips is None and hosts is None:
        raise SpecError(problem(("host",), "says what a host is; say how many with hosts"))
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
    if "host_power" in base and "host_power" not in data:
        power = parse_quantity(base["host_power"], "power") * chips / whole
        data["host_power"] = f"{power!r} W"
    if "domain" not in (base.get("scale_up") or {}):
        base["scale_up"] = {**(base.get("scale_up") or {}), "domain": whole}
    return merge({**base, "chips_per_host": per_host}, {**data, "chips": chips})


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A mapping with another laid over it, key by key at every depth."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
