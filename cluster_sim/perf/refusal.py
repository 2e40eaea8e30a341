"""Why a model cannot be served on a machine, and what helps: only ways out that were tried."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice

from cluster_sim.errors import ClusterSimError, DoesNotFitError, counted
from cluster_sim.kernels.layout import Layout, Recipe, check_layout, divisors, missing, recipe
from cluster_sim.machine.host import domain_devices
from cluster_sim.perf.memory import GIB
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.ways_to_start import Setup, smallest_change
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology

OFFERED = 3  # names of topologies in a message
EXAMPLE = "_example"  # ends the names of machines that nobody has
MOST_DEVICES = 1024  # of a replica that is weighed


def way_out(machine: TopologyInput, job: WorkloadInput, wanted: Sequence[Recipe]) -> str:
    """What to do where no plan that was asked for starts, in one of ``wanted``.

    The smallest plan of the machine that starts; else flags with which the largest one does; else
    what the model needs and what a replica may have, then what was tried and works: other
    precisions here, machines whose domain is larger.
    """
    room = domain_devices(machine)
    usable = [one for one in wanted if not missing(machine.chip, machine.fits, job.model, one)]
    for one in usable:
        found = _smallest(machine, job, one, room)
        if found is not None:
            return f"Smallest plan that fits: {_words(found)} in {one.name}."
    for one in usable:
        flags = _flags(machine, job, one, room)
        if flags:
            return f"What works: {flags}."
    least = min(
        ((one, _smallest(machine, job, one, MOST_DEVICES)) for one in usable),
        key=lambda pair: pair[1].devices if pair[1] else MOST_DEVICES + 1,
    )
    options = list(islice(_precisions(machine, job, room), OFFERED))
    ways = [f"--precision {' or '.join(options)}"] if options else []
    own = _more_chips(machine, job, least[1])
    larger = _machines(machine, job, own)
    if larger:
        ways.append(f"a machine whose domain holds it: {larger}")
    end = f" What works: {', or '.join(ways)}." if ways else " No packaged machine holds it."
    return _need(machine, job, *least, crosses=not own) + end


def precisions_instead(machine: TopologyInput, job: WorkloadInput) -> str:
    """What to do where the chip cannot run the precision that is wanted."""
    found = _precisions(machine, job, domain_devices(machine))
    options = list(islice(found, OFFERED))
    if options:
        return f"what works: --precision {' or '.join(options)}"
    larger = _machines(machine, job, "")
    return f"what works: another machine, {larger}" if larger else "no packaged machine can"


def _need(
    machine: TopologyInput,
    job: WorkloadInput,
    wanted: Recipe,
    layout: Layout | None,
    *,
    crosses: bool,
) -> str:
    """What a replica needs at least, against what it may have: ``crosses`` if so many devices are
    more than a scale-up domain of the chip has.
    """
    chip, room = machine.chip, domain_devices(machine)
    if layout is None:
        return f"No number of {chip.title} holds it."
    cache = kv_cache(chip, job.model, job.software, layout, wanted)
    total = cache.weights_bytes * layout.devices / GIB
    devices = counted(room, "device")
    text = f"It needs {total:,.0f} GiB of weights in {wanted.name} over at least {layout.devices} "
    text += f"devices of {chip.title} ({_words(layout)}), and "
    if not crosses:
        return f"{text}{machine.topology.name} has {devices}."
    return (
        f"{text}a replica may not cross the scale-up domain yet, which has {devices} on "
        f"{machine.topology.name}."
    )


def _flags(machine: TopologyInput, job: WorkloadInput, wanted: Recipe, room: int) -> str:
    """Options of the engine with which the plan of the most devices starts and takes the longest
    request of the workload.
    """
    isls, osls = job.workload.shape
    length = min(isls.longest + osls.longest, job.model.max_context)
    for layout in reversed(_layouts(job, room)):
        setup = Setup(software=job.software, layout=layout, recipe=wanted)
        found = smallest_change(machine.chip, job.model, setup, devices=0, length=length)
        if found is not None:
            plan = f"--tp {layout.tp} --pp {layout.pp}" if layout.pp > 1 else f"--tp {layout.tp}"
            asked = job.workload.plan.tp or layout.tp
            return found.options if asked == layout.tp else f"{plan} {found.options}"
    return ""


def _smallest(
    machine: TopologyInput, job: WorkloadInput, wanted: Recipe, room: int
) -> Layout | None:
    """The layout of the fewest devices, at most ``room``, that leaves a KV cache."""
    for layout in _layouts(job, room):
        try:
            check_layout(job.model, layout)
            kv_cache(machine.chip, job.model, job.software, layout, wanted)
        except DoesNotFitError:
            continue
        return layout
    return None


def _layouts(job: WorkloadInput, room: int) -> list[Layout]:
    model = job.model
    found = [
        Layout(tp, pp)
        for tp in divisors(model.heads, room)
        for pp in (1, 2, 4, 8, 16)
        if tp * pp <= room
    ]
    if model.moe is not None:
        spread = [d for d in divisors(model.moe.experts, room) if d > 1 and d & (d - 1) == 0]
        found += [Layout(1, 1, size, size) for size in spread]
    return sorted(found, key=lambda layout: (layout.devices, layout.pp))


def _precisions(machine: TopologyInput, job: WorkloadInput, room: int) -> Iterator[str]:
    """Other precisions that the chip has and in which the model fits, the widest first; one of each
    width.
    """
    ordered = sorted(BYTES_PER_ELEMENT, key=lambda name: -BYTES_PER_ELEMENT[name])
    told: set[float] = set()
    for name in ordered:
        if name == job.workload.precision or BYTES_PER_ELEMENT[name] in told:
            continue
        kv_dtype = job.software.cache_dtype(job.model, name)
        one = recipe(machine.chip, job.model, name, kv_dtype)
        if missing(machine.chip, machine.fits, job.model, one):
            continue
        if _smallest(machine, job, one, room) is not None:
            told.add(BYTES_PER_ELEMENT[name])
            yield name


def _more_chips(machine: TopologyInput, job: WorkloadInput, layout: Layout | None) -> str:
    """So many of the same chip as a layout needs, inline, if they are one domain; else empty."""
    if layout is None:
        return ""
    text = f"{-(-layout.devices // machine.chip.devices_per_chip)} x {machine.chip.name}"
    try:
        return text if _holds(load_topology(text), job) else ""
    except ClusterSimError:
        return ""


def _machines(machine: TopologyInput, job: WorkloadInput, first: str) -> str:
    """Machines that hold the model, as --topo takes them; ``first`` if it is one."""
    found = [first] if first else []
    found += islice(_topologies(machine, job), OFFERED - len(found))
    return f"--topo {' or '.join(map(shlex.quote, found))}" if found else ""


def _topologies(machine: TopologyInput, job: WorkloadInput) -> Iterator[str]:
    """Packaged topologies of one domain that hold the model in the precision that is wanted: those
    of the same chip first, then those with the least memory.
    """
    found = []
    for name in names("topology"):
        if name.endswith(EXAMPLE):
            continue
        try:
            other = load_topology(name)
        except ClusterSimError:
            continue
        if other.topology.fabric is None and other.topology.chips == other.topology.domain:
            memory = other.topology.chips * other.chip.memory.capacity
            found.append((other.chip.name != machine.chip.name, memory, name, other))
    for *_, name, other in sorted(found, key=lambda entry: entry[:3]):
        if _holds(other, job):
            yield name


def _holds(machine: TopologyInput, job: WorkloadInput) -> bool:
    wanted = job.workload.precision
    native = job.model.native_dtype
    dtypes = [wanted] if wanted != "auto" else [native, "fp8", "int8", "bf16"]
    for name in dict.fromkeys(dtypes):
        kv_dtype = job.software.cache_dtype(job.model, name)
        one = recipe(machine.chip, job.model, name, kv_dtype)
        if missing(machine.chip, machine.fits, job.model, one):
            continue
        if _smallest(machine, job, one, domain_devices(machine)) is not None:
            return True
    return False


def _words(layout: Layout) -> str:
    if layout.attn_dp > 1:
        return f"attn_dp={layout.attn_dp}"
    return f"tp={layout.tp}" + (f", pp={layout.pp}" if layout.pp > 1 else "")
