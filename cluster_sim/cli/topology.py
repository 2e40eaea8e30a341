"""What ``show topology`` and ``check`` do with a topology: build it, print, draw, export."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.text_file import is_file, read_text

if TYPE_CHECKING:
    from cluster_sim.machine.classes import Machine
    from cluster_sim.specs.find import FileRecord
    from cluster_sim.specs.inputs import TopologyInput


def show_topology(
    name: str, overrides: Sequence[str], draw: str | None, export: str | None
) -> None:
    """Print the file and the machine that it makes; draw or export it on request."""
    from cluster_sim.output.drawing import check_picture
    from cluster_sim.output.facts import facts_of
    from cluster_sim.output.files import check_file
    from cluster_sim.output.machine_text import machine_report
    from cluster_sim.specs.load import read

    if draw:
        check_picture(draw, "--draw")
    if export:
        check_file(Path(export), "--export")
    machine, inputs = checked_machine(name, overrides)
    if inputs is None:
        click.echo(f"# {name}")
    else:
        record, data, _ = read("topology", name)
        print_file(record, data)
        for line in facts_of(inputs):
            click.echo(f"# {line}")
    click.echo()
    click.echo(machine_report(machine))
    if draw:
        from cluster_sim.output.drawing import draw as write_picture

        write_picture(machine, draw)
        click.echo(f"Drawn to {draw}", err=True)
    if export:
        _export(machine, export)


def checked_machine(name: str, overrides: Sequence[str]) -> tuple[Machine, TopologyInput | None]:
    """The machine behind a topology or a graph file, and the topology (of a graph: None); raises
    SpecError with all that is wrong.
    """
    from cluster_sim.errors import SpecError
    from cluster_sim.machine.build import build_machine
    from cluster_sim.machine.exchange import load_graph
    from cluster_sim.machine.facts import problems
    from cluster_sim.specs.load import load_topology

    alone = is_graph(name) and not (overrides and is_network(name))
    if alone or (name.endswith(".json") and not is_network(name)):
        if overrides:
            raise click.UsageError("--set and --chips have no effect on a graph file")
        shown, machine, inputs = name, load_graph(name), None
    else:
        inputs = load_topology(name, overrides)
        shown, machine = inputs.files[0].path, build_machine(inputs)
    wrong = problems(machine)
    if wrong:
        raise SpecError([f"{shown}: {problem}" for problem in wrong])
    return machine, inputs


def is_graph(name: str) -> bool:
    """Whether a name is a graph file: JSON with nodes, or YAML with the keys of ASTRA-sim."""
    return is_network(name) or _has(name, r'\A\s*\{(?s:.*)"nodes"\s*:')


def is_network(name: str) -> bool:
    """Whether a name is an ASTRA-sim network, which is a topology once it is given a chip."""
    return _has(name, r"(?:^|[{,])\s*[\"']?npus_count[\"']?\s*:")


def _has(name: str, mark: str) -> bool:
    if not is_file(name):
        return False
    return bool(re.search(mark, read_text(Path(name)), re.MULTILINE))


def print_file(record: FileRecord, data: dict[str, Any]) -> None:
    """A file as it stands, or as resolved with the one that it extends, or from a config."""
    from cluster_sim.specs.astra import is_astra

    click.echo(f"# {record.path}")
    resolved = ""
    if record.path.endswith(".json") and not is_astra(data):
        resolved = "from a Hugging Face config"
    elif re.search(r"^extends:", record.text, re.MULTILINE):
        resolved = "with the file that it extends"
    if resolved:
        import yaml

        click.echo(f"# as resolved {resolved}")
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    else:
        click.echo(record.text.rstrip())


def _export(machine: Machine, file: str) -> None:
    from cluster_sim.machine.exchange import to_node_link
    from cluster_sim.output.files import write_whole

    write_whole(Path(file), to_node_link(machine), "--export")
    click.echo(f"Exported to {file}", err=True)
