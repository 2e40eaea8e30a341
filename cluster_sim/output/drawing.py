"""A machine as a picture: tiers stacked, domains as boxes, rails coloured, counts as labels.

What does not fit is folded: the first members of a class, dots, the last, and the multiplicity in
the label. The size of the picture does not grow with that of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster_sim.errors import SpecError, counted
from cluster_sim.machine.classes import Ints, LinkClass, Machine, NodeClass, tiers
from cluster_sim.machine.facts import ports_used
from cluster_sim.machine.scale_out import Counts, Dragonfly, Tree
from cluster_sim.output.draw_domain import (
    RAILS,
    SWITCH,
    Drawing,
    domain_size,
    draw_domain,
    rail_colour,
)
from cluster_sim.output.files import check_file, write_whole
from cluster_sim.output.svg import Canvas, page

LEFT, WIDTH = 190.0, 1400.0
TOP, ROW, ARCS = 92.0, 138.0, 70.0
NODE = 26.0
MOST_GROUPS, MOST_NODES, MOST_LINES = 16, 48, 700
MOST_CORES = 24  # of one row without groups that is folded
FORMATS = (".svg", ".html", ".png")
Place = dict[int, tuple[float, float]]


def draw(machine: Machine, file: str) -> None:
    """Write a picture of a machine; see ``save``."""
    save(machine.name, picture(machine), file, "--draw")


def check_picture(file: str, option: str) -> None:
    """Raises SpecError for a file whose ending names no kind of picture, or that cannot be
    written.
    """
    ending = Path(file).suffix
    if ending not in FORMATS:
        raise SpecError(f"{file}: the ending must be {', '.join(FORMATS)} (got '{ending}')")
    check_file(Path(file), option)


def save(name: str, text: str, file: str, option: str) -> None:
    """Write an SVG text as the ending of the file says, whole or not at all. Raises SpecError for
    another ending, a missing library, or a folder that cannot be written.
    """
    check_picture(file, option)
    kind = Path(file).suffix
    content = page(name, text) if kind == ".html" else text
    write_whole(Path(file), _png(text, file) if kind == ".png" else content, option)


def _png(text: str, file: str) -> bytes:
    try:
        from cairosvg import svg2png
    except (ImportError, OSError):
        raise SpecError(
            f"{file}: PNG needs cairosvg and the cairo library: pip install 'cluster-sim[draw]'; "
            "or write .svg or .html"
        ) from None
    return bytes(svg2png(bytestring=text.encode(), scale=1.5))


def picture(machine: Machine) -> str:
    """The machine as SVG."""
    drawing = Drawing(canvas=Canvas(), machine=machine)
    _title(drawing)
    above = [node for node in machine.nodes if node.tier >= 3]
    if machine.shape is None:
        _plain(drawing)
    else:
        rows = sorted(above, key=lambda node: -node.tier)
        arcs = any(link.a == link.b == "spine" for link in machine.links)
        top = TOP + (ARCS if arcs else 0.0)
        _domains(drawing, top + len(rows) * ROW, alone=not rows)
        _upper(drawing, rows, top)
        _legend(drawing)
    return drawing.canvas.svg(machine.name)


def _title(drawing: Drawing) -> None:
    machine, canvas = drawing.machine, drawing.canvas
    canvas.text(24, 38, machine.name, size=22, bold=True)
    word = machine.nodes[0].name.upper()
    chips = f" in {machine.chips:,} packages" if machine.devices_per_chip > 1 else ""
    cables = sum(link.count for link in machine.links)
    words = (
        f"{machine.devices:,} {word}{chips}, {counted(machine.hosts, 'host')}, "
        f"{counted(machine.domains, 'scale-up domain')} of {machine.devices_per_domain:,}, "
        f"{cables:,} cables; bandwidths per direction"
    )
    canvas.text(24, 60, words, size=13, fill="#555")


def _domains(drawing: Drawing, top: float, *, alone: bool) -> None:
    """As many domains as fit, the last one after dots."""
    machine, canvas = drawing.machine, drawing.canvas
    width, height = domain_size(machine)
    fit = max(1, int((WIDTH + 24) // (width + 24)))
    shown = list(range(machine.domains))
    if machine.domains > fit:
        fit = max(1, int((WIDTH - 60) // (width + 24)))
        shown = shown[: max(1, fit - 1)] + ([machine.domains - 1] if fit > 1 else [])
    folded = len(shown) < machine.domains
    total = len(shown) * (width + 24) - 24 + (70 if folded else 0)
    x = LEFT if alone else LEFT + max(0.0, (WIDTH - total) / 2)
    for place, number in enumerate(shown):
        if folded and place and place == len(shown) - 1:
            canvas.text(x + 23, top + height / 2, "...", size=30, anchor="middle")
            x += 70
        draw_domain(drawing, number, x, top)
        x += width + 24
    if folded and len(shown) == 1:
        canvas.text(x - 10, top + height / 2, "...", size=30)
    label = f"{machine.domains:,} x" if machine.domains > 1 else "one"
    canvas.text(24, top + height / 2 - 8, f"{label} domain", size=14, bold=True)
    canvas.text(24, top + height / 2 + 10, f"of {machine.devices_per_domain:,} devices", size=11)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Members of a tier by group, and how a group is called and coloured."""

    members: list[Ints]
    word: str
    colours: list[str]


