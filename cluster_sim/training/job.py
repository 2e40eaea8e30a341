"""A training job on a machine: degrees that multiply out, groups, and a price for every part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

from cluster_sim.collectives.network import Network
from cluster_sim.errors import DoesNotFitError, SpecError, counted
from cluster_sim.kernels.curves import gemm_curve
from cluster_sim.kernels.layout import Layout, check_layout, divisors
from cluster_sim.perf.train_groups import groups_of
from cluster_sim.perf.train_kernels import curve_of, kernels_of
from cluster_sim.perf.train_layer import Case
from cluster_sim.perf.train_stage import cut_to
from cluster_sim.specs.build import Source
from cluster_sim.specs.chip import PEAK_OF, Chip
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load import read
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.model import Model
from cluster_sim.specs.training import TrainingPlan, TrainingWorkload
from cluster_sim.training.schedule import check_schedule

ENDS = 2  # virtual stages that may hold the embedding or the head alone
NEAR = 6  # degrees that an error offers
TWO_CHUNKS = ("dualpipe", "dualpipe_v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that fits its machine: what its layers are priced from, ``dp`` replicas, each with so
    many micro-batches a step, and the schedule that ``auto`` stands for.
    """

    case: Case
    machine: TopologyInput
    devices: int
    dp: int
    micro_batches: int
    schedule: str
    warnings: tuple[str, ...]

    @property
    def plan(self) -> TrainingPlan:
        """The plan as given."""
        return self.case.plan

    @property
    def parts(self) -> int:
        """Virtual stages that the layers are cut into."""
        return _parts(self.plan, self.schedule)

    @property
    def name(self) -> str:
        """The plan in short: ``tp8-pp16-dp128``."""
        plan = self.plan
        degrees = [("tp", plan.tp), ("pp", plan.pp), ("vpp", plan.vpp), ("cp", plan.cp)]
        degrees += [("ep", plan.ep), ("etp", plan.etp)]
        parts = [f"{name}{degree}" for name, degree in degrees if degree > 1]
        return "-".join([*parts, f"dp{self.dp}"])


def make_job(
    machine: TopologyInput, given: TrainingInput, *, network: Network | None = None
) -> Job:
    """Check a training job against a machine and price its parts.

    Raises DoesNotFitError for degrees that do not multiply to the devices or do not divide heads,
    layers, experts or the batch, each with the nearest that do; SpecError for what the chip lacks.
    """
    if not given.model.alike:
        raise SpecError(
            f"model: layers of {given.model.name} are not all one attention and one MLP (state "
            "spaces, kinds of attention, compressed entries, other widths, latents of experts, "
            "residual streams); such models can be served here, not trained"
        )
    job, plan, model = (
        given.workload,
        given.workload.plan,
        cut_to(given.model, given.workload.layers),
    )
    devices = machine.topology.chips * machine.chip.devices_per_chip
    if plan.placement and sorted(plan.placement) != list(range(devices)):
        raise SpecError(
            f"plan.placement must name each of the {devices} devices once "
            f"(it has {len(plan.placement)} entries)"
        )
    dp = _replicas(machine, plan, devices)
    schedule = _schedule(plan)
    _check_model(model, plan, dp, schedule)
    _check_sequence(job, plan)
    if job.mtp and not model.mtp_layers:
        raise SpecError(
            f"mtp: {model.name} has no layers that predict further tokens; leave it out"
        )
    micro_batches = _micro_batches(job, plan, dp, schedule)
    net = network or Network(machine)
    dtypes = [job.precision, *job.precisions.values()]
    for dtype in dtypes:
        gemm_curve(machine, curve_of(dtype))
        _check_scales(machine.chip, dtype)
    case = Case(
        kernels_of(machine, given.software, dtypes, job.machine_rate),
        net,
        groups_of(net, plan, dp),
        model,
        job,
        plan,
    )
    return Job(
        case=case,
        machine=machine,
        devices=devices,
        dp=dp,
        micro_batches=micro_batches,
        schedule=schedule,
        warnings=tuple(_warnings(case)),
    )


def _parts(plan: TrainingPlan, schedule: str) -> int:
    if schedule == "dualpipe":
        return plan.pp
    return plan.pp * (2 if schedule == "dualpipe_v" else plan.vpp)


def _check_scales(chip: Chip, dtype: str) -> None:
    """Products with a scale for every 32 elements came with FP4: Blackwell, CDNA4, Ascend 950."""
    if dtype == "mxfp8" and "fp4" not in chip.peak:
        known = [name for name in ("fp8_block", "fp8", "bf16") if PEAK_OF[name] in chip.peak]
        raise SpecError(f"{chip.name}: has no products in mxfp8; use {' or '.join(known)}")


