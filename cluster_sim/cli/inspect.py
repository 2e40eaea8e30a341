"""Commands that look at inputs: list, show, explain, schema."""

from __future__ import annotations

from typing import Any

import click

from cluster_sim.cli.again import Remembering, next_line
from cluster_sim.cli.check import SPECS, load_checked
from cluster_sim.cli.options import (
    model_like,
    note_shadows,
    resolve_inputs,
    run_options,
    set_machine,
)
from cluster_sim.cli.params import FilePath, Whole
from cluster_sim.cli.topology import print_file, show_topology
from cluster_sim.cli.training import is_training, resolve_training
from cluster_sim.specs.constraints import MOST_CHIPS
from cluster_sim.specs.find import chip_marks, names

FAMILIES = {
    "topologies": "topology",
    "chips": "chip",
    "models": "model",
    "workloads": "workload",
    "software": "software",
    "training": "training",
}


@click.command("list")
@click.argument("family", required=False, type=click.Choice(list(FAMILIES)))
def list_names(family: str | None) -> None:
    """List the names of topologies, chips, models, workloads, software and training profiles.

    Behind a chip stand its status unless it ships, and what a run of it lacks.
    """
    for plural, singular in FAMILIES.items():
        if family in (None, plural):
            indent = ""
            if family is None:
                click.echo(f"{plural}:")
                indent = "  "
            marks = chip_marks() if singular == "chip" else dict.fromkeys(names(singular), "")
            width = max(map(len, marks), default=0)
            for name, mark in marks.items():
                click.echo(indent + (f"{name:{width}}  {mark}" if mark else name))


@click.command()
@click.argument("family", type=click.Choice([*FAMILIES.values()]))
@click.argument("name")
@click.option("--draw", type=FilePath(), help="Draw a topology: FILE.svg, .html or .png.")
@click.option("--export", type=FilePath(), help="Write a topology as node-link JSON.")
@click.option("--chips", type=Whole(MOST_CHIPS), help="A pod of so many chips.")
@model_like
@set_machine
def show(
    family: str,
    name: str,
    draw: str | None,
    export: str | None,
    chips: int | None,
    model_like: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Show a file of a family, checked, with its sources; of chips, topologies and models also
    figures that follow from it.

    A topology may be a graph too: node-link JSON, or an ASTRA-sim network file.
    """
    from cluster_sim.output.facts import facts_of
    from cluster_sim.specs.load import read
    from cluster_sim.specs.load_model import load_model, read_like

    if model_like is not None and family != "model":
        raise click.UsageError("--model-like has no effect: only models are like others")
    if family == "topology":
        changes = [*overrides, *([f"topology.chips={chips}"] if chips else [])]
        show_topology(name, changes, draw, export)
        return
    for option, given in (
        ("--draw", draw),
        ("--export", export),
        ("--chips", chips),
        ("--set", overrides),
    ):
        if given:
            raise click.UsageError(f"{option} has no effect: only topologies are machines")
    if model_like is not None:
        record, data = read_like(name, model_like)
        spec = load_model(name, model_like)[1]
    else:
        spec = load_checked(family, name)
        record, data, _ = read(family, name)
    print_file(record, data)
    for line in facts_of(spec):
        click.echo(f"# {line}")


@click.command(cls=Remembering)
@run_options
def explain(**options: Any) -> None:
    """Show how the numbers of a run come about: plan, memory, price of a step."""
    from cluster_sim.cli.run import run
    from cluster_sim.output.explain import explain_run

    if options["until"]:
        raise click.UsageError("--until has no effect on explain: it shows one step; leave it out")
    if is_training(options):
        from cluster_sim.output.train_tables import explain_training
        from cluster_sim.train import train

        inputs, given, _ = resolve_training(options)
        note_shadows((*inputs.files, *given.files))
        _, facts = train(inputs, given)
        click.echo(f"{explain_training(facts)}\n{next_line(run)}")
        return
    machine, job, economics = resolve_inputs(options)
    note_shadows((*machine.files, *job.files))
    skip = options["skip_bad_rows"]
    click.echo(f"{explain_run(machine, job, economics, skip_bad_rows=skip)}\n\n{next_line(run)}")


@click.command()
@click.argument("family", type=click.Choice(SPECS))
def schema(family: str) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    import json

    from cluster_sim.specs.schema import json_schema

    click.echo(json.dumps(json_schema(family), indent=1))
