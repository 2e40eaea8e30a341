"""Measured training steps against the step that a run shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cluster_sim.collectives.network import Network
from cluster_sim.errors import ClusterSimError
from cluster_sim.perf.train_flops import attention_flop, model_flop_per_token
from cluster_sim.perf.train_kernels import peak_dtype
from cluster_sim.perf.train_stage import cut_to
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.model import Model
from cluster_sim.specs.training import Lora, TrainDtype, TrainingPlan, TrainingWorkload
from cluster_sim.specs.training_software import TrainingSoftware
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import SkippedError
from cluster_sim.training.closed import Step
from cluster_sim.training.job import make_job
from cluster_sim.training.play import played_step
from cluster_sim.training.priced import price

# Flags of rows that say nothing about a step of a known shape, and why.
NOT_COMPARABLE = {
    "shape_incomplete": "shape not stated",
    "model_unknown": "model not known",
    "recalled": "recalled, not read",
    "nonstandard_chip": "chip is not as its file says",
    "suspect_parallelism": "degrees contradict the number of chips",
    "cpu_offload": "what is offloaded is not stated",
    "precision_unknown": "precision not stated",
    "hardware_flops": "FLOP of another convention",
}
MACHINES = {  # by chip: pods of it as they are usually built
    "a100_80g_sxm": "a100_superpod",
    "h100_sxm": "h100_superpod",
    "h200_sxm": "h200_superpod",
    "b200": "b200_superpod",
    "b300": "b300_superpod",
    "gb200": "gb200_nvl72_pod",
    "gb300": "gb300_nvl72_pod",
}
# What tells set-ups apart: repeats, releases and the whole of a weak-scaling series share a half.
HALF_KEY = ("chip", "model", "precision", "seq_len", "micro_batch", "tp", "pp", "cp", "ep")
PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "mxfp8", "fp4", "int8")
# The B200 of SimuMax multiplies at 0.45 to 0.50 of its peak where others reach 0.65 to 0.72 (its
# own table of products, MooreThreads/SimuMax configs/system); fitted on half of its runs.
SIMUMAX_BOX = 0.696
MOST_CHUNKS = 12  # of a stage, where a source does not print them
# Sources whose runs interleave as far as the layers allow where they print nothing.
INTERLEAVED = ("NVIDIA", "MLPerf", "Megatron-LM DeepSeek")
_RELEASE = re.compile(r"(\d\d)\.(\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What decides a replay; equal ones are priced once."""

    chip: str
    n_chips: int
    software: str
    machine_rate: float
    model: str
    layers: int | None
    precision: TrainDtype
    seq_len: int
    global_batch: int
    task: str
    mtp: bool
    dropout: bool
    plan: TrainingPlan


def software_of(case: Case) -> str:
    """The software profile of a measured run, by framework, release and source."""
    framework, source = case.text("framework"), case.text("source")
    if "llm-foundry" in framework:
        return "llm_foundry-2024.02"
    if framework.startswith(("MaxText", "Paxml")):
        return "maxtext-25.01"
    if "torchtitan" in framework:
        return "torchtitan-2025.06"
    if source.startswith("MLPerf"):
        rounds = re.search(r"v(\d\.\d)", source)
        return f"mlperf-{max(rounds[1], '4.1') if rounds else '4.1'}"
    if source.startswith(("Korthikanti", "Megatron-LM SC21")):
        return "megatron_lm-2022"
    if source.startswith("SimuMax"):
        return "megatron_lm-2025"
    release = _RELEASE.search(framework)
    if release is None:
        return "megatron-25.11"
    date = int(release[1]), int(release[2])
    if date >= (26, 5):
        return "megatron-26.06"
    if date >= (26, 1):
        return "megatron-26.04"
    if "Bridge" in framework:
        return "megatron-25.11"
    return "megatron-24.12" if date > (24, 7) else "megatron-24.07"


def run_of(case: Case) -> TrainingRun:
    """The run of a training case; raises SkippedError for one that cannot be replayed."""
    for flag, reason in NOT_COMPARABLE.items():
        if flag in case.flags:
            raise SkippedError(reason)
    chip = case.text("chip")
    if chip not in MACHINES:
        raise SkippedError("no machine of this chip to train on", chip)
    precision = case.text("precision")
    if precision not in PRECISIONS:
        raise SkippedError("precision not stated")
    if not all(case.number(name) for name in ("n_chips", "seq_len", "global_batch", "micro_batch")):
        raise SkippedError("shape not stated")
    source, task = case.text("source"), case.text("task") or "pretrain"
    layers = case.count("layers_override", 0) or None
    model = model_of(case.text("model"), layers)
    own_box = source.startswith("SimuMax")
    drafts = model.mtp_layers > 0 and not own_box and "without_mtp" not in case.flags
    software = software_of(case)
    return TrainingRun(
        chip=chip,
        n_chips=case.count("n_chips"),
        software=software,
        machine_rate=SIMUMAX_BOX if own_box else 1.0,
        model=case.text("model"),
        layers=layers,
        precision=precision,  # type: ignore[arg-type]
        seq_len=case.count("seq_len"),
        global_batch=case.count("global_batch"),
        task=task,
        mtp=drafts,
        dropout=software == "megatron_lm-2022",
        plan=_plan(case, model, software),
    )


