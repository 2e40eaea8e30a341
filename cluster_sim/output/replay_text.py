"""A replay as text: what was played, where the time went, by rank and by kind of collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster_sim.errors import counted
from cluster_sim.output.collective_text import size_text
from cluster_sim.output.tables import grid, labelled, number
from cluster_sim.training.replay_rows import CollectiveRow, RankRow

MOST_ROWS = 16  # ranks that are shown one by one
SHARES = ("compute", "exposed_communication", "host", "idle")


def replay_report(
    row: Mapping[str, object],
    ranks: Sequence[RankRow],
    calls: Sequence[CollectiveRow],
    notes: Sequence[str],
) -> str:
    """What ``cluster-sim replay`` prints."""
    parts = [_head(row), _time(row), _ranks(ranks), _calls(calls)]
    parts.append("\n".join(labelled("Note", note) for note in notes))
    return "\n\n".join(part for part in parts if part)


def _head(row: Mapping[str, object]) -> str:
    ranks = counted(int(str(row["ranks"])), "rank")
    nodes = counted(int(str(row["nodes"])), "node")
    played = f"{ranks}, one played for all" if row["folded"] else ranks
    text = f"{row['workload']} ({row['form']}) on {row['topology']}: {played}, {nodes}"
    return text + (", PARTIAL" if row["partial"] else "")


def _time(row: Mapping[str, object]) -> str:
    def seconds(name: str) -> str:
        return f"{number(_ms(row[f'{name}_s']))} ms"

    total = float(str(row["makespan_s"])) or 1.0
    shares = ", ".join(
        f"{name.replace('_', ' ')} {float(str(row[f'{name}_s'])) / total:.1%}" for name in SHARES
    )
    lines = [
        labelled("Makespan", f"{seconds('makespan')}; {shares} (mean of the ranks)"),
        labelled(
            "Bound", f"{seconds('critical_path')} if nobody shared anything (longest chain alone)"
        ),
        labelled("Compute", str(row["compute_source"])),
    ]
    if row["bubble_s"] or row["stage_sends_s"]:
        text = (
            f"{seconds('step')} with the pipeline that the file only names: bubble "
            f"{seconds('bubble')}, sends between stages {seconds('stage_sends')}"
        )
        lines.append(labelled("Step", text))
    return "\n".join(lines)


def _ms(value: object) -> float:
    return float(str(value)) * 1e3


def _ranks(ranks: Sequence[RankRow]) -> str:
    head = ["rank", "device", "nodes", "compute ms", "exposed ms", "host ms", "idle ms"]
    cells = [head]
    for row in ranks[:MOST_ROWS]:
        times = (row.compute_s, row.exposed_communication_s, row.host_s, row.idle_s)
        names = [str(row.rank), str(row.device), f"{row.nodes:,}"]
        cells.append([*names, *(number(one * 1e3) for one in times)])
    left = len(ranks) - MOST_ROWS
    return grid(cells) + (f"\n... and {left:,} more in ranks.csv" if left > 0 else "")


def _calls(calls: Sequence[CollectiveRow]) -> str:
    if not calls:
        return ""
    head = ["collective", "size", "ranks", "calls", "alone us", "played us", "x", "wait us"]
    cells = [head]
    for row in calls:
        where = f"{row.ranks}" if row.groups == 1 else f"{row.groups:,} x {row.ranks}"
        times = [number(row.alone_us), number(row.played_us), f"{row.slowdown:.2f}"]
        names = [row.operation, size_text(row.size_bytes), where, f"{row.calls:,}"]
        cells.append([*names, *times, number(row.wait_us)])
    return grid(cells)
