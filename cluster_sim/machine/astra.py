"""ASTRA-sim analytical network files as machines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cluster_sim.machine.classes import Draft, Machine
from cluster_sim.machine.exchange import listed
from cluster_sim.specs.astra import Dimension, dimensions, domain_dimensions


def from_astra(text: str, shown: str, name: str) -> Machine:
    """The machine of a network file (``specs.astra``): NPUs are devices, each domain a host.

    Raises SpecError with all that is wrong.
    """
    from cluster_sim.specs.yaml_text import parse

    return _machine(name, dimensions(*parse(text, shown), shown))


def _machine(name: str, found: Sequence[Dimension]) -> Machine:
    total = math.prod(one.size for one in found)
    domain = math.prod(one.size for one in domain_dimensions(found))
    draft = Draft()
    draft.add_nodes("npu", "device", total, "npu{0}", tier=0, transit=True)
    stride = 1
    number = np.arange(total)
    for dimension, one in enumerate(found):
        size, pairs, other = one.size, list[tuple[int, int]](), "npu"
        if one.kind == "Switch" and size > 1:
            other = f"switch{dimension}"
            draft.add_nodes(
                other, "switch", total // size, f"dim{dimension}/switch{{0}}", tier=1 + dimension
            )
            group = number // (stride * size) * stride + number % stride
            pairs = list(zip(range(total), group.tolist(), strict=True))
        elif size > 1:
            for a in range(total):
                here = a // stride % size
                all_ahead = one.kind == "FullyConnected"
                ahead = range(here + 1, size) if all_ahead else [(here + 1) % size]
                if all_ahead or size > 2 or here == 0:
                    pairs += [(a, a + (there - here) * stride) for there in ahead]
        if pairs:
            draft.add_links(
                f"dim{dimension}", ("npu", other), len(pairs), one.bytes_per_s, listed(pairs),
                latency_s=one.latency_s,
            )  # fmt: skip
        stride *= size
    return Machine(
        name=name,
        devices=total,
        devices_per_chip=1,
        devices_per_host=domain,
        devices_per_domain=domain,
        nodes=tuple(draft.nodes),
        links=tuple(draft.links),
    )
