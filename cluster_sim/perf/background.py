"""Traffic beside what is simulated, as the command line writes it: flows and collectives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cluster_sim.collectives.activity import Call, collective_activity
from cluster_sim.collectives.group import Group, make_group
from cluster_sim.errors import SpecError, nearest
from cluster_sim.machine.routes import Routing as Routes
from cluster_sim.machine.routes import paths
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.units import parse_quantity
from cluster_sim.work import Activity, Phase

MOST_SIZES = 64
MOST_FLOWS = 10_000
OUT_OF_RANGE = "sizes run from the smaller to the larger, such as 1KiB..16GiB"


def parse_sizes(text: str, element_bytes: int = 1) -> list[int]:
    """``1KiB..16GiB`` (each twice the last), ``1KiB,1MiB`` or one size, as whole elements.

    Raises SpecError for sizes without a unit, in bits, out of order, or smaller than an element.

    >>> parse_sizes("1KiB..4KiB")
    [1024, 2048, 4096]
    """
    sizes: list[int] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        first = _size(low)
        last = _size(high) if dots else first
        if last < first:
            raise SpecError(f"--bytes {text}: {OUT_OF_RANGE} (got {low.strip()}..{high.strip()})")
        count = int(np.log2(last / first) + 1e-9)
        if len(sizes) + count >= MOST_SIZES:
            raise SpecError(f"--bytes {text}: more than {MOST_SIZES} sizes")
        sizes += [int(first * 2**step) for step in range(count + 1)]
    whole = [size // element_bytes * element_bytes for size in sizes]
    if min(whole) <= 0:
        raise SpecError(f"--bytes {text}: smaller than one element of {element_bytes} bytes")
    return whole


def _size(text: str) -> float:
    text = text.strip()
    spaced = re.sub(r"^([\d.,_]+)([A-Za-z])", r"\1 \2", text)
    if re.search(r"\d ?[kKMGT]?i?b(it|its)?$", text) and not text.endswith("B"):
        raise SpecError(f"--bytes {text}: in bits; sizes are bytes, write a capital B as in 1 MiB")
    try:
        value = parse_quantity(spaced, "bytes")
    except ValueError as error:
        problem = f"--bytes {text[:40]}: not a size, {error}"
        raise SpecError(f"{problem}; write for example 1KiB..16GiB") from None
    if value < 1:
        raise SpecError(f"--bytes {text}: must be at least 1 B")
    return value


def parse_ranks(text: str, devices: int) -> list[int]:
    """``0-63``, ``0-511:8`` (each eighth) or ``0,4,8`` as devices; raises SpecError."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18})(?::([0-9]{1,18}))?)?", part.strip())
        if match is None:
            raise SpecError(f"ranks {text}: write 0-63, 0-511:8 or 0,4,8 (got '{part}')")
        low, high = int(match[1]), int(match[2] or match[1])
        step = int(match[3] or 1)
        if high < low or step < 1:
            raise SpecError(f"ranks {text}: '{part}' runs backwards")
        if high >= devices:
            raise SpecError(f"ranks {text}: the machine has devices 0 to {devices - 1}")
        found += range(low, high + 1, step)
    return found


def stretched(activity: Activity, seconds: float) -> Activity:
    """An activity that repeats without a pause for so long, as one."""
    times = max(1.0, seconds / activity.alone_s)
    return replace(
        activity,
        alone_s=activity.alone_s * times,
        size=activity.size * times,
        demand=tuple(amount * times for amount in activity.demand),
    )


def background(topology: TopologyInput, group: Group, text: str) -> list[Activity]:
    """Traffic beside: ``all_reduce:1GiB:ranks=0-63`` (any operation; keys ranks, library, algo,
    proto) or ``flows:200:seed=1:bytes=1GiB`` (so many between random pairs).

    Raises SpecError for anything else.
    """
    kind, *fields = [part.strip() for part in text.split(":")]
    ranks = re.search(r"ranks=([^=]*?)(?::[a-z]+=|$)", text)
    pairs = [field.partition("=") for field in fields if "=" in field]
    keys = {key: value for key, _, value in pairs}
    if ranks is not None:
        keys["ranks"] = ranks[1]
    plain = [field for field in fields if "=" not in field]
    known = ("seed", "bytes") if kind == "flows" else ("ranks", "library", "algo", "proto")
    for key in keys:
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SpecError(
                f"--background {text}: no key '{key}'{hint} It takes {', '.join(known)}"
            )
    if not plain:
        raise SpecError(f"--background {text}: write all_reduce:1GiB:ranks=0-63 or flows:200")
    if kind == "flows":
        count, seed = _digits(plain[0]), _digits(keys.get("seed", "0"))
        if not count or seed is None:
            raise SpecError(f"--background {text}: write flows:200:seed=1:bytes=1GiB")
        if count > MOST_FLOWS:
            raise SpecError(f"--background {text}: at most {MOST_FLOWS:,} flows")
        size = parse_sizes(keys.get("bytes", "1GiB"))[0]
        return random_flows(group, count, seed, size)
    machine = group.machine
    devices = parse_ranks(keys.get("ranks", f"0-{machine.devices - 1}"), machine.devices)
    other = make_group(topology, devices, machine=machine)
    call = Call(
        operation=kind,
        library=keys.get("library"),
        algorithm=keys.get("algo"),
        protocol=keys.get("proto"),
    )
    phases = collective_activity(other, call, parse_sizes(plain[0])[0])
    return [_merged(other, phases)]


def _digits(text: str) -> int | None:
    """The number that a few digits are; None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _merged(group: Group, phases: Sequence[Phase]) -> Activity:
    """Phases that repeat for ever as one activity."""
    if not phases:
        raise SpecError("--background: a group of one rank sends nothing")
    demand: dict[int, float] = {}
    for phase in phases:
        activity = phase.activity
        for link, amount in zip(activity.resources, activity.demand, strict=True):
            demand[link] = demand.get(link, 0.0) + amount
    bandwidth = group.machine.link_bandwidth
    fullest = max(demand, key=lambda link: demand[link] / bandwidth[link])
    return Activity(
        kind="traffic",
        alone_s=sum(phase.activity.alone_s for phase in phases),
        size=demand[fullest],
        resources=tuple(demand),
        demand=tuple(demand.values()),
    )


def random_flows(group: Group, count: int, seed: int, size_bytes: float) -> list[Activity]:
    """``count`` flows of ``size_bytes`` between random different devices, each at line rate when
    alone.
    """
    machine = group.machine
    if machine.devices < 2:
        raise SpecError("--background flows: the machine has one device")
    stream = np.random.default_rng(seed)
    source = stream.integers(machine.devices, size=count)
    target = (source + stream.integers(1, machine.devices, size=count)) % machine.devices
    route = paths(machine, source, target, np.arange(count), Routes(seed=seed))
    found = []
    for flow in range(count):
        links, shares = route.of(flow)
        used, place = np.unique(links, return_inverse=True)
        demand = np.bincount(place, weights=shares * size_bytes)
        seconds = demand / machine.link_bandwidth[used]
        found.append(
            Activity(
                kind="traffic",
                alone_s=float(seconds.max()),
                size=float(demand[seconds.argmax()]),
                resources=tuple(used.tolist()),
                demand=tuple(demand.tolist()),
            )
        )
    return found
