"""Every run of the table gives what is kept of it."""

from __future__ import annotations

import pytest

from .compare import KEPT, compare_run, message
from .runs import RUNS


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_what_is_kept(name: str) -> None:
    _, found = compare_run(name)
    if found:
        pytest.fail(f"{len(found)} differences from kept results\n{message(found)}", pytrace=False)


def test_nothing_else_is_kept() -> None:
    assert {path.stem for path in KEPT.iterdir()} == set(RUNS)
    files = [path for path in KEPT.parent.rglob("*") if path.suffix not in (".py", ".pyc")]
    sizes = [path.stat().st_size for path in files if path.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 1_500_000
