"""The scale-out part of a machine: trees of leaves, spines and cores, and dragonflies, as counts.

Uplink u of leaf x goes to spine (x U + u) mod S of its group: as even as whole cables can be, and
the far end follows by arithmetic. U uplinks a leaf, S spines a group, C cores a place: spine j of
every group meets the others at cores j C ... j C + C - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.machine.board import Nics
from cluster_sim.machine.classes import Draft, Ends, Ints, LinkClass
from cluster_sim.specs.fabric import RAIL_KINDS, Fabric


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Leaves in ``columns`` (rails that only cores join, else one), cut into groups that share
    spines; ``spines`` of a group, ``cores`` of a place, ``down`` NICs of a leaf.
    """

    nics_per_host: int
    rails: int  # 0 without
    hosts_per_leaf: int
    down: int
    leaves: int
    columns: int
    per_column: int
    per_group: int
    groups_per_column: int
    uplinks: int
    spines: int
    core_uplinks: int
    cores: int

    @property
    def groups(self) -> int:
        """Groups of leaves."""
        return self.columns * self.groups_per_column

    def rail_of(self, nic: Ints) -> Ints:
        """Rail of each NIC; all 0 without rails."""
        return nic % self.nics_per_host * max(1, self.rails) // self.nics_per_host

    def leaf_of(self, nic: Ints) -> Ints:
        """Leaf of each NIC."""
        if self.rails == 0:
            return nic // self.down
        host = nic // self.nics_per_host
        return self.rail_of(nic) * (self.leaves // self.rails) + host // self.hosts_per_leaf

    def group_of(self, leaf: Ints) -> Ints:
        """Group of each leaf."""
        column, place = leaf // self.per_column, leaf % self.per_column
        return column * self.groups_per_column + place // self.per_group

    def place_of(self, leaf: Ints) -> Ints:
        """Number of each leaf in its group."""
        return leaf % self.per_column % self.per_group

    def spine_of(self, leaf: Ints, uplink: Ints) -> Ints:
        """Spine in the group of a leaf at the end of an uplink."""
        return (self.place_of(leaf) * self.uplinks + uplink) % self.spines

    def core_of(self, group: Ints, uplink: Ints) -> Ints:
        """Core, among those of a spine's place, at the end of a spine's uplink."""
        return (group * self.core_uplinks + uplink) % self.cores

    def spine_ends(self, cable: Ints) -> tuple[Ints, Ints]:
        """Leaf and spine at the ends of cables between them."""
        leaf, uplink = cable // self.uplinks, cable % self.uplinks
        return leaf, self.group_of(leaf) * self.spines + self.spine_of(leaf, uplink)

    def core_ends(self, cable: Ints) -> tuple[Ints, Ints]:
        """Spine and core at the ends of cables between them."""
        spine, uplink = cable // self.core_uplinks, cable % self.core_uplinks
        group, place = spine // self.spines, spine % self.spines
        return spine, place * self.cores + self.core_of(group, uplink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree of leaves, spines and cores: its counts and its cables."""

    counts: Counts
    nics: LinkClass
    up: LinkClass | None
    core: LinkClass | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dragonfly:
    """Groups of ``leaves`` x ``spines`` joined all to all; ``between`` cables between two groups.

    The cables of a pair of groups leave group a at its global port k (G - 1) + (b - a) - 1 and
    reach b at k (G - 1) + (G - (b - a)) - 1; port i belongs to spine i // ``global_links``.
    """

    nics: LinkClass
    nics_per_leaf: int
    groups: int
    leaves: int
    spines: int
    global_links: int
    between: int
    up: LinkClass
    across: LinkClass

    def leaf_of(self, nic: Ints) -> Ints:
        """Leaf of each NIC."""
        return nic // self.nics_per_leaf

    def port_spine(self, group: Ints, other: Ints, k: Ints) -> Ints:
        """Spine inside ``group`` that holds cable k to another group."""
        port = k * (self.groups - 1) + (other - group) % self.groups - 1
        return port // self.global_links


def add_scale_out(draft: Draft, fabric: Fabric, nics: Nics) -> Tree | Dragonfly:
    """Add leaves, spines, cores and their cables; what routing needs to know of them."""
    if fabric.kind == "dragonfly":
        return _dragonfly(draft, fabric, nics)
    return _tree(draft, fabric, nics)


def plan_tree(fabric: Fabric, nics_per_host: int, nics: int) -> Counts:
    """Counts of leaves, spines and cores; raises SpecError where ports do not suffice."""
    ports = fabric.ports or 0
    rails = 0
    if fabric.kind in RAIL_KINDS:
        rails = fabric.rails or nics_per_host
        if nics_per_host % rails:
            raise SpecError(
                f"fabric.rails: {rails} rails are not filled by the {nics_per_host} NICs of a "
                f"host; write {nics_per_host} or a divisor of it"
            )
    in_rail = nics_per_host // rails if rails else nics_per_host
    hosts_per_leaf = fabric.hosts_per_leaf or max(1, ports // 2 // in_rail)
    down = hosts_per_leaf * in_rail
    if fabric.kind == "fat_tree" or (not rails and fabric.hosts_per_leaf is None):
        down = ports // 2
    uplinks = _whole_uplinks(fabric, down, ports)
    hosts = ceil(nics / nics_per_host)
    leaves = rails * ceil(hosts / hosts_per_leaf) if rails else ceil(nics / down)
    return Counts(
        nics_per_host=nics_per_host,
        rails=rails,
        hosts_per_leaf=hosts_per_leaf,
        down=down,
        leaves=leaves,
        uplinks=uplinks,
        **_tiers(fabric, ports, uplinks, max(1, rails), leaves),
    )


def _whole_uplinks(fabric: Fabric, down: int, ports: int) -> int:
    uplinks = down / fabric.oversubscription
    if uplinks != int(uplinks) or uplinks < 1:
        raise SpecError(
            f"fabric.oversubscription: {down} ports down over {fabric.oversubscription:g} are "
            f"{uplinks:g} uplinks of a leaf, which is no whole number"
        )
    if down + uplinks > ports:
        raise SpecError(
            f"fabric.ports: a leaf has {down} ports down and {uplinks:g} up, a switch has {ports}; "
            "lower hosts_per_leaf or raise ports"
        )
    return int(uplinks)


def _tiers(fabric: Fabric, ports: int, uplinks: int, rails: int, leaves: int) -> dict[str, int]:
    """Two tiers while a layer of spines reaches every leaf, else three."""
    half = ports // 2
    columns = 1
    cores = core_uplinks = 0
    if fabric.kind == "planes":
        columns = rails
    flat = fabric.kind in ("planes", "leaf_spine") or (
        fabric.kind == "rail_tree" and leaves <= ports
    )
    per_column = leaves // columns
    if flat:
        if per_column > ports:
            raise SpecError(
                f"fabric.kind: {per_column} leaves need spines of as many ports, a switch "
                f"has {ports}; two tiers hold {ports * half} NICs"
                + (" a plane" if fabric.kind == "planes" else "; write kind: fat_tree")
            )
        spines = ceil(per_column * uplinks / ports) if per_column > 1 or rails > 1 else 0
        per_group, groups_per_column = per_column, 1
    else:
        columns = rails if fabric.kind == "rail_tree" else 1
        per_column = leaves // columns
        groups_per_column = ceil(per_column / half)
        per_group = half if columns == 1 else ceil(per_column / groups_per_column)
        groups_per_column = ceil(per_column / per_group)
        spines = ceil(per_group * uplinks / half)
        core_uplinks = ceil(per_group * uplinks / spines)
        groups = columns * groups_per_column
        cores = ceil(groups * core_uplinks / ports)
        if groups > ports or cores > core_uplinks:
            raise SpecError(
                f"fabric.ports: {leaves} leaves are {groups} groups, more than cores of "
                f"{ports} ports join; three tiers hold {ports * half * half:,} NICs"
            )
        if groups == 1:
            cores = core_uplinks = 0
    return {
        "columns": columns, "per_column": per_column, "per_group": per_group,
        "groups_per_column": groups_per_column, "spines": spines,
        "core_uplinks": core_uplinks, "cores": cores,
    }  # fmt: skip


def _tree(draft: Draft, fabric: Fabric, nics: Nics) -> Tree:
    counts = plan_tree(fabric, nics.per_host, nics.count)
    short = ceil(nics.count / nics.per_host) % counts.hosts_per_leaf
    if counts.rails and short:
        draft.notes.append(
            f"the last leaf of every rail has {short} of {counts.hosts_per_leaf} hosts; whole "
            f"scalable units are multiples of {counts.hosts_per_leaf} hosts"
        )
    speed = fabric.link or nics.bandwidth_bytes_per_s
    of_rail = counts.leaves // counts.rails if counts.rails else 0
    draft.add_nodes(
        "leaf",
        "switch",
        counts.leaves,
        "rail{0}/leaf{1}" if of_rail else "leaf{0}",
        radices=(of_rail,) if of_rail else (),
        **_switch(fabric, 3),
    )
    draft.add_nodes(
        "spine",
        "switch",
        counts.groups * counts.spines,
        "group{0}/spine{1}" if counts.groups > 1 else "spine{0}",
        radices=(counts.spines,) if counts.groups > 1 else (),
        **_switch(fabric, 4),
    )
    draft.add_nodes("core", "switch", counts.spines * counts.cores, "core{0}", **_switch(fabric, 5))
    down = draft.add_links(
        "nic-leaf",
        ("nic", "leaf"),
        nics.count,
        nics.bandwidth_bytes_per_s,
        lambda nic: (nic, counts.leaf_of(nic)),
        latency_s=fabric.link_latency,
    )
    up = core = None
    if counts.spines:
        up = draft.add_links(
            "leaf-spine",
            ("leaf", "spine"),
            counts.leaves * counts.uplinks,
            speed,
            counts.spine_ends,
            latency_s=fabric.link_latency,
        )
    if counts.cores:
        core = draft.add_links(
            "spine-core",
            ("spine", "core"),
            counts.groups * counts.spines * counts.core_uplinks,
            speed,
            counts.core_ends,
            latency_s=fabric.link_latency,
        )
    return Tree(counts=counts, nics=down, up=up, core=core)


def _switch(fabric: Fabric, tier: int) -> dict[str, Any]:
    return {"tier": tier, "ports": fabric.ports, "latency_s": fabric.switch_latency}


def _dragonfly(draft: Draft, fabric: Fabric, nics: Nics) -> Dragonfly:
    groups, leaves = fabric.groups or 0, fabric.leaves or 0
    spines, each = fabric.spines or 0, fabric.global_links or 0
    speed = fabric.link or nics.bandwidth_bytes_per_s
    per_leaf = nics.per_host * (fabric.hosts_per_leaf or 1)
    if nics.count > groups * leaves * per_leaf:
        raise SpecError(
            f"fabric.groups: {groups} groups of {leaves} leaves hold {groups * leaves * per_leaf} "
            f"NICs, the topology has {nics.count}; add groups, leaves or hosts_per_leaf"
        )
    if spines * each % (groups - 1):
        raise SpecError(
            f"fabric.global_links: {spines} spines x {each} cannot be dealt evenly to "
            f"{groups - 1} other groups; write a multiple of {groups - 1} in all"
        )
    between = spines * each // (groups - 1)
    draft.add_nodes(
        "leaf", "switch", groups * leaves, "group{0}/leaf{1}", radices=(leaves,),
        **_switch(fabric, 3),
    )  # fmt: skip
    draft.add_nodes(
        "spine", "switch", groups * spines, "group{0}/spine{1}", radices=(spines,),
        **_switch(fabric, 4),
    )  # fmt: skip
    down = draft.add_links(
        "nic-leaf",
        ("nic", "leaf"),
        nics.count,
        nics.bandwidth_bytes_per_s,
        lambda nic: (nic, nic // per_leaf),
        latency_s=fabric.link_latency,
    )
    up = draft.add_links(
        "leaf-spine",
        ("leaf", "spine"),
        groups * leaves * spines,
        speed,
        lambda cable: (cable // spines, cable // spines // leaves * spines + cable % spines),
        latency_s=fabric.link_latency,
    )
    across = draft.add_links(
        "spine-spine",
        ("spine", "spine"),
        groups * (groups - 1) // 2 * between,
        speed,
        _between_groups(groups, spines, each, between),
        latency_s=fabric.link_latency,
    )
    return Dragonfly(
        nics=down,
        nics_per_leaf=per_leaf,
        groups=groups,
        leaves=leaves,
        spines=spines,
        global_links=each,
        between=between,
        up=up,
        across=across,
    )


def _between_groups(groups: int, spines: int, each: int, between: int) -> Ends:
    """Spines at the ends of the cables of every two groups: see Dragonfly for the ports."""
    low, high = np.triu_indices(groups, 1)

    def ends(cable: Ints) -> tuple[Ints, Ints]:
        pair, k = cable // between, cable % between
        a, b = low[pair], high[pair]
        port_a = k * (groups - 1) + (b - a) - 1
        port_b = k * (groups - 1) + (groups - (b - a)) - 1
        return a * spines + port_a // each, b * spines + port_b // each

    return ends
