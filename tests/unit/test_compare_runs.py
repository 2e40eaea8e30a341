"""What runs may say of each other: bounds, words, headings, and lines that fit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from cluster_sim.columns import HEADLINES, STEP_HEADLINE, SUMMARY_COLUMNS
from cluster_sim.errors import SpecError
from cluster_sim.output.compare_text import (
    bands_text,
    comparison_text,
    figure_text,
    fold,
    ratio_text,
)
from cluster_sim.studies.compare import (
    STATUSES,
    BandRatio,
    Figure,
    Ratio,
    compare_bands,
    figure,
    ratio_of,
    verdict,
)
from cluster_sim.studies.compare_names import headings
from cluster_sim.studies.compare_runs import (
    METRICS,
    MONEY,
    MUST_AGREE,
    NEW,
    check_runs,
    compare_runs,
    flat_rows,
)

CAPACITY, FLAT_OUT = HEADLINES[:2]
COST = "usd_per_m_output_tokens"
REACH_OF = 1.2816  # sigma: eight in ten of a normal distribution


def run(**changes: object) -> dict[str, str]:
    """A row of schema 5 in which every figure is 2 and every status ok."""
    row = dict.fromkeys((*SUMMARY_COLUMNS, *NEW), "")
    row |= dict.fromkeys(METRICS, "2.0")
    row |= {f"{name}_status": "ok" for name in (*HEADLINES, STEP_HEADLINE)}
    row |= {"workload": "w", "topology": "t", "plan": "tp2x4", "schema": "5", "load": "open"}
    row |= {"config_hash": "0123456789", "run_id": "w@t-012345", "n_chips": "8", "seed": "0"}
    return row | {key: str(value) for key, value in changes.items()}


def old(**changes: object) -> dict[str, str]:
    """A row of schema 4."""
    row = run(**{"schema": 4, **changes})
    return {name: text for name, text in row.items() if name not in NEW}


# --- ratios and what bounds them ---


def test_ratios_are_to_the_first_run() -> None:
    rows = [run(), run(ttft_mean_ms=3.0, config_hash="a"), run(ttft_mean_ms="", config_hash="b")]
    runs, warnings = compare_runs(rows)
    assert not runs[0].ratios
    assert [one.ratios["ttft_mean_ms"].value for one in runs[1:]] == [1.5, None]
    assert not warnings


def test_a_ratio_to_zero_stays_empty() -> None:
    assert ratio_of(Figure(value=0.0), Figure(value=2.0)) == Ratio()


@pytest.mark.parametrize(
    ("base", "other", "side"), [(0, 1, 1), (1, 0, -1), (0, -1, -1), (-1, 0, 1), (-1, 1, 1)]
)
def test_a_ratio_holds_wherever_the_truth_behind_its_bounds_lies(
    base: int, other: int, side: int
) -> None:
    found = ratio_of(Figure(value=2.0, side=base), Figure(value=3.0, side=other))
    assert (found.value, found.side) == (1.5, side)
    for far, near in itertools.product((1.0, 1.5, 9.0), repeat=2):
        truth = 3.0 * far**other / (2.0 * near**base)
        assert side * (truth - 1.5) >= 0


@pytest.mark.parametrize("side", [1, -1])
def test_two_bounds_on_one_side_say_nothing(side: int) -> None:
    found = ratio_of(Figure(value=2.0, side=side), Figure(value=3.0, side=side))
    assert found.value is None
    assert found.word.startswith("both ")


@pytest.mark.parametrize("status", ["not_kept", "too_short", "not_applicable"])
def test_what_is_no_figure_has_no_ratio_but_a_word(status: str) -> None:
    none, good = Figure(value=0.0, status=status), Figure(value=2.0, status="ok")
    words = status.replace("_", " ")
    assert ratio_of(good, none) == Ratio(word=words)
    assert ratio_of(none, good) == Ratio(word=f"first {words}")


@pytest.mark.parametrize(
    ("metric", "headline", "side"),
    [
        (CAPACITY, CAPACITY, 1),
        ("capacity_requests_per_s", CAPACITY, 1),
        ("usd_per_m_output_tokens_within_slo", CAPACITY, -1),
        (COST, COST, -1),
        ("j_per_output_token", "j_per_output_token", -1),
        ("tpot_p99_ms", "tpot_mean_ms", 1),
        ("tokens_per_s_per_user", "tpot_mean_ms", -1),
        ("mfu", STEP_HEADLINE, -1),
        ("usd_per_step", STEP_HEADLINE, 1),
        ("power_w", CAPACITY, 0),
    ],
)
def test_figures_follow_a_headline(metric: str, headline: str, side: int) -> None:
    assert figure(run(**{f"{headline}_status": "lower_bound"}), metric).side == side
    assert figure(run(), metric).side == 0


def test_a_share_of_a_bound_is_a_bound() -> None:
    row = run(**{f"{CAPACITY}_status": "lower_bound"}, load="70% of capacity")
    assert [figure(row, name).side for name in ("output_tokens_per_s", COST)] == [1, -1]
    assert figure(row, "tpot_mean_ms").side == 0
    row |= {"load": "open"}
    assert figure(row, "output_tokens_per_s").side == 0
    row |= {f"{CAPACITY}_status": "not_kept", f"{FLAT_OUT}_status": "lower_bound"}
    row |= {"load": "70% of capacity"}
    assert figure(row, "output_tokens_per_s").side == 1


def test_sampling_errors_add_in_squares_but_not_those_of_one_run() -> None:
    rows = [
        run(**{f"{CAPACITY}_error": 0.03}),
        run(**{f"{CAPACITY}_error": 0.04}, config_hash="b"),
        run(**{f"{CAPACITY}_error": 0.03}),
        run(config_hash="c"),
    ]
    runs, _ = compare_runs(rows)
    errors = [one.ratios[CAPACITY].error for one in runs[1:]]
    assert errors == [pytest.approx(0.05), None, None]
    assert figure(rows[1], "ttft_p99_ms").error is None


def test_older_files_are_read_and_their_statuses_unknown() -> None:
    check_runs("a.csv", [old(schema=4), old(schema=3)])
    runs, warnings = compare_runs([old(), run(config_hash="b", price_basis="owned")])
    assert runs[1].ratios[CAPACITY].unknown
    assert not runs[1].ratios["power_w"].unknown
    text = "\n".join(warnings)
    assert "statuses unknown" in text
    assert "basis: none, owned" in text
    assert "schema): 4, 5" in text


# --- bands ---


def band(base: float, *parts: tuple[str, float]) -> dict[str, Any]:
    found = [{"key": key, "effect": effect} for key, effect in parts]
    return {"base": base, "sigma": 0.0, "contributions": found}


def compared(here: dict[str, Any], there: dict[str, Any], *rows: dict[str, str]) -> BandRatio:
    (found,) = compare_bands({CAPACITY: here}, {CAPACITY: there}, *rows)
    return found


def width(found: BandRatio) -> float:
    assert found.high is not None
    assert found.low is not None
    return math.log(found.high / found.low) / 2 / REACH_OF


def test_bands_of_ratios_hold_the_sampling_error_of_both_once() -> None:
    rows = (
        run(**{f"{CAPACITY}_error": 0.03}),
        run(**{f"{CAPACITY}_error": 0.04}, config_hash="b"),
    )
    shared = ("gemm", 0.1)
    alone = compared(band(2, shared), band(3, shared), *rows)
    assert width(alone) == pytest.approx(0.05 / 1.96, rel=1e-6)
    kept = ("sampling x", 0.03), ("sampling y", 0.04)
    held = compared(band(2, shared, kept[0]), band(3, shared, kept[1]), *rows)
    assert width(held) == pytest.approx(0.05, rel=1e-6)
    same = compared(band(2, shared), band(2, shared), rows[0], rows[0])
    assert (same.low, same.high, same.verdict) == (1.0, 1.0, "no difference")


@pytest.mark.parametrize(
    ("ratio", "reach", "side", "says"),
    [
        (1.2, 1.1, 1, "higher"),
        (0.8, 1.1, 1, "undecided: a bound"),
        (1.05, 1.1, 1, "undecided: a bound"),
        (0.8, 1.1, -1, "lower"),
        (1.2, 1.1, -1, "undecided: a bound"),
        (1.0, 1.0, -1, "undecided: a bound"),
    ],
)
def test_a_bound_supports_one_verdict(ratio: float, reach: float, side: int, says: str) -> None:
    assert verdict(ratio, reach, side) == says


def test_bands_obey_statuses() -> None:
    bound, good = run(**{f"{CAPACITY}_status": "lower_bound"}), run(config_hash="b")
    low = compared(band(4), band(2), bound, good)
    assert (low.low, low.high, low.ratio.side, low.verdict) == (None, 0.5, -1, "lower")
    high = compared(band(2), band(4), bound, good)
    assert high.verdict == "undecided: a bound"
    both = compared(band(2), band(4), bound, bound | {"config_hash": "c"})
    assert (both.ratio.value, both.verdict) == (None, "both lower bounds")
    none = run(**{f"{CAPACITY}_status": "not_kept"}, config_hash="c")
    (found,) = compare_bands({CAPACITY: band(2)}, {}, good, none)
    assert (found.ratio.value, found.verdict) == (None, "not kept")
    unknown = compared(band(2), band(4), old(), old(config_hash="b"))
    assert unknown.verdict == "higher, status unknown"


# --- headings ---


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({"plan": ("tp2", "tp4")}, ["tp2", "tp4"]),
        ({"concurrency": (1, 16)}, ["1 client", "16 clients"]),
        ({"rate_asked_per_s": (5, 7.25)}, ["5 requests/s", "7.25 requests/s"]),
        ({"n_chips": (8, 16)}, ["8 chips", "16 chips"]),
        ({"software": ("vllm-0.10", "sglang-0.5")}, ["vllm-0.10", "sglang-0.5"]),
        ({"weights_dtype": ("fp8", "bf16")}, ["fp8", "bf16"]),
        ({"kv_dtype": ("fp8", "bf16"), "weights_dtype": ("fp8", "fp8")}, ["fp8", "fp8, bf16 KV"]),
        ({"seed": (0, 1)}, ["seed 0", "seed 1"]),
        ({"config_hash": ("01234567", "01234568")}, ["01234567", "01234568"]),
        ({}, ["#1", "#2"]),
        ({"plan": ("a", "a", "b"), "seed": (0, 1, 1)}, ["a seed 0", "a seed 1", "b seed 1"]),
        (
            {"plan": ("a", "a", "b"), "concurrency": (1, 2, 4)},
            ["1 client", "2 clients", "4 clients"],
        ),
    ],
)
def test_headings_are_as_short_as_they_can_be(
    changes: dict[str, tuple[object, ...]], marks: list[str]
) -> None:
    rows = [run(**{key: values[i] for key, values in changes.items()}) for i in range(len(marks))]
    assert [one.mark for one in headings(rows)] == marks


def test_no_two_headings_are_alike() -> None:
    rows = [
        run(plan=plan, seed=seed, concurrency=many, config_hash=f"{plan}{seed}{other}", kv=other)
        for plan, seed, many, other in itertools.product(("a", "b"), range(3), (1, 2), "xyz")
    ]
    rows += [*rows[:3], run(topology="u"), run(workload="v")]
    texts = [str(one) for one in headings(rows)]
    assert len(set(texts)) == len(rows)
    assert texts[-2:] == ["w@u", "v@t"]


# --- warnings and files ---


@pytest.mark.parametrize("column", [*MUST_AGREE, *MONEY])
def test_unlike_runs_are_named(column: str) -> None:
    _, warnings = compare_runs([run(), run(**{column: "4"})])
    words = (MUST_AGREE | MONEY)[column]
    assert [text for text in warnings if text.startswith(words)]


def test_values_of_warnings_stay_what_they_are() -> None:
    _, warnings = compare_runs([run(seed=1234567, version="0.10"), run(seed=0, isl_mean=1 / 3)])
    assert "seeds differ: 1234567, 0" in warnings
    assert "versions of the program differ: 0.10, none" in warnings
    assert "input lengths differ: none, 0.3333" in warnings


def test_prices_are_no_matter_where_nothing_is_priced() -> None:
    free = {name: "" for name in METRICS if name.startswith("usd_")}
    _, warnings = compare_runs([run(**free), run(**free, price_basis="owned")])
    assert not warnings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stable": "false"}, "not stable"),
        ({"partial": "true"}, "interrupted"),
        ({"schema": "99"}, "newer than this program"),
    ],
)
def test_doubts_are_named(changes: dict[str, str], says: str) -> None:
    _, warnings = compare_runs([run(), run(config_hash="b", **changes)])
    assert any(says in text and "w@t b" in text for text in warnings)


def test_a_bad_file_is_named_with_all_its_problems() -> None:
    broken = run(ttft_mean_ms="fast", j_per_output_token="nan")
    broken |= {f"{CAPACITY}_status": "fine", f"{CAPACITY}_error": "some"}
    del broken["slo"]
    with pytest.raises(SpecError) as caught:
        check_runs("a.csv", [broken, run(schema=2)])
    assert str(caught.value).splitlines() == [
        "a.csv: no column slo",
        "a.csv:2: ttft_mean_ms: must be a number (got fast)",
        "a.csv:2: j_per_output_token: must be a number (got nan)",
        f"a.csv:2: {CAPACITY}_error: must be a number (got some)",
        f"a.csv:2: {CAPACITY}_status: must be one of {', '.join(STATUSES)} (got fine)",
        "a.csv:3: schema: must be 3 or later (got 2); run the workload again with this version",
    ]


def test_rows_have_equal_keys_and_all_that_the_table_knows() -> None:
    rows = [run(), run(**{f"{CAPACITY}_status": "lower_bound"}, config_hash="b")]
    runs, _ = compare_runs(rows)
    bands = [[BandRatio(headline=CAPACITY, ratio=runs[1].ratios[CAPACITY], low=1.0, verdict="x")]]
    first, second = flat_rows(runs, bands)
    assert (first["config_hash"], first["n_chips"]) == ("0123456789", 8)
    assert list(first) == list(second)
    assert second[f"{CAPACITY}_status"] == "lower_bound"
    assert second[f"{CAPACITY}_bound"] == second[f"{CAPACITY}_ratio_bound"] == ">="
    assert (second[f"{CAPACITY}_ratio"], first[f"{CAPACITY}_ratio"]) == (1.0, None)
    assert (second[f"{CAPACITY}_ratio_low"], second[f"{CAPACITY}_ratio_high"]) == (1.0, None)


# --- text ---


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Figure(value=11360.0), "11,360"),
        (Figure(value=6460.0, status="lower_bound", side=1, error=0.012), ">= 6,460 ±1.2 %"),
        (Figure(value=0.42, side=-1), "<= 0.420"),
        (Figure(value=0.0, status="not_kept"), "not kept"),
        (Figure(value=None, status="too_short"), "too short"),
        (Figure(value=None, status="not_applicable"), "-"),
        (Figure(value=None), "-"),
    ],
)
def test_figures_as_text(one: Figure, text: str) -> None:
    assert figure_text(one) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Ratio(value=1.8, side=1), ">= 1.80"),
        (Ratio(value=1.8, error=0.05), "1.80 ±5.0 %"),
        (Ratio(word="both lower bounds"), "both lower bounds"),
        (Ratio(word="first not applicable"), ""),
        (Ratio(), ""),
    ],
)
def test_ratios_as_text(ratio: Ratio, text: str) -> None:
    assert ratio_text(ratio) == text


def test_long_words_are_folded() -> None:
    assert fold("llama8b@gb200_nvl72 64 clients", 20) == ["llama8b@gb200_nvl72", "64 clients"]
    assert fold("abcdefgh", 3) == ["abc", "def", "gh"]
    assert fold("", 3) == [""]


def many(count: int) -> list[dict[str, str]]:
    """Runs that differ in everything that a heading may hold."""
    return [
        run(
            workload="deepseek_r1_8chips",
            topology=("gb200_nvl72", "cloudmatrix384")[i % 2],
            plan=f"tp1-ep{i}-dp8x9",
            concurrency=2**i,
            config_hash=f"{i:02x}abcdef",
            software="trtllm-1.0",
            weights_dtype="fp8_block",
            kv_dtype="bf16",
            limit_reserved_blocks=0.97,
            power_w=123456.7,
            usd_per_m_output_tokens=0.01234,
            **{f"{name}_error": 0.0123 for name in HEADLINES},
            **{f"{CAPACITY}_status": STATUSES[i % 4]},
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("columns", [40, 57, 80, 100, 132, 300])
@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_no_line_is_wider_than_the_terminal(count: int, columns: int) -> None:
    runs, _ = compare_runs(many(count))
    bands = [
        BandRatio(headline=name, ratio=Ratio(value=0.123, side=1), low=0.1, verdict=words)
        for name in HEADLINES
        for words in ("higher, status unknown", "undecided: a bound")
    ]
    lines = comparison_text(runs, columns).splitlines()
    lines += bands_text(runs[0].heading, runs[1].heading, bands, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert all(line == line.rstrip() for line in lines)
    assert any(">= 2.00 ±1.2 %" in line for line in lines)


def test_few_runs_stand_beside_each_other_and_many_below() -> None:
    runs, _ = compare_runs(many(16))
    beside = comparison_text(compare_runs(many(2))[0], 100)
    assert [line.split()[0] for line in beside.splitlines() if line.startswith("capacity_")] == [
        "capacity_requests_per_s",
        CAPACITY,
    ]
    below = comparison_text(runs, 100)
    assert below.splitlines()[0].startswith("workload deepseek_r1_8chips, ")
    for block in below.split("\n\n")[1:]:
        starts = [line for line in block.splitlines() if line.startswith(("gb200", "cloud"))]
        assert len(starts) == 16
