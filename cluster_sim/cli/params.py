"""Option types: names with completion and nearest-name hints, quantities, plans, SLOs."""

from __future__ import annotations

import math
import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.specs.constraints import MOST_REQUESTS
from cluster_sim.specs.find import find, names

SLO_NAMES = ("ttft", "tpot", "e2e")


class Name(click.ParamType[Any]):
    """A name of a family or a path; unknown names are answered with the nearest."""

    def __init__(self, family: str) -> None:
        self.name = self.family = family

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that the file is there; it is read later. Inline topologies get their name."""
        try:
            record = find(self.family, value)
        except (UnknownNameError, SpecError) as error:
            self.fail(str(error), param, ctx)
        return record.name if record.origin == "inline" else str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin with what was typed."""
        known = names(self.family)
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class FilePath(click.Path):
    """A path, which need not be there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; one with a zero byte is refused: no file can have it."""
        if "\0" in str(value):
            self.fail(f"no name of a file (got {str(value)[:40]!r})", param, ctx)
        return super().convert(value, param, ctx)


class Whole(click.IntRange):
    """A whole number from ``least`` to ``most``, in digits alone: int() also takes 8_0."""

    name = "number"

    def __init__(self, most: int, least: int = 1) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, str) and not re.fullmatch(r"[-+]?[0-9]{1,30}", value.strip()):
            self.fail(f"must be a whole number (got {value[:40]})", param, ctx)
        number: int = super().convert(value, param, ctx)
        return number


class Amount(click.FloatRange):
    """A plain number from ``least`` to ``most``; never infinite or nan."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        super().__init__(least, most)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        if isinstance(value, str) and _plain_number(value) is None:
            self.fail(f"not a number, or not finite (got {value[:40]})", param, ctx)
        number: float = super().convert(value, param, ctx)
        return number


class Rate(click.ParamType[Any]):
    """Requests per second: ``20`` or ``20 requests/s``."""

    name = "requests/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The rate as a unit literal."""
        number = re.sub(r"\s*(1/s|req/s|requests/s)\s*$", "", str(value))
        return f"{_positive(self, number, param, ctx)!r} requests/s"


class Factor(click.ParamType[Any]):
    """A plain positive number."""

    name = "factor"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        return _positive(self, str(value), param, ctx)


class Time(click.ParamType[Any]):
    """A duration: ``600 s`` or ``10 min``; a bare number is refused."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The duration as a unit literal."""
        from cluster_sim.units import parse_quantity

        try:
            seconds = parse_quantity(str(value), "time")
        except ValueError as error:
            self.fail(f"{error} (got {value})", param, ctx)
        if seconds <= 0:
            self.fail(f"must be > 0 (got {value})", param, ctx)
        return f"{seconds!r} s"


class Size(click.ParamType[Any]):
    """An amount of memory: ``4 GiB`` or ``500 MB``."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Its bytes."""
        from cluster_sim.units import Quantity

        if isinstance(value, float):
            return value
        spaced = re.sub(r"(?<=[0-9.])(?=[A-Za-z])", " ", str(value), count=1)
        try:
            return Quantity("bytes", minimum=1.0).parse(spaced)
        except ValueError as error:
            self.fail(f"{error} (got {value})", param, ctx)


class Window(click.ParamType[Any]):
    """A part of the simulated time: ``10s..20s``."""

    name = "time..time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Its two ends in seconds."""
        from cluster_sim.units import parse_quantity

        if isinstance(value, tuple):
            return value
        first, dots, last = str(value).partition("..")
        if not dots:
            self.fail(f"write two times such as 10s..20s (got {value})", param, ctx)
        try:
            window = (parse_quantity(first, "time"), parse_quantity(last, "time"))
        except ValueError as error:
            self.fail(f"{error} (got {value})", param, ctx)
        if not 0 <= window[0] < window[1]:
            self.fail(
                f"must begin at 0 s or later and end after it begins (got {value})", param, ctx
            )
        return window


