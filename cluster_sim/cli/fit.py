"""``cluster-sim fit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.options import WEIGHTS, model_like, note_shadows
from cluster_sim.cli.params import Name, Whole
from cluster_sim.errors import SpecError
from cluster_sim.specs.constraints import MOST_CHIPS, MOST_TOKENS

if TYPE_CHECKING:
    from cluster_sim.specs.load_fit import FitInput

CHIPS = 8  # of a grid that says nothing else, where the chip says nothing of its host
LENGTH = 8192  # tokens


@click.command()
@click.option("--model", type=Name("model"), required=True, help="Model, name or config.json.")
@model_like
@click.option("--chip", type=Name("chip"), required=True, help="Chip, name or file.")
@click.option("--chips", type=Whole(MOST_CHIPS), help="Chips at most (default: of a host).")
@click.option("--software", multiple=True, type=Name("software"), help="Engine; may be repeated.")
@click.option("--tp", multiple=True, type=Whole(MOST_CHIPS), help="TP; may be repeated.")
@click.option("--precision", multiple=True, type=click.Choice(WEIGHTS), help="Of weights.")
@click.option("--length", type=Whole(MOST_TOKENS), help="Tokens of a sequence that is counted.")
@click.option("--max-model-len", type=Whole(MOST_TOKENS), help="Longest that engines take.")
@click.option("--set", "overrides", multiple=True, metavar="ENGINE.KEY=VALUE", help="Engine, chip.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def fit(**options: Any) -> None:
    """Show whether a model fits: weights, cache, and whether the engine starts.

    Without --software the engine that a run takes, without --precision the model's own and the
    narrower ones that the chip has, without --tp all powers of two.
    """
    from cluster_sim.kernels.layout import Layout
    from cluster_sim.output.memory_text import csv_text, json_text, page
    from cluster_sim.specs.load_fit import load_fit
    from cluster_sim.studies.memory_grid import layouts_of, memory_grid, precisions_of

    most = options["max_model_len"]
    inputs = load_fit(
        options["model"],
        options["chip"],
        options["software"],
        options["overrides"],
        {} if most is None else {"max_model_len": most},
        like=options["model_like"],
    )
    note_shadows(inputs.files)
    chip, model = inputs.chip, inputs.model
    degrees = list(dict.fromkeys(options["tp"]))
    devices = _devices(inputs, options["chips"], degrees)
    rows = memory_grid(
        chip,
        model,
        inputs.engines,
        devices=devices,
        precisions=list(dict.fromkeys(options["precision"])) or precisions_of(chip, model),
        layouts=[Layout(tp=tp) for tp in degrees] or layouts_of(model, devices),
        length=_length(inputs, options["length"]),
    )
    show = {"csv": csv_text, "json": json_text}
    if options["form"] in show:
        click.echo(show[options["form"]](rows).rstrip("\n"))
    else:
        click.echo(page(chip, model, rows))


def _devices(inputs: FitInput, chips: int | None, degrees: list[int]) -> int:
    """Devices of the chips that were given, or of a host; as many as a plan that was asked for.

    Raises SpecError for a plan that is larger than the chips that were given.
    """
    chip = inputs.chip
    devices = (chips or (chip.host.chips if chip.host else CHIPS)) * chip.devices_per_chip
    widest = max(degrees, default=1)
    if chips is not None and widest > devices:
        raise SpecError(f"--tp {widest}: more than the {devices} devices of --chips {chips}")
    return max(devices, widest)


def _length(inputs: FitInput, length: int | None) -> int:
    """Tokens of a sequence that is counted; raises SpecError for one that an engine refuses."""
    longest = {software.name: software.longest(inputs.model) for software in inputs.engines}
    name, shortest = min(longest.items(), key=lambda item: item[1])
    if length is not None and length > shortest:
        raise SpecError(
            f"--length {length:,}: {name} takes sequences up to {shortest:,} tokens; "
            "shorten it or raise --max-model-len"
        )
    return length or min(LENGTH, shortest)
