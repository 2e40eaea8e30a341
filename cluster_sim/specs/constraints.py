"""Annotated scalar types of the specs: counts, shares, texts. The bounds are enforced at the file
boundary.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[
    float, Gt(0), Le(1.5)
]  # a fitted share of a peak; above 1 only by cache effects
Text = Annotated[str, MinLen(1)]
