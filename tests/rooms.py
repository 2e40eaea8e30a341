"""Draws docs/rooms.svg: the rooms of the package in layers, and who asks whom.

``python -m tests.rooms`` writes it anew; a test holds it to the imports that there are.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

from cluster_sim.output.svg import Canvas

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
QUESTIONS = {
    "cli": "what the user asks, what is printed",
    "output": "tables, pictures, files",
    "studies": "many runs: validate, calibrate, measure",
    "simulation": "one run of a service: the whole flow",
    "train": "one training step: the whole flow",
    "capacity": "how much it can serve",
    "serving": "requests, schedulers, caches, replicas",
    "training": "schedules, steps, whole runs, replays",
    "engine": "who waits for whom, who shares: SimPy",
    "perf": "what a step consists of and costs",
    "kernels": "how long a kernel takes alone",
    "collectives": "how long a collective takes alone",
    "machine": "what is there: links, routes, groups",
    "specs": "what the user describes: YAML, units",
}
WIDTH, HEIGHT, GAP, ROW = 250.0, 46.0, 26.0, 84.0
LEFT = 20.0


def rows() -> list[list[str]]:
    """The layers of the import contract, highest first, as rooms; loose modules that no question
    is put to are left out.
    """
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contract["contracts"][0]["layers"]
    found = [
        [part.strip().removeprefix("cluster_sim.") for part in row.split("|")] for row in layers
    ]
    kept = [[room for room in row if room in QUESTIONS] for row in found]
    return [row for row in kept if row]


def imports() -> Counter[tuple[str, str]]:
    """How many modules of a room import from another."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted((ROOT / "cluster_sim").rglob("*.py")):
        here = path.relative_to(ROOT / "cluster_sim").with_suffix("").parts[0]
        asked = {
            node.module.split(".")[1]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cluster_sim.")
        }
        found.update((here, there) for there in asked if there != here)
    return found


def sizes() -> Counter[str]:
    """Modules of each room."""
    package = ROOT / "cluster_sim"
    return Counter(
        path.relative_to(package).with_suffix("").parts[0]
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    )


def drawn() -> str:
    """The picture as SVG."""
    canvas = Canvas()
    place: dict[str, tuple[float, float]] = {}
    layers, modules = rows(), sizes()
    widest = max(len(row) for row in layers)
    for number, row in enumerate(layers):
        start = LEFT + (widest - len(row)) * (WIDTH + GAP) / 2
        for column, room in enumerate(row):
            place[room] = (start + column * (WIDTH + GAP), 20 + number * ROW)
    for (here, there), count in sorted(imports().items()):
        if here in place and there in place:
            (x, y), (u, v) = place[here], place[there]
            canvas.line(
                (x + WIDTH / 2, y + HEIGHT),
                (u + WIDTH / 2, v),
                thick=min(4.0, 0.4 + count / 8),
                opacity=0.35,
                title=f"{count} modules of {here} import from {there}",
            )
    for room, (x, y) in place.items():
        name = f"{room}, {modules[room]} modules" if modules[room] > 1 else room
        canvas.box(x, y, WIDTH, HEIGHT, fill="#f4f6fa", title=QUESTIONS[room])
        canvas.text(x + WIDTH / 2, y + 19, name, size=13, anchor="middle", bold=True)
        canvas.text(x + WIDTH / 2, y + 36, QUESTIONS[room], size=10.5, anchor="middle")
    return canvas.svg("The rooms of cluster-sim, and who asks whom")


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
