"""Where timings were taken that a curve was fitted to: what lies outside is extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cluster_sim.specs.constraints import Chips
from cluster_sim.units import Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Least and most ranks, bytes of message and scale-up domains of one series of timings."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    ranks: tuple[Chips, Chips]
    bytes: tuple[Bytes, Bytes] | None = None
    domains: tuple[Chips, Chips] = (1, 1)

    def __post_init__(self) -> None:
        for what, ends in (("ranks", self.ranks), ("bytes", self.bytes), ("domains", self.domains)):
            if ends is not None and ends[0] > ends[1]:
                raise ValueError(f"{what} go from the least to the most (got {list(ends)})")


def most_ranks(seen: tuple[Seen, ...]) -> int | None:
    """The most ranks that were timed; None where no range is stated."""
    return max((one.ranks[1] for one in seen), default=None)
