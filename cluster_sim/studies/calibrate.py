"""Curves of a chip from measured timings of its kernels: rows in, curves and a report out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import PEAK_OF, Chip, Fits
from cluster_sim.studies.calibrate_fit import Parameter, fit, left_out_errors
from cluster_sim.studies.calibrate_forms import TARGETS, Problem, best_share, problem_of
from cluster_sim.studies.calibrate_loads import POWER_LAW
from cluster_sim.studies.calibrate_rows import Timing
from cluster_sim.units import parse_quantity

SECTIONS = {
    "gemm": "gemm",
    "moe_ffn": "moe",
    "attention_prefill": "attention_prefill",
    "attention_decode": "attention_decode",
    "mla_prefill": "mla_prefill",
    "mla_decode": "mla_decode",
    "glue": "glue",
}
FEWEST_POINTS, FEWEST_SHAPES = 12, 4
GAIN = 0.97  # an optional parameter stays if it lowers the errors to this or less
MOST_IMPOSSIBLE = 0.1  # beyond this share of points above the roofline no other is believed
DIGITS = 3
_UNFIT_FLAGS = {
    "non_causal": "attention that is not causal",
    "plain_torch": "several kernels of torch where engines have one",
    "no_graph": "launched from the host, so that the time contains launches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that no curve is fitted to, and why."""

    rows: tuple[Timing, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCurve:
    """A new curve beside the old one: values in SI units, median and 90th percentile of the error
    (new: shapes left out; old: all points), and the text of its source.
    """

    section: str
    key: str
    points: int
    shapes: int
    old: dict[str, float] | None
    old_errors: tuple[float, float] | None
    new: dict[str, float]
    new_errors: tuple[float, float]
    date: str
    source: str
    framework: str = ""

    @property
    def name(self) -> str:
        """Section and dtype."""
        return f"{self.section} {self.key}".strip()

    @property
    def meets_target(self) -> bool:
        """Whether both errors are within those that the family is meant to keep."""
        return _misses(self.section, self.new_errors) <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All curves of a chip that its timings allow, and what was left out."""

    chip: str
    framework: str
    curves: tuple[FittedCurve, ...]
    left_out: tuple[LeftOut, ...]


def calibrate(
    chip: Chip,
    timings: Sequence[Timing],
    own: Mapping[str, Any],
    effective: Fits,
    framework: str | None = None,
) -> Calibration:
    """Fit every curve that the timings of one framework allow.

    ``own`` is the chip's file of curves as it stands, ``effective`` the curves with what it
    borrows; both serve the comparison with the old. Raises SpecError if nothing can be fitted.
    """
    chosen = framework or Counter(row.framework for row in timings).most_common(1)[0][0]
    if not any(row.framework == chosen for row in timings):
        known = ", ".join(sorted({row.framework for row in timings}))
        raise SpecError(
            f"--framework {chosen}: no timings of it on {chip.name} (there are {known})"
        )
    usable, left_out = _sorted_out(timings, chosen)
    best = {
        key: best_share(chip, key, rows)
        for (section, key), rows in usable.items()
        if section == "gemm"
    }
    curves = []
    for (section, key), rows in usable.items():
        rows, dropped = (rows, []) if section == "glue" else _one_kernel(rows)
        left_out += dropped
        problem, dropped = _possible(chip, section, key, rows, best.get(key))
        left_out += dropped
        if problem is not None:
            curves.append(_fitted(problem, own, effective))
    if not curves:
        reasons = [f"{len(part.rows)} rows: {part.reason}" for part in left_out]
        raise SpecError(
            [f"{chip.name}: nothing can be fitted to the timings of {chosen}", *reasons]
        )
    return Calibration(
        chip=chip.name, framework=chosen, curves=tuple(curves), left_out=tuple(left_out)
    )


def _sorted_out(
    timings: Sequence[Timing], framework: str
) -> tuple[dict[tuple[str, str], list[Timing]], list[LeftOut]]:
    """Rows by section and dtype in the order of the files, and those that belong to none."""
    found: dict[tuple[str, str], list[Timing]] = {}
    reasons: dict[str, list[Timing]] = {}
    for row in timings:
        reason = _unfit(row, framework)
        if reason:
            reasons.setdefault(reason, []).append(row)
            continue
        key = row.dtype if row.op in ("gemm", "moe_ffn") else row.kv_dtype
        found.setdefault((SECTIONS[row.op], "" if row.op == "glue" else key), []).append(row)
    order = [*TARGETS]
    dtypes = [*PEAK_OF]
    ranked = sorted(
        found,
        key=lambda name: (
            order.index(name[0]),
            dtypes.index(name[1]) if name[1] in dtypes else -1,
        ),
    )
    left_out = [LeftOut(rows=tuple(rows), reason=reason) for reason, rows in reasons.items()]
    return {name: found[name] for name in ranked}, left_out


def _unfit(row: Timing, framework: str) -> str:
    """Why a row is of no use; empty if it is."""
    if row.framework != framework:
        return f"kernels of {row.framework or 'an unnamed framework'}, not of {framework}"
    if row.op not in SECTIONS:
        return f"no curve is fitted to {row.op}"
    for flag, reason in _UNFIT_FLAGS.items():
        if flag in row.flags:
            return reason
    if row.op.startswith(("attention", "mla")) and row.kv_dtype == "int8":
        return "caches of int8 share the curves of fp8"
    if row.op == "attention_prefill" and row.dtype != row.kv_dtype:
        return f"products in {row.dtype} over a cache of {row.kv_dtype}; engines multiply in it"
    if row.op == "attention_decode" and row.shape["heads"] == row.shape["kv_heads"]:
        return "one query head for each KV head; the curves are of grouped queries"
    if row.op == "moe_ffn" and POWER_LAW in row.flags:
        shape = row.shape
        if shape["tokens"] == 1 and shape["ep"] > 1:
            return "one token over several ranks: which of them was timed is not known"
    return ""


def _one_kernel(rows: list[Timing]) -> tuple[list[Timing], list[LeftOut]]:
    """Rows of the kernel with the most of them, where shapes were timed with several."""
    kernels = [_kernel(row) for row in rows]
    seen: dict[tuple[Any, ...], set[str]] = {}
    for row, kernel in zip(rows, kernels, strict=True):
        place = (*sorted(row.shape.items()), tuple(sorted(row.flags)))
        seen.setdefault(place, set()).add(kernel)
    if all(len(names) == 1 for names in seen.values()):
        return rows, []
    kept = Counter(kernels).most_common(1)[0][0]
    others = tuple(row for row, kernel in zip(rows, kernels, strict=True) if kernel != kept)
    reason = f"{rows[0].op} {rows[0].dtype}: other kernels for the same shapes than {kept}"
    return [row for row in rows if _kernel(row) == kept], [LeftOut(rows=others, reason=reason)]


def _kernel(row: Timing) -> str:
    match = re.search(r"\bkernel ([^\s;,]+)", row.note)
    return match[1] if match else "unnamed"


def _possible(
    chip: Chip, section: str, key: str, rows: list[Timing], best: float | None
) -> tuple[Problem | None, list[LeftOut]]:
    """The problem without points above the roofline; None where nothing can be fitted."""
    name, problem = f"{section} {key}".strip(), problem_of(chip, section, key, rows, best)
    above = problem.bound_s > problem.points.measured_s
    kept = [row for row, over in zip(rows, above, strict=True) if not over]
    left_out = []
    if above.any():
        reason = f"{name}: faster than peak and bandwidth allow; data read from a cache, or another"
        reason += " dtype or less work than stated"
        removed = tuple(row for row, over in zip(rows, above, strict=True) if over)
        left_out.append(LeftOut(rows=removed, reason=reason))
        if above.mean() > MOST_IMPOSSIBLE:
            reason = f"{name}: {above.sum()} of {len(rows)} points are impossible, so no other is"
            left_out.append(LeftOut(rows=tuple(kept), reason=f"{reason} believed"))
            return None, left_out
        problem = problem_of(chip, section, key, kept, best)
    shapes = len(set(problem.points.groups))
    if len(kept) < FEWEST_POINTS or shapes < FEWEST_SHAPES:
        reason = f"{name}: {len(kept)} points of {shapes} shapes; a fit needs {FEWEST_POINTS} of "
        left_out.append(LeftOut(rows=tuple(kept), reason=f"{reason}{FEWEST_SHAPES}"))
        return None, left_out
    return problem, left_out


def _fitted(problem: Problem, own: Mapping[str, Any], effective: Fits) -> FittedCurve:
    """Fit and cross-validate one curve."""
    parameters, errors = _chosen(problem)
    chosen = np.arange(len(problem.rows))
    values = {
        name: _rounded(name, value)
        for name, value in fit(problem.points, parameters, chosen).items()
    }
    old = _old_values(problem, own, effective)
    old_errors = None
    if old is not None:
        simulated = problem.points.seconds(old, chosen)
        old_errors = _summary(simulated / problem.points.measured_s - 1)
    return FittedCurve(
        section=problem.section,
        key=problem.key,
        points=len(problem.rows),
        shapes=len(set(problem.points.groups)),
        old=old,
        old_errors=old_errors,
        new=values,
        new_errors=errors,
        date=max(row.date for row in problem.rows),
        source=_source(problem),
        framework=problem.rows[0].framework,
    )


def _chosen(problem: Problem) -> tuple[tuple[Parameter, ...], tuple[float, float]]:
    """The parameters of the form and their errors: while the target is missed, the optional one
    that helps most is added, if any helps enough.
    """
    parameters, left = problem.base, list(problem.optional)
    errors = _summary(left_out_errors(problem.points, parameters))
    while left and _misses(problem.section, errors) > 1:
        tried = [_summary(left_out_errors(problem.points, (*parameters, extra))) for extra in left]
        scores = [_score(problem.section, then) for then in tried]
        place = int(np.argmin(scores))
        if scores[place] > GAIN * _score(problem.section, errors):
            break
        parameters, errors = (*parameters, left.pop(place)), tried[place]
    return parameters, errors


def _summary(errors: np.ndarray) -> tuple[float, float]:
    size = np.abs(errors)
    return float(np.median(size)), float(np.quantile(size, 0.9))


def _misses(section: str, errors: tuple[float, float]) -> float:
    """The larger of both errors over its target."""
    return max(error / most for error, most in zip(errors, TARGETS[section], strict=True))


def _score(section: str, errors: tuple[float, float]) -> float:
    return sum(error / most for error, most in zip(errors, TARGETS[section], strict=True))


def _rounded(name: str, value: float) -> float:
    if name == "half_length":
        return float(max(10, round(value, -1)))
    return float(f"{value:.{DIGITS}g}")


def _old_values(
    problem: Problem, own: Mapping[str, Any], effective: Fits
) -> dict[str, float] | None:
    """The values of the curve that stands in the file, else of the one that is borrowed."""
    section = own.get(problem.section)
    curve = section.get(problem.key) if problem.key and isinstance(section, dict) else section
    names = {parameter.name for parameter in (*problem.base, *problem.optional)}
    if isinstance(curve, dict) and "floor" in curve:
        items: Iterator[tuple[str, Any]] = iter(curve.items())
    else:
        found = getattr(effective, problem.section)
        found = found.get(problem.key) if problem.key else found
        if not is_dataclass(found):
            return None
        items = ((entry.name, getattr(found, entry.name)) for entry in fields(found))
    return {name: _si(value) for name, value in items if name in names and value is not None}


def _si(value: Any) -> float:
    return parse_quantity(value, "time") if isinstance(value, str) else float(value)


def _source(problem: Problem) -> str:
    """Where the points are from, how many, and how they were left out."""
    rows = problem.rows
    sources = ", ".join(sorted({row.source or "unnamed source" for row in rows}))
    found = (re.search(r"\bversion ([^\s,;]+)", row.note) for row in rows)
    versions = sorted({match[1] for match in found if match})
    framework = " ".join([rows[0].framework, *versions]).strip()
    shapes = len(set(problem.points.groups))
    text = f"{sources} ({framework}), {len(rows)} points of {shapes} shapes"
    flags = {flag for row in rows for flag in row.flags if flag.startswith("routing")}
    if flags:
        text += f", {' and '.join(sorted(flag.replace('_', ' ') for flag in flags))}"
    if problem.section == "moe":
        text += "; compute at most that of the best dense GEMM"
    return f"{text}; errors of shapes that the fit did not see; written by calibrate"
