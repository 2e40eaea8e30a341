"""The options that describe a run, shared by ``run`` and ``explain``, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cluster_sim.cli.params import (
    Factor,
    FilePath,
    Name,
    PlanType,
    Rate,
    Requests,
    Size,
    SloType,
    Time,
    Whole,
)
from cluster_sim.memory_need import DEFAULT_MOST
from cluster_sim.specs.constraints import (
    MOST_CHIPS,
    MOST_CLIENTS,
    MOST_SEED,
    MOST_SEQUENCES,
    MOST_TOKENS,
)

if TYPE_CHECKING:
    from cluster_sim.specs.find import FileRecord
    from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
    from cluster_sim.specs.workload import Arrivals, Economics

Command = TypeVar("Command", bound=Callable[..., Any])
TRACES = (
    *("aiperf", "azure", "bailian", "benchmark", "burstgpt", "genai-perf"),
    *("llmservingsim", "mooncake"),
    *("neutral", "prompts", "ragpulse", "servegen", "sharegpt", "splitwise", "vidur"),
)
WEIGHTS = ("bf16", "fp8", "fp8_block", "int8", "fp4", "mxfp4", "w8a16", "w4a16")
PRECISIONS = ("auto", *WEIGHTS, "fp16", "mxfp8")
PRECISE = "1.5%"  # half of the 95 % interval
DEGREES = ("tp", "pp", "ep", "attn_dp", "replicas")

# The option of commands that take a model's file.
model_like = click.option(
    "--model-like", metavar="FAMILY", help="Price a config.json of an unknown family as this one."
)
_OPTIONS = (
    click.option("--topo", type=Name("topology"), required=True, help="Topology, name or file."),
    click.option(
        "--workload", type=Name("workload"), required=True, help="Workload, name or file."
    ),
    click.option(
        "--trace", type=FilePath(kept_as_text=True), help="Replay a trace (a folder for servegen)."
    ),
    click.option("--trace-format", type=click.Choice(TRACES), help="Instead of recognising it."),
    click.option(
        "--time-scale", type=Factor(), help="Replay so many times as fast: 2 halves all gaps."
    ),
    click.option("--skip-bad-rows", is_flag=True, help="Leave out (and count) broken trace rows."),
    click.option("--model", type=Name("model"), help="Another model."),
    model_like,
    click.option("--software", type=Name("software"), help="Another engine, as vllm or vllm-0.19."),
    click.option("--chips", type=Whole(MOST_CHIPS), help="Use so many chips of the topology."),
    click.option("--tp", type=Whole(MOST_CHIPS), help="Tensor parallel degree."),
    click.option("--pp", type=Whole(MOST_CHIPS), help="Pipeline stages."),
    click.option("--ep", type=Whole(MOST_CHIPS), help="Devices that experts are spread over."),
    click.option("--attn-dp", type=Whole(MOST_CHIPS), help="Attention groups of a replica."),
    click.option("--vpp", type=Whole(MOST_CHIPS), help="Chunks of a pipeline stage (training)."),
    click.option("--cp", type=Whole(MOST_CHIPS), help="Context parallel degree (training)."),
    click.option("--dp", type=Whole(MOST_CHIPS), help="Data parallel replicas (training)."),
    click.option("--micro-batch", type=Whole(MOST_SEQUENCES), help="Sequences (training)."),
    click.option("--global-batch", type=Whole(MOST_SEQUENCES), help="Sequences (training)."),
    click.option("--seq-len", type=Whole(MOST_TOKENS), help="Tokens (training)."),
    click.option("--until", metavar="TOKENS", help="Simulate the run to 15.6T tokens (training)."),
    click.option("--replicas", type=Whole(MOST_CHIPS), help="Copies of the model."),
    click.option("--plan", help="auto, tp2, tp2x4 or tp1-ep8-dp8x1; of training a preset's name."),
    click.option("--precision", type=click.Choice(PRECISIONS)),
    click.option("--slo", type=SloType(), help="ttft=2s,tpot=50ms,attainment=99%."),
    click.option("--rate", type=Rate(), help="Open traffic at so many requests/s."),
    click.option("--concurrency", type=Whole(MOST_CLIENTS), help="Closed loop of clients."),
    click.option(
        "--requests", type=Requests(), help="Number of requests; auto: as many as it takes."
    ),
    click.option("--precise", is_flag=True, help="Half the sampling error of what it can serve."),
    click.option("--duration", type=Time(), help="Traffic for so long, such as '10 min'."),
    click.option("--seed", type=Whole(MOST_SEED, 0), help="Seed of the random streams."),
    click.option("--set", "overrides", multiple=True, metavar="ROOT.KEY=VALUE", help="Any input."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
)


def _of_the_machine(
    context: click.Context, option: click.Parameter, overrides: tuple[str, ...]
) -> tuple[str, ...]:
    """The overrides as they are; a UsageError for those of roots that no machine has."""
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key.partition(".")[0] in ("workload", "plan", "engine", "economics"):
            raise click.UsageError(
                f"--set {key}: has no effect on {context.info_name}: it reads topology and chip"
            )
    return overrides


# What a command may take of memory.
max_memory = click.option(
    "--max-memory",
    type=Size(),
    default=DEFAULT_MOST,
    show_default=True,
    help="Refuse what would need more.",
)

# The option of commands that need a machine alone.
set_machine = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="ROOT.KEY=VALUE",
    callback=_of_the_machine,
    help="Any input.",
)


def run_options(command: Command) -> Command:
    """Add the options of a run to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def resolve_machine(options: dict[str, Any]) -> TopologyInput:
    """The topology with ``--set`` and ``--chips`` applied."""
    from cluster_sim.specs.load import load_topology

    machine = load_topology(options["topo"], options["overrides"], chips=options["chips"])
    return with_chips(machine, options["chips"])


