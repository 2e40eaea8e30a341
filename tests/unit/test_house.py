"""Rules of the house that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT


def test_modules_stay_small() -> None:
    long = [
        path.name
        for path in (ROOT / "cluster_sim").rglob("*.py")
        if len(path.read_text().splitlines()) > 500
    ]
    assert not long


def test_data_files_stay_small() -> None:
    files = [p for d in ("topologies", "workloads") for p in (ROOT / d).rglob("*.yaml")]
    assert all(path.stat().st_size < 1_000_000 for path in files)


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"pandas", "numpy", "networkx", "pydantic", "yaml", "simpy"}),
        (["list"], {"pandas", "numpy", "networkx", "pydantic", "yaml", "simpy"}),
        (
            [
                "run",
                "--topo",
                "h200_nvl8",
                "--workload",
                "llama8b",
                "--rate",
                "5",
                "--requests",
                "20",
                "--out",
                "out",
            ],
            {
                "pandas",
                "networkx",
                "numba",
                "cluster_sim.engine.fluid",
                "cluster_sim.machine.build",
                "cluster_sim.output.timeline",
            },
        ),
    ],
)
def test_commands_import_only_what_they_need(
    arguments: list[str], absent: set[str], tmp_path: object
) -> None:
    code = f"""
import sys
from cluster_sim.cli import cli
cli.main({arguments!r}, standalone_mode=False)
print(sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=str(tmp_path)
    )
    loaded = set(eval(done.stderr.splitlines()[-1]))
    assert not loaded & absent


def test_files_are_written_in_one_place() -> None:
    """Whole files by ``files``, folders of results in a hidden one, measurements row by row."""
    places = {"files.py", "results.py", "measured.py"}
    writes = re.compile(r"""write_(text|bytes)\(|csv\.(writer|DictWriter)|open\([^)]*["'][wax]""")
    found = {
        path.name
        for path in (ROOT / "cluster_sim").rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert found == places
