"""Unit literals of the input files, and the annotated types that the spec dataclasses use.

Files write ``4.8 TB/s``, ``400 Gb/s``, ``143771 MiB``, ``700 W``; code holds plain floats in SI
base units (seconds, bytes, bytes/s, FLOP/s, watts, US dollars per hour). ``b`` is a bit, ``B`` a
byte; k M G T are powers of 1000, Ki Mi Gi Ti of 1024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

_SI = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_IEC = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _scaled(unit: str, *, factor: float = 1.0, iec: bool = False) -> dict[str, float]:
    prefixes = {**_SI, **_IEC} if iec else _SI
    return {prefix + unit: scale * factor for prefix, scale in prefixes.items()}


_BYTES = _scaled("B", iec=True)
_TIME = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

UNITS: dict[str, Mapping[str, float]] = {
    "time": _TIME,
    "bytes": _BYTES,
    "bandwidth": {f"{u}/s": f for u, f in {**_BYTES, **_scaled("b", factor=0.125)}.items()},
    "compute": {**_scaled("FLOP/s"), **_scaled("OP/s")},
    "power": _scaled("W"),
    "money_rate": {"USD/h": 1.0},
    "money": {"USD": 1.0},
    "energy_price": {"USD/kWh": 1.0, "USD/MWh": 1e-3},
    "space_price": {"USD/kW-month": 1.0},
    "years": {"years": 1.0, "year": 1.0},
    "rate": {"1/s": 1.0, "requests/s": 1.0, "req/s": 1.0},
    "share": {"%": 0.01},
    "tokens": {"tokens": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12},
}
# What makes sense of each kind, in its first unit of scale 1: smaller and larger numbers are slips
# of the pen, and lead to the ends of what floats can hold.
RANGES = {
    "time": (1e-12, 1e10, "s"),
    "bytes": (1e-3, 1e18, "B"),
    "bandwidth": (1e5, 1e25, "B/s"),
    "compute": (1e9, 1e19, "FLOP/s"),
    "power": (1e-3, 1e10, "W"),
    "money_rate": (1e-4, 1e6, "USD/h"),
    "money": (1e-2, 1e12, "USD"),
    "energy_price": (1e-6, 1e3, "USD/kWh"),
    "space_price": (1e-6, 1e6, "USD/kW-month"),
    "years": (0.01, 1000.0, "years"),
    "rate": (1e-6, 1e9, "requests/s"),
    "share": (1e-9, 1e3, ""),
    "tokens": (1.0, 1e17, "tokens"),
}
EXAMPLES = {
    "time": "'2.5 us' or '50 ms'",
    "bytes": "'143771 MiB' or '141 GB'",
    "bandwidth": "'400 Gb/s' or '50 GB/s'",
    "compute": "'989 TFLOP/s'",
    "power": "'700 W' or '10.2 kW'",
    "money_rate": "'1.60 USD/h'",
    "money": "'30000 USD'",
    "energy_price": "'0.091 USD/kWh'",
    "space_price": "'130 USD/kW-month'",
    "years": "'5 years'",
    "rate": "'20 requests/s'",
    "share": "'70 %'",
    "tokens": "'15.6T' or '300B'",
}
# Thousands may be set apart: 143,771 or 143_771, but not 1,5.
_LITERAL = re.compile(
    r"\s*([-+]?(?:\d{1,3}(?:[,_]\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d.,_+-].*?)?\s*",
    re.ASCII,
)


def parse_quantity(text: object, kind: str) -> float:
    """Turn a unit literal of a kind such as ``bandwidth`` into a float in base units.

    Raises ValueError with the way out: no unit, a unit of another kind, not a number, not finite,
    neither zero nor in the kind's range.

    >>> parse_quantity("400 Gb/s", "bandwidth")
    50000000000.0
    """
    example = EXAMPLES[kind]
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"expected a quantity such as {example}")
    if isinstance(text, int | float):
        raise ValueError(f"a bare number has no unit; write {example}")
    match = _LITERAL.fullmatch(text)
    if match is None:
        raise ValueError(f"not a quantity; write {example}")
    number, unit = match.groups()
    if unit is None:
        raise ValueError(f"a bare number has no unit; write {example}")
    if unit not in UNITS[kind]:
        raise ValueError(f"'{unit}' is not a unit of {kind.replace('_', ' ')}; write {example}")
    value = float(number.replace("_", "").replace(",", "")) * UNITS[kind][unit]
    return in_range(value, kind)


def in_range(value: float, kind: str) -> float:
    """The value, if its size is zero or in the range of its kind; raises ValueError."""
    if not math.isfinite(value):
        raise ValueError("must be finite")
    least, most, unit = RANGES[kind]
    if value and not least <= abs(value) <= most:
        raise ValueError(f"must lie between {least:g} and {most:g} {unit}".rstrip())
    return value


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a float field whose text form is a unit literal; greater than zero, or zero if
    ``zero_ok``. A bare number is an error unless ``bare_ok``: where the key's name has the unit.
    """

    kind: str
    zero_ok: bool = False
    minimum: float = 0.0
    maximum: float = math.inf
    bare_ok: bool = False

    def parse(self, value: object) -> float:
        """The literal as a float in base units; raises ValueError when it is out of range."""
        number = self._number(value)
        if number < 0 or (number == 0 and not self.zero_ok):
            raise ValueError("must not be negative" if self.zero_ok else "must be > 0")
        if number < self.minimum:
            raise ValueError(f"must be at least {self.minimum:g}")
        if number > self.maximum:
            raise ValueError(f"must be at most {self.maximum:g}")
        return number

    def _number(self, value: object) -> float:
        if not self.bare_ok or isinstance(value, bool) or not isinstance(value, int | float):
            return parse_quantity(value, self.kind)
        if isinstance(value, int) and abs(value) > RANGES[self.kind][1]:
            value = math.copysign(math.inf, value)  # it may be too long for a float
        return in_range(float(value), self.kind)

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        units = "|".join(re.escape(unit) for unit in UNITS[self.kind])
        text = {
            "type": "string",
            "pattern": rf"^\s*[-+]?[\d.,_eE+-]+\s*({units})\s*$",
            "description": f"for example {EXAMPLES[self.kind]}",
        }
        return text if not self.bare_ok else {"anyOf": [text, {"type": "number"}]}


