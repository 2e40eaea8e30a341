"""``cluster-sim collective``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.options import max_memory, note_shadows, set_machine
from cluster_sim.cli.params import Amount, FilePath, Name, Whole
from cluster_sim.specs.constraints import MOST_CHIPS, MOST_PARTS, MOST_SEED

if TYPE_CHECKING:
    from cluster_sim.collectives.activity import Call
    from cluster_sim.collectives.group import Group
    from cluster_sim.specs.inputs import TopologyInput
    from cluster_sim.studies.nccl_tests import Measured

# Bytes of an element; nccl-tests calls fp16 half and fp32 float.
ELEMENT_BYTES = {"fp8": 1, "int8": 1, "fp16": 2, "bf16": 2, "fp32": 4, "int32": 4, "fp64": 8}


@click.command()
@click.option("--topo", type=Name("topology"), required=True, help="Topology, name or file.")
@click.option("--chips", type=Whole(MOST_CHIPS), help="Ranks on the first so many chips.")
@click.option("--ranks", metavar="RANGE", help="Ranks on these devices: 0-63, 0-511:8, 0,4,8.")
@click.option("--op", default="all_reduce", show_default=True, help="Operation.")
@click.option("--bytes", "sizes", default="1KiB..16GiB", show_default=True, help="Sizes.")
@click.option("--dtype", type=click.Choice([*ELEMENT_BYTES]), default="fp32", show_default=True)
@click.option("--library", help="nccl, trtllm_custom, deepep_normal, hccl ...")
@click.option("--algo", help="Force an algorithm: ring, tree, nvls ...")
@click.option("--proto", help="Force a protocol: LL, LL128, Simple.")
@click.option("--sharp", is_flag=True, help="The switches of the fabric reduce.")
@click.option("--top-k", type=Whole(MOST_PARTS), help="Experts of a token.")
@click.option("--experts", type=Whole(MOST_PARTS), help="Experts in all.")
@click.option("--node-limit", type=Whole(MOST_PARTS), help="Nodes that a token goes to.")
@click.option("--imbalance", type=Amount(1, 1000), help="Fullest rank over the mean.")
@click.option("--seed", type=Whole(MOST_SEED, 0), default=0, help="Seed of hashed paths.")
@click.option("--background", multiple=True, metavar="SPEC", help="Other traffic at the same time.")
@click.option(
    "--against",
    type=FilePath(path_type=Path),
    help="Compare with output of nccl-tests or the like.",
)
@click.option("--plot", metavar="FILE", help="Draw the curve: .svg, .html or .png.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@set_machine
@max_memory
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def collective(**options: Any) -> None:
    """Time a collective over message sizes, as nccl-tests would print it."""
    from cluster_sim.errors import counted
    from cluster_sim.memory_need import check_collective_memory
    from cluster_sim.output.collective_text import (
        constants_text,
        csv_text,
        curve,
        errors_text,
        json_text,
        table,
    )
    from cluster_sim.output.drawing import check_picture, save
    from cluster_sim.output.wrapping import fill
    from cluster_sim.perf.background import background, parse_sizes
    from cluster_sim.studies.collective import sweep_sizes

    if options["plot"]:
        check_picture(options["plot"], "--plot")
    topology, group = _group(options)
    _refuse_without_effect(options, group)
    call = _call(options).resolved(group)
    check_collective_memory(group.shape.ranks, call.operation, options["max_memory"])
    measured = _measured(options, call.operation, group.shape.ranks)
    sizes = parse_sizes(options["sizes"], ELEMENT_BYTES[options["dtype"]])
    if measured:
        sizes = [case.size_bytes for case in measured]
    beside = [one for text in options["background"] for one in background(topology, group, text)]
    rows = sweep_sizes(group, call, sizes, beside)
    title = f"{call.operation} on {counted(group.shape.ranks, 'rank')} of {topology.topology.name}"
    if options["form"] == "csv":
        click.echo(csv_text(rows), nl=False)
    elif options["form"] == "json":
        click.echo(json_text(rows))
    else:
        click.echo(fill(f"{title}, {call.library}: {_where(group)}", rest="  "))
        click.echo(errors_text(rows, measured) if measured else table(rows, shared=bool(beside)))
        click.echo(constants_text(rows))
    if options["plot"]:
        save(title, curve(rows, title), options["plot"], "--plot")
        click.echo(f"Drawn to {options['plot']}", err=True)


def _group(options: dict[str, Any]) -> tuple[TopologyInput, Group]:
    from cluster_sim.collectives.group import make_group
    from cluster_sim.errors import counted
    from cluster_sim.machine.build import build_machine
    from cluster_sim.perf.background import parse_ranks
    from cluster_sim.specs.load import load_topology

    chips = options["chips"]
    topology = load_topology(options["topo"], options["overrides"], chips=chips, shrink=False)
    note_shadows(topology.files)
    machine = build_machine(topology)
    for note in machine.notes:
        click.echo(f"Note: {note}", err=True)
    if options["chips"] is not None and options["ranks"] is not None:
        raise click.UsageError("--chips and --ranks exclude each other: each says where ranks are")
    if options["ranks"] is not None:
        devices = parse_ranks(options["ranks"], machine.devices)
    else:
        chips = chips or machine.chips
        if chips > machine.chips:
            raise click.UsageError(
                f"--chips {chips}: {machine.name} has {counted(machine.chips, 'chip')}; "
                f"a larger machine is --set topology.chips={chips}"
            )
        devices = list(range(chips * machine.devices_per_chip))
    if len(devices) == 1:
        way_out = "give two ranks or more" if machine.devices > 1 else "take a larger topology"
        raise click.UsageError(f"one rank alone has nobody to exchange with; {way_out}")
    return topology, make_group(topology, devices, machine=machine, sharp=options["sharp"])


def _refuse_without_effect(options: dict[str, Any], group: Group) -> None:
    """What no price reads, and what only ranks of several domains do: hashed paths, and switches
    between domains.
    """
    from click.core import ParameterSource

    from cluster_sim.specs.effects import refuse_idle_links
    from cluster_sim.specs.load import split_overrides

    parts = split_overrides(options["overrides"])
    given_keys = [[root, *keys] for root in ("topology", "chip") for keys, _ in parts[root]]
    if not options["background"]:
        refuse_idle_links(given_keys, spans=group.shape.domains > 1)
    if group.shape.domains > 1:
        return
    source = click.get_current_context().get_parameter_source("seed")
    seeded = source is ParameterSource.COMMANDLINE and not options["background"]
    for flag, given in (("--sharp", options["sharp"]), ("--seed", seeded)):
        if given:
            raise click.UsageError(f"{flag} has no effect: the ranks lie in one scale-up domain")


def _call(options: dict[str, Any]) -> Call:
    from cluster_sim.collectives.activity import Call
    from cluster_sim.collectives.experts import Routing

    names = ("top_k", "experts", "node_limit", "imbalance")
    given = {name: options[name] for name in names if options[name] is not None}
    if given and not options["op"].startswith("moe"):
        first = next(iter(given)).replace("_", "-")
        raise click.UsageError(f"--{first} has no effect on {options['op']}; use --op moe_dispatch")
    routing = Routing(**given)
    if routing.top_k > routing.experts:
        raise click.UsageError(f"--top-k {routing.top_k}: there are {routing.experts} experts")
    return Call(
        operation=options["op"],
        library=options["library"],
        algorithm=options["algo"],
        protocol=options["proto"],
        routing=routing,
        seed=options["seed"],
    )


def _measured(options: dict[str, Any], operation: str, ranks: int) -> list[Measured]:
    """The rows of ``--against`` that are of the operation, by size; says where ranks differ."""
    from cluster_sim.studies.nccl_tests import parse_nccl_tests
    from cluster_sim.text_file import read_text

    file = options["against"]
    if file is None:
        return []
    found = parse_nccl_tests(read_text(file), str(file))
    rows = [row for row in found if row.operation in ("", operation)]
    if not rows:
        others = list(dict.fromkeys(row.operation for row in found))
        raise click.UsageError(
            f"--against {file}: holds {', '.join(others)}, not {operation}; add --op {others[0]}"
        )
    other = sorted({row.ranks for row in rows} - {0, ranks})
    if other:
        click.echo(
            f"Note: {file} is of {other[0]} ranks, simulated are {ranks}; choose them with --chips "
            "or --ranks",
            err=True,
        )
    return sorted(rows, key=lambda row: row.size_bytes)


def _where(group: Group) -> str:
    shape = group.shape
    domains = f"{shape.domains} domain" + ("s" if shape.domains > 1 else "")
    rates = f"{shape.link_bytes_per_s / 1e9:g} GB/s a rank inside"
    if shape.domains > 1:
        rates += f", {shape.nic_bytes_per_s / 1e9:g} GB/s out"
    return f"{domains}, {rates}"
