"""Ranks of parallel groups on the devices of a machine: the innermost degrees inside a domain."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from cluster_sim.errors import DoesNotFitError
from cluster_sim.machine.classes import Ints, Machine


def place(machine: Machine, degrees: Mapping[str, int]) -> Ints:
    """The device of every rank.

    Ranks run with the first degree fastest. The longest run of leading degrees whose product fits
    into a scale-up domain is kept whole: such a block never lies across two domains, devices that
    are left over in a domain stay idle. Raises DoesNotFitError when there are too few devices.
    """
    domain, sizes = machine.devices_per_domain, list(degrees.values())
    block = 1
    for size in sizes:
        if block * size > domain:
            break
        block *= size
    ranks = prod(sizes)
    per_domain = domain // block
    full, rest = divmod(machine.devices, domain)
    room = full * per_domain + rest // block
    if ranks // block > room:
        wanted = " x ".join(f"{name} {size}" for name, size in degrees.items())
        raise DoesNotFitError(
            f"{wanted} needs {ranks // block} blocks of {block} devices, each in one scale-up "
            f"domain; {machine.name} has room for {room} ({machine.devices} devices)"
        )
    number = np.arange(ranks // block, dtype=np.int64)
    first = number // per_domain * domain + number % per_domain * block
    return (first[:, None] + np.arange(block, dtype=np.int64)).reshape(-1)


def groups(machine: Machine, degrees: Mapping[str, int]) -> dict[str, Ints]:
    """For each degree its groups as rows of devices: ``{"tp": 8, "pp": 4, "dp": 32}`` gives 128
    rows of 8 for tp, 256 of 4 for pp, 32 of 32 for dp.
    """
    devices = place(machine, degrees)
    names = list(degrees)
    grid = devices.reshape([degrees[name] for name in reversed(names)])
    found = {}
    for axis, name in enumerate(reversed(names)):
        found[name] = np.moveaxis(grid, axis, -1).reshape(-1, degrees[name])
    return found
