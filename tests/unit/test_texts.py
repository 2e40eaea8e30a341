"""Words that users read: counts, lines, hints, what errors and objects say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cluster_sim
from cluster_sim.cli import cli
from cluster_sim.errors import SpecError, UnknownNameError, counted, meant
from cluster_sim.output.tables import grid, words_of_band
from cluster_sim.output.wrapping import fill
from cluster_sim.specs.find import find
from cluster_sim.specs.load import load_topology, load_workload

ROWS = [
    ["name", "first", "second", "third"],
    ["a long name here", "1,234,567", "22,222,222", "333,333"],
    ["b", "1", "2", "3"],
]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 requests"), (1, "1 request"), (2, "2 requests"), (1234, "1,234 requests")],
)
def test_one_and_many(number: int, words: str) -> None:
    assert counted(number, "request") == words


WORDS = ["KV", "70 %", "1.60 GB/s", "all-reduce", "<= 50 ms", "--set a.b=3"]


@given(st.lists(st.sampled_from(WORDS), min_size=9))
def test_no_line_ends_between_a_number_and_its_unit(parts: list[str]) -> None:
    text = ", ".join(parts)
    page = fill(text, "label      ", " " * 11)
    assert " ".join(page.split()) == f"label {text}"
    for line in page.splitlines():
        assert len(line) <= 80
        assert not re.search(r"\d$|<=$|--set$", line.removesuffix("b=3")), line


def test_the_page_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * 60
    assert max(map(len, fill(text).splitlines())) in range(76, 81)
    assert grid(ROWS).splitlines()[0].endswith("third")
    monkeypatch.setenv("COLUMNS", "120")
    assert max(map(len, fill(text).splitlines())) in range(116, 121)
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, fill(text).splitlines())) in range(36, 41)
    narrow = grid(ROWS)
    assert max(map(len, narrow.splitlines())) <= 40
    for words in ("1,234,567", "22,222,222", "333,333"):
        line = next(line for line in narrow.splitlines() if words in line)
        assert line.startswith("a long name here")
    monkeypatch.setenv("COLUMNS", "wide")
    assert max(map(len, fill(text).splitlines())) in range(76, 81)


def test_all_names_that_a_word_begins_are_offered() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find("topology", "8xh200")
    assert "did you mean 'h200_nvl' or 'h200_sxm'?" in str(caught.value)
    assert meant("h200_sx", ["h200_sxm", "h200_nvl"]) == "; did you mean 'h200_sxm'?"
    assert meant("gpu", ["h200_sxm"]) == ""


@pytest.mark.parametrize("precision", ["fp16", "mxfp8"])
def test_a_choice_of_several_kinds_is_one_problem(runner: CliRunner, precision: str) -> None:
    line = f"run --topo h200_nvl8 --workload llama70b --precision {precision}"
    done = runner.invoke(cli, line.split())
    assert isinstance(done.exception, SpecError)
    (problem,) = done.exception.problems
    assert problem.startswith("--precision: must be one of 'auto', 'bf16', 'fp8', ")
    assert f"(got {precision})" in problem


def test_a_cache_dtype_is_told_once() -> None:
    with pytest.raises(SpecError, match=r"^engine.kv_dtype: must be one of bf16, fp8, int8") as one:
        load_workload("llama70b", ["engine.kv_dtype=fp7"])
    assert len(one.value.problems) == 1


@pytest.mark.parametrize("option", ["--ranks 0", "--chips 1"])
def test_one_rank_is_no_collective(runner: CliRunner, option: str) -> None:
    done = runner.invoke(cli, ["collective", "--topo", "h100_nvl8", *option.split()])
    assert done.exit_code == 2
    assert "one rank alone has nobody to exchange with; give two ranks or more" in done.output
    done = runner.invoke(cli, ["collective", "--topo", "h100_pcie_1"])
    assert "take a larger topology" in done.output


def test_a_result_says_what_it_is_in_a_line() -> None:
    job = load_workload("llama70b", ["workload.requests=20"])
    result = cluster_sim.simulate(load_topology("h200_nvl8"), job)
    assert repr(result).startswith("<Result llama70b@h200_nvl8-")
    assert len(repr(result)) < 100


def test_the_draw_of_requests_is_named_in_words(runner: CliRunner) -> None:
    job = load_workload(
        "llama70b",
        ["workload.requests=1500", "workload.arrivals={kind: open, rate: 8 requests/s}"],
    )
    manifest = cluster_sim.simulate(load_topology("b200_nvl8"), job).manifest
    words = {}
    for band in manifest["bands"]["headlines"].values():
        for part in band["contributions"]:
            words[part["key"]] = part["words"]
            band["contributions"] = [part]
            told = words_of_band(manifest)
            assert not re.search(r"seed|[0-9a-f]{40}|draw of \d", told), told
    drawn = {text for key, text in words.items() if key.startswith("sampling ")}
    assert drawn == {"the draw of the requests"}


def test_the_package_lists_what_it_offers() -> None:
    code = "import cluster_sim; print(*dir(cluster_sim))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(cluster_sim.__all__) <= set(done.stdout.split())
    assert "simulate" in cluster_sim.__all__
