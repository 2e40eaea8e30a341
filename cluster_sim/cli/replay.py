"""``cluster-sim replay``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.live import Bar
from cluster_sim.cli.options import max_memory, note_shadows, set_machine
from cluster_sim.cli.params import FilePath, Name, Whole
from cluster_sim.cli.rows import end_interrupted, note, print_rows
from cluster_sim.columns import run_id
from cluster_sim.interrupts import EXIT_INTERRUPTED, hold_back, was_interrupted
from cluster_sim.specs.constraints import MOST_CHIPS

if TYPE_CHECKING:
    from cluster_sim.machine.classes import Machine
    from cluster_sim.specs.find import Files
    from cluster_sim.specs.inputs import TopologyInput
    from cluster_sim.training.replay import Replay
    from cluster_sim.training.task_graph import TaskGraph


@click.command()
@click.argument("files", nargs=-1, required=True, type=FilePath(path_type=Path))
@click.option("--topo", type=Name("topology"), required=True, help="Topology, name or file.")
@click.option("--chips", type=Whole(MOST_CHIPS), help="So many chips; a pod grows to it.")
@click.option(
    "--trace-format",
    type=click.Choice(["chakra", "simai", "aicb"]),
    help="Recognised from the content unless given.",
)
@click.option("--ranks", type=Whole(MOST_CHIPS), help="Ranks in all.")
@click.option("--repeat", is_flag=True, help="Ranks without a file do what the first does.")
@click.option("--cut", is_flag=True, help="Nodes may depend on some that were cut off.")
@click.option("--groups", type=FilePath(path_type=Path), help="Ranks of named groups, JSON.")
@click.option(
    "--group-size",
    "sizes",
    multiple=True,
    metavar="GROUP=RANKS",
    help="Ranks of a group that a list of calls does not give.",
)
@click.option("--map", "placed", type=FilePath(path_type=Path), help="Lines 'rank device'.")
@click.option("--unfold", is_flag=True, help="Play every rank of a text workload.")
@click.option("--library", help="nccl, hccl ...; of the chip's vendor unless given.")
@click.option("--ideal-network", is_flag=True, help="Communication takes no time.")
@click.option("--out", type=FilePath(path_type=Path), default=Path("results"), show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--timeline", is_flag=True, help="Write a trace that Perfetto opens.")
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
@set_machine
@max_memory
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def replay(files: tuple[Path, ...], **options: Any) -> None:
    """Play execution traces (Chakra, SimAI, AICB) on a topology."""
    from cluster_sim.output.results import ResultWriter, check_writable

    check_writable(options["out"])
    bar, started = Bar(options["quiet"]), time.perf_counter()
    try:
        topology, machine = _machine(options)
        if not options["quiet"]:
            note_shadows(topology.files)
            for text in machine.notes:
                note(text)
        records: Files = {}
        played = _played(files, options, topology, machine, bar, records)
        hold_back()
    except KeyboardInterrupt:
        bar.close()
        click.echo("Interrupted before the replay itself began: nothing to write.", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        bar.close()
    tables, manifest, text, timeline = _results(files, options, played, records)
    log = {"simulated_s": f"{time.perf_counter() - started:.3f}"}
    row = tables["replay.csv"][1][0]
    folder = ResultWriter(options["out"], note).write_tables(
        tables, manifest, log, timeline, partial=played.partial
    )
    if options["form"] == "table":
        click.echo(text)
        click.echo(f"\nWritten to {folder}")
    else:
        print_rows([row], options["form"])
    if timeline is not None and not options["quiet"]:
        click.echo(f"Timeline: {folder / 'timeline.json.gz'}, {timeline.note}", err=True)
    if was_interrupted() or played.partial:
        end_interrupted(partial=played.partial)


def _machine(options: dict[str, Any]) -> tuple[TopologyInput, Machine]:
    from cluster_sim.errors import counted
    from cluster_sim.machine.build import build_machine
    from cluster_sim.specs.load import load_topology

    chips = options["chips"]
    topology = load_topology(options["topo"], options["overrides"], chips=chips)
    machine = build_machine(topology)
    if chips is not None and chips > machine.chips:
        have = counted(machine.chips, "chip")
        raise click.UsageError(f"--chips {chips}: {machine.name} has {have}")
    return topology, machine


def _played(
    files: tuple[Path, ...],
    options: dict[str, Any],
    topology: TopologyInput,
    machine: Machine,
    bar: Bar,
    records: Files,
) -> Replay:
    from cluster_sim.output.results import check_writable
    from cluster_sim.training.chakra import read_groups
    from cluster_sim.training.replay import replay as play
    from cluster_sim.training.replay_price import Place
    from cluster_sim.training.traces import read_map, read_traces

    chips = options["chips"]
    devices = min(machine.devices, (chips or machine.chips) * machine.devices_per_chip)
    groups = options["groups"]
    graph = read_traces(
        files,
        devices=devices,
        form=options["trace_format"],
        ranks=options["ranks"],
        groups=read_groups(groups, records) if groups else None,
        cut=options["cut"],
        repeat=options["repeat"],
        folded=not options["unfold"],
        most_bytes=options["max_memory"],
        sizes=dict(map(_size, options["sizes"])),
        records=records,
    )
    check_writable(options["out"], f"{_name(graph, files)}@{topology.topology.name}")
    placed = tuple(range(devices))
    if options["placed"]:
        placed = read_map(options["placed"], graph.ranks, records)
    place = Place(
        topology=topology,
        machine=machine,
        devices=placed,
        library=options["library"],
        ideal_network=options["ideal_network"],
    )
    return play(graph, place, bar.update)


def _size(text: str) -> tuple[str, int]:
    """``ep_group=4`` as name and number."""
    group, _, members = text.partition("=")
    if not group or not members.isdecimal() or not 0 < int(members[:9]) < 10**8:
        raise click.UsageError(f"--group-size {text}: write a group and its ranks, as ep_group=4")
    return group.strip(), int(members)


def _results(
    files: tuple[Path, ...], options: dict[str, Any], played: Replay, records: Files
) -> Any:
    """The tables, the manifest, the page and the timeline of a replay."""
    from dataclasses import asdict, fields

    from cluster_sim.origin import origin_of
    from cluster_sim.output.replay_text import replay_report
    from cluster_sim.training.replay_price import roofline_words
    from cluster_sim.training.replay_rows import (
        REPLAY_COLUMNS,
        CollectiveRow,
        RankRow,
        collective_rows,
        notes,
        rank_rows,
        spans,
        totals,
    )

    lanes = spans(played)
    ranks, calls = rank_rows(played, lanes), collective_rows(played)
    graph, topology = played.graph, played.place.topology
    decides = _options(options, played)
    origin = origin_of(topology, data=tuple(records.values()), options=decides)
    name = _name(graph, files)
    found = {
        "run_id": run_id(name, topology.topology.name, origin.config_hash),
        "kind": "replay",
        "topology": topology.topology.name,
        "chip": topology.chip.name,
        "workload": name,
        "form": graph.form,
        "ranks": graph.ranks,
        "folded": graph.folded,
        "nodes": len(graph.nodes),
        "tasks": len(played.tasks),
        **totals(played, ranks),
        "compute_source": roofline_words(graph, topology),
        "ideal_network": played.place.ideal_network,
        "partial": played.partial,
        "config_hash": origin.config_hash,
    }
    row = {column: found[column] for column in REPLAY_COLUMNS}
    manifest = origin.manifest() | {
        "traces": {file.name: records[str(file)].sha256 for file in files},
        "options": decides,
        "notes": list(notes(played)),
        "summary": row,
    }
    tables = {
        "replay.csv": (REPLAY_COLUMNS, [row]),
        "ranks.csv": ([field.name for field in fields(RankRow)], [asdict(one) for one in ranks]),
        "collectives.csv": (
            [field.name for field in fields(CollectiveRow)],
            [asdict(one) for one in calls],
        ),
    }
    timeline = None
    if options["timeline"]:
        from cluster_sim.output.timeline_replay import replay_timeline

        timeline = replay_timeline(lanes, list(graph.files))
    return tables, manifest, replay_report(row, ranks, calls, notes(played)), timeline


def _name(graph: TaskGraph, files: tuple[Path, ...]) -> str:
    """The name of the files without rank and suffix."""
    from cluster_sim.training.chakra import bare_name, rank_of

    first = min(files, key=lambda file: file.name)
    stem = bare_name(first)
    if graph.form == "chakra" and rank_of(first) is not None:
        stem = stem.rstrip("0123456789").rstrip("._-") or stem
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in stem)


def _options(options: dict[str, Any], played: Replay) -> dict[str, Any]:
    """The options that decide the numbers of a replay."""
    graph, place = played.graph, played.place
    return {
        "form": graph.form,
        "ranks": graph.ranks,
        "cut": graph.cut,
        "folded": graph.folded,
        "repeat": options["repeat"],
        "sizes": dict(map(_size, options["sizes"])),
        "groups": {name: parts for name, parts in graph.groups.items() if not graph.folded},
        "devices": list(place.devices[: graph.ranks]),
        "library": place.library,
        "ideal_network": place.ideal_network,
    }