class PlanType(click.ParamType[Any]):
    """``auto``, ``tp2``, ``tp2x4`` (TP degree x replicas) or all degrees: ``tp1-pp2-ep8-dp8x1``."""

    name = "plan"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, int]:
        """Degrees by the plan's keys; what is left out is chosen by rule, or 1 beside others."""
        if isinstance(value, dict):
            return value
        if value == "auto":
            return {}
        text, _, copies = str(value).lower().partition("x")
        number = r"([1-9]\d{0,4})"
        match = re.fullmatch(rf"tp{number}(?:-pp{number})?(?:-ep{number})?(?:-dp{number})?", text)
        if match is None or not re.fullmatch(rf"({number})?", copies) or value.endswith("x"):
            self.fail(f"write auto, tp2, tp2x4 or tp1-ep8-dp8x1 (got {value})", param, ctx)
        degrees = dict(zip(("tp", "pp", "ep", "attn_dp"), match.groups(), strict=True))
        given = {name: int(degree) for name, degree in degrees.items() if degree}
        if "attn_dp" in given or "ep" in given:
            given = {"ep": 1, "attn_dp": 1, **given}
        return {**given, "replicas": int(copies)} if copies else given


class SloType(click.ParamType[Any]):
    """``ttft=2s,tpot=50ms,attainment=99%``, or ``ttft_p99=2s`` for a limit alone."""

    name = "slo"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """The SLO as a mapping of unit literals."""
        from cluster_sim.units import Quantity

        slo: dict[str, str] = {}
        for part in str(value).split(","):
            key, equals, limit = (text.strip() for text in part.partition("="))
            metric, _, percentile = key.partition("_p")
            if not equals or not limit:
                self.fail(f"write ttft=2s,tpot=50ms,attainment=99% (got {value})", param, ctx)
            if metric not in (*SLO_NAMES, "attainment") or key == f"attainment_p{percentile}":
                self.fail(f"unknown limit '{key}'; use ttft, tpot, e2e, attainment", param, ctx)
            if percentile:
                if not re.fullmatch(r"\d{1,2}", percentile) or int(percentile) == 0:
                    self.fail(f"'{key}': a percentile from p1 to p99", param, ctx)
                wanted = f"{percentile}%"
                if slo.setdefault("attainment", wanted) != wanted:
                    self.fail("two different attainments", param, ctx)
            if slo.get(metric, limit) != limit or (metric in slo and metric in SLO_NAMES):
                self.fail(f"'{metric}' is given twice", param, ctx)
            share = metric == "attainment"
            quantity = Quantity("share", maximum=1.0) if share else Quantity("time")
            try:
                quantity.parse(limit)
            except ValueError as error:
                self.fail(f"{metric}: {error} (got {limit})", param, ctx)
            slo[metric] = limit
        if not set(slo) & set(SLO_NAMES):
            self.fail("gives no limit; add ttft, tpot or e2e", param, ctx)
        return slo


def _positive(
    kind: click.ParamType[Any], text: str, param: click.Parameter | None, ctx: click.Context | None
) -> float:
    number = _plain_number(text)
    if number is None:
        kind.fail(f"not a number, or not finite (got {text[:40]})", param, ctx)
    if number <= 0:
        kind.fail(f"must be > 0 (got {text[:40]})", param, ctx)
    return number


def _plain_number(text: str) -> float | None:
    """A number in digits, point and exponent, if it is one and finite: float() takes more."""
    if len(text) > 100 or not re.fullmatch(r"\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*", text):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class Requests(click.ParamType[Any]):
    """A number of requests, or ``auto``."""

    name = "number|auto"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """See click; raises BadParameter."""
        if value == "auto":
            return "auto"
        text = str(value).strip()
        count = int(text) if re.fullmatch(r"[0-9]{1,30}", text) else 0
        if not 1 <= count <= MOST_REQUESTS:
            words = f"a whole number from 1 to {MOST_REQUESTS:,}, or auto (got {text[:40]})"
            self.fail(f"must be {words}", param, ctx)
        return count
