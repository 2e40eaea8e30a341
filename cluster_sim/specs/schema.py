"""JSON Schemas of the input files, for editors."""

from __future__ import annotations

from typing import Any

from cluster_sim.specs.chip import Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.specs.topology import Topology
from cluster_sim.specs.training import TrainingWorkload
from cluster_sim.specs.training_software import TrainingSoftware
from cluster_sim.specs.workload import Workload

KINDS: dict[str, Any] = {
    "topology": Topology,
    "chip": Chip,
    "model": Model,
    "workload": Workload | TrainingWorkload,
    "software": Software,
    "training": TrainingSoftware,
}


def json_schema(family: str) -> dict[str, Any]:
    """The schema of a family's files: quantities are texts with a unit, ``name`` comes from the
    file's name.
    """
    from pydantic import TypeAdapter

    schema: dict[str, Any] = TypeAdapter(KINDS[family]).json_schema()
    given: tuple[str, ...] = ("name",)
    if family == "topology":
        given = ("name", "scale_up", "chip", "chips")  # from the chip, and from host and hosts
        schema["properties"]["host"] = {"type": "string", "description": "a topology to repeat"}
        schema["properties"]["hosts"] = {"type": "integer", "minimum": 1}
    for form in forms(schema):
        form["properties"].pop("name", None)
        form["required"] = [key for key in form.get("required", []) if key not in given]
        form["properties"]["extends"] = {"type": "string", "description": "a file to build on"}
    return schema


def forms(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The forms that a file may have: the schema itself, or definitions that it chooses from."""
    if "anyOf" not in schema:
        return [schema]
    return [schema["$defs"][one["$ref"].rsplit("/", 1)[-1]] for one in schema["anyOf"]]
