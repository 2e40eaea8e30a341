"""cluster-sim: simulation of AI datacenter clusters, with every number's source.

>>> from cluster_sim import load_topology, load_workload, simulate  # doctest: +SKIP
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's, without its import: see interrupts
if TYPE_CHECKING:
    from typing import Any

    from cluster_sim.output.results import read_results
    from cluster_sim.result import Result
    from cluster_sim.simulation import simulate
    from cluster_sim.specs.load import load_topology, load_workload

__version__ = "0.1.0"
__all__ = ["Result", "load_topology", "load_workload", "read_results", "simulate"]

_HOMES = {
    "Result": "cluster_sim.result",
    "simulate": "cluster_sim.simulation",
    "load_topology": "cluster_sim.specs.load",
    "load_workload": "cluster_sim.specs.load",
    "read_results": "cluster_sim.output.results",
}


def __dir__() -> list[str]:
    """The public names beside those that are there already."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import cluster_sim`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cluster_sim' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
