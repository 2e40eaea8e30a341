"""Curves that a chip without timings of its own takes over from a relative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster_sim.units import parse_quantity

MOST_RELATIVES = 2  # a chip may borrow from one that borrows itself, not further
_BY_KEY = (
    "gemm",
    "moe",
    "attention_prefill",
    "attention_decode",
    "mla_prefill",
    "mla_decode",
    "all_reduce",
    "all_to_all",
)
_WHOLE = ("glue", "power")
_NOT_WATTS = ("provenance", "source")


def borrowed(own: Mapping[str, Any], relative: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A fits mapping in file form with every curve that it lacks taken over from a relative's.

    Model: shares of peak and bandwidth, floors and latencies unchanged, watts too (see
    ``with_watts``). What was measured on the relative is ``transferred`` here.
    """
    merged = dict(own)
    for section in _BY_KEY:
        given = own.get(section, {})
        if section in relative and isinstance(given, dict):
            taken = {key: _taken(curve, name) for key, curve in relative[section].items()}
            merged[section] = {**taken, **given}
    for section in _WHOLE:
        if section in relative and section not in own:
            merged[section] = _taken(relative[section], name)
    return merged


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
    return scaled


def _taken(curve: Mapping[str, Any], name: str) -> dict[str, Any]:
    own = curve["provenance"] == "assumed"
    return {
        **curve,
        "provenance": "assumed" if own else "transferred",
        "source": f"curve of {name}: {curve['source']}",
    }


def _scaled(power: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    watts = {
        key: f"{parse_quantity(value, 'power') * ratio!r} W"
        for key, value in power.items()
        if key not in _NOT_WATTS
    }
    return {**power, **watts, "source": f"times the ratio of TDPs, {ratio:.3g}; {power['source']}"}
