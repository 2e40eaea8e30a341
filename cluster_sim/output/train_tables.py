"""A training step, and the run that it is part of, as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster_sim.errors import counted
from cluster_sim.output.tables import grid, labelled, number
from cluster_sim.output.wrapping import fill

if TYPE_CHECKING:
    from cluster_sim.result import Result
    from cluster_sim.train import TrainingFacts

OWNER_WORDS = {
    "compute": "compute",
    "recompute": "computed again",
    "tp": "tensor parallel, exposed",
    "cp": "context parallel, exposed",
    "ep": "expert parallel, exposed",
    "pp": "pipeline transfers, exposed",
    "dp": "data parallel, exposed",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer",
    "offload": "offload",
    "host": "host",
    "straggler": "stragglers",
}
PART_WORDS = {
    "gemm": "products",
    "attention": "attention",
    "experts": "expert products",
    "elementwise": "norms and activations",
    "permute": "token permutation",
    "head": "LM head and loss",
}
MEMORY_WORDS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve")
SMALL = 0.0005  # of a step: what is shown as nothing


def training_report(result: Result, *, simulated_s: float, folder: str | None) -> str:
    """What ``cluster-sim run`` prints of a training workload."""
    row, manifest = result.summary, result.manifest
    parts = [_head(row, manifest, simulated_s), _figures(row), _where(manifest)]
    if "run" in manifest:
        parts.append(_run(manifest["run"]))
    parts.append(_tail(row, manifest, folder))
    return "\n\n".join(parts)


def _head(row: Mapping[str, Any], manifest: Mapping[str, Any], simulated_s: float) -> str:
    inputs = manifest["inputs"]
    chip, workload = inputs["chip"], inputs["workload"]
    title = f"{row['workload']} on {row['topology']}: {inputs['model']['title']}, "
    title += f"{row['weights_dtype'].upper()}, {row['n_chips']:,} x {chip['title']} "
    title += f"({chip['memory']['capacity'] / 2**30:.0f} GiB)"
    plan = manifest["plan"]
    words = f"{plan['name']}, {plan['schedule']}, "
    words += f"{counted(plan['micro_batches'], 'micro-batch', 'micro-batches')} a replica, "
    words += row["software"]
    batch = f"{counted(workload['global_batch'], 'sequence')} of "
    batch += f"{counted(workload['seq_len'], 'token')} a step"
    task = {"pretrain": "pre-training", "sft": "fine-tuning", "lora": "LoRA"}[workload["task"]]
    return "\n".join(
        [
            fill(title, rest="  "),
            labelled("plan", words),
            labelled("batch", f"{task}, {batch}, simulated in {simulated_s:.2f} s"),
        ]
    )


def _figures(row: Mapping[str, Any]) -> str:
    rows = [
        ["", "tokens/s/chip", "TFLOP/s/chip", "MFU", "HFU"],
        [
            f"Step {number(row['step_time_s'])} s",
            number(row["train_tokens_per_s_per_chip"]),
            number(row["tflops_per_chip"]),
            f"{row['mfu'] * 100:.1f} %",
            f"{row['hfu'] * 100:.1f} %",
        ],
    ]
    band = f"  4 of 5 measured steps lie within {number(row['step_time_s_low'])} to "
    band += f"{number(row['step_time_s_high'])} s; MFU of the dense {row['weights_dtype'].upper()} "
    band += f"peak ({row['mfu_bf16'] * 100:.1f} % of BF16)"
    return grid(rows) + "\n" + fill(band, rest="  ")


def _where(manifest: Mapping[str, Any]) -> str:
    """Where a step's time goes, largest first, and what computes."""
    step = manifest["step"]
    owners = sorted(step["owners"].items(), key=lambda item: -item[1])
    rows = [["Where a step goes", "s", "share"]]
    for owner, seconds in owners:
        share = seconds / step["seconds"]
        if share >= SMALL:
            rows.append([f"  {OWNER_WORDS[owner]}", number(seconds), f"{share * 100:.1f} %"])
    kernels = [(s, PART_WORDS[part]) for part, s in step["parts"].items() if part in PART_WORDS]
    total = sum(seconds for seconds, _ in kernels) or 1.0
    words = ", ".join(
        f"{word} {seconds / total * 100:.0f} %"
        for seconds, word in sorted(kernels, reverse=True)
        if seconds / total >= 0.005
    )
    return grid(rows) + "\n" + fill(f"  of compute: {words}", rest="    ")


