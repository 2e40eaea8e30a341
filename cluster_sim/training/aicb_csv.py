"""The list of communications that AICB writes for a real cluster: a CSV with one call a row.

Model: all ranks issue the rows in order, each after the one before. Sends to the next or former
stage load the links of all pipeline groups; receives are the other end of them and take no time.
Rows of computation take their elapsed time (ns) where there is one. Source: aliyun/aicb
utils/utils.py (CommType, CommGroup) and log_analyzer/log.py.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.training.task_graph import TaskGraph, did_you_mean
from cluster_sim.training.workload_ops import (
    Degrees,
    Op,
    amount,
    check_degrees,
    graph_of,
    groups_along,
)

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
NEEDED = ("comm_type", "comm_group", "comm_group_size", "msg_size")


def read_calls(
    path: Path, text: str, *, ranks: int | None, devices: int, folded: bool
) -> TaskGraph:
    """The graph of a list of calls on ``ranks`` ranks (None: as its first line says, else one on
    each of the ``devices``).

    Raises SpecError with line, key and value for what is broken.
    """
    lines = text.splitlines()
    first = 0
    total = ranks or devices
    match = re.fullmatch(r"\[rank(\d+) ~ rank(\d+)\]", lines[0].strip())
    if match is not None:
        first, total = 1, ranks or int(match[2]) - int(match[1]) + 1
    table = csv.DictReader(lines[first:])
    absent = [name for name in NEEDED if name not in (table.fieldnames or ())]
    if absent:
        raise SpecError(f"{path}:{first + 1}: no column {', '.join(absent)}")
    problems: list[str] = []
    ops: list[Op] = []
    sizes: dict[str, tuple[int, str]] = {}
    for row in table:
        where = f"{path}:{first + table.line_num}"
        op = _op(where, row, sizes, problems)
        if op is not None:
            repeat = _count(where, row, problems)
            for _ in range(repeat):
                ops.append(replace(op, after=(len(ops) - 1,) if ops else ()))
    if problems:
        more = len(problems) - 8
        raise SpecError(problems if more <= 0 else [*problems[:8], f"and {more} more like these"])
    if not ops:
        raise SpecError(f"{path}: holds no calls")
    degrees = _degrees(path, sizes, total)
    notes = ["the list holds communication alone, and each call waits for the one before"]
    return graph_of(
        path, ops, degrees, form="aicb", folded=folded, pipeline=None, notes=tuple(notes)
    )


def _op(
    where: str,
    row: dict[str, str],
    sizes: dict[str, tuple[int, str]],
    problems: list[str],
) -> Op | None:
    kind = (row["comm_type"] or "").removeprefix("CommType.")
    stage = row.get("stage") or ""
    if kind in SILENT:
        return None
    if kind == "computation":
        spent = row.get("_elapsed_time") or "None"
        if spent in ("None", "-1", ""):
            return None
        seconds = amount(f"{where}: _elapsed_time", spent, problems) * 1e-9
        return Op(name=stage or kind, kind="compute", after=(), seconds=seconds)
    if kind not in OPERATIONS:
        hint = did_you_mean(kind, [*OPERATIONS, *SILENT, "computation"])
        problems.append(
            f"{where}: comm_type: unknown (got {kind}){hint} There are {', '.join(OPERATIONS)}, "
            f"{', '.join(SILENT)}, computation"
        )
        return None
    group = (row["comm_group"] or "").removeprefix("CommGroup.")
    if group not in AXES:
        hint = did_you_mean(group, AXES)
        problems.append(
            f"{where}: comm_group: unknown (got {group}){hint} There are {', '.join(AXES)}"
        )
        return None
    members = int(amount(f"{where}: comm_group_size", row["comm_group_size"], problems))
    axis = AXES[group]
    if kind != "isend":  # which gives 1
        was, line = sizes.setdefault(axis, (members, where))
        if was != members:
            problems.append(
                f"{where}: comm_group_size: {group} has {members} ranks here, {was} in {line}"
            )
    return Op(
        name=f"{stage} {kind}".strip(),
        kind="collective",
        after=(),
        operation=OPERATIONS[kind],
        axis=axis,
        bytes=amount(f"{where}: msg_size", row["msg_size"], problems),
    )


def _count(where: str, row: dict[str, str], problems: list[str]) -> int:
    text = row.get("count") or "1"
    value = amount(f"{where}: count", text, problems)
    if value != int(value):
        problems.append(f"{where}: count: must be a whole number (got {text})")
    return int(value)


def _degrees(path: Path, sizes: dict[str, tuple[int, str]], total: int) -> Degrees:
    """Degrees from the sizes of the groups; raises SpecError where they do not fit together."""

    def size(axis: str) -> int:
        return max(1, sizes.get(axis, (1, ""))[0])

    tp, ep = size("tp"), size("ep")
    pp = size("pp")
    if "dp" in sizes and "pp" not in sizes:
        pp = max(1, total // (tp * size("dp")))
    degrees = Degrees(ranks=total, tp=tp, ep=ep, pp=pp)
    check_degrees(path, degrees)
    for axis, (members, where) in sizes.items():
        have = len(groups_along(degrees, axis)[0])
        if have != members:
            raise SpecError(
                f"{where}: comm_group_size: a {axis} group of {members} does not fit {total} ranks "
                f"of TP {tp}, EP {ep}, PP {pp}, where it has {have}; choose --ranks to match"
            )
    return degrees
