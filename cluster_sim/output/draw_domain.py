"""Scale-up domains as boxes: devices coloured by rail, switches below, what joins them between."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cluster_sim.machine.classes import Machine
from cluster_sim.machine.scale_up import Mesh, Switched, Torus
from cluster_sim.output.svg import Canvas

RAILS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#7f7f7f")
PLAIN = "#4c78a8"
SWITCH = "#3b3b3b"
PACKAGE = "#f4f6f8"
MOST_LINES = 64  # links of a box drawn one by one; more become a band
MOST_OF_AXIS = 40  # devices of a torus drawn along an axis
PITCH, CELL = 22.0, 17.0
PAD = 12.0


@dataclass(slots=True)
class Drawing:
    """A canvas, where the NICs of what was drawn are, and the boxes of domains (left, top,
    width).
    """

    canvas: Canvas
    machine: Machine
    nic_at: dict[int, tuple[float, float]] = field(default_factory=dict)
    domain_at: dict[int, tuple[float, float, float]] = field(default_factory=dict)


def rail_colour(machine: Machine, nic: int) -> str:
    """The colour of the rail of a NIC."""
    fabric = getattr(machine.shape, "scale_out", None)
    counts = getattr(fabric, "counts", None)
    if counts is None or not counts.rails:
        return PLAIN
    width = counts.nics_per_host // counts.rails
    return RAILS[nic % counts.nics_per_host // width % len(RAILS)]


def speed(bandwidth_bytes_per_s: float) -> str:
    """A bandwidth for a label."""
    return f"{bandwidth_bytes_per_s / 1e9:,g} GB/s"


def domain_size(machine: Machine) -> tuple[float, float]:
    """Width and height of the box of one domain."""
    kind = machine.shape.scale_up
    if isinstance(kind, Torus):
        across, down, layers = _grid(kind)
        shown = min(layers, 3)
        return shown * (across * 14 + 40) + 2 * PAD, down * 14 + 60
    if isinstance(kind, Mesh):
        return (230.0, 262.0) if kind.size > 4 else (120.0, 160.0)
    if isinstance(kind, Switched) and kind.uplinks:
        across, down = _host_grid(machine)
        return across * 100 + 2 * PAD, down * 96 + 150
    columns, rows = _cells(machine)
    return max(columns * PITCH, 150.0) + 2 * PAD, rows * (CELL + 12) + 118


def draw_domain(drawing: Drawing, number: int, x: float, y: float) -> None:
    """One domain with its upper left corner at x, y."""
    machine, kind = drawing.machine, drawing.machine.shape.scale_up
    width, height = domain_size(machine)
    size = min(machine.devices_per_domain, machine.devices - number * machine.devices_per_domain)
    what = "host" if machine.devices_per_domain == machine.devices_per_host else "domain"
    word = machine.nodes[0].name.upper()
    drawing.canvas.box(x, y, width, height, fill="#fbfbfb", stroke="#666", round_by=6)
    drawing.domain_at[number] = (x, y, width)
    words = f"{what} {number}: {size:,} {word}{_cpus(machine, size)}"
    drawing.canvas.text(x + PAD, y + height - 8, words, size=11)
    if isinstance(kind, Torus):
        _torus(drawing, kind, x, y)
    elif isinstance(kind, Mesh):
        _mesh(drawing, kind, number, x, y)
    elif isinstance(kind, Switched) and kind.uplinks:
        _two_tier(drawing, kind, number, x, y)
    else:
        _cells_and_switches(drawing, number, size, x, y)


def _cpus(machine: Machine, size: int) -> str:
    """How many CPUs stand beside so many devices."""
    count = next((node.count for node in machine.nodes if node.kind == "cpu"), 0)
    here = count // machine.hosts * (size // machine.devices_per_host)
    return f", {here} CPU" if here else ""


def _cells(machine: Machine) -> tuple[int, int]:
    """Columns and rows of the devices of a domain: a host a column where there are several."""
    size, host = machine.devices_per_domain, machine.devices_per_host
    if size <= host:
        columns = min(size, 8)
        return columns, math.ceil(size / columns)
    return math.ceil(size / host), host


def _cell(drawing: Drawing, device: int, x: float, y: float) -> None:
    """A device with its NIC as a tab on top, both in the colour of the rail."""
    machine, canvas = drawing.machine, drawing.canvas
    nics = machine.shape.nics
    nic = device // nics.devices_per_nic if nics is not None else device
    colour = rail_colour(machine, nic)
    name = machine.nodes[0].label(device)
    canvas.box(x, y + 6, CELL, CELL, fill=colour, stroke="#fff", title=name)
    if nics is not None:
        nic_name = machine.node_class("nic").label(nic)
        title = f"{nic_name}: {speed(nics.bandwidth_bytes_per_s)} per direction"
        canvas.box(x + 4, y, CELL - 8, 5, fill=colour, stroke=colour, round_by=1, title=title)
        drawing.nic_at[nic] = (x + CELL / 2, y)


def _cells_and_switches(drawing: Drawing, number: int, size: int, x: float, y: float) -> None:
    machine, canvas = drawing.machine, drawing.canvas
    kind = machine.shape.scale_up
    columns, rows = _cells(machine)
    width = domain_size(machine)[0]
    left = x + (width - columns * PITCH) / 2 + (PITCH - CELL) / 2
    by_host = machine.devices_per_domain > machine.devices_per_host
    first = number * machine.devices_per_domain
    places = []
    for inner in range(size):
        column, row = divmod(inner, rows) if by_host else (inner % columns, inner // columns)
        spot = (left + column * PITCH, y + PAD + row * (CELL + 12))
        _cell(drawing, first + inner, *spot)
        places.append((spot[0] + CELL / 2, spot[1] + CELL + 6))
    if not isinstance(kind, Switched):
        return
    low = y + PAD + rows * (CELL + 12)
    _switch_row(drawing, kind, places, (x + PAD, low, width - 2 * PAD), size)
    if kind.across:
        link = kind.across[0]
        words = f"two racks, {len(kind.across)} x {speed(link.bandwidth_bytes_per_s)} between them"
        canvas.text(x + width - PAD, y + domain_size(machine)[1] - 8, words, size=9, anchor="end")


def _switch_row(
    drawing: Drawing,
    kind: Switched,
    places: list[tuple[float, float]],
    area: tuple[float, float, float],
    size: int,
) -> None:
    """The switches of a domain and their links to the devices: lines, or a band when many."""
    canvas, machine = drawing.canvas, drawing.machine
    x, y, width = area
    count = len(kind.links) * (2 if kind.across else 1)
    step = width / count
    side = min(18.0, step - 3)
    top = y + 38
    centres = [x + (i + 0.5) * step for i in range(count)]
    cables = size * len(kind.links)
    speeds = sorted({link.bandwidth_bytes_per_s for link in kind.links})
    each = " or ".join(f"{value / 1e9:g}" for value in speeds)
    label = f"{cables:,} x {each} GB/s"
    if cables <= MOST_LINES and not kind.across:
        for spot in places:
            for centre, link in zip(centres, kind.links, strict=True):
                thick = 0.6 + 0.9 * link.bandwidth_bytes_per_s / max(speeds)
                title = f"{link.lanes} lanes, {speed(link.bandwidth_bytes_per_s)} per direction"
                canvas.line(spot, (centre, top), stroke="#9aa5b1", thick=thick, title=title)
    else:
        band = [(x, y), (x + width, y), (centres[-1] + side / 2, top), (centres[0] - side / 2, top)]
        canvas.shape(band, fill="#e4e9ee", title=f"every device on every switch: {label}")
    model = machine.node_class("switch")
    for number, centre in enumerate(centres):
        title = model.label(number) + ("" if model.ports is None else f", {model.ports} ports")
        canvas.box(centre - side / 2, top, side, 14, fill=SWITCH, stroke=SWITCH, title=title)
    word = model.label(0).rpartition("/")[2].rstrip("0123456789")
    canvas.text(x + width / 2, top + 27, f"{count} {word}, {label}", size=10, anchor="middle")


def _mesh(drawing: Drawing, kind: Mesh, number: int, x: float, y: float) -> None:
    """Devices in a ring, a line between every two, NICs in a row on top."""
    canvas, machine = drawing.canvas, drawing.machine
    width, _ = domain_size(machine)
    middle, radius = (x + width / 2, y + 36 + (width - 2 * PAD) / 2), (width - 5 * PAD) / 2
    spots = []
    for place in range(kind.size):
        angle = 2 * math.pi * place / kind.size - math.pi / 2
        spots.append((middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle)))
    title = f"{speed(kind.link.bandwidth_bytes_per_s)} per direction"
    for low in range(kind.size):
        for high in range(low + 1, kind.size):
            canvas.line(spots[low], spots[high], stroke="#9aa5b1", thick=1.2, title=title)
    nics = machine.shape.nics
    for place, (px, py) in enumerate(spots):
        device = number * kind.size + place
        nic = device // nics.devices_per_nic if nics is not None else device
        colour = rail_colour(machine, nic)
        name = machine.nodes[0].label(device)
        canvas.box(px - 9, py - 9, 18, 18, fill=colour, stroke="#fff", title=name)
        if nics is not None and nic not in drawing.nic_at:
            tab = x + PAD + (place + 0.5) * (width - 2 * PAD) / kind.size
            canvas.box(tab - 5, y + 4, 10, 6, fill=colour, stroke=colour, round_by=1, title=name)
            drawing.nic_at[nic] = (tab, y + 4)
    words = (
        f"{len(spots) * (len(spots) - 1) // 2} links of {speed(kind.link.bandwidth_bytes_per_s)}"
    )
    canvas.text(x + width - PAD, y + 24, words, size=10, anchor="end")


def _grid(kind: Torus) -> tuple[int, int, int]:
    """Columns and rows of a torus that are drawn, and its layers."""
    sizes = (1, 1, *sorted(kind.shape))[-3:] if len(kind.shape) < 3 else kind.shape[-3:]
    layers = sizes[0] * math.prod(kind.shape[:-3])
    return min(sizes[2], MOST_OF_AXIS), min(sizes[1], MOST_OF_AXIS), layers


def _torus(drawing: Drawing, kind: Torus, x: float, y: float) -> None:
    """The first layers of the grid, each with stubs where rings close."""
    canvas = drawing.canvas
    across, down, layers = _grid(kind)
    shown = min(layers, 3)
    title = f"{speed(kind.links[0].bandwidth_bytes_per_s)} per direction"
    for layer in range(shown):
        left, top = x + PAD + 14 + layer * (across * 14 + 40), y + 22
        right, bottom = left + (across - 1) * 14, top + (down - 1) * 14
        for row in range(down):
            line = ((left - 8, top + row * 14), (right + 8, top + row * 14))
            canvas.line(*line, stroke="#9aa5b1", title=title)
        for column in range(across):
            line = ((left + column * 14, top - 8), (left + column * 14, bottom + 8))
            canvas.line(*line, stroke="#9aa5b1", title=title)
        for row in range(down):
            for column in range(across):
                spot = (left + column * 14 - 4, top + row * 14 - 4)
                canvas.box(*spot, 8, 8, fill=PLAIN, stroke="#fff", round_by=2)
        if layers > 1:
            number = layer if layer < 2 else layers - 1
            words = f"layer {number} of {layers}" if layer < 2 else f"... layer {number}"
            canvas.text(left, bottom + 22, words, size=10)
    shape = " x ".join(map(str, kind.shape))
    width = domain_size(drawing.machine)[0]
    words = f"torus {shape}, rings close, {speed(kind.links[0].bandwidth_bytes_per_s)} a link"
    if max(kind.shape[-2:]) > MOST_OF_AXIS:
        words = f"a corner of a {words}"
    canvas.text(
        x + width - PAD, y + domain_size(drawing.machine)[1] - 8, words, size=11, anchor="end"
    )


def _host_grid(machine: Machine) -> tuple[int, int]:
    hosts = machine.devices_per_domain // machine.devices_per_host
    across = min(hosts, 12)
    return across, min(math.ceil(hosts / across), 4)


def _two_tier(drawing: Drawing, kind: Switched, number: int, x: float, y: float) -> None:
    """Hosts with their first-tier switches, the planes of the second tier below."""
    canvas, machine = drawing.canvas, drawing.machine
    across, down = _host_grid(machine)
    per_domain = machine.devices_per_domain // machine.devices_per_host
    first = number * per_domain
    here = min(per_domain, machine.hosts - first)
    shown = min(here, across * down)
    for place in range(shown):
        last = place == shown - 1 and here > shown
        host = first + (here - 1 if last else place)
        spot = (x + PAD + place % across * 100, y + PAD + place // across * 96)
        _host(drawing, kind, host, spot, folded=here - shown if last else 0)
    width = domain_size(machine)[0]
    top = y + PAD + down * 96 + 44
    planes = len(kind.uplinks)
    step = (width - 2 * PAD) / planes
    link = kind.uplinks[0]
    band = [(x + PAD, top - 34), (x + width - PAD, top - 34)]
    canvas.shape(
        [*band, (x + width - PAD, top), (x + PAD, top)],
        fill="#e4e9ee",
        title=f"every first-tier switch on every second-tier switch of its plane, "
        f"{speed(link.bandwidth_bytes_per_s)} each",
    )
    for plane in range(planes):
        left = x + PAD + plane * step + 4
        colour = RAILS[plane % len(RAILS)]
        canvas.box(left, top, step - 8, 34, fill="#fff", stroke=colour, thick=1.5)
        for spine in range(kind.spines):
            side = min(8.0, (step - 20) / kind.spines - 1)
            at = left + 6 + spine * (step - 20) / kind.spines
            canvas.box(at, top + 5, side, 10, fill=colour, stroke=colour, round_by=1)
        words = f"plane {plane}: {kind.spines} L2"
        canvas.text(left + step / 2 - 4, top + 29, words, size=9.5, anchor="middle")
    cables = here * planes * kind.spines
    words = f"{cables:,} links of {speed(link.bandwidth_bytes_per_s)} between the tiers"
    canvas.text(x + width / 2, top - 12, words, size=11, anchor="middle")


def _host(
    drawing: Drawing, kind: Switched, host: int, at: tuple[float, float], *, folded: int
) -> None:
    """One host: packages with their dies and NICs, first-tier switches below."""
    canvas, machine = drawing.canvas, drawing.machine
    x, y = at
    per = machine.devices_per_chip
    chips = machine.devices_per_host // per
    canvas.box(x, y, 94, 88, fill=PACKAGE, stroke="#aaa", dashed=bool(folded))
    nics = machine.shape.nics
    for chip in range(chips):
        left, top = x + 6 + chip % 4 * 21, y + 8 + chip // 4 * 26
        device = host * machine.devices_per_host + chip * per
        nic = device // nics.devices_per_nic if nics is not None else chip
        colour = rail_colour(machine, nic)
        for die in range(per):
            name = machine.nodes[0].label(device + die)
            wide = 18 / per
            spot = (left + die * wide, top + 4)
            canvas.box(*spot, wide - 1, 16, fill=colour, stroke=colour, round_by=1, title=name)
        if nics is not None:
            canvas.box(left + 6, top, 5, 3, fill=colour, stroke=colour, round_by=0)
            drawing.nic_at[nic] = (left + 8, top)
    planes = len(kind.links)
    for plane in range(planes):
        start = x + 5 + plane * 84 / planes
        colour = RAILS[plane % len(RAILS)]
        title = machine.node_class("switch").label(host * planes + plane)
        canvas.box(start, y + 61, 84 / planes - 3, 9, fill=colour, stroke=SWITCH, title=title)
    words = f"host {host}" if not folded else f"... host {host}"
    canvas.text(x + 47, y + 83, words, size=9, anchor="middle")