def note_shadows(files: Sequence[FileRecord]) -> None:
    """Say which files stand in for packaged ones."""
    from cluster_sim.specs.find import every

    for file in every(files):
        if file.shadows:
            click.echo(f"Note: {file.path} is used instead of the packaged one.", err=True)


def resolve_inputs(
    options: dict[str, Any], *, shared: bool = False
) -> tuple[TopologyInput, WorkloadInput, Economics]:
    """Load what the options name, with their changes applied; options without effect are errors.
    ``shared``: others use the machine beside the service.
    """
    from cluster_sim.specs.effects import refuse_idle_network
    from cluster_sim.specs.load import load_economics, load_workload, split_overrides

    if not shared:
        parts = split_overrides(options["overrides"])
        refuse_idle_network(
            [[root, *keys] for root in ("topology", "chip") for keys, _ in parts[root]]
        )
    machine, overrides = resolve_machine(options), options["overrides"]
    job = load_workload(
        options["workload"], overrides, _replacements(options), vendor=machine.chip.vendor
    )
    _refuse_idle_answers(job.workload.arrivals, overrides)
    wanted = job.workload.arrivals
    if options["precise"] and (wanted.kind != "open" or wanted.load is None):
        raise click.UsageError(
            "--precise has no effect: it is about capacity and saturation, which are searched for "
            "open traffic at a share of the capacity"
        )
    return machine, job, load_economics(overrides, machine)


def _refuse_idle_answers(arrivals: Arrivals, overrides: Sequence[str]) -> None:
    """Raise UsageError for lengths of answers where each request of a trace has its own."""
    from cluster_sim.errors import SpecError
    from cluster_sim.serving.trace_rows import TraceOptions
    from cluster_sim.serving.traces import read_trace

    given = [text.partition("=")[0].strip() for text in overrides]
    own = [key for key in given if key.split(".")[:2] == ["workload", "osl"]]
    if not own or arrivals.trace is None:
        return
    options = TraceOptions(skip_bad_rows=True)
    try:
        requests = read_trace(Path(arrivals.trace), arrivals.trace_format, options)
    except SpecError:
        return  # the run says what is wrong with it
    if requests.osl.all():
        raise click.UsageError(
            f"--set {own[0]}: has no effect: the trace says how long each answer is"
        )


def with_chips(machine: TopologyInput, chips: int | None) -> TopologyInput:
    """The topology with only so many of its chips, and the hosts that they fill."""
    import dataclasses

    from cluster_sim.errors import counted

    topology = machine.topology
    if chips is None:
        return machine
    if chips > topology.chips:
        raise click.UsageError(
            f"--chips {chips}: {topology.name} has {counted(topology.chips, 'chip')}; "
            f"a larger machine is --set topology.chips={chips}"
        )
    fewer = dataclasses.replace(topology, chips=chips)
    if topology.host_power is not None:
        host_w = topology.host_power * fewer.hosts / topology.hosts
        fewer = dataclasses.replace(fewer, host_power=host_w)
    return dataclasses.replace(machine, topology=fewer)


