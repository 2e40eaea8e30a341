"""``cluster-sim check``: what a run would read of a file, with every problem of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cluster_sim.cli.topology import checked_machine
from cluster_sim.specs.find import FOLDERS, find, names

SPECS = tuple(FOLDERS)
DATA = ("trace", "execution-trace", "cases", "nccl-tests")
# A name alone is none of the others: chips have the same.
NAMED = tuple(family for family in SPECS if family not in ("fits", "collectives"))


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--as", "kind", type=click.Choice([*SPECS, *DATA]), help="Kind of the files.")
def check(files: tuple[str, ...], kind: str | None) -> None:
    """Check files (or names) of any kind and print every problem."""
    from cluster_sim.errors import ClusterSimError

    problems = 0
    for file in files:
        try:
            found = kind or _kind_of(file)
            words = _data_in_words(found, Path(file)) if found in DATA else ""
            if not words:
                load_checked(found, os.path.join(".", file) if _lies_here(file) else file)
        except ClusterSimError as error:
            problems += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"{file}: ok ({words or found})")
    if problems:
        raise SystemExit(2)


def load_checked(family: str, name: str) -> Any:
    """A file of a family as what a run would read; raises every problem of it."""
    import cluster_sim.serving.router
    import cluster_sim.serving.scheduler  # noqa: F401  # they enter the names that files may have
    from cluster_sim.specs.chip import Chip
    from cluster_sim.specs.collective_fits import load_collective_fits
    from cluster_sim.specs.load import kind_of, load_spec, load_workload
    from cluster_sim.specs.load_curves import load_own_fits
    from cluster_sim.specs.model import Model
    from cluster_sim.specs.software import Software
    from cluster_sim.specs.training_software import TrainingSoftware
    from cluster_sim.training.job import check_training

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


def _data_in_words(kind: str, path: Path) -> str:
    """What a trace or a table of measurements holds; raises every problem of it."""
    from cluster_sim.errors import counted

    if kind == "trace":
        from cluster_sim.serving.trace_rows import TraceOptions
        from cluster_sim.serving.traces import read_trace

        requests = read_trace(path, None, TraceOptions())
        return f"{kind}, {counted(len(requests.isl), 'request')}"
    if kind == "execution-trace":
        from cluster_sim.training.traces import read_traces

        graph = read_traces([path], devices=None)
        nodes = counted(len(graph.nodes), "node")
        return f"{kind}, {graph.form}, {counted(graph.ranks, 'rank')}, {nodes}"
    if kind == "cases":
        from cluster_sim.studies.recognise import count_cases

        return f"{kind}, {counted(count_cases(path), 'value')}"
    from cluster_sim.studies.nccl_tests import parse_nccl_tests
    from cluster_sim.text_file import read_text

    rows = parse_nccl_tests(read_text(path), str(path))
    operations = [row.operation for row in rows if row.operation]
    return ", ".join([kind, *dict.fromkeys(operations), counted(len(rows), "row")])


def _kind_of(file: str) -> str:
    """The kind of a name, of an inline topology, or of a file."""
    from cluster_sim.errors import UnknownNameError
    from cluster_sim.specs.inline import is_inline
    from cluster_sim.studies.recognise import kind_of_file

    for family in NAMED:
        if file in names(family):
            return family
    if os.path.exists(file):
        return kind_of_file(Path(file))
    if "/" in file or Path(file).suffix in (".yaml", ".yml", ".json"):
        find("workload", file)  # raises: there is no such file
    if is_inline(file):
        return "topology"
    for family in NAMED:
        try:
            find(family, file)
        except UnknownNameError:
            continue
        return family
    raise _unknown(file)


def _lies_here(name: str) -> bool:
    """Whether a name without a path is that of a file here, and of nothing else."""
    return "/" not in name and os.path.exists(name) and not any(name in names(f) for f in NAMED)


def _unknown(name: str) -> Exception:
    """A name of no family, with the nearest of all."""
    from cluster_sim.errors import SpecError, meant

    known = sorted({known for family in NAMED for known in names(family)})
    hint = meant(name, known) or "."
    return SpecError(f"nothing is named '{name}'{hint} A file is given by its path: ./{name}")