def _run(run: Mapping[str, Any]) -> str:
    """The whole run: days, money, energy, failures, and where the time goes."""
    band, ledger = run["band"], run["ledger"]
    rows = [[f"To {_tokens(run['tokens'])} tokens", "low", "middle", "high"]]
    for key, word, scale in (
        ("days", "  days", 1.0),
        ("chip_hours", "  chip-hours (thousand)", 1e-3),
        ("energy_kwh", "  energy (MWh)", 1e-3),
        ("usd", "  US dollars (million)", 1e-6),
        ("ettr", "  effective training time", 1.0),
        ("goodput", "  goodput", 1.0),
        ("mtbf_h", "  hours between failures of hosts", 1.0),
        ("interruption_h", "  hours between all interruptions", 1.0),
        ("interruptions", "  interruptions", 1.0),
    ):
        if key in band:
            rows.append([word, *(number(value * scale) for value in band[key])])
    paid = sum(ledger.values()) or 1.0
    words = ", ".join(
        f"{owner.replace('_', ' ')} {hours / paid * 100:.1f} %"
        for owner, hours in ledger.items()
        if hours / paid >= SMALL
    )
    drawn = "  low and high, 8 in 10 chance: the step's own band "
    drawn += f"({run.get('step_sigma', 0.0) * 100:.0f} % to one sigma, the same all along) and "
    drawn += f"{run['replications']} draws of failures together"
    lines = [grid(rows), fill(drawn, rest="    ")]
    lines += [fill(f"  paid: {words}", rest="    ")]
    if run["failures"]:
        most = sorted(run["failures"].items(), key=lambda item: -item[1])[:5]
        failed = ", ".join(f"{name} {number(count)}" for name, count in most if count) or "none"
        lines.append(fill(f"  failures: {failed}", rest="    "))
    return "\n".join(lines)


def _tokens(tokens: float) -> str:
    """A number of tokens in the field's words: 15.6T, 8.39B, 512."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= scale:
            return f"{tokens / scale:.4g}{letter}"
    return f"{tokens:,.0f}"


def _tail(row: Mapping[str, Any], manifest: Mapping[str, Any], folder: str | None) -> str:
    memory = manifest["memory"]
    words = ", ".join(
        f"{name} {memory[name] / 2**30:.1f}" for name in MEMORY_WORDS if memory[name] > 2**27
    )
    used = f"{memory['total'] / 2**30:.1f} of {memory['capacity'] / 2**30:.1f} GiB on stage "
    used += f"{memory['stage']} (GiB: {words})"
    lines = [labelled("Memory", used), labelled("Cost", _cost(row, manifest))]
    if row["power_w"] is not None:
        kwh = row["power_w"] * row["step_time_s"] / 3.6e6
        text = f"{number(row['power_w'] / 1e3)} kW at the wall, {number(kwh)} kWh a step"
        lines.append(labelled("Energy", text))
    shares = ", ".join(
        f"{share * 100:.0f} % {name}"
        for name, share in manifest["provenance"].items()
        if share >= 0.005
    )
    lines.append(labelled("Trust", f"step time priced by {shares} constants"))
    lines += [labelled("Note", note) for note in manifest["notes"]]
    if folder:
        lines.append(labelled("Files", f"{folder}/summary.csv (+ steps, manifest)"))
    return "\n".join(lines)


def _cost(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    if row["usd_per_step"] is None:
        return "no price of the chip"
    basis = manifest["economics"]["basis"]
    text = f"{number(row['usd_per_step'])} USD a step, "
    text += f"{number(row['usd_per_m_total_tokens'])} USD per million tokens at "
    return text + f"{row['chip_usd_per_h']:.2f} USD per chip-hour ({basis})"


def explain_training(facts: TrainingFacts) -> str:
    """How a step comes about: stages, kernels and collectives with the source of each."""
    case, step = facts.job.case, facts.step
    machine, fits = facts.machine, facts.machine.fits
    lines = [f"{facts.job.name} on {machine.topology.name}, {facts.job.schedule}"]
    rows = [["stage", "layers", "compute s", "exposed s", "bubble s", "memory GiB"]]
    count = len(facts.priced.stages)
    for stage, owners in enumerate(step.per_stage):
        held = [
            facts.priced.stages[facts.schedule.virtual(stage, c) % count].content.layers
            for c in range(facts.schedule.chunks)
        ]
        exposed = sum(owners[name] for name in ("tp", "cp", "ep", "pp", "dp"))
        rows.append(
            [
                str(stage),
                str(sum(held)),
                number(owners["compute"] + owners["recompute"]),
                number(exposed),
                number(max(0.0, owners["bubble"])),
                number(facts.memory.stages[stage].total / 2**30),
            ]
        )
    lines += ["", grid(rows), ""]
    rows = [["part", "s a step", "share"]]
    for part, seconds in sorted(step.parts.items(), key=lambda item: -item[1]):
        if seconds > 0:
            share = f"{seconds / step.seconds * 100:.1f} %"
            rows.append([PART_WORDS.get(part, part), number(seconds), share])
    lines += [grid(rows), ""]
    rate, software = case.kernels.rate, case.kernels.software
    lines.append(labelled("products", _source(fits.gemm, case.kernels.curves)))
    lines.append(labelled("sustained", f"{rate.sustained:g} [{rate.provenance}] {rate.source}"))
    lines.append(labelled("attention", f"x {rate.attention:g}; {software.attention.source}"))
    if case.model.moe is not None:
        lines.append(labelled("experts", software.experts.source))
    for name, text in software.sources.items():
        lines.append(labelled(name, text))
    constants = case.network.topology.collectives
    nccl = constants.nccl if constants is not None else None
    if nccl is not None:
        text = f"[{nccl.gather.provenance}] {nccl.gather.source}"
        lines.append(labelled("NCCL", text))
    return "\n".join(lines)


def _source(curves: Mapping[Any, Any], used: Mapping[str, Any]) -> str:
    from cluster_sim.perf.train_kernels import curve_of

    names = dict.fromkeys(curve_of(dtype) for dtype in used)
    return "; ".join(
        f"{name}: {curves[name].compute:g} of the peak [{curves[name].provenance}] "
        f"{curves[name].source}"
        for name in names
    )
