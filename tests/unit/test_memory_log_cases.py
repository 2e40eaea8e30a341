"""The memory lines of public start-up logs in cases/memory.csv are well formed."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter

import pytest
from conftest import ROOT

COLUMNS = (
    "source",
    "date",
    "split",
    "chip",
    "n_chips",
    "framework",
    "version",
    "model",
    "config",
    "weights_dtype",
    "kv_dtype",
    "tp",
    "pp",
    "ep",
    "attn_dp",
    "max_model_len",
    "settings",
    "metric",
    "value",
    "note",
    "flags",
)
SIZES = (
    "weights_gib_per_gpu",
    "kv_gib_per_gpu",
    "activation_gib",
    "non_torch_gib",
    "graphs_gib",
    "total_gib",
)
FRAMEWORKS = {"vllm", "vllm-ascend", "sglang", "trtllm", "torch"}
DTYPES = {"", "bf16", "fp8", "int8", "int4", "nvfp4", "mxfp4"}
SETUP = COLUMNS[:1] + COLUMNS[3:17]  # what a log says of one start
BIGGEST = 300  # GiB of one GPU
ROUNDING = 0.06  # GiB: four figures of two decimals, and their product


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (ROOT / "cases" / "memory.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return list(reader)


def starts_of(rows: list[dict[str, str]]) -> dict[tuple[str, ...], dict[str, str]]:
    """The values of each start by metric."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in SETUP), {})[row["metric"]] = row["value"]
    return found


def settings_of(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(";") if part)


def test_enough_reports_of_both_kinds(rows: list[dict[str, str]]) -> None:
    threads = {row["source"] for row in rows}
    setups = {(row["framework"], row["chip"], row["model"], row["tp"]) for row in rows}
    kinds = Counter(values["starts"] for values in starts_of(rows).values() if "starts" in values)
    assert len(threads) >= 60
    assert len(setups) >= 25
    assert min(kinds["1"], kinds["0"]) >= 20
    check = {row["source"] for row in rows if row["split"] == "check"}
    assert 0.2 < len(check) / len(threads) < 0.45


def test_each_row_is_said_once_in_known_words(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["source"], row
        assert row["framework"] in FRAMEWORKS, row
        assert row["metric"] in (*SIZES, "kv_tokens", "starts"), row
        assert {row["weights_dtype"], row["kv_dtype"]} <= DTYPES, row
        assert all("=" in part for part in row["settings"].split(";") if part), row
        for name in ("n_chips", "tp", "pp", "ep", "attn_dp", "max_model_len"):
            assert not row[name] or int(row[name]) > 0, row
        assert int(row["n_chips"] or 1) >= int(row["tp"] or 1) * int(row["pp"] or 1), row
    keys = Counter((*(row[name] for name in SETUP), row["metric"]) for row in rows)
    assert not [key for key, count in keys.items() if count > 1]


def test_names_are_packaged_or_marked(rows: list[dict[str, str]]) -> None:
    chips = {path.stem for path in (ROOT / "topologies" / "chips").glob("*.yaml")}
    models = {path.stem for path in (ROOT / "workloads" / "models").glob("*.yaml")}
    for row in rows:
        flags = row["flags"].split(";")
        assert row["chip"] in chips or not row["chip"] or "chip_not_packaged" in flags, row
        known = row["model"] in models or not row["model"]
        assert known or ("/" in row["model"] and "model_not_packaged" in flags), row
        assert row["chip"] or "chip_unknown" in flags, row


def test_values_are_sizes_counts_or_yes_and_no(rows: list[dict[str, str]]) -> None:
    for row in rows:
        value = float(row["value"])
        if row["metric"] == "starts":
            assert row["value"] in ("0", "1"), row
            assert row["value"] == "1" or row["note"], row  # the engine's own reason
        elif row["metric"] == "kv_tokens":
            assert value == int(value) >= 0, row
        else:  # a cache may come out below zero: the engine then does not start
            low = -BIGGEST if row["metric"] == "kv_gib_per_gpu" else 0
            assert low <= value < BIGGEST, row


def test_what_a_log_says_adds_up(rows: list[dict[str, str]]) -> None:
    """vLLM's V0 lines: share of the card = weights + outside torch + activations + cache."""
    parts = ("weights_gib_per_gpu", "non_torch_gib", "activation_gib", "kv_gib_per_gpu")
    seen = 0
    for key, values in starts_of(rows).items():
        share = settings_of(key[SETUP.index("settings")]).get("gpu_memory_utilization")
        if share and "total_gib" in values and all(name in values for name in parts):
            budget = float(share) * float(values["total_gib"])
            assert sum(float(values[name]) for name in parts) == pytest.approx(budget, abs=ROUNDING)
            seen += 1
    assert seen >= 6


def test_a_thread_lies_on_one_side(rows: list[dict[str, str]]) -> None:
    for row in rows:
        third = hashlib.sha256(row["source"].encode()).digest()[0] % 3 == 0
        assert row["split"] == ("check" if third else "fit"), row
