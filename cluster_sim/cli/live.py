"""What ``run`` shows on a terminal while it works: a bar, or with ``--live`` a panel."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster_sim.serving.event_driven import Replica
    from cluster_sim.serving.records import Outcomes

PROGRESS_AFTER_S = 1.0
REFRESH_S = 0.25  # of wall time between two pictures of the panel
MAX_ROWS = 16  # replicas in the panel; more are summed up


class Bar:
    """A progress bar on stderr for runs of over a second; nothing when stderr is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self.wanted = not quiet and sys.stderr.isatty()
        self.started = time.perf_counter()
        self.bar: Any = None
        self.task: Any = None

    def update(self, stage: str, share: float) -> None:
        """Show how far a stage is."""
        if not self.wanted or time.perf_counter() - self.started < PROGRESS_AFTER_S:
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(stage, total=1.0)
            self.bar.start()
        self.bar.update(self.task, description=stage, completed=share)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Panel:
    """The state of the run itself, a few times a second, on stderr; a drop-in for Bar that also
    looks into the replicas.
    """

    def __init__(self) -> None:
        self.due = self.started = time.perf_counter()
        self.stage, self.share = "", 0.0
        self.display: Any = None
        self.before = (0.0, 0)  # simulated time and output tokens at the last picture

    def update(self, stage: str, share: float) -> None:
        """Note how far a stage is; before the run itself begins, show it."""
        self.stage, self.share = stage, share
        if stage != "run" and self._is_due():
            self._draw(f"{stage}: {share:.0%}")

    def watch(
        self, replicas: Sequence[Replica], outcomes: Outcomes, arrived: int, now_s: float
    ) -> None:
        """Show the replicas if it is time to."""
        if self._is_due():
            self._draw(self._picture(replicas, outcomes, arrived, now_s))

    def _is_due(self) -> bool:
        now = time.perf_counter()
        if now < self.due:
            return False
        self.due = now + REFRESH_S
        return True

    def _draw(self, picture: Any) -> None:
        if self.display is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self.display = Live(console=console, auto_refresh=False, transient=True)
            self.display.start()
        self.display.update(picture, refresh=True)

    def _picture(
        self, replicas: Sequence[Replica], outcomes: Outcomes, arrived: int, now_s: float
    ) -> Any:
        """A line with the totals, and a row a replica below, or one of all."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        tokens = sum(rank.counts.output_tokens for r in replicas for rank in r.ranks)
        since_s, past = now_s - self.before[0], tokens - self.before[1]
        self.before = (now_s, tokens)
        parts = [
            f"simulated {now_s:,.1f} s in {time.perf_counter() - self.started:.1f} s",
            f"{arrived:,} of {len(outcomes.status):,} requests arrived",
            f"{outcomes.finished:,} finished",
        ]
        if since_s > 0:
            parts.append(f"{past / since_s:,.0f} output tokens/s")
        table = Table()
        for heading in ("replica", "queue", "batch", "KV cache"):
            table.add_column(heading, justify="right")
        groups = [(str(replica.index), [replica]) for replica in replicas]
        if len(replicas) > MAX_ROWS:
            groups = [(f"all {len(replicas)}", list(replicas))]
        for name, members in groups:
            table.add_row(name, *_load(members))
        return Group(Text(", ".join(parts)), table)

    def close(self) -> None:
        """Take the panel away."""
        if self.display is not None:
            self.display.stop()
            self.display = None


def _load(replicas: Sequence[Replica]) -> tuple[str, str, str]:
    """Waiting requests, running sequences and the share of the KV blocks in use."""
    ranks = [rank for replica in replicas for rank in replica.ranks]
    queue = sum(len(rank.waiting) for rank in ranks)
    batch = sum(len(rank.running) for rank in ranks)
    room = sum(replica.spec.blocks * len(replica.ranks) for replica in replicas)
    idle = sum(rank.cache.idle_blocks for rank in ranks if rank.cache is not None)
    used = room - idle - sum(rank.free for rank in ranks)
    return f"{queue:,}", f"{batch:,}", f"{used / room:.1%}"