@cache
def model_of(name: str, layers: int | None) -> Model:
    """A model, cut to so many layers if given."""
    return cut_to(load_spec("model", name, Model)[1], layers)


def _plan(case: Case, model: Model, software: str) -> TrainingPlan:
    """Degrees as printed; the number of chunks is the largest that divides the layers where the
    source leaves it out (see ``INTERLEAVED``).
    """
    tp, pp = case.count("tp"), case.count("pp")
    vpp = case.count("vpp", 0)
    if not vpp:
        guess = pp > 1 and case.text("source").startswith(INTERLEAVED)
        vpp = _most_chunks(model.layers, pp) if guess else 1
    sharded = case.text("fsdp") == "1"
    fp32 = software in ("megatron_lm-2022", "megatron_lm-2025")
    recompute = case.text("recompute") or "none"
    return TrainingPlan(
        tp=tp,
        pp=pp,
        vpp=vpp if pp > 1 else 1,
        cp=case.count("cp"),
        ep=case.count("ep"),
        etp=tp if case.text("model") == "grok-1" else 1,
        micro_batch=case.count("micro_batch"),
        zero=3 if sharded else case.count("zero_stage", 1),
        sequence_parallel=case.text("sequence_parallel") != "0",
        recompute=recompute,  # type: ignore[arg-type]
        overlap_tp=True,
        reduce_dtype="fp32" if fp32 else "bf16",
    )


def _most_chunks(layers: int, pp: int) -> int:
    most = min(MOST_CHUNKS, layers // pp)
    return max((v for v in range(1, most + 1) if layers % (pp * v) == 0), default=1)


@cache
def machine_of(chip: str, chips: int) -> tuple[TopologyInput, Network]:
    """A pod of a chip with so many of them, and its network."""
    machine = load_topology(MACHINES[chip], [f"topology.chips={chips}"])
    return machine, Network(machine)


@cache
def _software(name: str) -> TrainingSoftware:
    return load_spec("training", name, TrainingSoftware)[1]


def input_of(run: TrainingRun) -> TrainingInput:
    """The workload that a run stands for."""
    workload = TrainingWorkload(
        name="measured",
        title="measured",
        kind="training",
        model=run.model,
        software=run.software,
        task=run.task,  # type: ignore[arg-type]
        lora=Lora() if run.task == "lora" else None,
        precision=run.precision,
        seq_len=run.seq_len,
        global_batch=run.global_batch,
        mtp=run.mtp,
        dropout=run.dropout,
        machine_rate=run.machine_rate,
        plan=run.plan,
    )
    model = model_of(run.model, run.layers)
    return TrainingInput(workload=workload, model=model, software=_software(run.software), files=())


@cache
def step(run: TrainingRun) -> Step:
    """The step of a run; raises SkippedError for degrees that cannot be placed."""
    machine, network = machine_of(run.chip, run.n_chips)
    try:
        return played_step(price(make_job(machine, input_of(run), network=network)))[0]
    except ClusterSimError as error:
        raise SkippedError("the plan does not fit the machine", str(error)) from None


def predicted(case: Case) -> float:
    """A row's metric; raises SkippedError."""
    metric, run = case.text("metric"), run_of(case)
    if metric in ("time_to_train_min", "chip_hours"):
        raise SkippedError("convergence is not simulated")
    seconds = step(run).seconds
    tokens = run.global_batch * run.seq_len
    if metric == "step_time_s":
        return seconds
    if metric == "tokens_per_s_per_chip":
        return tokens / seconds / run.n_chips
    if metric == "hfu" or "mfu_peak_unknown" in case.flags:
        raise SkippedError("FLOP of another convention")
    model = model_of(run.model, run.layers)
    flop = model_flop_per_token(model, run.seq_len, mtp=run.mtp)
    if "mfu_noncausal" in case.flags:
        flop += 3.0 * attention_flop(model, run.seq_len) / run.seq_len
    rate = flop * tokens / seconds / run.n_chips
    if metric == "model_tflops_per_chip":
        return rate / 1e12
    chip = machine_of(run.chip, run.n_chips)[0].chip
    narrow = "mfu_fp8_peak" in case.flags
    dtype = (
        "fp8" if narrow else "bf16" if "mfu_bf16_peak" in case.flags else peak_dtype(run.precision)
    )
    return rate / chip.peak[dtype]  # type: ignore[index]


FAMILIES = ("dense", "MoE", "LoRA", "llm-foundry FSDP", "SimuMax B200")


def family(case: Case) -> str:
    """The kind of a training run that its errors are shown by."""
    task, source = case.text("task") or "pretrain", case.text("source")
    if task == "lora":
        return "LoRA"
    if source.startswith("MosaicML"):
        return "llm-foundry FSDP"
    if source.startswith("SimuMax"):
        return "SimuMax B200"
    try:
        model = model_of(case.text("model"), None)
    except ClusterSimError:
        return ""
    return "dense" if model.moe is None else "MoE"
