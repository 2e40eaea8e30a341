"""Readers of traces: what they read, and one clear message for every kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_rows import TraceOptions
from cluster_sim.serving.traces import read_trace
from cluster_sim.specs.workload import Lengths, TrafficClass

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
NEUTRAL = "arrival_s,isl,osl,session_id,prefix_id,prefix_tokens,slo_class,priority\n"
MOON = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
RAG = (
    '{"timestamp": "7", "input_length": 90, "output_length": 5, "session_id": "s", "hash_ids": '
    '{"sys_prompt": [1, 2], "passages_ids": [], "history": [3], "web_search": [], '
    '"user_input": [4]}}\n'
)
WINDOWS = "0,2.0,1.5,Gamma,0.44,1.1\n600,4.0,1,Weibull,1,0.25\n1200,0,0,,0,0\n"
LENGTHS = json.dumps(
    {
        "0": {"input_tokens": "{50: 0.5, 70: 0.5}", "output_tokens": "{5: 1.0}"},
        "1200": {"input_tokens": "{}", "output_tokens": "{}"},
    }
)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Requests]:
    def reader(text: str | bytes, form: str | None = None, **options: object) -> Requests:
        path = tmp_path / "trace"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_trace(path, form, TraceOptions(**options))  # type: ignore[arg-type]

    return reader


@pytest.fixture
def clients(tmp_path: Path) -> Callable[..., Path]:
    def write(windows: str = WINDOWS, lengths: str | None = LENGTHS, name: str = "0") -> Path:
        folder = tmp_path / "mix"
        folder.mkdir(exist_ok=True)
        (folder / f"chunk-{name}-trace.csv").write_text(windows)
        if lengths is not None:
            (folder / f"chunk-{name}-dataset.json").write_text(lengths)
        return folder

    return write


Read = Callable[..., Requests]

DAMAGE = [
    ("", "empty file"),
    (" \n\n", "empty file"),
    (b"\x89PNG\xff\xfe", "not a text file (not UTF-8)"),
    (b"arrival_s,isl,osl\n0,\x001,2\n", "not a text file (holds NUL bytes)"),
    ("what is this\n1,2\n", "unknown trace format (got 'what is this'); known are azure"),
    ("[1, 2]\n", "unknown trace format"),
    ("{broken\n", "not valid JSON: Expecting property name"),
    ('{"a": 1}\n', "unknown trace format"),
    # Azure
    (AZURE.replace(",GeneratedTokens", ""), "trace:1: missing column GeneratedTokens"),
    (AZURE + "yesterday,3,4\n", "trace:3: TIMESTAMP: not a time (got 'yesterday')"),
    (AZURE + "2023-11-16 18:15:45,3,4\n", "trace:3: TIMESTAMP: runs backwards"),
    (AZURE + "2023-11-16 18:15:47,3,4,5\n", "trace:3: more cells than columns (got ['5']"),
    (AZURE + "2023-11-16 18:15:47,3\n", "trace:3: GeneratedTokens: must be a whole number"),
    (AZURE + "2023-11-16 18:15:47,NaN,3\n", "trace:3: ContextTokens: must be a whole number"),
    (AZURE + "2023-11-16 18:15:47,1.5,3\n", "ContextTokens: must be a whole number"),
    (AZURE + "2023-11-16 18:15:47,-4,3\n", "ContextTokens: must be a whole number of at least 1"),
    (AZURE + "2023-11-16 18:15:47,0,3\n", "(got '0')"),
    (AZURE + "2023-11-16 18:15:47,999999999,3\n", "must be at most 100,000,000"),
    (AZURE.splitlines()[0] + "\n", "no usable request"),
    # BurstGPT
    (BURST.replace("Model,", ""), "missing column Model"),
    (BURST + "soon,M,3,4,7,API log\n", "trace:2: Timestamp: must be a number (got 'soon')"),
    (BURST + "nan,M,3,4,7,API log\n", "Timestamp: must be finite and not negative"),
    (BURST + "-1,M,3,4,7,API log\n", "Timestamp: must be finite and not negative"),
    (BURST + "5,M,0,4,7,API log\n", "Request tokens: must be a whole number of at least 1"),
    (BURST + "5,M,3,-4,7,API log\n", "Response tokens: must be a whole number of at least 0"),
    (BURST + "5,M,3,4,7,a\n4,M,3,4,7,a\n", "trace:3: Timestamp: runs backwards"),
    (BURST + "5,M,3,0,3,a\n", "no usable request"),
    # neutral
    ("arrival_s,isl\n", "missing column osl"),
    ("arrival_s,isl,osl,sesion_id\n", "unknown column 'sesion_id'; did you mean 'session_id'"),
    ("arrival_s,isl,osl,isl\n", "column 'isl' stands there twice"),
    (NEUTRAL + "0,5,5,,,,,\ninf,5,5,,,,,\n", "trace:3: arrival_s: must be finite"),
    (NEUTRAL + "1,5,5,,,,,\n0,5,5,,,,,\n", "trace:3: arrival_s: runs backwards"),
    (NEUTRAL + "0,5,5,,p,,,\n", "prefix_id and prefix_tokens: give both or neither"),
    (NEUTRAL + "0,5,5,,p,11,,\n", "prefix_tokens: longer than isl + osl = 10"),
    (NEUTRAL + "0,5,5,,p,none,,\n", "prefix_tokens: must be a whole number"),
    (NEUTRAL + "0,5,5,,,,,urgent\n", "priority: must be a whole number"),
    # Mooncake
    (MOON + "[1]\n", "trace:2: must be an object with timestamp"),
    (MOON + "{broken\n", "trace:2: not valid JSON"),
    (MOON + "null\n", "must be an object with timestamp, input_length"),
    (MOON + "[" * 100_000 + "\n", "trace:2: not valid JSON"),
    (MOON.replace('"input_length": 600, ', ""), "trace:1: input_length: missing"),
    (MOON.replace("600", "NaN"), "input_length: must be a whole number"),
    (MOON.replace("600", "0"), "input_length: must be a whole number of at least 1"),
    (MOON.replace("600", "true"), "input_length: must be a whole number"),
    (MOON.replace(": 0, ", ": NaN, "), "timestamp: must be finite"),
    (MOON.replace(": 0, ", ": -3, "), "timestamp: must be finite and not negative"),
    (MOON.replace(": 0, ", ": [], "), "timestamp: must be a number"),
    (MOON.replace("[0, 1]", "7"), "hash_ids: must be a list of whole numbers (got 7)"),
    (MOON.replace("[0, 1]", '["a", 1]'), "hash_ids: must hold whole numbers"),
    (MOON + MOON.replace("[0, 1]", "[0]"), "hash_ids: no size of a block fits all rows: 1 for"),
    (MOON + MOON.replace("[0, 1]", "[0, 1, 2]"), "need at least 300 tokens, 3 for 600 at most 299"),
    (MOON.replace(": 0, ", ": 9, ") + MOON, "trace:2: timestamp: runs backwards"),
    # RAGPulse
    (RAG.replace('"history": [3]', '"history": 3'), "hash_ids.history: must be a list"),
    (RAG.replace('"history"', '"story"'), "hash_ids.story: unknown; it has sys_prompt"),
    (RAG.replace('"s", ', "3, "), "session_id: must be text (got 3)"),
    (RAG.replace('"7"', '"noon"'), "timestamp: must be a number (got 'noon')"),
    (RAG.replace(', "session_id": "s"', ""), "trace:1: session_id: missing"),
]


@pytest.mark.parametrize(("text", "says"), DAMAGE, ids=[says for _, says in DAMAGE])
def test_damage_is_named_with_file_line_key_and_value(
    read: Read, text: str | bytes, says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (AZURE, "never,1,1\n"),
        (BURST + "0,M,3,4,7,log\n", "1,M,x,4,7,log\n"),
        (NEUTRAL + "0,5,5,,,,,\n", "0,5\n"),
        (MOON, "{}\n"),
        (RAG, "{}\n"),
    ],
    ids=["azure", "burstgpt", "neutral", "mooncake", "ragpulse"],
)
def test_bad_rows_are_refused_together_or_left_out_and_counted(
    read: Read, good: str, bad: str
) -> None:
    with pytest.raises(SpecError, match="and 2 more bad rows") as caught:
        read(good + 12 * bad)
    assert "--skip-bad-rows" in str(caught.value)
    requests = read(good + 12 * bad, skip_bad_rows=True)
    assert (len(requests), requests.skipped_rows) == (1, 12)


def test_folders_and_formats_that_do_not_match(
    tmp_path: Path, clients: Callable[..., Path]
) -> None:
    options = TraceOptions()
    with pytest.raises(SpecError, match="no such trace"):
        read_trace(tmp_path / "none.csv", None, options)
    with pytest.raises(SpecError, match="a folder without chunk-"):
        read_trace(tmp_path, None, options)
    with pytest.raises(SpecError, match="only servegen is a folder"):
        read_trace(clients(), "azure", options)
    (tmp_path / "file").write_text(AZURE)
    with pytest.raises(SpecError, match="servegen is a folder"):
        read_trace(tmp_path / "file", "servegen", options)
    with pytest.raises(SpecError, match="missing column arrival_s"):
        read_trace(tmp_path / "file", "neutral", options)


def test_a_failed_request_of_burstgpt_is_counted_without_being_asked(read: Read) -> None:
    header = BURST.replace("Timestamp,", "Timestamp,Session ID,")
    rows = "0,a,M,3,4,7,log\n1,a,M,3,0,3,log\n2.5,a,M,5,6,11,log\n3,b,M,5,6,11,log\n"
    requests = read(header + rows)
    assert requests.failed_rows == 1
    assert requests.arrival_s.tolist() == [0, 2.5, 3]
    assert requests.after is not None
    assert requests.after.tolist() == [-1, 0, -1]


def test_the_neutral_form_carries_sessions_prefixes_classes_and_priorities(read: Read) -> None:
    part = TrafficClass(name="b", share=1.0, isl=Lengths(fixed=1), osl=Lengths(fixed=1), priority=3)
    rows = "0,100,50,s,p,64,b,\n1,9,9,t,,,b,\n2,200,50,s,p,150,b,7\n"
    requests = read(NEUTRAL + rows, block_tokens=16, classes=(part,))
    assert requests.after is not None
    assert requests.after.tolist() == [-1, -1, 0]
    assert requests.class_names == ("b",)
    assert requests.priority is not None
    assert requests.priority.tolist() == [3, 3, 7]
    assert requests.prefixes is not None
    ((text, units),) = requests.prefixes.of(0)
    assert units == 4
    assert requests.prefixes.of(1) == []
    assert requests.prefixes.of(2) == [(text, 9)]
    with pytest.raises(SpecError, match="slo_class: not a class of the workload .got 'c'"):
        read(NEUTRAL + "0,100,50,,,,c,\n", classes=(part,))
    assert read(NEUTRAL + "0,1,1,,,,x,\n1,1,1,,,,y,\n").class_names == ("x", "y")


def test_blocks_of_mooncake_are_conserved(read: Read) -> None:
    draw = np.random.default_rng(0)
    chains, lines = [], []
    for i in range(60):
        branch = int(draw.integers(0, 4))
        blocks = int(draw.integers(1, 9))
        chain = [0, *(100 * branch + j for j in range(1, blocks))]
        chain[-1] = 10_000 + i if draw.random() < 0.5 else chain[-1]
        isl = 512 * blocks - int(draw.integers(0, 2)) * 5
        chains.append(chain[: isl // 512])
        row = {"timestamp": i, "input_length": isl, "output_length": 1, "hash_ids": chain}
        lines.append(json.dumps(row))
    requests = read("\n".join(lines), block_tokens=16)
    assert requests.prefixes is not None
    assert requests.prefixes.unit_tokens == 512

    def shared(first: list[int], second: list[int]) -> int:
        same = [a == b for a, b in zip(first, second, strict=False)]
        return same.index(False) if False in same else len(same)

    def shared_units(i: int, j: int) -> int:
        assert requests.prefixes is not None
        total = 0
        for one, two in zip(requests.prefixes.of(i), requests.prefixes.of(j), strict=False):
            total += min(one[1], two[1]) if one[0] == two[0] else 0
            if one != two:
                break
        return total

    for i, chain in enumerate(chains):
        assert sum(units for _, units in requests.prefixes.of(i)) == len(chain)
        for j in range(i):
            assert shared_units(i, j) == shared(chain, chains[j])


def test_ticks_of_a_slow_clock_are_spread_in_order(read: Read) -> None:
    rows = [json.loads(MOON) | {"timestamp": 3000 * (i // 5)} for i in range(50)]
    text = "\n".join(map(json.dumps, rows))
    first, again, other = (read(text, seed=seed).arrival_s for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert (np.diff(first) > 0).all()
    assert ((first + 3 > np.arange(50) // 5 * 3) & (first < (np.arange(50) // 5 + 1) * 3)).all()
    even = [json.loads(MOON) | {"timestamp": 3000 * i} for i in range(10)]
    assert read("\n".join(map(json.dumps, even))).arrival_s.tolist() == [3.0 * i for i in range(10)]


@pytest.mark.parametrize(("limit", "until_s", "count"), [(7, None, 7), (None, 2.5, 26)])
def test_only_what_is_wanted_is_read(
    read: Read, limit: int | None, until_s: float | None, count: int
) -> None:
    rows = "".join(f"{i / 10},5,5\n" for i in range(100))
    text = "arrival_s,isl,osl\n" + rows + "broken,1,1\n"
    assert len(read(text, limit=limit, until_s=until_s)) == count


def test_clients_together_keep_their_rates_and_lengths(clients: Callable[..., Path]) -> None:
    clients(name="0")
    folder = clients("0,1.0,1,,0,0\n1200,0,0,,0,0\n", name="1")
    counts = []
    for seed in range(30):
        requests = read_trace(folder, None, TraceOptions(seed=seed, until_s=5000))
        counts.append(len(requests))
        assert (np.diff(requests.arrival_s) >= 0).all()
        assert set(requests.isl.tolist()) == {50, 70}
        assert set(requests.osl.tolist()) == {5}
    expected = 600 * (2 + 4) + 1200 * 1
    spread = np.std(counts) / len(counts) ** 0.5
    assert abs(np.mean(counts) - expected) < 4 * spread + 1
    few = read_trace(folder, None, TraceOptions(seed=3, limit=50))
    assert len(few) == 50
    whole = read_trace(folder, None, TraceOptions(seed=3, until_s=5000))
    assert few.arrival_s.tolist() == whole.arrival_s[:50].tolist()


CLIENT_DAMAGE = [
    ("0,1,1\n", LENGTHS, "trace.csv:1: must be start,rate,cv,family,shape,scale"),
    ("0,1,1,Pareto,1,1\n", LENGTHS, "family: must be Gamma, Weibull or empty (got 'Pareto')"),
    ("0,-1,1,Gamma,1,1\n", LENGTHS, "rate: must be finite and not negative"),
    ("0,1,1,Gamma,0,1\n", LENGTHS, "shape: must be at least 0.02"),
    ("0,nan,1,Gamma,1,1\n", LENGTHS, "rate: must be finite"),
    ("6,1,1,,0,0\n6,1,1,,0,0\n", LENGTHS, "trace.csv:2: start: must grow"),
    ("", LENGTHS, "empty file"),
    (WINDOWS, None, "dataset.json: no such trace file"),
    (WINDOWS, "{", "dataset.json:1: not valid JSON"),
    (WINDOWS, "[]", "must be an object of windows"),
    (WINDOWS, '{"x": {}}', "window: must be a number"),
    (WINDOWS, '{"0": 3}', "0: must be an object"),
    (WINDOWS, '{"0": {"input_tokens": "{1: 1}"}}', "0.output_tokens: must be a text"),
    (WINDOWS, LENGTHS.replace("{5: 1.0}", "{5: }"), "must be a text such as"),
    (WINDOWS, LENGTHS.replace("{5: 1.0}", "{0: 1.0}"), "must be a whole number of at least 1"),
    (WINDOWS, LENGTHS.replace("{5: 1.0}", "{5: 0.0}"), "the probabilities add up to 0"),
    (WINDOWS, LENGTHS.replace("{5: 1.0}", "{}"), "output_tokens: no histogram in any window"),
]


@pytest.mark.parametrize(
    ("windows", "lengths", "says"), CLIENT_DAMAGE, ids=[says for *_, says in CLIENT_DAMAGE]
)
def test_damaged_clients(
    clients: Callable[..., Path], windows: str, lengths: str | None, says: str
) -> None:
    folder = clients(windows, lengths, "bad")
    with pytest.raises(SpecError) as caught:
        read_trace(folder, None, TraceOptions())
    assert says in str(caught.value)
    clients()
    requests = read_trace(folder, None, TraceOptions(skip_bad_rows=True, limit=20))
    assert (len(requests), requests.skipped_rows) == (20, 1)


@pytest.mark.parametrize(
    ("name", "count", "isl", "osl"),
    [
        ("azure_llm_2023_code.csv", 8819, 2047.8, 27.9),
        ("azure_llm_2023_conv_first_window.csv", 13_927, 1201.0, 201.2),
        ("mooncake_conversation_first_35min.jsonl", 6758, 12_592.1, 346.9),
        ("ragpulse_trace.jsonl", 7106, 2943.6, 283.2),
    ],
)
def test_published_traces_are_read_whole(
    shared: Path, name: str, count: int, isl: float, osl: float
) -> None:
    path = shared / "traces" / name
    requests = read_trace(path, None, TraceOptions(block_tokens=16))
    assert len(requests) == count
    assert requests.isl.mean() == pytest.approx(isl, abs=0.06)
    assert requests.osl.mean() == pytest.approx(osl, abs=0.06)
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert (requests.after is not None) == ("ragpulse" in name)
    assert (requests.prefixes is not None) == ("mooncake" in name)


def test_published_clients_are_read(shared: Path) -> None:
    options = TraceOptions(until_s=600)
    requests = read_trace(shared / "traces" / "servegen", None, options)
    assert len(requests) == pytest.approx(600 * (88.06 + 2.53), rel=0.05)