def _replacements(options: dict[str, Any]) -> dict[str, Any]:
    """Workload keys that options set, by dotted name."""
    changed: dict[str, Any] = {}
    for key in ("model", "model_like", "software", "precision", "requests", "seed"):
        if options[key] is not None:
            changed[key] = options[key]
    if options["precise"]:
        changed["sampling_error"] = PRECISE
    changed.update(_plan(options))
    for metric, limit in (options["slo"] or {}).items():
        changed[f"slo.{metric}"] = limit
    changed.update(_arrivals(options))
    return changed


def _plan(options: dict[str, Any]) -> dict[str, int | None]:
    """The plan's keys; ``--plan`` sets all, so that ``auto`` takes back what the workload says."""
    plan = _degrees(options["plan"])
    given = {name: options[name] for name in DEGREES if options[name] is not None}
    if plan is None:
        return {f"plan.{name}": value for name, value in given.items()}
    if given:
        twice = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"--plan already says TP and replicas; leave out {twice}")
    return {f"plan.{name}": plan.get(name) for name in DEGREES}


def _degrees(text: str | None) -> dict[str, int] | None:
    try:
        return None if text is None else PlanType().convert(text, None, None)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="'--plan'") from None


def _arrivals(options: dict[str, Any]) -> dict[str, Any]:
    rate, clients, trace = options["rate"], options["concurrency"], options["trace"]
    how = [
        name for name, value in (("--rate", rate), ("--concurrency", clients)) if value is not None
    ]
    timed = trace is not None and _has_times(options)
    if len(how) + timed > 1:
        given = [*how, *(["--trace"] if timed else [])]
        text = f"{' and '.join(given)} exclude each other: each says how requests come"
        if timed:
            text += ", a trace with times at those"
        raise click.UsageError(text)
    own = trace is None and (bool(how) or _own(options).get("kind") != "trace")
    for name in ("skip_bad_rows", "trace_format", "time_scale"):
        if options[name] and own:
            raise click.UsageError(f"--{name.replace('_', '-')} has no effect without --trace")
    duration = options["duration"]
    if duration is not None and clients is not None:
        raise click.UsageError(f"--duration has no effect with {how[0]}; use --requests")
    changed: dict[str, Any] = {} if duration is None else {"duration": duration}
    if how or trace is not None:
        changed["arrivals"] = _process(options, timed=timed)
    for name in ("trace_format", "time_scale"):
        if options[name] is not None:
            changed[f"arrivals.{name}"] = options[name]
    counted = all(value is None for value in (clients, trace, duration))
    if not counted and options["requests"] is None:
        changed["requests"] = "auto"  # the file's number belongs to the file's own traffic
    return changed


def _process(options: dict[str, Any], *, timed: bool) -> dict[str, Any]:
    """How requests come, by the options: at the times of a trace, at a rate or in a closed loop;
    those of a trace without times otherwise as the workload has it.
    """
    own, trace = _own(options), options["trace"]
    if timed:
        return {"kind": "trace", "trace": trace}
    if options["rate"] is not None:
        found = {
            "kind": "open",
            "rate": options["rate"],
            **({"cv": own["cv"]} if "cv" in own else {}),
        }
    elif options["concurrency"] is not None:
        found = {"kind": "closed", "concurrency": options["concurrency"]}
    else:
        found = {
            key: own[key] for key in ("kind", "cv", "rate", "load", "concurrency") if key in own
        }
    if trace is not None:
        return found | {"trace": trace}
    if own.get("kind") == "trace":
        return found
    return found | {key: value for key, value in own.items() if key.startswith("trace")}


def _has_times(options: dict[str, Any]) -> bool:
    """Whether the trace that is named says when its requests come."""
    from cluster_sim.serving.traces import has_times

    return has_times(Path(options["trace"]), options["trace_format"])


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """How requests come by the workload's own file."""
    from cluster_sim.specs.load import read

    arrivals = read("workload", options["workload"])[1].get("arrivals")
    return arrivals if isinstance(arrivals, dict) else {}
