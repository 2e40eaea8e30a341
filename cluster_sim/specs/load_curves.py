"""The fitted curves of a chip, with what it borrows from relatives; a chip without a file of curves
borrows from the one whose file its own extends.
"""

from __future__ import annotations

from typing import Any

from cluster_sim.errors import SpecError, UnknownNameError, warn
from cluster_sim.specs.build import Lines, Source, build
from cluster_sim.specs.chip import Chip, Fits
from cluster_sim.specs.find import FOLDERS, FileRecord, names
from cluster_sim.specs.fits import MOST_RELATIVES, borrowed, in_engine, likened, with_watts


def load_fits(
    chip: Chip,
    own: FileRecord | None = None,
    *,
    tdp_w: float | None = None,
    alone: bool = False,
) -> tuple[Fits, tuple[FileRecord, ...]]:
    """The curves of a chip, what it borrows from relatives included, and the files; from another
    file of its own than the one of its name if given. ``tdp_w`` is the TDP that its own watts were
    measured at if that is not the chip's: they go with it. ``alone``: without what engines change.

    Raises SpecError for an unknown relative, a circle, and a chain that is too long.
    """
    data, lender, records, source = _with_relatives(chip, (), own, alone=alone)
    if lender is not chip:
        data = with_watts(data, chip.tdp, lender.tdp)
    elif tdp_w is not None and tdp_w != chip.tdp:
        data = with_watts(data, chip.tdp, tdp_w)
    return build(Fits, data, source), records


def load_own_fits(name: str) -> Fits:
    """The curves of a file by path, or of a chip by name, what it borrows included: of the chip
    that the file is named after, else of the one that it names.
    """
    from cluster_sim.specs.load import load_spec, read

    record, data, _ = read("fits", name)
    named = record.name if record.name in names("chip") else data.get("chip")
    chip = load_spec("chip", str(named or record.name), Chip)[1]
    return load_fits(chip, record)[0]


def base_of(chip: str) -> str:
    """The chip whose file that of another one extends; empty where it stands alone."""
    from cluster_sim.specs.load import read

    try:
        return next((base.name for base in read("chip", chip)[0].more), "")
    except UnknownNameError:
        return ""  # its file was given by path


def _with_relatives(
    chip: Chip, lenders: tuple[str, ...], own: FileRecord | None = None, *, alone: bool = False
) -> tuple[dict[str, Any], Chip, tuple[FileRecord, ...], Source]:
    """The curves in file form, the chip whose watts they have, the files, and the place of the
    first. ``lenders`` are the chips that borrow from this one, nearest last.
    """
    from cluster_sim.specs.load import load_spec, read

    try:
        record, data, lines = _parsed(own) if own else read("fits", chip.name)
    except UnknownNameError:
        base = base_of(chip.name)
        if not base:
            raise SpecError(
                f"{chip.name}: no curves; write {FOLDERS['fits']}/{chip.name}.yaml, for example "
                "with 'borrows: h100_sxm'"
            ) from None
        record, data, lines = read("chip", chip.name)[0], {"borrows": base}, {}
    source = Source(record.path, lines)
    data = _without_sums({"chip": chip.name, **data}, record.path)
    data = data if alone else in_engine(data)
    if not data.get("borrows"):
        return _likened(data, {}, "other", source), chip, (record,), source
    chain = (*lenders, chip.name)
    with source.naming("borrows"):
        found, relative = load_spec("chip", str(data["borrows"]), Chip)
    if relative.name in chain:
        circle = " > ".join((*chain, relative.name))
        raise SpecError(source.problem(("borrows",), f"goes round in a circle: {circle}"))
    if len(chain) > MOST_RELATIVES:
        text = f"the chain {' > '.join((*chain, relative.name))} is too long; borrow from a "
        raise SpecError(source.problem(("borrows",), text + "chip with curves of its own"))
    lent, lender, more, _ = _with_relatives(relative, chain, alone=alone)
    watts_of = chip if "power" in data else lender
    distance = chip.distance(relative)
    data = _likened(data, lent, distance, source)
    return borrowed(data, lent, relative.name, distance), watts_of, (record, *more, found), source


def _without_sums(data: dict[str, Any], shown: str) -> dict[str, Any]:
    """A file of the former version without its curves of collectives."""
    old = [key for key in ("all_reduce", "all_to_all") if key in data]
    if old:
        warn(
            f"{shown}: {' and '.join(old)}: old and without effect; constants of collectives stand "
            f"in {FOLDERS['collectives']}/{data['chip']}.yaml"
        )
    return {key: value for key, value in data.items() if key not in old}


def _parsed(record: FileRecord) -> tuple[FileRecord, dict[str, Any], Lines]:
    from cluster_sim.specs.yaml_text import parse

    return record, *parse(record.text, record.path)


def _likened(
    data: dict[str, Any], relative: dict[str, Any], distance: str, source: Source
) -> dict[str, Any]:
    try:
        return likened(data, relative, distance)
    except ValueError as error:
        raise SpecError(source.problem(*error.args)) from None
