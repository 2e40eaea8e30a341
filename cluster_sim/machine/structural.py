"""Routes of regular machines by index arithmetic: no search, all flows in one pass."""

from __future__ import annotations

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.machine.board import Nics
from cluster_sim.machine.build import Shape
from cluster_sim.machine.classes import Floats, Ints, LinkClass, Machine
from cluster_sim.machine.routes import Routing, Ways, hashed
from cluster_sim.machine.scale_out import Counts, Dragonfly, Tree
from cluster_sim.machine.scale_up import Mesh, Package, Switched, Torus, pair_number


def add_all(
    machine: Machine, flow: Ints, start: Ints, stop: Ints, key: Ints, rules: Routing, way: Ways
) -> None:
    """Add the routes of all flows: inside packages, inside domains, across the fabric."""
    shape: Shape = machine.shape
    todo = start != stop
    if shape.package is not None:
        same = todo & (start // shape.package.size == stop // shape.package.size)
        _package(shape.package, flow[same], start[same], stop[same], way)
        todo &= ~same
    domain = machine.devices_per_domain
    near = todo & (start // domain == stop // domain)
    if shape.scale_up is not None:
        _in_domain(machine, flow[near], start[near], stop[near], way)
        todo &= ~near
    if not todo.any():
        return
    flow, start, stop, key = flow[todo], start[todo], stop[todo], key[todo]
    if shape.scale_out is None or shape.nics is None:
        raise SpecError(
            f"{machine.name}: no network joins its scale-up domains; give the topology a fabric"
        )
    _across(machine, flow, start, stop, key, rules, way)


def _hop(link: LinkClass, size: int, devices: int, start: Ints, stop: Ints) -> Ints:
    """Link between two members of a full mesh of ``size``; the last may be smaller."""
    group = start // size
    low, high = np.minimum(start, stop) % size, np.maximum(start, stop) % size
    here = np.minimum(size, devices - group * size)
    cable = group * (size * (size - 1) // 2) + pair_number(here, low, high)
    return np.where(start < stop, link.forward(cable), link.back(cable))


def _package(package: Package, flow: Ints, start: Ints, stop: Ints, way: Ways) -> None:
    way.add(flow, _hop(package.link, package.size, package.devices, start, stop))


def _in_domain(machine: Machine, flow: Ints, start: Ints, stop: Ints, way: Ways) -> None:
    kind = machine.shape.scale_up
    if isinstance(kind, Mesh):
        way.add(flow, _hop(kind.link, kind.size, kind.devices, start, stop))
    elif isinstance(kind, Torus):
        _torus(kind, flow, start, stop, way)
    elif isinstance(kind, Switched):
        _switched(machine, kind, flow, start, stop, way)


def _switched(
    machine: Machine, kind: Switched, flow: Ints, start: Ints, stop: Ints, way: Ways
) -> None:
    """Up to every switch and down again, a share of the bytes on each."""
    for link, share in zip(kind.links, kind.shares, strict=True):
        way.add(flow, link.forward(start), share)
    if kind.uplinks:
        host = machine.devices_per_host
        far = start // host != stop // host
        spread, from_host, to_host = flow[far], start[far] // host, stop[far] // host
        for steps, number in ((True, from_host), (False, to_host)):
            for link, share in zip(kind.uplinks, kind.shares, strict=True):
                for spine in range(kind.spines):
                    cable = number * kind.spines + spine
                    hop = link.forward(cable) if steps else link.back(cable)
                    way.add(spread, hop, share / kind.spines)
    if kind.across:
        here, there = start // kind.part, stop // kind.part
        far = here != there
        for link, share in zip(kind.across, kind.shares, strict=True):
            pair = here[far] // 2
            hop = np.where(here[far] < there[far], link.forward(pair), link.back(pair))
            way.add(flow[far], hop, share)
    for link, share in zip(kind.links, kind.shares, strict=True):
        way.add(flow, link.back(stop), share)


def _torus(kind: Torus, flow: Ints, start: Ints, stop: Ints, way: Ways) -> None:
    """Axis by axis the shorter way round; half of the ring goes forwards."""
    here = start.copy()
    for link, size, stride in zip(kind.links, kind.shape, kind.strides(), strict=True):
        place, goal = here // stride % size, stop // stride % size
        ahead = (goal - place) % size
        forward = ahead <= size - ahead
        steps = np.where(forward, ahead, size - ahead)
        for step in range(int(steps.max(initial=0))):
            going = steps > step
            place = here[going] // stride % size
            up = forward[going]
            change = np.where(up, (place + 1) % size, (place - 1) % size) - place
            after = here[going] + change * stride
            # the cable from x to x + 1 has the number of x
            way.add(flow[going], np.where(up, link.forward(here[going]), link.back(after)))
            here[going] = after


def _across(
    machine: Machine,
    flow: Ints,
    start: Ints,
    stop: Ints,
    key: Ints,
    rules: Routing,
    way: Ways,
) -> None:
    """Device to NIC, through the fabric, NIC to device; with PXN from the NIC on the target's
    rail.
    """
    shape: Shape = machine.shape
    nics, fabric = shape.nics, shape.scale_out
    assert nics is not None
    source, target = start // nics.devices_per_nic, stop // nics.devices_per_nic
    sender = start
    if isinstance(fabric, Tree) and fabric.counts.rails > 1:
        sender = _sender(machine, fabric.counts, nics, (source, target), start, rules)
        moved = sender != start
        if moved.any():
            _inside(machine, flow[moved], start[moved], sender[moved], way)
        source = sender // nics.devices_per_nic
    _leave(nics, flow, sender, source, way)
    if isinstance(fabric, Tree):
        _tree(fabric, flow, source, target, (start, stop, key), rules, way)
    elif isinstance(fabric, Dragonfly):
        _dragonfly(fabric, flow, source, target, (start, stop, key), rules, way)
    if nics.behind is not None:
        way.add(flow, nics.behind.back(target))
    way.add(flow, nics.attach.back(stop))


def _inside(machine: Machine, flow: Ints, start: Ints, stop: Ints, way: Ways) -> None:
    """From one device to another of the same host."""
    package = machine.shape.package
    same = np.zeros(len(flow), dtype=bool)
    if package is not None:
        same = start // package.size == stop // package.size
        _package(package, flow[same], start[same], stop[same], way)
    _in_domain(machine, flow[~same], start[~same], stop[~same], way)


def _sender(
    machine: Machine,
    counts: Counts,
    nics: Nics,
    ends: tuple[Ints, Ints],
    start: Ints,
    rules: Routing,
) -> Ints:
    """The device whose NIC sends: with PXN one of the same host on the target's rail."""
    source, target = ends
    from_rail, to_rail = counts.rail_of(source), counts.rail_of(target)
    other = from_rail != to_rail
    joined = counts.columns == 1 or counts.cores > 0
    can = machine.shape.scale_up is not None
    if not (other.any() and ((rules.pxn and can) or not joined)):
        return start
    if not can:
        raise SpecError(f"{machine.name}: rails that nothing joins need a scale-up link in a host")
    width = counts.nics_per_host // counts.rails
    host = source // counts.nics_per_host
    wanted = host * counts.nics_per_host + to_rail * width + source % width
    # a last host that is not full may lack the rail: then the flow crosses by the spines
    there = wanted < nics.count
    device = wanted * nics.devices_per_nic + start % nics.devices_per_nic
    return np.where(other & there, device, start)


def _leave(nics: Nics, flow: Ints, sender: Ints, nic: Ints, way: Ways) -> None:
    way.add(flow, nics.attach.forward(sender))
    if nics.behind is not None:
        way.add(flow, nics.behind.forward(nic))


def _tree(
    tree: Tree,
    flow: Ints,
    source: Ints,
    target: Ints,
    ids: tuple[Ints, Ints, Ints],
    rules: Routing,
    way: Ways,
) -> None:
    counts = tree.counts
    way.add(flow, tree.nics.forward(source))
    here, there = counts.leaf_of(source), counts.leaf_of(target)
    far = here != there
    if far.any():
        assert tree.up is not None
        ids = (ids[0][far], ids[1][far], ids[2][far])
        climb = _climb_all if rules.mode == "adaptive" else _climb_one
        climb(tree, flow[far], here[far], there[far], ids, rules, way)
    way.add(flow, tree.nics.back(target))


def _first_uplink(place: Ints, size: int, count: int, wanted: Ints) -> tuple[Ints, Ints]:
    """Uplinks u with (place x count + u) mod size == wanted: the first, and how many; the others
    follow ``size`` apart.
    """
    first = (wanted - place * count) % size
    return first, (count - 1 - first) // size + 1


def _climb_one(
    tree: Tree,
    flow: Ints,
    here: Ints,
    there: Ints,
    ids: tuple[Ints, Ints, Ints],
    rules: Routing,
    way: Ways,
) -> None:
    """One path a flow, every choice by its hash."""
    counts = tree.counts
    assert tree.up is not None
    uplink = hashed(rules.seed, 1, *ids) % counts.uplinks
    way.add(flow, tree.up.forward(here * counts.uplinks + uplink))
    spine = counts.spine_of(here, uplink)
    group, goal = counts.group_of(here), counts.group_of(there)
    over = group != goal
    if over.any():
        assert tree.core is not None
        n, some = counts.core_uplinks, tuple(part[over] for part in ids)
        up = hashed(rules.seed, 2, *some) % n
        way.add(flow[over], tree.core.forward((group * counts.spines + spine)[over] * n + up))
        core = counts.core_of(group[over], up)
        first, many = _first_uplink(goal[over], counts.cores, n, core)
        down = first + hashed(rules.seed, 3, *some) % many * counts.cores
        way.add(flow[over], tree.core.back((goal * counts.spines + spine)[over] * n + down))
    place = counts.place_of(there)
    first, many = _first_uplink(place, counts.spines, counts.uplinks, spine)
    down = first + hashed(rules.seed, 4, *ids) % many * counts.spines
    way.add(flow, tree.up.back(there * counts.uplinks + down))


def _climb_all(
    tree: Tree,
    flow: Ints,
    here: Ints,
    there: Ints,
    ids: tuple[Ints, Ints, Ints],
    rules: Routing,
    way: Ways,
) -> None:
    """An even share on every uplink, then on every cable down from where it arrived."""
    counts = tree.counts
    assert tree.up is not None
    for uplink in range(counts.uplinks):
        way.add(flow, tree.up.forward(here * counts.uplinks + uplink), 1 / counts.uplinks)
    group, goal = counts.group_of(here), counts.group_of(there)
    over = group != goal
    if over.any():
        _over_cores(tree, flow[over], here[over], (group[over], goal[over]), way)
    place, from_place = counts.place_of(there), counts.place_of(here)
    for down in range(counts.uplinks):
        spine = counts.spine_of(there, np.full_like(there, down))
        _, arriving = _first_uplink(from_place, counts.spines, counts.uplinks, spine)
        _, leaving = _first_uplink(place, counts.spines, counts.uplinks, spine)
        share = arriving / (counts.uplinks * leaving)
        way.add(flow, tree.up.back(there * counts.uplinks + down), share)


def _over_cores(tree: Tree, flow: Ints, here: Ints, groups: tuple[Ints, Ints], way: Ways) -> None:
    counts = tree.counts
    assert tree.core is not None
    n, cores = counts.core_uplinks, counts.cores
    group, goal = groups
    arriving: list[Floats] = []
    for place in range(counts.spines):
        spine = np.full_like(here, place)
        _, many = _first_uplink(counts.place_of(here), counts.spines, counts.uplinks, spine)
        arriving.append(many / counts.uplinks)
        for up in range(n):
            cable = (group * counts.spines + place) * n + up
            way.add(flow, tree.core.forward(cable), arriving[place] / n)
    for place in range(counts.spines):
        for down in range(n):
            core = counts.core_of(goal, np.full_like(goal, down))
            _, ups = _first_uplink(group, cores, n, core)
            _, downs = _first_uplink(goal, cores, n, core)
            cable = (goal * counts.spines + place) * n + down
            way.add(flow, tree.core.back(cable), arriving[place] * ups / (n * downs))


def _dragonfly(
    fabric: Dragonfly,
    flow: Ints,
    source: Ints,
    target: Ints,
    ids: tuple[Ints, Ints, Ints],
    rules: Routing,
    way: Ways,
) -> None:
    """Minimal routes: through a spine of the group, or over a direct cable to the other group."""
    way.add(flow, fabric.nics.forward(source))
    here, there = fabric.leaf_of(source), fabric.leaf_of(target)
    group, goal = here // fabric.leaves, there // fabric.leaves
    inside = (here != there) & (group == goal)
    over = group != goal
    for far, choices, fly in (
        (inside, fabric.spines, _fly_inside),
        (over, fabric.between, _fly_over),
    ):
        if not far.any():
            continue
        some = tuple(part[far] for part in ids)
        picks = [np.full(len(some[0]), k, dtype=np.int64) for k in range(choices)]
        if rules.mode != "adaptive":
            picks = [hashed(rules.seed, 1, *some) % choices]
        fly(fabric, flow[far], here[far], there[far], picks, way)
    way.add(flow, fabric.nics.back(target))


def _fly_inside(
    fabric: Dragonfly, flow: Ints, here: Ints, there: Ints, picks: list[Ints], way: Ways
) -> None:
    for spine in picks:
        way.add(flow, fabric.up.forward(here * fabric.spines + spine), 1 / len(picks))
    for spine in picks:
        way.add(flow, fabric.up.back(there * fabric.spines + spine), 1 / len(picks))


def _fly_over(
    fabric: Dragonfly, flow: Ints, here: Ints, there: Ints, picks: list[Ints], way: Ways
) -> None:
    """Up to the spines that hold the cables, across, down: several cables may share a spine."""
    group, goal = here // fabric.leaves, there // fabric.leaves
    last = [fabric.port_spine(goal, group, k) for k in picks]
    first = [fabric.port_spine(group, goal, k) for k in picks]
    _fan(fabric, flow, fabric.up.forward(here * fabric.spines), first, way)
    pair = pair_number(fabric.groups, np.minimum(group, goal), np.maximum(group, goal))
    for k in picks:
        cable = pair * fabric.between + k
        hop = np.where(group < goal, fabric.across.forward(cable), fabric.across.back(cable))
        way.add(flow, hop, 1 / len(picks))
    _fan(fabric, flow, fabric.up.back(there * fabric.spines), last, way)


def _fan(fabric: Dragonfly, flow: Ints, base: Ints, spines: list[Ints], way: Ways) -> None:
    """Each flow's share on the link to each spine: how many of its cables are there."""
    for spine in range(fabric.spines):
        held = np.sum([place == spine for place in spines], axis=0)
        used = held > 0
        way.add(flow[used], base[used] + spine, held[used] / len(spines))
