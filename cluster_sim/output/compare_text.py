"""Runs side by side as text: never wider than asked for, long cells folded."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from cluster_sim.output.tables import number
from cluster_sim.studies.compare import NO_FIGURE, BandRatio, Figure, Ratio, as_number
from cluster_sim.studies.compare_names import Heading
from cluster_sim.studies.compare_runs import METRICS, ComparedRun, bound

BESIDE = 3  # runs that stand beside each other; more stand below each other
LEAST_WIDTH = 40
GAP = "  "
NAME = 24  # the names of metrics are folded to that at most
WORD = 20  # words are folded to that, titles to TITLE or as wide as the cells are
TITLE = 10
HEADS = (48, 32, 24, 16)  # to which headings of runs beside each other are folded, the first fits
ONLY_BESIDE = (  # ratios that runs below each other go without: they follow, or say little
    *("capacity_requests_per_s", "tokens_per_s_per_user", "ttft_p99_ms", "slo_attainment"),
    *("mfu", "mem_peak_gib"),
)
IN_COMMON = {  # words that all runs share, as they stand above the blocks
    "plan": "plan {}",
    "concurrency": "{} clients",
    "rate_asked_per_s": "{} requests/s",
    "requests": "{} requests",
    "software": "{}",
    "precision": "{}",
    "n_chips": "{} chips",
    "limited_by": "limited by {}",
    "extrapolated": "{} extrapolated",
}
COUNTS = ("concurrency", "requests", "n_chips")
TITLES = {  # of words and metrics where runs stand below each other: the others are left out
    "config_hash": "config hash",
    "plan": "plan",
    "concurrency": "clients",
    "rate_asked_per_s": "rate asked per s",
    "requests": "requests",
    "software": "software",
    "precision": "precision",
    "n_chips": "chips",
    "limited_by": "limited by",
    "extrapolated": "extra- polated",
    "capacity_requests_per_s": "capacity requests/s",
    "capacity_output_tokens_per_s_per_chip": "capacity tokens/s per chip",
    "saturation_output_tokens_per_s_per_chip": "flat out tokens/s per chip",
    "output_tokens_per_s_per_chip": "output tokens/s per chip",
    "tokens_per_s_per_user": "tokens/s per user",
    "ttft_mean_ms": "mean TTFT ms",
    "ttft_p99_ms": "p99 TTFT ms",
    "tpot_mean_ms": "mean TPOT ms",
    "slo_attainment": "within SLO",
    "usd_per_m_output_tokens_within_slo": "$/M out within SLO",
    "usd_per_m_output_tokens": "$/M out as run",
    "j_per_output_token": "J/token",
    "step_time_s": "step s",
    "train_tokens_per_s_per_chip": "trained tokens/s per chip",
    "mfu": "MFU",
    "mem_peak_gib": "memory GiB",
    "usd_per_step": "$/step",
}


@dataclass(frozen=True, slots=True)
class _Column:
    """Cells below a title, both folded: the cells to ``word``, the title to ``head`` or to the
    width of the cells.
    """

    title: str
    cells: tuple[str, ...]
    word: int = 1000
    head: int = TITLE

    @property
    def width(self) -> int:
        """Characters that it takes."""
        longest = min(max(map(len, self.cells)), self.word)
        return max(longest, *map(len, fold(self.title, max(longest, self.head))))


def comparison_text(runs: Sequence[ComparedRun], width: int) -> str:
    """Up to three runs beside each other if they fit, a line a metric; else below each other, in
    as many blocks as it takes.
    """
    width = max(width, LEAST_WIDTH)
    beside = _beside(runs, width) if len(runs) <= BESIDE else None
    return _below(runs, width) if beside is None else beside


def bands_text(first: Heading, other: Heading, bands: Sequence[BandRatio], width: int) -> str:
    """What differs between two runs, and how surely."""
    width = max(width, LEAST_WIDTH)
    chance = "8 in 10 chance:"
    title = textwrap.wrap(
        f"{other} to {first},", width, break_on_hyphens=False, subsequent_indent=GAP
    )
    if len(title[-1]) + 1 + len(chance) <= width:
        title[-1] += f" {chance}"
    else:
        title.append(GAP + chance)
    if not bands:
        return "\n".join([*title, "no headline in common"])
    cells = [_band_cells(band) for band in bands]
    names = ("headline", "ratio", "low", "high", "")
    columns = [_Column(name, tuple(row[i] for row in cells)) for i, name in enumerate(names)]
    for last in (columns[-1], _Column("", columns[-1].cells, WORD)):
        columns[-1] = last
        left = width - sum(len(GAP) + column.width for column in columns[1:])
        if left >= NAME:
            return "\n".join([*title, _grid(columns, left)])
    for name, *figures, says in cells:
        text = f"ratio {figures[0]}, low {figures[1]}, high {figures[2]}: {says}"
        title += [*fold(name, width), *textwrap.wrap(text, width, subsequent_indent=GAP)]
    return "\n".join(title)


def _band_cells(band: BandRatio) -> tuple[str, str, str, str, str]:
    """A line of the table of bands: '-' where a bound leaves an end open, or there is none."""
    value, side = band.ratio.value, band.ratio.side
    low, high = ("-" if end is None else number(end) for end in (band.low, band.high))
    ratio = "-" if value is None else _bounded(value, side, None)
    return band.headline, ratio, low, high, band.verdict


def figure_text(one: Figure) -> str:
    """A figure as its status allows: '>= 6,460 ±1.2 %', 'too short', '-' where there is none."""
    if one.status in NO_FIGURE and one.status != "not_applicable":
        return NO_FIGURE[one.status]
    if one.value is None or one.status == "not_applicable":
        return "-"
    return _bounded(one.value, one.side, one.error)


def ratio_text(ratio: Ratio) -> str:
    """A ratio, or why there is none."""
    if ratio.value is None:
        return "" if ratio.word.endswith(NO_FIGURE["not_applicable"]) else ratio.word
    return _bounded(ratio.value, ratio.side, ratio.error)


def _bounded(value: float, side: int, error: float | None) -> str:
    parts = [bound(side) or "", number(value), f"±{number(100 * error, 2)} %" if error else ""]
    return " ".join(part for part in parts if part)


def _beside(runs: Sequence[ComparedRun], width: int) -> str | None:
    """A line a metric, a column a run and a ratio; None if that is too wide."""
    words = [name for name in runs[0].words if any(run.words[name] for run in runs)]
    metrics = _with_figures(runs, METRICS)
    names = _Column("metric", (*words, *metrics))
    for head in HEADS:
        columns = [names]
        for run in runs:
            texts = [_word(run, name) for name in words]
            figures = [figure_text(run.figures[name]) for name in metrics]
            longest = max((*map(len, figures), WORD))
            columns.append(_Column(str(run.heading), (*texts, *figures), longest, head))
            if run.ratios:
                ratios = [ratio_text(run.ratios[name]) for name in metrics]
                columns.append(_Column("ratio", (*[""] * len(words), *ratios)))
        left = width - sum(len(GAP) + column.width for column in columns[1:])
        if left >= names.width or (head == HEADS[-1] and left >= NAME):
            return _grid(columns, left)
    return None


def _word(run: ComparedRun, name: str) -> str:
    """A word as it is shown: counts and rates as numbers."""
    text = run.words[name]
    if name in COUNTS and text.isdecimal():
        return f"{int(text):,}"
    rate = as_number(text) if name == "rate_asked_per_s" else None
    return text if rate is None else number(rate)


def _below(runs: Sequence[ComparedRun], width: int) -> str:
    """A line a run, in blocks of columns that fit."""
    named, labels = _labels([run.heading for run in runs])
    common = ", ".join(part for part in (named, *_in_common(runs)) if part)
    most = max(HEADS[-1], width * 2 // 5)
    run_column = _Column("run", tuple(labels))
    label = min(max(map(len, (*labels, "run"))), most)
    blocks: list[list[_Column]] = [[]]
    room = width - label
    for group in _groups(runs):
        whole = sum(len(GAP) + column.width for column in group)
        for part in [group] if whole <= width - label else [[column] for column in group]:
            needed = sum(len(GAP) + column.width for column in part)
            if needed > room and blocks[-1]:
                blocks.append([])
                room = width - label
            blocks[-1] += part
            room -= needed
    texts = [_grid([run_column, *block], label) for block in blocks if block]
    return "\n\n".join([*(["\n".join(fold(common, width))] if common else []), *texts])


def _groups(runs: Sequence[ComparedRun]) -> list[list[_Column]]:
    """Columns that belong together: a word that is not everybody's, or a figure and its ratios."""
    groups = []
    for name in runs[0].words:
        cells = tuple(_word(run, name) for run in runs)
        if any(cells) and not (name in IN_COMMON and len(set(cells)) == 1):
            groups.append([_Column(TITLES[name], cells, WORD)])
    for name in _with_figures(runs, [metric for metric in METRICS if metric in TITLES]):
        group = [_Column(TITLES[name], tuple(figure_text(run.figures[name]) for run in runs))]
        ratios = ("", *(ratio_text(run.ratios[name]) for run in runs[1:]))
        if any(ratios) and name not in ONLY_BESIDE:
            group.append(_Column("ratio", ratios))
        groups.append(group)
    return groups


