"""``cluster-sim check``: what a run would read of a file, with every problem of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster_sim.cli.topology import checked_machine, is_graph
from cluster_sim.specs.find import FOLDERS, HUGGING_FACE_FILE, find, names
from cluster_sim.text_file import is_file

CHECKED = ("topology", "chip", "model", "workload", "software", "training", "fits", "collectives")
# A name alone is none of the others: chips have the same.
NAMED = tuple(family for family in CHECKED if family not in ("fits", "collectives"))
assert set(CHECKED) == set(FOLDERS)


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--as", "family", type=click.Choice(CHECKED), help="Kind of the files.")
def check(files: tuple[str, ...], family: str | None) -> None:
    """Check files (or names) and print every problem."""
    from cluster_sim.errors import ClusterSimError

    problems = 0
    for file in files:
        try:
            kind = family or _family_of(file)
            load_checked(kind, file)
        except ClusterSimError as error:
            problems += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"{file}: ok ({kind})")
    if problems:
        raise SystemExit(2)


def load_checked(family: str, name: str) -> Any:
    """A file of a family as what a run would read; raises every problem of it."""
    import cluster_sim.serving.router
    import cluster_sim.serving.scheduler  # noqa: F401  # they enter the names that files may have
    from cluster_sim.specs.chip import Chip
    from cluster_sim.specs.collective_fits import load_collective_fits
    from cluster_sim.specs.load import load_own_fits, load_spec, load_workload
    from cluster_sim.specs.load_training import check_training, kind_of
    from cluster_sim.specs.model import Model
    from cluster_sim.specs.software import Software
    from cluster_sim.specs.training_software import TrainingSoftware

    kinds: dict[str, type[Any]] = {"chip": Chip, "model": Model, "software": Software}
    kinds["training"] = TrainingSoftware
    if family == "topology":
        return checked_machine(name, [])[1]
    if family == "workload":
        return check_training(name) if kind_of(name) == "training" else load_workload(name)
    if family == "fits":
        return load_own_fits(name)
    if family == "collectives":
        return load_collective_fits(name)
    return load_spec(family, name, kinds[family])[1]


def _family_of(file: str) -> str:
    """The family of a name, of an inline topology, or of a file."""
    from cluster_sim.errors import UnknownNameError
    from cluster_sim.specs.inline import is_inline
    from cluster_sim.specs.kinds import family_of_text

    for family in NAMED:
        if file in names(family):
            return family
    if (file.endswith(".json") and not is_graph(file)) or is_file(Path(file, HUGGING_FACE_FILE)):
        return "model"
    if is_graph(file) or (is_inline(file) and not _is_file(file)):
        return "topology"
    if not _is_file(file):
        for family in NAMED:
            try:
                find(family, file)
            except UnknownNameError:
                continue
            return family
        raise _unknown(file)
    return family_of_text(find("workload", file))


def _is_file(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _unknown(name: str) -> Exception:
    """A name of no family, with the nearest of all."""
    from cluster_sim.errors import SpecError, meant

    known = sorted({known for family in NAMED for known in names(family)})
    hint = meant(name, known) or "."
    return SpecError(f"nothing is named '{name}'{hint} A file is given by its path: ./{name}")