def _schedule(plan: TrainingPlan) -> str:
    if plan.schedule == "auto":
        return "interleaved" if plan.vpp > 1 else "1f1b"
    if plan.vpp > 1 and plan.schedule not in ("interleaved", *TWO_CHUNKS):
        raise SpecError(f"plan.vpp: {plan.schedule} has one chunk a stage (got {plan.vpp})")
    return plan.schedule


def _replicas(machine: TopologyInput, plan: TrainingPlan, devices: int) -> int:
    """Data-parallel replicas: what is left of the devices, and what the plan says."""
    model_parallel = plan.tp * plan.pp * plan.cp
    name = machine.topology.name
    if devices % model_parallel or devices < model_parallel:
        fits = [n for n in (devices // model_parallel, devices // model_parallel + 1) if n]
        counts = " or ".join(str(n * model_parallel) for n in fits)
        raise DoesNotFitError(
            f"tp {plan.tp} x pp {plan.pp} x cp {plan.cp} = {model_parallel} does not divide the "
            f"{counted(devices, 'device')} of {name}; use degrees that multiply to one of "
            f"{_nearest(model_parallel, _divisors(devices))}, or {counts} devices (--chips)."
        )
    dp = devices // model_parallel
    if plan.dp is not None and plan.dp != dp:
        raise DoesNotFitError(
            f"tp {plan.tp} x pp {plan.pp} x cp {plan.cp} x dp {plan.dp} = "
            f"{counted(model_parallel * plan.dp, 'device')}, {name} has {devices}; use dp={dp}, "
            f"or --chips {model_parallel * plan.dp // machine.chip.devices_per_chip}."
        )
    ranks = plan.cp * dp
    if plan.shard is not None and ranks % plan.shard:
        _refuse("shard", plan.shard, f"the dp x cp = {ranks} ranks", _divisors(ranks))
    return dp


def _micro_batches(job: TrainingWorkload, plan: TrainingPlan, dp: int, schedule: str) -> int:
    """Micro-batches of a replica, checked against what the schedule can do."""
    at_once = dp * plan.micro_batch
    if job.global_batch % at_once:
        below = job.global_batch // at_once * at_once
        near = f"{below} or " if below else ""
        raise DoesNotFitError(
            f"global_batch {job.global_batch} is not a multiple of dp {dp} x micro_batch "
            f"{plan.micro_batch} = {at_once}; use {near}{below + at_once}."
        )
    count = job.global_batch // at_once
    try:
        check_schedule(schedule, plan.pp, count, 2 if schedule in TWO_CHUNKS else plan.vpp)
    except SpecError as error:
        raise DoesNotFitError(
            f"{error}; micro_batches are global_batch {job.global_batch} / (dp {dp} x micro_batch "
            f"{plan.micro_batch})."
        ) from None
    return count


def check_training(name: str) -> TrainingInput:
    """A training workload by name or path, with its own plan and every preset checked as if it were
    asked for, as far as that needs no machine; raises SpecError with the problems of all.
    """
    given, lines = load_training(name), read("workload", name)[2]
    problems: dict[str, None] = {}
    for preset in (None, *given.workload.presets):
        keys = ("plan",) if preset is None else ("presets", preset)
        try:
            _check_alone(load_training(name, preset=preset))
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
        except DoesNotFitError as error:
            text = Source(given.files[0].path, lines).problem(keys, str(error))
            problems[text] = None
    if problems:
        raise SpecError(list(problems))
    return given


def _check_alone(given: TrainingInput) -> None:
    """What of a plan its model and its batch alone decide."""
    job, plan = given.workload, given.workload.plan
    model, schedule = cut_to(given.model, job.layers), _schedule(plan)
    _check_shape(model, plan, schedule)
    _check_sequence(job, plan)
    if plan.dp is not None:
        _check_model(model, plan, plan.dp, schedule)
        _micro_batches(job, plan, plan.dp, schedule)


def _check_model(model: Model, plan: TrainingPlan, dp: int, schedule: str) -> None:
    stage = plan.tp * plan.cp * dp
    _check_shape(model, plan, schedule, most=stage)
    if model.moe is not None and stage % (plan.ep * plan.etp):
        _refuse(
            "ep x etp",
            plan.ep * plan.etp,
            f"the tp x cp x dp = {stage} devices of a stage",
            _divisors(stage),
        )


def _check_shape(model: Model, plan: TrainingPlan, schedule: str, most: int | None = None) -> None:
    """Degrees against what the model has: heads, layers, experts; ``most``: devices of a stage."""
    check_layout(model, Layout(plan.tp))
    chunks, parts = 2 if schedule in TWO_CHUNKS else plan.vpp, _parts(plan, schedule)
    if parts > model.layers + ENDS:
        raise DoesNotFitError(
            f"pp {plan.pp} x vpp {parts // plan.pp} exceeds the {model.layers} layers of "
            f"{model.name}; lower one of them."
        )
    if plan.layers and len(plan.layers) != parts:
        raise DoesNotFitError(
            f"plan.layers names {len(plan.layers)} virtual stages, {schedule} of pp {plan.pp} has "
            f"{parts}."
        )
    if plan.layers and sum(plan.layers) != model.layers:
        raise DoesNotFitError(
            f"plan.layers add up to {sum(plan.layers)}, {model.name} has {model.layers} layers."
        )
    if chunks > 1 and plan.pp == 1:
        raise DoesNotFitError(f"vpp={chunks} needs a pipeline; set pp above 1, or vpp=1.")
    if plan.context == "all_to_all" and model.heads // plan.tp % plan.cp:
        heads = model.heads // plan.tp
        _refuse("cp", plan.cp, f"the {heads} heads that tp leaves a device", _divisors(heads))
    moe = model.moe
    if moe is None:
        for name, degree in (("ep", plan.ep), ("etp", plan.etp)):
            if degree > 1:
                raise DoesNotFitError(f"{name}={degree} needs experts; {model.name} is dense.")
        return
    if moe.experts % plan.ep:
        _refuse(
            "ep",
            plan.ep,
            f"the {moe.experts} experts of {model.name}",
            divisors(moe.experts, most or moe.experts),
        )
    if moe.expert_hidden % plan.etp:
        _refuse(
            "etp",
            plan.etp,
            f"the width {moe.expert_hidden} of an expert",
            divisors(moe.expert_hidden, most or moe.expert_hidden),
        )


def _check_sequence(job: TrainingWorkload, plan: TrainingPlan) -> None:
    """Ranks of context and of sequence parallelism get equal parts of a sequence."""
    if job.seq_len % plan.cp:
        _refuse("cp", plan.cp, f"the {job.seq_len} tokens of a sequence", _divisors(job.seq_len))
    own = job.seq_len // plan.cp
    if plan.sequence_parallel and own * plan.micro_batch % plan.tp:
        _refuse("tp", plan.tp, f"the {own} tokens of a context-parallel rank", _divisors(own))


def _divisors(count: int) -> list[int]:
    return divisors(count, count)


def _refuse(name: str, degree: int, what: str, possible: list[int]) -> NoReturn:
    raise DoesNotFitError(
        f"{name}={degree} does not divide {what}; use one of {_nearest(degree, possible)}."
    )


def _nearest(degree: int, possible: list[int]) -> str:
    """The degrees nearest to a wrong one, in order."""
    near = sorted(possible, key=lambda n: (abs(math.log(n / degree)), n))[:NEAR]
    return ", ".join(str(n) for n in sorted(near))


def _warnings(case: Case) -> list[str]:
    """Groups that leave their scale-up domain although they would fit into one, and the cost."""
    found = []
    groups, network = case.groups, case.network
    message = case.tokens * case.model.hidden * 2
    for name, axis, operation, beside in (
        ("tp", groups.tp, "all_gather", 1),
        ("ep", groups.ep, "all_to_all", 1),
        ("cp", groups.cp, "send_recv", groups.tp.ranks),
    ):
        if axis.domains == 1 or axis.ranks * beside > network.domain:
            continue
        inside = network.seconds(operation, network.axis(axis.ranks, 1), message)
        across = network.seconds(operation, axis, message)
        found.append(
            f"{name} crosses scale-up domains although {axis.ranks} ranks fit into one of "
            f"{network.domain}: a call takes {across / inside:.1f} times as long; "
            f"see plan.order"
        )
    if groups.tp.ranks > network.domain:
        whole = network.seconds("all_gather", network.axis(network.domain, 1), message)
        across = network.seconds("all_gather", groups.tp, message)
        found.append(
            f"tp {groups.tp.ranks} is larger than a scale-up domain of {network.domain} devices: "
            f"a call takes {across / whole:.1f} times as long as with tp {network.domain}"
        )
    return found
