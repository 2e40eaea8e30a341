"""train(topology, workload) -> Result: one training step, from the inputs to the row of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster_sim import __version__
from cluster_sim.columns import SCHEMA, SUMMARY_COLUMNS, run_id
from cluster_sim.economics import how_to_price, machine_usd_per_hour, price_columns, wall_power_w
from cluster_sim.engine.cluster import Process
from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels.power import chip_power_w
from cluster_sim.memory_need import check_step_memory
from cluster_sim.origin import Origin, origin_of
from cluster_sim.perf.train_flops import attention_flop, head_flop, model_flop_per_token
from cluster_sim.perf.train_kernels import peak_dtype
from cluster_sim.result import Result
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import load_topology
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.workload import Economics
from cluster_sim.training.closed import Step, step_of
from cluster_sim.training.job import Job, make_job
from cluster_sim.training.machine_use import Seen, Unseen
from cluster_sim.training.memory import Memory, check_memory, memory_of
from cluster_sim.training.play import played_step, shared_step
from cluster_sim.training.priced import Priced, price, schedule_of
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.trust import Trust, trust_of
from cluster_sim.training.ways_out import with_ways_out

SHARES = {  # column of summary.csv -> owners of a step's time
    "share_compute": ("compute", "recompute", "optimizer", "offload"),
    "share_tp": ("tp", "cp"),
    "share_pp": ("pp",),
    "share_ep": ("ep",),
    "share_dp": ("dp",),
    "share_host": ("host", "straggler"),
    "share_bubble": ("bubble",),
}
_FAMILY_OF = {  # of kernels, by the power that they draw
    "gemm": "gemm_math",
    "experts": "expert_math",
    "head": "gemm_math",
    "attention": "attention_prefill",
    "elementwise": "glue",
    "permute": "glue",
    "tp": "all_reduce",
    "cp": "all_reduce",
    "ep": "expert_exchange",
    "dp": "all_reduce",
    "host": "host",
    "offload": "host",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """All that is known of a training step."""

    machine: TopologyInput
    given: TrainingInput
    economics: Economics
    job: Job
    priced: Priced
    step: Step
    memory: Memory
    schedule: Schedule
    trust: Trust
    origin: Origin
    shared: Shared | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Who else was on the machine, and by how much the step was longer for it."""

    others: tuple[str, ...]
    lost_s: float
    seen: Seen


def train(
    topology: TopologyInput | str,
    workload: TrainingInput | str,
    *,
    economics: Economics | None = None,
    record: bool = False,
    most_bytes: float | None = None,
    processes: Sequence[Process] = (),
) -> tuple[Result, TrainingFacts]:
    """Simulate one training step of a workload on a topology; ``record``: a timeline is wanted.
    ``processes`` are generator functions of a ``Cluster`` that run on the same machine.

    Raises DoesNotFitError for a plan that does not fit the devices or their memory, SpecError for
    what the chip or the files lack, each with what works instead; SpecError for a step that would
    need more than ``most_bytes`` to simulate.
    """
    machine = load_topology(topology) if isinstance(topology, str) else topology
    given = load_training(workload) if isinstance(workload, str) else workload
    money = economics or Economics()
    others = tuple(getattr(one, "__qualname__", repr(one)) for one in processes)
    origin = origin_of(machine, given, money, options={"others": others} if others else None)
    try:
        job = make_job(machine, given)
    except (SpecError, DoesNotFitError) as error:
        raise with_ways_out(machine, given, error) from None
    check_step_memory(job.micro_batches * given.workload.plan.stages, most_bytes, record=record)
    try:
        priced = price(job)
        memory = memory_of(priced)
        check_memory(machine, given, memory)
    except (SpecError, DoesNotFitError) as error:
        raise with_ways_out(machine, given, error) from None
    step, _ = played_step(priced)
    shared = None
    if processes:
        alone_s = step.seconds
        step, found = shared_step(priced, processes)
        shared = Shared(others=others, lost_s=step.seconds - alone_s, seen=found)
    facts = TrainingFacts(
        machine=machine,
        given=given,
        economics=money,
        job=job,
        priced=priced,
        step=step,
        memory=memory,
        schedule=schedule_of(job),
        trust=trust_of(job, step),
        origin=origin,
        shared=shared,
    )
    row = summary_row(facts)
    result = Result(
        summary=row,
        requests=stage_table(facts),
        manifest=_manifest(facts, row),
        partial=False,
        table="steps",
        machine=Unseen(priced) if shared is None else shared.seen,
    )
    return result, facts


