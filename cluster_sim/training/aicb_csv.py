"""The list of communications that AICB writes for a real cluster: a CSV with one call a row.

Model: all ranks issue the rows in order, each after the one before. Sends to the next or former
stage load the links of all pipeline groups; receives are the other end of them and take no time.
Rows of computation take their elapsed time where there is one: nanoseconds in a workload,
milliseconds in the log of a run, whose communication has times too. Sizes that neither the file nor
``sizes`` gives are those of Megatron's groups over what the others leave. Source: aliyun/aicb
utils/utils.py (CommType, CommGroup), log_analyzer/log.py, utils/benchmark_logger.py and the files
of workload/physical.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.text_file import csv_rows
from cluster_sim.training.task_graph import TaskGraph, did_you_mean
from cluster_sim.training.workload_ops import (
    Degrees,
    Op,
    amount,
    check_degrees,
    graph_of,
    groups_along,
)

MOST_CALLS = 200_000  # of all rows together: played in some twenty seconds
OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_to_all": "all_to_all",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "barrier": "all_reduce",
    "isend": "send_recv",
}
SILENT = ("irecv", "epoch_end")
AXES = {
    "tp_group": "tp",
    "dp_group": "dp",
    "ep_group": "ep",
    "ep_dp_group": "dp_ep",
    "ep_tp_group": "ep_tp",
    "pp_group": "pp",
    "all_nodes": "all",
    "all": "all",
}
NEEDED = ("comm_type", "comm_group", "msg_size")
NOT_GIVEN = ("", "None", "-1", "nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """What stands before the table: ranks of a pipeline stage (0: nothing stands there), stages."""

    per_stage: int = 0
    stages: int = 1


@dataclass(slots=True)
class _Calls:
    """What was read of the table; ``sizes``: ranks of a group by axis, and the line that says so.

    ``timed``: communication has elapsed times, so it is the log of a run.
    """

    ops: list[Op] = field(default_factory=list)
    sizes: dict[str, tuple[int, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    timed: bool = False


def read_calls(
    path: Path,
    text: str,
    *,
    ranks: int | None,
    devices: int | None,
    folded: bool,
    sizes: Mapping[str, int] | None = None,
) -> TaskGraph:
    """The graph of a list of calls on ``ranks`` ranks (None: as the file says, else one on each of
    the ``devices``, or without them as few as the groups need). ``sizes``: ranks of groups
    (``ep_group`` or ``ep``) that the file does not give.

    Raises SpecError with line, key and value for what is broken.
    """
    lines = text.splitlines()
    first = next((n for n, line in enumerate(lines) if "comm_type" in line.split(",")), 0)
    placement = _placement(path, " ".join(lines[:first]))
    names = [name.strip() for name in lines[first].split(",")]
    absent = [name for name in NEEDED if name not in names]
    if absent:
        raise SpecError(f"{path}:{first + 1}: no column {', '.join(absent)}")
    rows = list(_rows(lines, first + 1, names, str(path)))
    calls = _read(path, rows)
    if calls.problems:
        more = len(calls.problems) - 8
        shown = calls.problems[:8]
        raise SpecError(shown if more <= 0 else [*shown, f"and {more} more like these"])
    if not calls.ops:
        raise SpecError(f"{path}: holds no calls")
    notes = ["the list holds communication alone, and each call waits for the one before"]
    if any(op.kind == "compute" for op in calls.ops):
        unit = "milliseconds, as in a log" if calls.timed else "nanoseconds, as in a workload"
        notes = [f"each call waits for the one before; computation is in {unit}"]
    degrees, more_notes = _degrees(path, calls, placement, ranks, devices, sizes or {})
    return graph_of(
        path,
        calls.ops,
        degrees,
        form="aicb",
        folded=folded,
        pipeline=None,
        notes=(*notes, *more_notes),
    )


def _placement(path: Path, text: str) -> _Placement:
    """Ranks and stages of ``[rank0 ~ rank7]`` or ``[ pp_stage0: [rank0, rank1] ... ]``."""
    number = r"rank(\d{1,7})\b"
    parts = re.findall(rf"{number}\s*~\s*{number}|{number}", text)
    found = len({alone for _, _, alone in parts if alone})
    found += sum(max(0, int(end) - int(begin) + 1) for begin, end, alone in parts if not alone)
    stages = max(1, len(set(re.findall(r"pp_stage(\d+)", text))))
    if found % stages:
        raise SpecError(f"{path}:1: {found} ranks are no equal parts of {stages} stages")
    return _Placement(per_stage=found // stages, stages=stages)


def _rows(
    lines: Sequence[str], first: int, names: Sequence[str], shown: str
) -> Iterator[tuple[int, dict[str, str], int]]:
    """Line number, cells by name, and how many cells there are, of every row."""
    for number, line in enumerate(lines[first:], first + 1):
        if line.strip():
            cells = _cells(line, shown, number)
            row = dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))
            yield number, row, len(cells)


def _cells(line: str, shown: str, number: int) -> list[str]:
    """The cells of a row; commas inside brackets (shapes of a product) part none."""
    if "(" not in line or '"' in line:
        return next(csv_rows(line, shown, first_line=number))[1]
    cells, depth = [""], 0
    for letter in line:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            cells.append("")
        else:
            cells[-1] += letter
    return cells


def _read(path: Path, rows: Sequence[tuple[int, dict[str, str], int]]) -> _Calls:
    calls = _Calls()
    calls.timed = any(
        row.get("_elapsed_time", "") not in NOT_GIVEN
        and row["comm_type"].removeprefix("CommType.") != "computation"
        for _, row, _ in rows
    )
    for number, row, cells in rows:
        where = f"{path}:{number}"
        if cells > len(row):
            calls.problems.append(f"{where}: {cells} cells, the header has {len(row)} columns")
            continue
        op = _op(where, row, calls)
        if op is None:
            continue
        repeat = _count(where, row, calls.problems)
        if len(calls.ops) + repeat > MOST_CALLS:
            raise SpecError(f"{where}: count: more than {MOST_CALLS:,} calls in all; cut the file")
        for _ in range(repeat):
            before = (len(calls.ops) - 1,) if calls.ops else ()
            calls.ops.append(replace(op, after=before))
    return calls


def _op(where: str, row: dict[str, str], calls: _Calls) -> Op | None:
    problems = calls.problems
    kind, stage = row["comm_type"].strip().removeprefix("CommType."), row.get("stage", "")
    if kind in SILENT:
        return None
    if kind == "computation":
        spent = row.get("_elapsed_time", "")
        if spent in NOT_GIVEN:
            return None
        unit = 1e-3 if calls.timed else 1e-9
        seconds = amount(f"{where}: _elapsed_time", spent, problems) * unit
        return Op(name=stage or kind, kind="compute", after=(), seconds=seconds)
    if kind not in OPERATIONS:
        hint = did_you_mean(kind, [*OPERATIONS, *SILENT, "computation"])
        problems.append(
            f"{where}: comm_type: unknown (got {kind}){hint} There are {', '.join(OPERATIONS)}, "
            f"{', '.join(SILENT)}, computation"
        )
        return None
    group = row["comm_group"].strip().removeprefix("CommGroup.")
    if group not in AXES:
        hint = did_you_mean(group, AXES)
        problems.append(
            f"{where}: comm_group: unknown (got {group}){hint} There are {', '.join(AXES)}"
        )
        return None
    axis = AXES[group]
    if kind != "isend":  # which gives 1
        _note_size(where, row, group, calls)
    size = "0" if kind == "barrier" and row["msg_size"] in NOT_GIVEN else row["msg_size"]
    return Op(
        name=f"{stage} {kind}".strip(),
        kind="collective",
        after=(),
        operation=OPERATIONS[kind],
        axis=axis,
        bytes=amount(f"{where}: msg_size", size, problems),
    )


def _note_size(where: str, row: dict[str, str], group: str, calls: _Calls) -> None:
    """Keep the size of a row's group where it is given; it must be that of earlier rows."""
    given = row.get("comm_group_size", "").strip()
    if given in NOT_GIVEN:
        return
    members = amount(f"{where}: comm_group_size", given, calls.problems)
    if members != int(members) or members < 1:
        calls.problems.append(
            f"{where}: comm_group_size: must be a whole number of at least 1 (got {given})"
        )
        return
    was, line = calls.sizes.setdefault(AXES[group], (int(members), where))
    if was != members:
        calls.problems.append(
            f"{where}: comm_group_size: {group} has {int(members)} ranks here, {was} in {line}"
        )


