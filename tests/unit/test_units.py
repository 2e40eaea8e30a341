from __future__ import annotations

import pytest

from cluster_sim.units import parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("400 Gb/s", "bandwidth", 5e10),
        ("4.8 TB/s", "bandwidth", 4.8e12),
        ("143771 MiB", "bytes", 143771 * 2**20),
        ("141 GB", "bytes", 141e9),
        ("989 TFLOP/s", "compute", 989e12),
        ("2.5 us", "time", 2.5e-6),
        ("10 min", "time", 600.0),
        ("700 W", "power", 700.0),
        ("70%", "share", 0.7),
        ("1,000 requests/s", "rate", 1000.0),
    ],
)
def test_literals(text: str, kind: str, value: float) -> None:
    assert parse_quantity(text, kind) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        (400, "bandwidth", "no unit"),
        ("400", "bandwidth", "no unit"),
        ("400 GHz", "bandwidth", "not a unit"),
        ("400 GB", "bandwidth", "not a unit"),
        ("fast", "time", "not a quantity"),
        ("nan s", "time", "not a quantity"),
        ("1e999 s", "time", "finite"),
        (True, "time", "expected"),
        (None, "time", "expected"),
    ],
)
def test_bad_literals(text: object, kind: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_quantity(text, kind)
