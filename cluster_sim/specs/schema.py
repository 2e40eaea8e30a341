"""JSON Schemas of the input files, for editors: of draft 2020-12, each with all that it refers to.

A file that stands alone must have all that its kind needs; one that ``extends`` another (a topology
also one with a ``host``) only changes keys of it, at any depth.
"""

from __future__ import annotations

import copy
from typing import Any

from cluster_sim.specs.kinds import FORMS

KINDS = tuple(dict.fromkeys(form.family for form in FORMS))
PART = "Part"  # ends the name of a definition of which a file may leave out any key
_SHARES = r"^\s*[0-9.]+\s*%?\s*$"


def json_schema(family: str) -> dict[str, Any]:
    """The schema of a family's files: quantities are texts with a unit, ``name`` comes from the
    file's name.
    """
    from pydantic import TypeAdapter

    definitions: dict[str, Any] = {}
    whole = []
    for form in FORMS:
        if form.family != family:
            continue
        schema = TypeAdapter(form.kind).json_schema()
        definitions |= schema.pop("$defs", {})
        schema["properties"].pop("name", None)
        left_out = {"name", *form.given}
        schema["required"] = [key for key in schema.get("required", []) if key not in left_out]
        schema["properties"]["extends"] = {"type": "string", "description": "a file to build on"}
        definitions[form.kind.__name__] = schema
        whole.append(form.kind.__name__)
    definitions = {name: _as_in_files(one) for name, one in definitions.items()}
    definitions |= {name + PART: _loosened(one) for name, one in definitions.items()}
    _refine(family, definitions)
    built: list[dict[str, Any]] = [{"required": ["extends"]}]
    if family == "topology":
        built.append({"required": ["host"]})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:cluster-sim:{family}",
        "title": f"{family} of cluster-sim",
        "$defs": definitions,
        "if": {"anyOf": built},
        "then": _one_of([name + PART for name in whole]),
        "else": _one_of(whole),
    }


def forms(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The forms that a file which stands alone may have."""
    choices = schema["else"].get("anyOf", [schema["else"]])
    return [schema["$defs"][one["$ref"].rsplit("/", 1)[-1]] for one in choices]


def _one_of(names: list[str]) -> dict[str, Any]:
    choices = [{"$ref": f"#/$defs/{name}"} for name in names]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _as_in_files(definition: dict[str, Any]) -> dict[str, Any]:
    """A definition as files write it: quantiles are a mapping, what is filled in when files are
    read is left out.
    """
    changed = copy.deepcopy(definition)
    found = changed.get("properties", {})
    found.pop("taken", None)
    if "quantiles" in found:
        tokens = {"type": "integer", "exclusiveMinimum": 0}
        found["quantiles"] = {
            "type": "object",
            "description": "share -> tokens, for example {0%: 1, 50%: 300, 100%: 4000}",
            "patternProperties": {_SHARES: tokens},
            "additionalProperties": False,
        }
    return changed


def _loosened(value: Any) -> Any:
    """A definition of which any key may be left out, at any depth."""
    if isinstance(value, list):
        return [_loosened(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _loosened(inner) for key, inner in value.items()}
    if isinstance(value.get("required"), list):
        changed.pop("required")
    if isinstance(value.get("$ref"), str):
        changed["$ref"] += PART
    return changed


def _refine(family: str, definitions: dict[str, Any]) -> None:
    """What files of a family may write beside the keys of the dataclass."""
    if family == "topology":
        _refine_topology(definitions)
    if family == "workload":
        preset = copy.deepcopy(definitions["TrainingWorkload" + PART])
        for key in ("extends", "presets", "kind"):
            preset["properties"].pop(key)
        definitions["Preset"] = preset
        for name in ("TrainingWorkload", "TrainingWorkload" + PART):
            definitions[name]["properties"]["presets"] = {
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/Preset"},
            }
    if family == "fits":
        for name in ("GemmCurve", "ExpertCurve", "PrefillCurve", "DecodeCurve", "LatentCurve"):
            _refine_curve(definitions, name)


def _refine_topology(definitions: dict[str, Any]) -> None:
    """Links and board are laid over those of the chip unless they stand alone."""
    given = {
        "if": {"required": ["technology"]},
        "then": {"$ref": "#/$defs/ScaleUp"},
        "else": {"$ref": "#/$defs/ScaleUp" + PART},
    }
    whole, part = definitions["Topology"], definitions["Topology" + PART]
    whole["properties"] |= {"scale_up": given, "board": {"$ref": "#/$defs/Board" + PART}}
    whole["required"] += ["chip", "chips"]
    for form in (whole, part):
        form["properties"]["host"] = {"type": "string", "description": "a topology to repeat"}
        form["properties"]["hosts"] = {"type": "integer", "minimum": 1}


def _refine_curve(definitions: dict[str, Any], name: str) -> None:
    """A curve that stands alone, or one that changes another of its section."""
    part = definitions[name + PART]
    part["properties"]["like"] = {"type": "string", "description": "a curve to copy"}
    part["properties"]["times"] = {"type": "object", "additionalProperties": {"type": "number"}}
    definitions[name + "Own"] = definitions[name]
    definitions[name] = {
        "if": {"required": ["like"]},
        "then": {"$ref": f"#/$defs/{name}{PART}"},
        "else": {"$ref": f"#/$defs/{name}Own"},
    }