def _groups(machine: Machine, node: NodeClass) -> _Groups:
    everyone = np.arange(node.count, dtype=np.int64)
    fabric = machine.shape.scale_out
    if isinstance(fabric, Dragonfly):
        per = fabric.leaves if node.name == "leaf" else fabric.spines
        return _cut(everyone, everyone // per, "group", [SWITCH])
    if isinstance(fabric, Tree) and node.name != "core":
        counts: Counts = fabric.counts
        if node.name == "leaf" and counts.rails:
            return _cut(everyone, everyone // (counts.leaves // counts.rails), "rail", list(RAILS))
        group = counts.group_of(everyone) if node.name == "leaf" else everyone // counts.spines
        of_rail = counts.columns > 1
        colours = (
            [RAILS[g // counts.groups_per_column % len(RAILS)] for g in range(counts.groups)]
            if of_rail
            else [SWITCH]
        )
        return _cut(everyone, group, "group", colours)
    return _cut(everyone, everyone * 0, "", [SWITCH])


def _cut(everyone: Ints, group: Ints, word: str, colours: list[str]) -> _Groups:
    count = int(group.max(initial=0)) + 1
    members = [everyone[group == number] for number in range(count)]
    chosen = [colours[number % len(colours)] for number in range(count)]
    return _Groups(members=members, word=word if count > 1 else "", colours=chosen)


def _upper(drawing: Drawing, rows: list[NodeClass], top: float) -> None:
    """Leaves, spines, cores, and the cables between what is shown."""
    machine, canvas = drawing.machine, drawing.canvas
    lines_at = len(canvas.parts)
    places: dict[str, Place] = {}
    colours: dict[str, dict[int, str]] = {}
    for row, node in enumerate(rows):
        y = top + row * ROW + 20
        places[node.name], colours[node.name] = _row(drawing, node, y)
        _tier_label(drawing, node, y)
    nodes_drawn = canvas.parts[lines_at:]
    del canvas.parts[lines_at:]
    names = [node.name for node in rows]
    for link in machine.links:
        if link.a == "nic" and link.b in places:
            _bundles(drawing, link, places[link.b])
            y = top + (names.index(link.b) + 1) * ROW - 34
            _cable_label(drawing, link, y)
        elif link.a in places and link.b in places:
            _cables(drawing, link, (places[link.a], places[link.b]), colours[link.a])
            y = top + (names.index(link.b) + 1) * ROW - 34
            _cable_label(drawing, link, y if link.a != link.b else y - 104)
    canvas.parts += nodes_drawn  # on top of the lines


def _row(drawing: Drawing, node: NodeClass, y: float) -> tuple[Place, dict[int, str]]:
    """The nodes of a tier, folded; where they are and their colours."""
    canvas, groups = drawing.canvas, _groups(drawing.machine, node)
    many = len(groups.members)
    shown = list(range(many))
    if many > MOST_GROUPS:
        shown = [*range(MOST_GROUPS // 2 - 1), many - 1]
    slot = (WIDTH - (60 if len(shown) < many else 0)) / len(shown)
    budget = max(2, MOST_NODES // len(shown))
    if many == 1 and node.count > budget:
        budget = MOST_CORES
    at: Place = {}
    colours: dict[int, str] = {}
    x = LEFT
    for number in shown:
        if number == many - 1 and len(shown) < many:
            canvas.text(x + 30, y + 18, "...", size=22, anchor="middle")
            x += 60
        members, colour = groups.members[number], groups.colours[number]
        if groups.word:
            canvas.box(x + 3, y - 12, slot - 6, 66, stroke=colour, round_by=8, thick=1.5)
            words = f"{groups.word} {number}: {len(members):,} {_word(node, len(members))}"
            words = _fitting(words, slot)
            wide = 6.4 * len(words)
            canvas.box(x + (slot - wide) / 2, y + 36, wide, 13, fill="#fff", stroke="#fff")
            canvas.text(x + slot / 2, y + 46, words, size=10, anchor="middle", fill=colour)
        chosen, tail = members.tolist(), max(1, budget // 3)
        if len(chosen) > budget:
            chosen = [*chosen[: budget - tail], *chosen[-tail:]]
        step = min(54.0, (slot - 16) / (len(chosen) + (len(chosen) < len(members))))
        left = x + slot / 2 - step * (len(chosen) + (len(chosen) < len(members))) / 2
        for place, member in enumerate(chosen):
            if place == len(chosen) - tail and len(chosen) < len(members):
                canvas.text(left + step / 2, y + 18, "...", size=16, anchor="middle")
                left += step
            side = min(NODE, step - 3)
            spot = left + (step - side) / 2
            title = f"{node.label(member)}, {node.ports or '?'} ports"
            canvas.box(spot, y, side, NODE, fill=colour, stroke=colour, title=title)
            at[member], colours[member] = (spot + side / 2, y), colour
            left += step
        x += slot
    return at, colours


def _fitting(words: str, slot: float) -> str:
    """A group's label, or only its first part where the group is narrow."""
    return words if len(words) * 6.2 < slot else words.partition(":")[0]


def _word(node: NodeClass, count: int) -> str:
    plural = {"leaf": "leaves"}.get(node.name, node.name + "s")
    return node.name if count == 1 else plural


def _tier_label(drawing: Drawing, node: NodeClass, y: float) -> None:
    used = ports_used(drawing.machine)[node.first : node.first + node.count]
    drawing.canvas.text(24, y + 12, f"{node.count:,} {_word(node, node.count)}", size=14, bold=True)
    ports = f"{int(used.max())} of {node.ports} ports used" if node.ports else ""
    drawing.canvas.text(24, y + 29, ports, size=11, fill="#555")


def _cable_label(drawing: Drawing, link: LinkClass, y: float) -> None:
    speed = f"{link.bandwidth_bytes_per_s * 8 / 1e9:g} Gb/s"
    drawing.canvas.text(24, y, f"{link.count:,} x {speed}", size=11, fill="#0b5394")


def _bundles(drawing: Drawing, link: LinkClass, leaves: Place) -> None:
    """From the NICs of each shown domain to the leaves: one line for those with equal ends."""
    machine = drawing.machine
    nics = np.array(sorted(drawing.nic_at), dtype=np.int64)
    if not len(nics):
        return
    _, leaf = link.ends(nics)
    share = machine.shape.nics.devices_per_nic
    domain = nics * share // machine.devices_per_domain
    bundles: dict[tuple[int, int], list[int]] = {}
    for number, key in enumerate(zip(domain.tolist(), leaf.tolist(), strict=True)):
        bundles.setdefault(key, []).append(int(nics[number]))
    single = machine.devices_per_domain <= machine.devices_per_host
    for (number, to), members in bundles.items():
        if to not in leaves:
            continue
        x, y = _anchor(drawing, number, members, single=single)
        end = (leaves[to][0], leaves[to][1] + NODE)
        drawing.canvas.line(
            (x, y),
            end,
            stroke=rail_colour(machine, members[0]),
            thick=min(4.0, 1.0 + 0.15 * len(members)),
            opacity=0.75,
            title=f"domain {number} to {machine.node_class('leaf').label(to)}: {len(members)} x "
            f"{link.bandwidth_bytes_per_s * 8 / 1e9:g} Gb/s",
        )


def _anchor(
    drawing: Drawing, domain: int, members: list[int], *, single: bool
) -> tuple[float, float]:
    """Where a bundle leaves a domain: at its NICs, or at the top of a box of many hosts."""
    if single:
        spots = [drawing.nic_at[nic] for nic in members]
        return sum(x for x, _ in spots) / len(spots), min(y for _, y in spots)
    left, top, width = drawing.domain_at[domain]
    counts = getattr(drawing.machine.shape.scale_out, "counts", None)
    rails = counts.rails if counts is not None and counts.rails else 1
    place = members[0] % counts.nics_per_host * rails // counts.nics_per_host if counts else 0
    x = left + (place + 0.5) * width / rails
    colour = rail_colour(drawing.machine, members[0])
    drawing.canvas.box(x - 7, top - 3, 14, 6, fill=colour, stroke=colour, round_by=1)
    return x, top - 3


def _cables(
    drawing: Drawing, link: LinkClass, places: tuple[Place, Place], colours: dict[int, str]
) -> None:
    """Lines between the shown nodes of two tiers; arcs inside one."""
    low, high = places
    a, b = link.ends(np.arange(link.count, dtype=np.int64))
    keep = np.isin(a, list(low)) & np.isin(b, list(high))
    base = int(max(a.max(initial=0), b.max(initial=0))) + 1
    pairs, counts = np.unique(a[keep] * base + b[keep], return_counts=True)
    speed = f"{link.bandwidth_bytes_per_s * 8 / 1e9:g} Gb/s"
    faint = min(0.6, 12 / max(1.0, len(pairs) ** 0.5) / 2)
    names = drawing.machine.node_class(link.a), drawing.machine.node_class(link.b)
    if link.a == link.b:
        _arcs(drawing, low, pairs, base)
        return
    for pair, count in list(zip(pairs.tolist(), counts.tolist(), strict=True))[:MOST_LINES]:
        start, stop = pair // base, pair % base
        title = f"{names[0].label(start)} to {names[1].label(stop)}: {count} x {speed}"
        drawing.canvas.line(
            low[start],
            (high[stop][0], high[stop][1] + NODE),
            stroke=colours[start],
            thick=min(3.0, 0.6 + 0.3 * count),
            opacity=round(faint, 2),
            title=title,
        )


def _arcs(drawing: Drawing, at: Place, pairs: Ints, base: int) -> None:
    for pair in pairs.tolist()[:MOST_LINES]:
        start, stop = at[pair // base], at[pair % base]
        rise = 14 + abs(stop[0] - start[0]) * 0.09
        drawing.canvas.arc(start, stop, rise, stroke="#7a8a99", opacity=0.5)


def _legend(drawing: Drawing) -> None:
    counts = getattr(getattr(drawing.machine.shape, "scale_out", None), "counts", None)
    if counts is None or not counts.rails:
        return
    canvas, y = drawing.canvas, drawing.canvas.height + 26
    canvas.text(24, y + 11, "rails", size=12, bold=True)
    for rail in range(counts.rails):
        x = LEFT + rail * 78
        canvas.box(x, y, 14, 14, fill=RAILS[rail % len(RAILS)], stroke="#fff")
        canvas.text(x + 19, y + 12, f"rail {rail}", size=11)


def _plain(drawing: Drawing) -> None:
    """A graph without a known shape: a row for every tier, what fits of it."""
    machine, canvas = drawing.machine, drawing.canvas
    rows = list(reversed(list(tiers(machine))))
    at: dict[int, tuple[float, float]] = {}
    colour = {"device": RAILS[0], "nic": RAILS[4], "switch": SWITCH, "cpu": RAILS[7]}
    boxes: list[tuple[float, float, str, str]] = []
    for row, (_, nodes) in enumerate(rows):
        y = TOP + row * ROW
        every = [(node, number) for node in nodes for number in range(node.count)]
        kept = every if len(every) <= MOST_NODES else [*every[: MOST_NODES - 1], every[-1]]
        step = min(70.0, WIDTH / (len(kept) + (len(kept) < len(every))))
        left = LEFT + (WIDTH - step * len(kept)) / 2
        for place, (node, number) in enumerate(kept):
            x = left + place * step + step / 2
            at[node.first + number] = (x, y + NODE / 2)
            boxes.append((x, y, colour.get(node.kind, PLAIN_SWITCH), node.label(number)))
        words = " and ".join(f"{node.count:,} x {node.kind}" for node in nodes)
        canvas.text(24, y + 16, words, size=13, bold=True)
        if len(kept) < len(every):
            canvas.text(24, y + 32, "the first and the last shown", size=10, fill="#555")
    ends = zip(machine.link_from.tolist(), machine.link_to.tolist(), strict=True)
    drawn = [(a, b) for a, b in ends if a < b and a in at and b in at]
    faint = min(0.7, 10 / max(1.0, len(drawn) ** 0.5))
    for a, b in drawn[:4000]:
        if at[a][1] == at[b][1]:
            canvas.arc(at[a], at[b], 14 + abs(at[a][0] - at[b][0]) * 0.1, opacity=round(faint, 2))
        else:
            canvas.line(at[a], at[b], opacity=round(faint, 2))
    for x, y, fill, title in boxes:
        canvas.box(x - 10, y, 20, NODE, fill=fill, stroke="#fff", title=title)


PLAIN_SWITCH = "#777"
