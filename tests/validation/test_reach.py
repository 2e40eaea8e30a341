"""What distance from timings costs, measured: lines drawn through few ranks or short messages."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.collectives.reach import PER_DOUBLING_OF_BYTES, PER_DOUBLING_OF_RANKS

LIBRARIES = ("NCCL 2.29", "TensorRT-LLM 1.3", "vLLM 0.24", "NCCL 2.27.3")
SHORT = 2**20  # bytes below which latency decides
MEDIAN, P90 = 0.6745, 1.645  # of the absolute value of a standard normal
Series = dict[tuple[str, str, str, int], dict[float, float]]


@pytest.fixture(scope="module")
def series(shared: Path) -> Series:
    """Time by bytes, for each chip, library, operation and number of ranks."""
    found: Series = defaultdict(dict)
    text = (shared / "ground_truth" / "collective_cases.csv").read_text()
    for row in csv.DictReader(text.splitlines()):
        size = float(row["message_bytes"] or 0)
        if row["metric"] == "time_us" and size and row["library"].startswith(LIBRARIES):
            key = (row["chip"], row["library_family"], row["collective"], int(row["n_chips"]))
            found[key][size] = float(row["value"])
    return found


def sigma_of(errors: list[float]) -> float:
    return float(max(np.median(errors) / MEDIAN, np.percentile(errors, 90) / P90))


def test_one_doubling_of_ranks(series: Series) -> None:
    errors = []
    for (*group, ranks), times in series.items():
        few, more = (series.get((*group, n), {}) for n in (2, 4))  # type: ignore[arg-type]
        if ranks != 8 or not few:
            continue
        for size, measured in times.items():
            if size < SHORT:
                line = more[size] + 2 * (more[size] - few[size])
                errors.append(abs(math.log(line / measured)))
    sigma = sigma_of(errors)
    print(len(errors), f"median {np.median(errors):.3f}, sigma {sigma:.3f}")
    assert len(errors) == 165
    assert sigma <= PER_DOUBLING_OF_RANKS <= 1.3 * sigma


def test_doublings_of_bytes(series: Series) -> None:
    errors = defaultdict(list)
    for times in series.values():
        for base in (2.0**26, 2.0**27, 2.0**28):
            if base not in times or base / 4 not in times:
                continue
            slope = (times[base] - times[base / 4]) / (base - base / 4)
            for size, measured in times.items():
                line = times[base] + slope * (size - base)
                if size > base and line > 0:
                    errors[round(math.log2(size / base))].append(abs(math.log(line / measured)))
    assert sum(map(len, errors.values())) == 366
    for doublings, values in sorted(errors.items()):
        sigma = float(np.median(values)) / MEDIAN
        print(doublings, len(values), f"median {np.median(values):.3f}, sigma {sigma:.3f}")
        assert sigma == pytest.approx(PER_DOUBLING_OF_BYTES * doublings, rel=0.4)
