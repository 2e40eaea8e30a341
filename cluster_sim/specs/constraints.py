"""Counts, plain numbers and texts of the specs, each with the range that makes sense and that a run
can hold. The ranges are enforced where a value enters, and stand in the JSON Schemas.

A count is a whole number written as one: ``8``, not ``8.0``, ``8_0``, ``'8'`` or ``true``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

MOST_CHIPS = 100_000  # a run takes 10 s and 0.4 GB at it; the largest clusters stand at 200,000
MOST_DEVICES_PER_CHIP = 64
MOST_REQUESTS = 10_000_000  # of one run; --max-memory bounds it further
MOST_CLIENTS = 100_000
MOST_SEQUENCES = 200_000  # of a training batch; the largest published have some 50,000
MOST_RUNNING = 100_000  # sequences in a step of one engine; engines default to 256 to 2,048
MOST_TOKENS = 100_000_000  # of one prompt, answer, context or step
MOST_LAYERS = 10_000
MOST_WIDTH = 10_000_000  # of a vector or a list of names: hidden sizes, heads, vocabularies
MOST_PARTS = 100_000  # of one thing: ports, links, experts, dies
MOST_SEED = 2**63 - 1
MOST_SEEDS = 1_000  # runs of one command
MOST_REPLICATIONS = 1_000
LEAST = 1e-15  # of a number without a unit, zero apart
MOST_TEXT = 20_000  # characters of a title, a source or a note


@dataclass(frozen=True, slots=True)
class Count:
    """Marks an int field: a whole number from ``least`` to ``most``."""

    most: int
    least: int = 1

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        if self.least == 1:
            return core_schema.int_schema(strict=True, gt=0, le=self.most)
        return core_schema.int_schema(strict=True, ge=self.least, le=self.most)


@dataclass(frozen=True, slots=True)
class Number:
    """Marks a float field without a unit: finite, from ``least`` to ``most``."""

    least: float
    most: float

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        bounded = core_schema.float_schema(
            strict=True, allow_inf_nan=False, ge=self.least, le=self.most
        )
        return core_schema.no_info_after_validator_function(_no_trace, bounded)


@dataclass(frozen=True, slots=True)
class Words:
    """Marks a text field: not empty, and of at most so many characters."""

    most: int

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.str_schema(strict=True, min_length=1, max_length=self.most)


def _no_trace(value: float) -> float:
    """The value; raises ValueError for one next to nothing, whose square is lost."""
    if 0 < abs(value) < LEAST:
        raise ValueError(f"must be 0 or at least {LEAST:g}")
    return value


Chips = Annotated[int, Count(MOST_CHIPS)]  # also hosts, ranks, and degrees of a plan
ChipsOrZero = Annotated[int, Count(MOST_CHIPS, 0)]
Requests = Annotated[int, Count(MOST_REQUESTS)]
Clients = Annotated[int, Count(MOST_CLIENTS)]
Sequences = Annotated[int, Count(MOST_SEQUENCES)]
Running = Annotated[int, Count(MOST_RUNNING)]
TokenCount = Annotated[int, Count(MOST_TOKENS)]
Layers = Annotated[int, Count(MOST_LAYERS)]
LayersOrZero = Annotated[int, Count(MOST_LAYERS, 0)]
Parts = Annotated[int, Count(MOST_PARTS)]
PartsOrZero = Annotated[int, Count(MOST_PARTS, 0)]
Seed = Annotated[int, Count(MOST_SEED, 0)]

PositiveInt = Annotated[int, Count(MOST_WIDTH)]
NonNegativeInt = Annotated[int, Count(MOST_WIDTH, 0)]
PositiveFloat = Annotated[float, Number(1e-9, 1e9)]
NonNegativeFloat = Annotated[float, Number(0, 1e9)]
Factor = Annotated[float, Number(0.001, 1000)]  # of a time, a rate or a size
FactorOrZero = Annotated[float, Number(0, 1000)]
OneOrMore = Annotated[float, Number(1, 1000)]
Chance = Annotated[float, Number(0, 1)]
Share = Annotated[float, Number(0.01, 1)]  # of what a datasheet promises
Variation = Annotated[float, Number(0.01, 100)]  # a coefficient of variation
VariationOrZero = Annotated[float, Number(0, 100)]
Fraction = Annotated[float, Number(1e-6, 1.5)]  # a fitted share of a peak; above 1 only by caches
Text = Annotated[str, Words(MOST_TEXT)]


def is_count(value: object, most: int) -> TypeGuard[int]:
    """Whether a value of a file that is not checked yet is a whole number from 1 to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
