"""The fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import settings

from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload

# The same cases on every machine; HYPOTHESIS_PROFILE=random looks further.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
os.environ.pop("COLUMNS", None)  # pages as wide as without a terminal
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command-line runner in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return CliRunner()


@pytest.fixture(scope="session")
def h200() -> TopologyInput:
    """Eight H200."""
    return load_topology("h200_nvl8")


@pytest.fixture(scope="session")
def chat() -> WorkloadInput:
    """The chat service with few requests."""
    return load_workload("llama70b", ["workload.requests=400"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured cases; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no folder of measured cases beside the checkout")
    return SHARED
