"""Which kind of file a text is, by the keys that it has."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError, UnknownNameError, meant
from cluster_sim.specs.chip import Chip, Fits
from cluster_sim.specs.collective_fits import CollectiveFits
from cluster_sim.specs.find import FOLDERS, FileRecord, find, names
from cluster_sim.specs.model import Model
from cluster_sim.specs.pod import merge
from cluster_sim.specs.software import Software
from cluster_sim.specs.topology import Topology
from cluster_sim.specs.training import TrainingWorkload
from cluster_sim.specs.training_software import TrainingSoftware
from cluster_sim.specs.workload import Workload


@dataclass(frozen=True, slots=True)
class Form:
    """A dataclass that files of a family become: keys beside its fields (``more``), and fields that
    a file may leave out since something else gives them (``given``).
    """

    family: str
    kind: type[Any]
    more: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()

    @property
    def keys(self) -> frozenset[str]:
        """All keys that such a file may have, ``extends`` apart."""
        fields = {field.name for field in dataclasses.fields(self.kind)}
        return frozenset(fields - {"name"}) | self.more

    @property
    def needed(self) -> frozenset[str]:
        """Keys that such a file must have, if not through the file that it extends."""
        return frozenset(
            field.name
            for field in dataclasses.fields(self.kind)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in {"name", *self.given}
        )


_FITTED = ("chip", "gemm", "attention_prefill", "attention_decode", "glue")
FORMS = (
    Form(
        "topology",
        Topology,
        frozenset({"host", "hosts"}),
        frozenset({"scale_up", "chip", "chips"}),
    ),
    Form("chip", Chip),
    Form("model", Model),
    Form("workload", Workload),
    Form("workload", TrainingWorkload),
    Form("software", Software),
    Form("training", TrainingSoftware),
    Form("fits", Fits, given=frozenset(_FITTED)),
    Form("collectives", CollectiveFits, given=frozenset({"chip", "link"})),
)


def family_of_text(record: FileRecord) -> str:
    """The family of a file: the one whose keys its own are, most of them, those of the file that it
    extends included; among equals the one whose folder it lies in.

    A misspelt key counts as the one that it is near to. Raises SpecError where nothing can be told.
    """
    from cluster_sim.specs.yaml_text import parse

    data, _ = parse(record.text, record.path)
    folder = _family_of_folder(record.path)
    best, best_score = "", -float("inf")
    for form in FORMS:
        for whole in _wholes(form.family, data):
            score = _score(form, whole) + 0.5 * (form.family == folder)
            if score > best_score:
                best, best_score = form.family, score
    if best_score <= 0 and folder:
        return folder
    if best_score <= 0:
        _refuse_orphan(record, data)
        families = ", ".join(dict.fromkeys(form.family for form in FORMS))
        raise SpecError(
            f"{record.path}: cannot tell what kind of file this is; tried: {families}; say so with "
            "--as"
        )
    return best


def _refuse_orphan(record: FileRecord, data: Mapping[str, Any]) -> None:
    """Raise SpecError for a file that extends one that no family has."""
    from cluster_sim.specs.yaml_text import located

    base = data.get("extends")
    if not isinstance(base, str):
        return
    for family in FOLDERS:
        try:
            find(family, base)
        except (UnknownNameError, SpecError):
            continue
        return
    known = sorted({name for family in FOLDERS for name in names(family)})
    hint = meant(base, known) or "."
    raise SpecError(
        located(record.text, record.path, f"extends: no file of any kind is named '{base}'{hint}")
    )


def _wholes(family: str, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The mapping, or with ``extends`` it over the file of the family that it names, if any."""
    from cluster_sim.specs.yaml_text import parse

    own = dict(data)
    base = own.pop("extends", None)
    if not isinstance(base, str):
        yield own
        return
    try:
        parent = find(family, base)
        yield merge(parse(parent.text, parent.path)[0], own)
    except (UnknownNameError, SpecError):
        return


def _score(form: Form, data: Mapping[str, Any]) -> float:
    """Keys that the form knows, less twice those that it does not, less those that are missing."""
    keys = set(data)
    known = {key for key in keys if key in form.keys}
    misspelt = {
        key
        for key in keys - known
        if difflib.get_close_matches(str(key), form.keys - known, n=1, cutoff=0.8)
    }
    matched = len(known) + len(misspelt)
    unknown = len(keys) - matched
    missing = len(form.needed - keys)
    if form.family == "topology":
        missing += not keys & {"chip", "host"}
        unknown += "host" in data and not isinstance(data["host"], str)
    if form.family in ("fits", "collectives"):
        missing += not known - {"chip", "link"}
    if form.family == "workload" and data.get("kind", "serving") != "serving":
        unknown += form.kind is Workload
    return matched - 2 * unknown - missing


def _family_of_folder(shown: str) -> str:
    folder = Path(shown.removeprefix("packaged:")).resolve().parent.as_posix()
    fitting = [
        family for family, name in FOLDERS.items() if folder == name or folder.endswith("/" + name)
    ]
    return fitting[0] if fitting else ""