Seconds = Annotated[float, Quantity("time")]
SecondsOrZero = Annotated[float, Quantity("time", zero_ok=True)]
Bytes = Annotated[float, Quantity("bytes")]
BytesOrZero = Annotated[float, Quantity("bytes", zero_ok=True)]
BytesPerSecond = Annotated[float, Quantity("bandwidth")]
BytesPerSecondOrZero = Annotated[float, Quantity("bandwidth", zero_ok=True)]
FlopPerSecond = Annotated[float, Quantity("compute")]
Watts = Annotated[float, Quantity("power")]
WattsOrZero = Annotated[float, Quantity("power", zero_ok=True)]
UsdPerHour = Annotated[float, Quantity("money_rate")]
Usd = Annotated[float, Quantity("money")]
UsdPerKwh = Annotated[float, Quantity("energy_price", zero_ok=True)]
NamedUsdPerHour = Annotated[float, Quantity("money_rate", bare_ok=True)]
NamedUsdPerKwMonth = Annotated[float, Quantity("space_price", zero_ok=True, bare_ok=True)]
NamedYears = Annotated[float, Quantity("years", bare_ok=True)]
NamedShare = Annotated[float, Quantity("share", zero_ok=True, bare_ok=True)]
PerSecond = Annotated[float, Quantity("rate")]
Share = Annotated[float, Quantity("share", maximum=1.0)]
ShareOrZero = Annotated[float, Quantity("share", zero_ok=True, maximum=1.0)]
Percent = Annotated[float, Quantity("share")]
Tokens = Annotated[float, Quantity("tokens")]
