"""docs/architecture.md tells of what is there."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.rooms import PICTURE, ROOT, drawn

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", PAGE)))
KEYS = ("chip.memory.bandwidth", "memory.ceiling")


def test_the_picture_is_that_of_the_imports() -> None:
    """Written anew by ``python -m tests.rooms``."""
    assert PICTURE.read_text(encoding="utf-8") == drawn()


@pytest.mark.parametrize("name", [name for name in NAMED if name not in KEYS])
def test_what_the_page_names_exists(name: str) -> None:
    if name.startswith("tests.") or name == "StepPrice.step_s":
        return
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module("cluster_sim." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return
    raise AssertionError(f"{name} is nowhere")
