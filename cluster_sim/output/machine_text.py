"""A machine as text: tiers, links, bisection, hops, checks."""

from __future__ import annotations

from cluster_sim.errors import counted
from cluster_sim.machine.classes import LinkClass, Machine
from cluster_sim.machine.facts import bisection, hops, ports_used, problems
from cluster_sim.output.tables import grid, labelled, number


def machine_report(machine: Machine) -> str:
    """Everything that ``show topology`` says about a machine."""
    wrong = problems(machine)
    parts = [_head(machine), _nodes(machine), _links(machine), _width(machine, whole=not wrong)]
    checks = "; ".join(wrong) or "connected; no switch over its ports; counts reconcile"
    parts.append(labelled("Checks", checks))
    parts += [labelled("Note", note) for note in machine.notes]
    return "\n".join(parts)


def _head(machine: Machine) -> str:
    last = machine.devices % machine.devices_per_domain
    rest = f" (the last of {last:,})" if last else ""
    devices = counted(machine.devices, "device")
    if machine.devices_per_chip > 1:
        devices += f" ({machine.chips:,} packages of {machine.devices_per_chip})"
    return labelled(
        "Machine",
        f"{machine.name}: {devices} in {counted(machine.hosts, 'host')}, "
        f"{counted(machine.domains, 'scale-up domain')} of {machine.devices_per_domain:,}{rest}",
    )


def _nodes(machine: Machine) -> str:
    used = ports_used(machine)
    rows = [("nodes", "count", "links each", "ports", "latency us")]
    for node in sorted(machine.nodes, key=lambda n: -n.tier):
        each = used[node.first : node.first + node.count]
        low, high = int(each.min()), int(each.max())
        rows.append(
            (
                node.name,
                f"{node.count:,}",
                f"{high}" if low == high else f"{low} to {high}",
                "-" if node.ports is None else str(node.ports),
                f"{node.latency_s * 1e6:g}",
            )
        )
    return "\n" + grid(rows)


def _links(machine: Machine) -> str:
    rows = [("links", "cables", "lanes", "GB/s each", "Gb/s", "TB/s in all", "latency us")]
    for name, links in folded(machine):
        first, cables = links[0], sum(link.count for link in links)
        speeds = sorted({link.bandwidth_bytes_per_s for link in links})
        lanes = sorted({link.lanes for link in links})
        total = sum(link.count * link.bandwidth_bytes_per_s for link in links)
        rows.append(
            (
                name,
                f"{cables:,}",
                " or ".join(f"{lane}" for lane in lanes),
                " or ".join(f"{speed / 1e9:g}" for speed in speeds),
                " or ".join(f"{speed * 8 / 1e9:g}" for speed in speeds),
                number(total / 1e12),
                f"{first.latency_s * 1e6:g}",
            )
        )
    return "\n" + grid(rows) + "\n"


def folded(machine: Machine) -> list[tuple[str, list[LinkClass]]]:
    """Link classes by the node classes that they join, in order."""
    found: dict[str, list[LinkClass]] = {}
    for link in machine.links:
        name = link.name if link.a == link.b and link.name == "package" else f"{link.a}-{link.b}"
        found.setdefault(name, []).append(link)
    return list(found.items())


def _width(machine: Machine, *, whole: bool) -> str:
    width = bisection(machine)
    shown = "not computed for a graph of this size" if width is None else (
        f"{number(width / 1e12)} TB/s per direction between two halves"
    )  # fmt: skip
    lines = [labelled("Bisection", shown)]
    if whole:
        count = hops(machine)
        what = "switches" if machine.has_switches else "links"
        lines.append(
            labelled(
                "Hops",
                f"at most {count.diameter} {what} between devices, mean {count.mean:.2f} "
                f"(over all targets of {counted(count.sources, 'device')})",
            )
        )
    return "\n".join(lines)