def quick_step(machine: TopologyInput, given: TrainingInput) -> Step:
    """The step in closed form alone, for sweeps; raises as ``train``, memory apart."""
    return step_of(price(make_job(machine, given)))


def power_w(facts: TrainingFacts) -> float | None:
    """Mean watts at the wall while steps run; None where the chip has no power curve."""
    step, topology = facts.step, facts.machine.topology
    shares: dict[str, float] = {}
    for part, seconds in step.parts.items():
        family = _FAMILY_OF[part]
        shares[family] = shares.get(family, 0.0) + seconds / step.seconds
    shares["glue"] = shares.get("glue", 0.0) + step.owners["optimizer"] / step.seconds
    waiting = max(0.0, 1.0 - sum(shares.values()))
    shares["bubble"] = waiting
    watts = chip_power_w(facts.machine, shares)
    if watts is None or topology.host_power is None:
        return None
    return wall_power_w(topology.chips * watts, topology.host_power, facts.economics)


def summary_row(facts: TrainingFacts) -> dict[str, Any]:
    """The row of summary.csv; what does not apply to training is None."""
    job, machine, given = facts.job, facts.machine, facts.given
    workload, plan, seconds = given.workload, job.plan, facts.step.seconds
    topology, chip = machine.topology, machine.chip
    chips, flop = topology.chips, _flop_per_step(facts)
    watts = power_w(facts)
    usd_per_h = machine_usd_per_hour(facts.machine, facts.economics, watts)
    per_chip = flop / seconds / chips
    dtype = peak_dtype(workload.precision)
    row: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS)
    row.update(
        run_id=run_id(workload.name, topology.name, facts.origin.config_hash),
        kind=workload.kind,
        topology=topology.name,
        chip=chip.name,
        n_chips=chips,
        chips_used=chips,
        devices=job.devices,
        workload=workload.name,
        model=given.model.name,
        weights_dtype=workload.precision,
        plan=job.name,
        tp=plan.tp,
        pp=plan.pp,
        dp=job.dp,
        ep=plan.ep,
        cp=plan.cp,
        replicas=job.dp,
        software=given.software.name,
        scheduler=job.schedule,
        load=f"{workload.global_batch} x {workload.seq_len} tokens",
        seed=workload.seed,
        partial=False,
        step_time_s=seconds,
        total_tokens_per_s=workload.tokens / seconds,
        train_tokens_per_s_per_chip=workload.tokens / seconds / chips,
        tflops_per_chip=per_chip / 1e12,
        mfu=per_chip / chip.peak[dtype],  # type: ignore[index]
        mfu_bf16=per_chip / chip.peak["bf16"],
        hfu=_hardware_flop(facts, flop) / seconds / chips / chip.peak[dtype],  # type: ignore[index]
        mem_peak_gib=facts.memory.fullest.total / 2**30,
        chip_usd_per_h=usd_per_h,
        usd_per_step=None if usd_per_h is None else usd_per_h * chips * seconds / 3600,
        usd_per_m_total_tokens=None
        if usd_per_h is None
        else usd_per_h * chips * seconds / 3600 / workload.tokens * 1e6,
        power_w=watts,
        step_time_s_status="ok",
        step_time_s_low=facts.trust.low_s,
        step_time_s_high=facts.trust.high_s,
        schema=SCHEMA,
        version=__version__,
        config_hash=facts.origin.config_hash,
        **price_columns(chip, facts.economics),
    )
    for column, owners in SHARES.items():
        row[column] = sum(facts.step.owners[owner] for owner in owners) / seconds
    row.update({f"prov_{name}": share for name, share in facts.trust.provenance.items()})
    return row


def _flop_per_step(facts: TrainingFacts) -> float:
    """FLOP that the model needs: forward and backward; adapters leave the gradients of frozen
    weights out.
    """
    workload, model = facts.given.workload, facts.job.case.model
    flop = model_flop_per_token(model, workload.seq_len, mtp=workload.mtp)
    if workload.task == "lora":
        attention = attention_flop(model, workload.seq_len) / workload.seq_len
        flop = (flop - 3 * attention) * 2 / 3 + 3 * attention
    return flop * workload.tokens