def _in_common(runs: Sequence[ComparedRun]) -> list[str]:
    """What all runs were."""
    shared = {name: {_word(run, name) for run in runs} for name in IN_COMMON}
    return [
        IN_COMMON[name].format(*texts)
        for name, texts in shared.items()
        if len(texts) == 1 and any(texts)
    ]


def _with_figures(runs: Sequence[ComparedRun], metrics: Sequence[str]) -> list[str]:
    """The metrics that some run has, or has a reason not to have."""
    return [name for name in metrics if any(figure_text(run.figures[name]) != "-" for run in runs)]


def _labels(headings: Sequence[Heading]) -> tuple[str, list[str]]:
    """What all runs have in common, and what is left of each heading."""
    workloads = {one.workload for one in headings}
    topologies = {one.topology for one in headings}
    if len(workloads) == len(topologies) == 1:
        return f"{workloads.pop()}@{topologies.pop()}", [one.mark for one in headings]
    if len(workloads) == 1:
        names = [f"{one.topology} {one.mark}".strip() for one in headings]
        return f"workload {workloads.pop()}", names
    if len(topologies) == 1:
        names = [f"{one.workload} {one.mark}".strip() for one in headings]
        return f"topology {topologies.pop()}", names
    return "", [str(one) for one in headings]


