"""Curves in file form: what engines change in them, what is like another, and what a chip without
timings of its own takes over from a relative.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cluster_sim.specs.chip import Change
from cluster_sim.units import parse_quantity

# Sections of curves that `calibrate` fits, in the order of the files.
FITTED = ("gemm", "moe", "attention_prefill", "attention_decode", "mla_prefill", "mla_decode")
EVERY = "every"
_CHANGES = {entry.name for entry in fields(Change)} - {"source"}
DISTANCES = ("architecture", "generation", "other")  # nearest first
MOST_RELATIVES = 2  # a chip may borrow from one that borrows itself, not further
_WHOLE = ("glue", "training", "power")
_NOT_WATTS = ("provenance", "source", "taken")


def borrowed(
    own: Mapping[str, Any], relative: Mapping[str, Any], name: str, distance: str
) -> dict[str, Any]:
    """A fits mapping in file form with every curve that it lacks taken over from a relative's, a
    chip of a name and at a distance.

    Model: shares of peak and bandwidth, floors and latencies unchanged, watts too (see
    ``with_watts``). What was measured on the relative is ``transferred`` here.
    """
    merged = dict(own)
    for section in FITTED:
        given = own.get(section, {})
        if section in relative and isinstance(given, dict):
            taken = {
                key: _taken(curve, name, f"{section} {key}", distance)
                for key, curve in relative[section].items()
            }
            merged[section] = {**taken, **given}
    for section in _WHOLE:
        if section in relative and section not in own:
            merged[section] = _taken(relative[section], name, section, distance)
    return merged


def in_engine(data: Mapping[str, Any]) -> dict[str, Any]:
    """A fits mapping with the changes of its ``in_engine`` section applied to its own curves.

    Model: the values of ``every``, then those of the curve, then floors times the overlap of
    launches; the source tells of each. Curves that are like another get them through it. The glue
    is changed alone.
    """
    changes = _mapping(data.get("in_engine"))
    overlap = _mapping(changes.get("launch_overlap"))
    changed = dict(data)
    for section in FITTED:
        curves, wanted = _mapping(data.get(section)), _mapping(changes.get(section))
        if section in data and isinstance(data[section], dict):
            changed[section] = {
                key: _changed(curve, (wanted.get(EVERY), wanted.get(key)), overlap)
                for key, curve in curves.items()
            }
    if "glue" in data:
        changed["glue"] = _changed(data["glue"], (changes.get("glue"),), {})
    return changed


def likened(data: Mapping[str, Any], relative: Mapping[str, Any], distance: str) -> dict[str, Any]:
    """A fits mapping whose curves ``like`` another of their section hold that one's values, those
    given in ``times`` multiplied, and what they give themselves.

    The other is the chip's own, else the relative's; the relative's, of a chip at a distance, if it
    has the curve's own name.
    Raises ValueError with the keys and the problem.
    """
    resolved = dict(data)
    for section in FITTED:
        own, lent = _mapping(data.get(section)), _mapping(relative.get(section))
        likes = {key: curve for key, curve in own.items() if "like" in _mapping(curve)}
        if not likes:
            continue
        curves = dict(own)
        for key in sorted(likes, key=lambda key: likes[key]["like"] != key):
            base = likes[key]["like"]
            pool = lent if base == key else {**lent, **curves}
            curves[key] = _like(likes[key], pool, (section, str(key)))
            whose = relative if base == key or base not in curves else data
            of, far = f"{section} {base} of {whose.get('chip')}", "other"
            curves[key]["taken"] = _origin(pool[base], of, distance if base == key else far)
        resolved[section] = curves
    return resolved


def _like(curve: dict[str, Any], pool: dict[str, Any], path: tuple[str, str]) -> dict[str, Any]:
    base = pool.get(curve["like"])
    if not isinstance(base, dict) or "like" in base:
        known = [str(key) for key, other in pool.items() if "like" not in _mapping(other)]
        have = ", ".join(known) or "none"
        raise ValueError((*path, "like"), f"no such curve to copy (there are {have})")
    values = {key: value for key, value in base.items() if key not in ("fit", "taken")}
    for key, factor in _mapping(curve.get("times")).items():
        if not isinstance(values.get(key), int | float) or not isinstance(factor, int | float):
            raise ValueError((*path, "times", str(key)), "must be a factor of a plain number")
        values[key] = values[key] * factor
    own = {key: value for key, value in curve.items() if key not in ("like", "times")}
    if "source" in own:
        own["source"] = f"{own['source']}; {curve['like']}: {base.get('source', '')}"
    return {**values, **own}


def _changed(curve: Any, changes: tuple[Any, ...], overlap: dict[str, Any]) -> Any:
    if not isinstance(curve, dict) or "like" in curve:
        return curve
    values = dict(curve)
    for change in (_mapping(given) for given in changes):
        new = {key: value for key, value in change.items() if key in _CHANGES}
        values |= new
        if new:
            what = ", ".join(f"{key} {value}" for key, value in new.items())
            why = f"in engines {what}: {change.get('source')}"
            values["source"] = f"{values.get('source', '')}; {why}"
    factor = overlap.get("floors")
    if isinstance(factor, int | float) and isinstance(values.get("floor"), str):
        with contextlib.suppress(ValueError):  # told where the file is checked
            values["floor"] = f"{parse_quantity(values['floor'], 'time') * factor!r} s"
            why = f"floor x {factor:g}: {overlap.get('source')}"
            values["source"] = f"{values.get('source', '')}; {why}"
    return values


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def with_watts(
    data: Mapping[str, Any], tdp_w: float | None, lender_tdp_w: float | None
) -> dict[str, Any]:
    """The mapping with borrowed watts times the ratio of the TDPs of the chip and of the one whose
    watts they are; without both TDPs there is no power.
    """
    scaled = dict(data)
    power = scaled.pop("power", None)
    if power is not None and tdp_w is not None and lender_tdp_w is not None:
        scaled["power"] = _scaled(power, tdp_w / lender_tdp_w)
        if scaled["power"].get("provenance") == "measured":
            scaled["power"]["provenance"] = "transferred"
    return scaled


def _taken(curve: Mapping[str, Any], name: str, what: str, distance: str) -> dict[str, Any]:
    own = curve["provenance"] == "assumed"
    return {
        **curve,
        "provenance": "assumed" if own else "transferred",
        "taken": _origin(curve, f"{what} of {name}", distance),
        "source": f"curve of {name}: {curve['source']}",
    }


def _origin(curve: Mapping[str, Any], of: str, distance: str) -> dict[str, Any]:
    """Where a curve that others take comes from: over several steps the first curve and the longest
    step.
    """
    before = _mapping(curve.get("taken"))
    steps = [step for step in (distance, before.get("distance")) if step in DISTANCES]
    origin = {"of": before.get("of", of), "distance": max(steps, key=DISTANCES.index)}
    fit = curve.get("fit", before.get("fit"))
    return origin if fit is None else {**origin, "fit": fit}


def _scaled(power: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    watts = {
        key: f"{parse_quantity(value, 'power') * ratio!r} W"
        for key, value in power.items()
        if key not in _NOT_WATTS
    }
    return {**power, **watts, "source": f"times the ratio of TDPs, {ratio:.3g}; {power['source']}"}