def _count(where: str, row: dict[str, str], problems: list[str]) -> int:
    text = row.get("count") or "1"
    value = amount(f"{where}: count", text, problems)
    if value != int(value):
        problems.append(f"{where}: count: must be a whole number (got {text})")
    return int(value)


def _degrees(
    path: Path,
    calls: _Calls,
    placement: _Placement,
    ranks: int | None,
    devices: int | None,
    given: Mapping[str, int],
) -> tuple[Degrees, list[str]]:
    """Degrees from the sizes of the groups, and what was taken for granted; raises SpecError where
    they do not fit together, or where a size is missing that nothing else tells.
    """
    sizes, used = dict(calls.sizes), {op.axis for op in calls.ops if op.axis}
    for group, members in given.items():
        _take_given(group, members, sizes, used)
    known = {axis: members for axis, (members, _) in sizes.items()}
    notes: list[str] = []
    dp, pp = known.get("dp"), known.get("pp", placement.stages)
    total = ranks or placement.per_stage * pp
    if "tp" in used and "tp" not in known:
        if not (total and dp):
            raise _no_size(path, "tp")
        known["tp"] = max(1, total // (dp * pp))
    tp = known.get("tp", 1)
    if not total and dp and (pp > 1 or "pp" not in used):
        total = tp * dp * pp
        notes.append(f"the file does not say how many ranks: {total}, as its groups have")
    elif not total:
        total = known.get("all", devices or tp * pp * (dp or known.get("ep", 1)))
        notes.append(f"the file does not say how many ranks: one on each of {total}")
    if dp and "pp" not in known and placement.stages == 1:
        pp = max(1, total // (tp * dp))
    ep = known.get("ep", known.get("ep_tp", 0) // tp or 1)
    if used & {"ep", "ep_tp", "dp_ep"} and not known.keys() & {"ep", "ep_tp"}:
        ep = max(1, total // (tp * pp) // known.get("dp_ep", 1))
        if "dp_ep" not in known:
            notes.append(
                f"the file gives no size of ep_group: all {ep} data-parallel ranks; "
                "--group-size ep_group=N says another"
            )
    degrees = Degrees(ranks=total, tp=tp, ep=ep, pp=pp)
    check_degrees(path, degrees)
    for axis, (members, where) in sizes.items():
        have = len(groups_along(degrees, axis)[0])
        if have != members:
            raise SpecError(
                f"{where}: a {axis} group of {members} does not fit {total} ranks of TP {tp}, "
                f"EP {ep}, PP {pp}, where it has {have}; choose --ranks to match"
            )
    return degrees, notes


def _take_given(
    group: str, members: int, sizes: dict[str, tuple[int, str]], used: set[str]
) -> None:
    """Add the size of a group that ``--group-size`` gives; raises SpecError where it is none."""
    option = f"--group-size {group}={members}"
    axis = AXES.get(group, AXES.get(f"{group}_group", ""))
    if not axis:
        hint = did_you_mean(group, AXES) or "."
        raise SpecError(f"{option}: no such group{hint} There are {', '.join(AXES)}")
    if axis in sizes:
        raise SpecError(f"{option}: {sizes[axis][1]} says {sizes[axis][0]}; leave it out")
    if axis not in used:
        raise SpecError(f"{option}: has no effect: no call of the file is in that group")
    sizes[axis] = (members, option)


def _no_size(path: Path, axis: str) -> SpecError:
    return SpecError(
        f"{path}: comm_group_size: no row gives it for {axis}_group, and nothing else tells; add "
        f"--group-size {axis}_group=N"
    )
