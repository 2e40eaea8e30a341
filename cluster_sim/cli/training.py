"""What ``run`` and ``explain`` do with a training workload."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.again import next_line
from cluster_sim.cli.live import Bar
from cluster_sim.cli.options import note_shadows, resolve_machine
from cluster_sim.cli.rows import end_interrupted, note, print_rows
from cluster_sim.interrupts import EXIT_INTERRUPTED, hold_back, interruptible, was_interrupted

if TYPE_CHECKING:
    from cluster_sim.output.timeline import Timeline
    from cluster_sim.result import Result
    from cluster_sim.specs.inputs import TopologyInput, TrainingInput
    from cluster_sim.specs.workload import Economics
    from cluster_sim.train import TrainingFacts

TRAINING_KEYS = {  # options that set a key of the workload
    "model": "model",
    "model_like": "model_like",
    "precision": "precision",
    "seed": "seed",
    "global_batch": "global_batch",
    "seq_len": "seq_len",
    "micro_batch": "plan.micro_batch",
    "tp": "plan.tp",
    "pp": "plan.pp",
    "vpp": "plan.vpp",
    "cp": "plan.cp",
    "ep": "plan.ep",
    "dp": "plan.dp",
}
ONLY_TRAINING = ("vpp", "cp", "dp", "micro_batch", "global_batch", "seq_len", "until")
ONLY_SERVING = (
    *("trace", "trace_format", "time_scale", "skip_bad_rows", "attn_dp", "replicas", "slo"),
    *("rate", "concurrency", "requests", "duration", "software"),
)


def is_training(options: dict[str, Any]) -> bool:
    """Whether the workload is one of training; options of the other kind are errors."""
    from cluster_sim.specs.load import kind_of

    training = kind_of(options["workload"]) == "training"
    for name in ONLY_SERVING if training else ONLY_TRAINING:
        if options.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} has no effect: {options['workload']} is a workload of "
                f"{'training' if training else 'serving'}"
            )
    return training


def resolve_training(
    options: dict[str, Any],
) -> tuple[TopologyInput, TrainingInput, Economics]:
    """Load what the options name, with their changes applied."""
    from cluster_sim.specs.effects import refuse_idle_links
    from cluster_sim.specs.load import load_economics
    from cluster_sim.specs.load_training import load_training

    machine, overrides = resolve_machine(options), options["overrides"]
    keys = [text.partition("=")[0].strip() for text in overrides]
    links = [key.split(".") for key in keys if key.startswith(("topology.", "chip."))]
    refuse_idle_links(links, spans=machine.topology.chips > machine.topology.domain)
    of_a_run = [key for key in keys if f"{key}.".startswith("workload.run.")]
    if of_a_run and options["until"] is None:
        raise click.UsageError(
            f"--set {of_a_run[0]}: has no effect on one step; run it with --until"
        )
    changes = {
        key: options[name] for name, key in TRAINING_KEYS.items() if options.get(name) is not None
    }
    given = load_training(options["workload"], overrides, changes, preset=options["plan"])
    return machine, given, load_economics(overrides, machine)


def run_training(
    options: dict[str, Any], *, out: Path, form: str, quiet: bool, timeline: bool, most_bytes: float
) -> None:
    """Simulate a training step, and with ``--until`` the run; print and write what came out."""
    from cluster_sim.output.results import ResultWriter, check_writable
    from cluster_sim.output.train_tables import training_report
    from cluster_sim.train import train

    machine, given, economics = resolve_training(options)
    check_writable(out, f"{given.workload.name}@{machine.topology.name}")
    if not quiet:
        note_shadows((*machine.files, *given.files))
    started = time.perf_counter()
    try:
        result, facts = train(
            machine, given, economics=economics, record=timeline, most_bytes=most_bytes
        )
        if options["until"] is not None:
            result = _add_run(result, facts, options["until"], Bar(quiet))
        hold_back()
    except KeyboardInterrupt:
        click.echo("Interrupted before the run itself began: nothing to write.", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    seconds = time.perf_counter() - started
    trace = interruptible(lambda: _timeline(facts)) if timeline else None
    folder = ResultWriter(out, note).write(result, {"simulated_s": f"{seconds:.3f}"}, trace)
    if trace is not None and not quiet:
        click.echo(f"Timeline: {folder / 'timeline.json.gz'}, {trace.note}", err=True)
    if form == "table":
        from cluster_sim.cli.inspect import explain

        click.echo(training_report(result, simulated_s=seconds, folder=str(folder)))
        click.echo(next_line(explain, without=["until"]))
    else:
        print_rows([result.summary], form)
    if was_interrupted() or result.partial or (timeline and trace is None):
        end_interrupted(partial=result.partial)


def _timeline(facts: TrainingFacts) -> Timeline:
    from cluster_sim.output.timeline_training import training_timeline
    from cluster_sim.training.memory import memory_over_time
    from cluster_sim.training.play import played_step

    records = played_step(facts.priced, whole=True)[1].records
    held = memory_over_time(facts.priced, facts.memory, records)
    return training_timeline(facts.schedule, records, held)


def _add_run(result: Result, facts: Any, until: str, bar: Bar) -> Result:
    from cluster_sim.train_run import whole_run, with_run

    try:
        return with_run(result, whole_run(facts, until, progress=bar.update))
    finally:
        bar.close()
