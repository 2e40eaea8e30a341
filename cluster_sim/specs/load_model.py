"""A model by name or file, or a config of an unknown family as one of a known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.build import Source, build
from cluster_sim.specs.find import FileRecord, beside, find
from cluster_sim.specs.model import Model


def load_model(name: str, like: str | None = None) -> tuple[FileRecord, Model]:
    """A model and its file; ``like`` names the family that the Hugging Face config of an unknown
    one is read as, which the model's name and notes then say.
    """
    from cluster_sim.specs.load import load_spec

    if like is None:
        return load_spec("model", name, Model)
    record, data = read_like(name, like)
    return record, build(Model, data, Source(record.path, {}), f"{record.name} (like {like})")


def read_like(name: str, like: str) -> tuple[FileRecord, dict[str, Any]]:
    """The file of an unknown family's config, and its mapping as one of the family ``like``.

    Raises SpecError where that is not needed, and for what the family would need besides.
    """
    from cluster_sim.specs.checkpoint import BESIDE
    from cluster_sim.specs.hugging_face import parse

    record = find("model", name)
    if not record.path.endswith(".json"):
        raise SpecError(f"--model-like {like}: has no effect on {record.path}, which says it all")
    files = beside(record, BESIDE)
    data = parse(record.text, record.path, record.name, files, like)
    return replace(record, more=tuple(files.values())), data