def _hardware_flop(facts: TrainingFacts, flop: float) -> float:
    """With what is computed again: the forward pass of the layers, or its attention."""
    plan, model, workload = facts.job.plan, facts.job.case.model, facts.given.workload
    if plan.recompute == "none":
        return flop
    share = 1.0 if plan.recompute_layers is None else _recomputed_share(facts)
    if plan.recompute == "full":  # of the layers: the head comes after them
        forward = model_flop_per_token(model, workload.seq_len) / 3 - head_flop(model)
        return flop + share * forward * workload.tokens
    again = attention_flop(model, workload.seq_len) / workload.seq_len
    return flop + share * again * workload.tokens


def _recomputed_share(facts: TrainingFacts) -> float:
    most = facts.job.plan.recompute_layers or 0
    layers = [stage.content.layers for stage in facts.priced.stages]
    return sum(min(most, held) for held in layers) / max(1, sum(layers))


def stage_table(facts: TrainingFacts) -> dict[str, Any]:
    """The columns of steps.csv: one row a pipeline stage, seconds by owner and bytes by use."""
    stages = range(len(facts.step.per_stage))
    table: dict[str, Any] = {
        "step": [1 for _ in stages],
        "stage": list(stages),
        "step_time_s": [facts.step.seconds for _ in stages],
    }
    for owner in facts.step.owners:
        table[f"{owner}_s"] = [row[owner] for row in facts.step.per_stage]
    for use in MEMORY_USES:
        table[f"{use}_gib"] = [getattr(stage, use) / 2**30 for stage in facts.memory.stages]
    return table


MEMORY_USES = (
    *("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve"),
    "total",
)


def _manifest(facts: TrainingFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    machine, job = facts.machine, facts.job
    memory = facts.memory.fullest
    return {
        "run_id": row["run_id"],
        "schema": SCHEMA,
        **facts.origin.manifest(),
        "plan": {
            "name": job.name,
            "dp": job.dp,
            "micro_batches": job.micro_batches,
            "schedule": job.schedule,
        },
        "memory": {
            **{use: getattr(memory, use) for use in MEMORY_USES},
            "capacity": facts.memory.capacity,
            "stage": facts.memory.stages.index(memory),
        },
        "step": {
            "seconds": facts.step.seconds,
            "owners": dict(facts.step.owners),
            "parts": dict(facts.step.parts),
        },
        "provenance": dict(facts.trust.provenance),
        "bands": {
            "headlines": {
                "step_time_s": {
                    "base": facts.step.seconds,
                    "low": facts.trust.low_s,
                    "high": facts.trust.high_s,
                    "sigma": facts.trust.sigma,
                    "contributions": [
                        {"key": key, "effect": effect} for key, effect in facts.trust.parts
                    ],
                }
            }
        },
        "economics": {
            "usd_per_chip_hour": row["chip_usd_per_h"],
            "basis": machine.chip.price.rent_basis
            if facts.economics.basis == "rented"
            else "owned",
        },
        "invariants": {"step_time_closed": True, "fits_memory": True},
        "notes": _notes(facts, row),
        **({} if facts.shared is None else {"machine": _machine_rows(facts.shared)}),
    }


def _machine_rows(shared: Shared) -> dict[str, Any]:
    """Who else was there, and the use of the resources that they named."""
    used, names = shared.seen.use(), shared.seen.names
    return {
        "others": list(shared.others),
        "lost_s": shared.lost_s,
        "resources": {names[number]: asdict(used[names[number]]) for number in shared.seen.asked},
    }


def _notes(facts: TrainingFacts, row: Mapping[str, Any]) -> list[str]:
    notes = [*facts.job.case.model.notes, *facts.job.warnings]
    if row["chip_usd_per_h"] is None:
        notes.append(how_to_price(facts.machine.chip, facts.economics))
    if row["power_w"] is None:
        notes.append("power and energy are empty: the chip has no power curve")
    notes += facts.trust.notes
    return notes


def at_batch(given: TrainingInput, global_batch: int, seq_len: int) -> TrainingInput:
    """The same job with another batch and length, as learning phases have them."""
    workload = replace(given.workload, global_batch=global_batch, seq_len=seq_len)
    return replace(given, workload=workload)
