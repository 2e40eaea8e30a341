"""From names, files and options to the frozen dataclasses of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError, warn
from cluster_sim.specs import astra
from cluster_sim.specs.build import Lines, Source, Spec, build, hint_at
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.collective_fits import find_collective_fits
from cluster_sim.specs.constraints import MOST_CHIPS, is_count
from cluster_sim.specs.effects import (
    refuse_idle_economics,
    refuse_idle_facts,
    refuse_idle_keys,
    refuse_idle_money,
)
from cluster_sim.specs.engine_settings import (
    apply_engine,
    rename_old_overhead,
    rename_old_steps,
    rename_old_sums,
)
from cluster_sim.specs.engines import engine_for, exists, refuse
from cluster_sim.specs.find import FileRecord, Files, beside, find, read_data
from cluster_sim.specs.inline import with_chip_facts
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load_curves import base_of, load_fits
from cluster_sim.specs.load_model import load_model
from cluster_sim.specs.pod import merge, with_chips, with_host
from cluster_sim.specs.software import Software
from cluster_sim.specs.topology import Topology
from cluster_sim.specs.workload import Economics, Workload
from cluster_sim.text_file import decoded
from cluster_sim.units import parse_quantity

ROOTS = ("topology", "chip", "workload", "plan", "engine", "economics")


def load_topology(
    name: str, overrides: Sequence[str] = (), *, chips: int | None = None, shrink: bool = True
) -> TopologyInput:
    """A topology by name, path or inline text (``4 x h200_sxm``), with its chip, curves and
    constants of collectives; ``overrides`` are texts with the roots topology. and chip. A pod
    gets so many ``chips``, without ``shrink`` only if it has fewer. An ASTRA-sim network is a
    topology once ``topology.chip`` is set.
    """
    record, data, lines = read("topology", name)
    source, parts = Source(record.path, lines), split_overrides(overrides)
    network = astra.is_astra(data)
    if network:
        keys = [keys for keys, _ in parts["topology"]]
        data, source = astra.as_topology(data, lines, record.path, keys), Source(record.path, {})
    refuse_graph(data, record.path)
    if any(keys == ["chips"] for keys, _ in parts["topology"]):
        data.pop("hosts", None)
    apply_overrides(data, parts, "topology", source)
    data, host_records = with_host(data, source.problem)
    if network:
        astra.check_chip(record.path, data.get("chip"))
    if not isinstance(data.get("chip"), str):
        build(Topology, data, source, record.name)  # raises, with all other problems
    with source.naming("chip"):
        chip_record, facts, chip_lines = read("chip", data["chip"])
    chip_source = Source(chip_record.path, chip_lines)
    refuse_idle_facts([keys for keys, _ in parts["chip"]])
    file_tdp = facts.get("tdp")
    change_chip(facts, parts, chip_source)
    chip = build(Chip, facts, chip_source, chip_record.name)
    if chip.scale_up is None and "scale_up" not in data:
        raise SpecError(
            f"{record.path}: the file of {chip.name} gives no scale-up links; "
            "write a topology with scale_up"
        )
    whole = with_chips(data, chip, source.problem)
    if chips is not None and whole.get("fabric") is not None and _resized(whole, chips, shrink):
        if network:
            astra.refuse_keys(record.path, [["chips"]])
        whole = with_chips(_sized(data, chips, source), chip, source.problem)
    data = with_chip_facts(whole, chip, facts)
    if network:
        astra.check_host(record.path, chip, data)
    topology = build(Topology, data, source, record.name)
    graph = _graph(topology, record, source)
    tdp_w = _watts(file_tdp)
    fits, fits_records = load_fits(chip, tdp_w=tdp_w)
    drawn = () if graph is None or graph is record else (graph,)
    lender = fits.borrows or base_of(chip.name)
    collectives, collectives_records = find_collective_fits(chip.name, lender)
    return TopologyInput(
        topology=topology,
        chip=chip,
        fits=fits,
        alone=load_fits(chip, tdp_w=tdp_w, alone=True)[0],
        collectives=collectives,
        graph=graph,
        files=(record, *host_records, chip_record, *fits_records, *collectives_records, *drawn),
    )


def _resized(data: Mapping[str, Any], chips: int, shrink: bool) -> bool:
    """Whether a pod gets so many chips; one with a wrong number is refused as it is."""
    return shrink or (is_count(data.get("chips"), MOST_CHIPS) and chips > data["chips"])


def _sized(data: Mapping[str, Any], chips: int, source: Source) -> dict[str, Any]:
    """The mapping of a pod with so many chips, in place of its hosts unless those are asked for."""
    kept = {key: v for key, v in data.items() if key != "hosts" or "hosts" in source.options}
    source.options["chips"] = "--chips"
    return {**kept, "chips": chips}


def _graph(topology: Topology, record: FileRecord, source: Source) -> FileRecord | None:
    """The file of the graph that the fabric is, with its text; None for a fabric in counts."""
    fabric = topology.fabric
    if fabric is None or fabric.kind != "graph":
        return None
    if fabric.file == record.path:  # an ASTRA-sim network is both
        return record
    path = Path(fabric.file)
    try:
        if not os.path.lexists(path):
            raise SpecError(f"{fabric.file}: no such file")
        found: Files = {}
        text = decoded(read_data(path, found), fabric.file)
        return replace(found[str(path)], path=fabric.file, text=text)
    except SpecError as error:
        raise SpecError([source.problem(("fabric", "file"), p) for p in error.problems]) from None


def refuse_graph(data: Mapping[str, Any], shown: str) -> None:
    """Raise SpecError for a node-link graph, which says neither chip nor scale-up links."""
    if "nodes" in data and {"edges", "links"} & data.keys():
        raise SpecError(
            f"{shown}: is a graph of nodes and links, which names no chip; write a topology with "
            f"chip, chips and fabric: {{kind: graph, file: {shown}}}"
        )


def _watts(text: object) -> float | None:
    """The watts of a text in file form; None for anything else."""
    try:
        return parse_quantity(text, "power")
    except ValueError:
        return None


def kind_of(name: str) -> str:
    """Whether a workload is one of serving or of training."""
    kind = read("workload", name)[1].get("kind", "serving")
    return kind if isinstance(kind, str) else "serving"


def load_workload(
    name: str,
    overrides: Sequence[str] = (),
    replacements: Mapping[str, Any] | None = None,
    *,
    vendor: str = "NVIDIA",
) -> WorkloadInput:
    """A workload by name or path, with model and software profile.

    ``overrides`` are texts with the roots workload., plan. and engine.; ``replacements`` maps
    dotted keys of the workload to values as a file would hold them (what command-line options
    become). ``vendor``: whose chips it is for, on which software that is not named depends; on
    others ``WorkloadInput.on`` chooses again.
    """
    record, data, lines = read("workload", name)
    source = Source(record.path, lines)
    if data.get("kind", "serving") != "serving":
        raise SpecError(f"{record.path}: is a workload of {data['kind']}, not of serving")
    for key, value in (replacements or {}).items():
        assign(data, key.split("."), value)
        source.options[key] = _option_of(key, value)
    parts = split_overrides(overrides)
    for root, inside in (("workload", ()), ("plan", ("plan",)), ("engine", ("engine",))):
        apply_overrides(data, parts, root, source, inside)
    _name_trace(data, source)
    workload = build(Workload, data, source, record.name)
    with source.naming("model"):
        model_record, model = load_model(workload.model, workload.model_like)
    with source.naming("software"):
        software_record, software = _software_on(workload, vendor)
    job = WorkloadInput(
        workload=workload,
        model=model,
        software=software,
        files=(record, model_record, software_record),
        choose=software_on,
    )
    refuse_idle_keys(source.options, job)
    return job


def _option_of(key: str, value: Any) -> str:
    """The option of the command line that sets a key."""
    root, _, rest = key.partition(".")
    if root == "slo":
        return "--slo"
    if key == "arrivals" and isinstance(value, dict) and "trace" in value:
        return "--trace"
    if key == "arrivals" and isinstance(value, dict):
        own = {"open": "--rate", "closed": "--concurrency"}
        return own.get(str(value.get("kind")), key)
    return f"--{(rest or root).replace('_', '-')}"


def _name_trace(data: dict[str, Any], source: Source) -> None:
    """Call the traffic after the file of its trace where whoever gives the trace gives no name."""
    arrivals = data.get("arrivals")
    trace = arrivals.get("trace") if isinstance(arrivals, dict) else None
    if trace is None:
        return
    given, named = bool({"arrivals", "arrivals.trace"} & set(source.options)), False
    if not given:
        given, named = ("arrivals", "trace") in source.lines, ("traffic",) in source.lines
    named = named or "traffic" in source.options
    if given and not named and isinstance(trace, str):
        data["traffic"] = os.path.basename(os.path.normpath(trace))


def software_on(workload: Workload, vendor: str) -> tuple[FileRecord, Software]:
    """The profile that a workload's software stands for on a vendor's chips, its engine settings
    applied; raises SpecError where it does not exist there.
    """
    record, software = _software_on(workload, vendor)
    if not exists(software.vendors, vendor):
        raise refuse(software.name, vendor)
    return record, software


def _software_on(workload: Workload, vendor: str) -> tuple[FileRecord, Software]:
    record, data, lines = read("software", engine_for(workload.software, vendor))
    software = build(Software, data, Source(record.path, lines), record.name)
    return record, apply_engine(software, data, workload)


def load_economics(
    overrides: Sequence[str] = (), machine: TopologyInput | None = None
) -> Economics:
    """Prices and power around the chips: defaults with ``economics.key=value`` applied. Raises
    SpecError for keys that change nothing, as far as that can be told without the machine.
    """
    data: dict[str, Any] = {}
    source = Source("--set economics", {})
    apply_overrides(data, split_overrides(overrides), "economics", source)
    bare = data.get("electricity")
    if isinstance(bare, int | float) and not isinstance(bare, bool):
        data["electricity"] = f"{bare!r} USD/kWh"
        option = "--set economics.electricity"
        warn(f"{option}: write '{data['electricity']}'; the next version refuses bare numbers")
    economics = build(Economics, data, source)
    refuse_idle_economics(economics, source.options)
    if machine is not None:
        chip_keys = [keys for keys, _ in split_overrides(overrides)["chip"]]
        refuse_idle_money(machine, economics, source.options, chip_keys)
    return economics


def load_spec(family: str, name: str, kind: type[Spec]) -> tuple[FileRecord, Spec]:
    """One file of a family as its dataclass."""
    record, data, lines = read(family, name)
    return record, build(kind, data, Source(record.path, lines), record.name)


def read(family: str, name: str) -> tuple[FileRecord, dict[str, Any], Lines]:
    """A file's record, its mapping and the lines of its keys; ``extends: other`` is merged, one
    level deep. A model may be a Hugging Face config.
    """
    from cluster_sim.specs.yaml_text import parse

    record = find(family, name)
    if family == "model" and (record.path.endswith(".json") or record.text.lstrip()[:1] == "{"):
        from cluster_sim.specs import checkpoint, hugging_face

        files = beside(record, checkpoint.BESIDE)
        record = replace(record, more=tuple(files.values()))
        return record, hugging_face.parse(record.text, record.path, record.name, files), {}
    data, lines = parse(record.text, record.path)
    if family == "software":
        rename_old_steps(data, record.path)
        rename_old_overhead(data, record.path)
        rename_old_sums(data, record.path)
    base = data.pop("extends", None)
    if base is None:
        return record, data, lines
    if not isinstance(base, str):
        line = lines[("extends",)]
        raise SpecError(f"{record.path}:{line}: extends: must be a name (got {base!r})")
    with Source(record.path, lines).naming("extends"):
        parent = find(family, base)
    merged, _ = parse(parent.text, parent.path)
    if "extends" in merged:
        raise SpecError(
            f"{record.path}: extends: '{base}' extends another file itself; one level only"
        )
    return replace(record, more=(parent,)), merge(merged, data), lines


def split_overrides(overrides: Sequence[str]) -> dict[str, list[tuple[list[str], str]]]:
    """``root.key=value`` texts by root: key path and value text; raises SpecError for anything
    else.
    """
    parts: dict[str, list[tuple[list[str], str]]] = {root: [] for root in ROOTS}
    for text in overrides:
        key, equals, value = text.partition("=")
        root, dot, inside = key.strip().partition(".")
        if not equals or not dot or not inside:
            raise SpecError(f"--set {text}: write root.key=value, for example plan.tp=4")
        if root not in parts:
            raise SpecError(
                f"--set {key}: unknown root '{root}'{hint_at(root, ROOTS)}; "
                f"roots are {', '.join(ROOTS)}"
            )
        parts[root].append((inside.split("."), value.strip()))
    return parts


def apply_overrides(
    data: dict[str, Any],
    parts: Mapping[str, list[tuple[list[str], str]]],
    root: str,
    source: Source,
    inside: tuple[str, ...] = (),
) -> None:
    """Put the values of ``--set root.key=value`` into a mapping; raises SpecError."""
    from cluster_sim.specs.yaml_text import parse

    for keys, text in parts[root]:
        dotted = ".".join(keys)
        option = f"--set {root}.{dotted}"
        value = parse(f"value: {text or '~'}", option)[0]["value"]
        try:
            assign(data, [*inside, *keys], value)
        except TypeError:
            raise SpecError(f"{option}: '{keys[0]}' has no keys below it") from None
        source.options[".".join([*inside, *keys])] = option


def change_chip(
    facts: dict[str, Any], parts: Mapping[str, list[tuple[list[str], str]]], source: Source
) -> None:
    """Put the overrides of a chip into its facts. Of another capacity a process sees the share that
    it sees of others, unless that is said too.
    """
    apply_overrides(facts, parts, "chip", source)
    changed = [keys for keys, _ in parts["chip"]]
    if ["memory", "capacity"] in changed and ["memory", "visible"] not in changed:
        facts["memory"].pop("visible", None)


def assign(data: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a nested key; raises TypeError where something on the way has no keys."""
    for key in keys[:-1]:
        inner = data.setdefault(key, {})
        if not isinstance(inner, dict):
            raise TypeError(key)
        data = inner
    data[keys[-1]] = value
