"""What a machine is: chips, the switches of the scale-up domain and the links between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cluster_sim.specs.constraints import PositiveInt, Text
from cluster_sim.units import BytesPerSecond, WattsOrZero

_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUp:
    """Links from every chip to every switch: ``links_per_switch[s]`` links of ``link_bandwidth``
    (per direction).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    technology: Text
    switch: Text
    links_per_switch: tuple[PositiveInt, ...]
    link_bandwidth: BytesPerSecond
    in_switch_reduction: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A host: ``chips`` chips of one kind in one scale-up domain. ``host_power`` is all of it but
    the chips.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    chip: Text
    chips: PositiveInt
    scale_up: ScaleUp
    host_power: WattsOrZero
    sources: dict[str, str]
