"""JSON Schemas of the input files, for editors."""

from __future__ import annotations

from typing import Any

from cluster_sim.specs.chip import Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.specs.topology import Topology
from cluster_sim.specs.workload import Workload

KINDS: dict[str, type[Any]] = {
    "topology": Topology,
    "chip": Chip,
    "model": Model,
    "workload": Workload,
    "software": Software,
}


def json_schema(family: str) -> dict[str, Any]:
    """The schema of a family's files: quantities are texts with a unit, ``name`` comes from the
    file's name.
    """
    from pydantic import TypeAdapter

    schema = TypeAdapter(KINDS[family]).json_schema()
    schema["properties"].pop("name", None)
    given = ("name", "scale_up") if family == "topology" else ("name",)  # links: from the chip
    schema["required"] = [key for key in schema.get("required", []) if key not in given]
    schema["properties"]["extends"] = {"type": "string", "description": "a file to build on"}
    return schema