def _grid(columns: Sequence[_Column], first: int) -> str:
    """Columns as aligned lines, the first to the left and at most ``first`` wide; cells that are
    too long take several lines.
    """
    widths = [min(first, max(map(len, (columns[0].title, *columns[0].cells))))]
    widths += [column.width for column in columns[1:]]
    lines = []
    rows = zip(*((column.title, *column.cells) for column in columns), strict=True)
    for number_of_row, row in enumerate(rows):
        folded = [fold(text, width) for text, width in zip(row, widths, strict=True)]
        height = max(map(len, folded))
        for cell in folded:
            blank = [""] * (height - len(cell))
            cell[:] = blank + cell if number_of_row == 0 else cell + blank
        for parts in zip(*folded, strict=True):
            cells = [
                part.ljust(width) if i == 0 else part.rjust(width)
                for i, (part, width) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append(GAP.join(cells).rstrip())
    return "\n".join(lines)


def fold(text: str, width: int) -> list[str]:
    """Text in lines of at most ``width``, broken behind a space, '@', '_', ',' or '-' where that is
    possible.

    >>> fold("output_tokens_per_s_per_chip", 18)
    ['output_tokens_per_', 's_per_chip']
    """
    lines = [""]
    for piece in re.findall(r"[^\s@_,-]*[\s@_,-]|[^\s@_,-]+", text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.strip() for line in lines]
