"""Two runs and their comparison."""

from __future__ import annotations

import contextlib
import io

from cluster_sim.cli import cli

line = "run --topo h200_nvl8 --workload llama8b --tp 1 --requests 60 --quiet"
with contextlib.redirect_stdout(io.StringIO()):
    for count in ("4", "8"):
        words = [*line.split(), "--concurrency", count, "--out", f"clients{count}"]
        cli.main(words, standalone_mode=False)
cli.main(["compare", "clients4", "clients8", "--band"], standalone_mode=False)
