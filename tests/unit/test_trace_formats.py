"""Formats of traces: each is told from what it holds, gzipped or not; what it lacks has a rule."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_rows import TraceOptions
from cluster_sim.serving.traces import FORMATS, has_times, read_trace, recognise
from cluster_sim.specs.find import Files
from cluster_sim.specs.workload import Lengths


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def moon(isl: int = 900, **more: Any) -> dict[str, Any]:
    return {"timestamp": 0, "input_length": isl, "output_length": 30} | more


SAID = [{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "b" * 8}]
RECORD = {
    "metadata": {"request_start_ns": 1_500_000_000, "x_correlation_id": "s", "turn_index": 0},
    "metrics": {
        "input_sequence_length": {"value": 90, "unit": "tokens"},
        "output_sequence_length": {"value": 7.0, "unit": "tokens"},
    },
    "error": None,
}
RESULT = {
    "request_rate": "inf",
    "completed": 2,
    "input_lens": [90, 80],
    "output_lens": [7, 6],
    "ttfts": [0.1, 0.1],
    "errors": ["", ""],
}
ASKED = {"payload": json.dumps({"messages": [{"role": "user", "content": "a" * 40}]})}
TOLD = 'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'
EXPORT = {
    "service_kind": "openai",
    "experiments": [
        {
            "experiment": {"mode": "concurrency", "value": 2},
            "requests": [
                {
                    "timestamp": 1_700_000_000_500_000_000,
                    "request_inputs": ASKED,
                    "response_outputs": [
                        *({"response": TOLD % text} for text in ("", "bbbb", "bb")),
                        {"response": "data: [DONE]\n\n"},
                    ],
                },
            ],
        }
    ],
}
# Format, text, and of its first request: prompt, answer, and whether it has a time.
SAMPLES: dict[str, tuple[str, str, int, int, bool]] = {
    "mooncake": ("mooncake", lines(moon(hash_ids=[1, 2])), 900, 30, True),
    "mooncake list": ("mooncake", json.dumps([moon(), moon(5)], indent=1), 900, 30, True),
    "mooncake csv": ("mooncake", "timestamp,input_length,output_length\n5,9,3\n", 9, 3, True),
    "mooncake text": (
        "mooncake",
        lines({"text_input": "a" * 37, "output_length": 3}),
        10,
        3,
        False,
    ),
    "mooncake messages": ("mooncake", lines({"messages": SAID}), 12, 1, False),
    "bailian": (
        "bailian",
        lines({"chat_id": 7, "parent_chat_id": -1, "hash_ids": [4, 5]} | moon(20)),
        *(20, 30, True),
    ),
    "vidur": ("vidur", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,9,3\n", 9, 3, True),
    "vidur lengths": ("vidur", "num_prefill_tokens,num_decode_tokens,pd\n9,3,3.0\n", 9, 3, False),
    "splitwise": (
        "splitwise",
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,"
        "token_size\n0,2,0,0.25,1,9,3\n",
        *(9, 3, True),
    ),
    "sharegpt": (
        "sharegpt",
        json.dumps(
            [
                {"id": "a", "conversations": [{"from": "human", "value": "a" * 40}]},
                {
                    "id": "b",
                    "conversations": [
                        {"from": "human", "value": "a" * 40},
                        {"from": "gpt", "value": "b" * 8},
                    ],
                },
            ]
        ),
        *(10, 2, False),
    ),
    "lmsys": ("sharegpt", lines({"conversation_id": "x", "conversation": SAID}), 10, 2, False),
    "prompts": ("prompts", lines({"prompt": "a" * 40, "output_tokens": 3}), 10, 3, False),
    "aiperf": ("aiperf", lines(RECORD), 90, 7, True),
    "vllm": ("benchmark", json.dumps(RESULT), 90, 7, False),
    "vllm indented": ("benchmark", json.dumps(RESULT, indent=2), 90, 7, False),
    "vllm with starts": (
        "benchmark",
        json.dumps(RESULT | {"start_times": [3.5, 3.6]}),
        90,
        7,
        True,
    ),
    "sglang": (
        "benchmark",
        lines({"backend": "sglang", "request_rate": float("inf")} | RESULT),
        *(90, 7, False),
    ),
    "genai-perf": ("genai-perf", json.dumps(EXPORT), 10, 2, True),
    "llmservingsim": (
        "llmservingsim",
        lines({"input_toks": 9, "output_toks": 3, "arrival_time_ns": 5_000_000}),
        *(9, 3, True),
    ),
}
Read = Callable[..., Requests]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reader(text: str, form: str | None = None, **options: object) -> Requests:
        path = tmp_path / "trace.txt"
        path.write_text(text)
        wanted = {"timed": has_times(path, form), "osl": Lengths(fixed=64)} | options
        return read_trace(path, form, TraceOptions(**wanted))  # type: ignore[arg-type]

    return reader


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_format_is_told_from_what_it_holds(tmp_path: Path, name: str, packed: bool) -> None:
    form, text, isl, osl, timed = SAMPLES[name]
    path = tmp_path / "mine.dat"  # a name that says nothing
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert recognise(path, text) == form
    assert has_times(path) == timed
    files: Files = {}
    requests = read_trace(path, None, TraceOptions(timed=timed, osl=Lengths(fixed=1)), files)
    assert (requests.isl[0], requests.osl[0], requests.timed) == (isl, osl, timed)
    assert files[str(path)].sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_every_format_has_a_sample() -> None:
    elsewhere = {"azure", "burstgpt", "neutral", "ragpulse"}
    assert {form for form, *_ in SAMPLES.values()} | elsewhere == set(FORMATS)


def test_what_is_unknown_is_told_once_with_what_each_format_lacks(read: Read) -> None:
    with pytest.raises(SpecError) as caught:
        read('{"tokens": 5}\n')
    (text,) = caught.value.problems
    for part in (
        "trace.txt:1: unknown trace format (got '{\"tokens\": 5}')",
        "mooncake (Mooncake, AIPerf, Dynamo, GuideLLM: no input_length or text_input",
        "benchmark (results of vLLM and SGLang: no input_lens or",
        "5 more as CSV with a header",
        "servegen (a folder",
    ):
        assert part in text
    with pytest.raises(SpecError, match="vidur .Vidur: no num_prefill_tokens,num_decode_tokens."):
        read("time,tokens\n1,2\n")
    with pytest.raises(SpecError, match="statistics of AIPerf or GenAI-Perf, no requests"):
        read(json.dumps({"time_to_first_token": {"avg": 5}, "request_count": {"avg": 2}}))


# What is absent


def test_times_of_some_rows_only(read: Read) -> None:
    late, none = moon(), {"input_length": 9, "output_length": 3}
    with pytest.raises(SpecError, match="txt:2: timestamp: missing; rows before have one"):
        read(lines(late, none))
    with pytest.raises(SpecError, match="txt:2: timestamp: rows before have none .got 0."):
        read(lines(none, late))


def test_answers_without_a_length_are_the_workloads(read: Read) -> None:
    rows = [{"timestamp": i, "input_length": 9} for i in range(50)]
    drawn = Lengths(quantiles=((0.0, 10), (1.0, 90)))
    first, again = (read(lines(*rows), osl=drawn, seed=4).osl for _ in range(2))
    assert first.tolist() == again.tolist() != read(lines(*rows), osl=drawn, seed=5).osl.tolist()
    assert 10 <= first.min() < 25
    assert 75 < first.max() <= 90
    requests = read(lines(moon(), rows[0]), osl=Lengths(fixed=64))
    assert requests.osl.tolist() == [30, 64]
    assert "1 of 2 rows give no output_length: answers are drawn" in requests.assumed[0]
    assert read(lines(moon(), rows[0]), osl=None).osl.tolist() == [30, 0]


@pytest.mark.parametrize(
    ("rows", "unit", "said"),
    [
        ([(655, 2), (1024, 2)], 512, ""),
        ([(655, 3), (672, 3)], 256, "256 tokens (any from 224 to 327 tokens fit)"),
        ([(10, 1), (20, 2), (15, 1)], 16, "16 tokens (any from 15 to 19 tokens fit)"),
        ([(4096, 64), (4090, 64)], 64, "64 tokens (no other size fits)"),
        ([(450, 1), (900, 2), (1024, 2)], 512, ""),
        ([(1024, 1), (800, 1)], 1024, "1024 tokens (any from 1024 tokens on fit)"),
        ([(4500, 10), (4510, 11)], 450, "450 tokens (no other size fits)"),
        ([(900, 2), (960, 2), (700, 2)], 512, ""),
        ([(2000, 5), (1999, 5), (2000, 0)], 448, "448 tokens (any from 400 to 499 tokens fit)"),
    ],
)
def test_blocks_are_of_the_size_that_fits_all_rows(
    read: Read, rows: list[tuple[int, int]], unit: int, said: str
) -> None:
    text = lines(*(moon(isl, hash_ids=list(range(count))) for isl, count in rows))
    requests = read(text, block_tokens=2)
    assert requests.assumed == ((f"hash_ids are taken for blocks of {said}",) if said else ())
    filled = requests.prefixes is not None
    assert filled == any(isl >= unit and count for isl, count in rows)
    assert not filled or requests.prefixes.unit_tokens == unit  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [[(1000, 2), (990, 2), (981, 3)], [(4500, 10), (4499, 11)]])
def test_blocks_of_no_one_size_need_a_word(read: Read, rows: list[tuple[int, int]]) -> None:
    text = lines(*(moon(isl, hash_ids=list(range(count))) for isl, count in rows))
    with pytest.raises(SpecError, match="no size of a block fits all rows") as caught:
        read(text, block_tokens=2)
    assert "--set workload.arrivals.trace_block_tokens=512" in str(caught.value)
    given = read(text, block_tokens=2, trace_block_tokens=512)
    assert given.prefixes is not None
    shared = [sum(units for _, units in given.prefixes.of(i)) for i in range(len(rows))]
    assert shared == [min(isl // 512, count) for isl, count in rows]


def test_small_blocks_are_joined_to_those_of_the_engine(read: Read) -> None:
    first, second = [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 70, 80]
    text = lines(moon(128, hash_ids=first, chat_id=1), moon(128, hash_ids=second, chat_id=2))
    requests = read(text, block_tokens=64)
    assert requests.prefixes is not None
    assert requests.prefixes.unit_tokens == 64
    one, two = requests.prefixes.of(0), requests.prefixes.of(1)
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_a_trace_without_blocks_shares_nothing_and_says_so(read: Read) -> None:
    requests = read(lines(moon(), moon()), block_tokens=16)
    assert requests.prefixes is None
    assert "they share nothing" in requests.assumed[0]


# Times and sessions


def test_times_with_fractions_are_seconds_or_milliseconds(read: Read) -> None:
    def at(*times: float) -> list[float]:
        rows = [moon(timestamp=one) for one in times]
        return read(lines(*rows)).arrival_s.tolist()

    assert at(0.0, 0.2, 0.4) == pytest.approx([0, 0.2, 0.4])
    assert at(0, 200, 400) == pytest.approx([0, 0.2, 0.4])
    assert at(0.5, 200.25, 400.5) == pytest.approx([0, 0.19975, 0.4])
    ms = read(lines(moon(timestamp=0.5), moon(timestamp=1.5)), time_unit="ms")
    assert ms.arrival_s[1] == pytest.approx(0.001)
    assert not ms.assumed or "seconds" not in ms.assumed[0]


def test_turns_come_a_delay_after_the_end_of_the_former_one(read: Read) -> None:
    text = lines(
        moon(700, session_id="a", hash_ids=[0, 1], timestamp=100),
        {"session_id": "a", "delay": 1500, "input_length": 1300, "output_length": 4}
        | {"hash_ids": [0, 1, 2]},
        moon(600, session_id="b", hash_ids=[5, 6], timestamp=40),
    )
    requests = read(text, block_tokens=16)
    assert requests.isl.tolist() == [600, 700, 1300]
    assert requests.arrival_s.tolist() == pytest.approx([0, 0.06, 0.06])
    assert requests.after is not None
    assert requests.think_s is not None
    assert requests.after.tolist() == [-1, -1, 1]
    assert requests.think_s.tolist() == [0, 0, 1.5]
    assert requests.prefixes is not None
    assert requests.prefixes.unit_tokens == 512


def test_turns_that_begin_with_other_blocks_are_what_is_new(read: Read) -> None:
    text = lines(
        *(moon(1024, session_id=s, hash_ids=[1, 9]) for s in "ab"),
        *({"session_id": s, "delay": 5, "input_length": 512, "output_length": 30} for s in "ab"),
        {"session_id": "a", "delay": 5, "input_length": 512, "output_length": 4, "hash_ids": [7]},
    )
    requests = read(text, block_tokens=16)
    turns = requests.isl.tolist()
    assert sorted(turns) == [1024, 1024, 1566, 1566, 2108]
    assert "what is new in them" in str(requests.assumed)
    assert requests.prefixes is not None
    shared = [requests.prefixes.of(i) for i in range(5)]
    assert all(runs[0][0] == 1 for runs in shared)  # the blocks of the first turn, of all sessions
    longest = shared[turns.index(2108)]
    assert sum(units for _, units in longest) == (2108 + 4) // 512
    whole = read(text, block_tokens=16, turns="whole")
    assert sorted(whole.isl.tolist()) == [512, 512, 512, 1024, 1024]


def test_sessions_without_times_stand_behind_each_other(read: Read) -> None:
    rows = [
        {"input_length": n, "output_length": 1, "session_id": s} for n, s in enumerate("abab", 9)
    ]
    requests = read(lines(*rows))
    assert requests.isl.tolist() == [9, 11, 10, 12]
    assert requests.after is not None
    assert requests.after.tolist() == [-1, 0, -1, 2]
    assert "--set workload.arrivals.trace_turns=new" in str(requests.assumed)


def test_chats_of_bailian_go_on_those_that_they_name(read: Read) -> None:
    def chat(number: int, parent: int, at: float) -> dict[str, Any]:
        return moon(32, chat_id=number, parent_chat_id=parent, timestamp=at, hash_ids=[1, 2])

    chats = [chat(5, 99, 1.5), chat(8, 5, 9.0), chat(7, -1, 3.0), chat(9, 8, 12.0)]
    for rows in (chats, chats[::-1]):
        requests = read(lines(*rows))
        assert requests.arrival_s.tolist() == [0, 1.5, 7.5, 10.5]
        assert requests.after is not None
        assert requests.after.tolist() == [-1, -1, 0, 2]
    circle = read(lines(chat(1, 2, 0.0), chat(2, 3, 1.0), chat(3, 1, 2.0), chat(4, 4, 3.0)))
    assert circle.after is not None
    assert circle.after.tolist() == [-1, 0, 1, -1]


def test_conversations_are_sessions_with_all_that_was_said(read: Read) -> None:
    turns = [{"from": who, "value": "x" * 40} for who in ("system", "human", "gpt") * 2]
    none = {"conversations": [{"from": "human", "value": "hi"}]}
    requests = read(json.dumps([none, {"conversations": turns}, none]), block_tokens=4)
    assert requests.isl.tolist() == [20, 50]
    assert requests.osl.tolist() == [10, 10]
    assert requests.failed_rows == 2
    assert requests.after is not None
    assert requests.prefixes is not None
    assert requests.prefixes.of(1)[0][1] == 15
    assert "4 bytes a token (assumed" in requests.assumed[0]


def test_failed_requests_of_benchmarks_are_left_out(read: Read) -> None:
    result = RESULT | {"errors": ["", "timeout"], "start_times": [5.0, 4.0]}
    requests = read(json.dumps(result))
    assert (requests.isl.tolist(), requests.failed_rows) == ([90], 1)
    records = [RECORD, RECORD | {"error": {"code": 500}}]
    assert read(lines(*records)).failed_rows == 1


DAMAGE = [
    (lines(moon(), moon()) + '{"timestamp": 5, "input\n' + lines(moon()), "txt:3: not valid JSON"),
    (lines(moon(delay=-1)), "delay: must be finite and not negative (got -1)"),
    (lines(moon(output_length=1e300)), "output_length: must be at most 100,000,000"),
    (lines(moon(output_length=0)), "output_length: must be a whole number of at least 1"),
    (lines(moon(session_id=[1])), "session_id: must be text or a whole number"),
    (lines(moon(hash_ids=[1, -2])), "hash_ids: must hold whole numbers from 0 on (got -2)"),
    (lines(moon(hash_ids=[True])), "hash_ids: must hold whole numbers from 0 on (got True)"),
    (lines(moon(), {"output_length": 4}), "input_length: missing; text_input or messages would do"),
    (lines({"text_input": 5}), "text_input: must be text or a list of messages (got 5)"),
    (lines({"messages": [5]}), "messages[0]: must be text or a message (got 5)"),
    (lines({"messages": [{"role": "user", "content": 5}]}), "messages[0].content: must be text"),
    ("[" + json.dumps(moon()) + ",\n\n{]", "txt:3: not valid JSON"),
    (json.dumps([moon(), moon(isl=-4)], indent=1), "[1]: input_length: must be a whole number"),
    (lines({"chat_id": 1.5} | moon()), "chat_id: must be text or a whole number (got 1.5)"),
    ("arrived_at,num_prefill_tokens,num_decode_tokens\n-1,9,3\n", "txt:2: arrived_at: must be"),
    ("num_prefill_tokens,num_decode_tokens\n9.5,3\n", "num_prefill_tokens: must be a whole"),
    ("num_prefill_tokens,prompts\n9,3\n", "missing column num_decode_tokens"),
    ("timestamp,input_length,output_length\n5,9,3,7\n", "txt:2: more cells than columns"),
    ('[{"conversations": 5}]', "[0]: conversations: must be a list of what was said (got 5)"),
    ('[{"conversations": [5]}]', "conversations[0]: must have 'from' or 'role' as text (got 5)"),
    ('[{"conversations": [{"from": "human"}]}]', "must have 'value' or 'content' as text"),
    (lines({"prompt": "a", "output_tokens": "many"}), "output_tokens: must be a whole number"),
    (json.dumps(RESULT | {"output_lens": [7]}), "input_lens 2, output_lens 1"),
    (json.dumps(RESULT | {"input_lens": 7}), "input_lens: must be a list (got 7)"),
    (json.dumps(RESULT | {"input_lens": [90, -1]}), "input_lens[1]: must be a whole number"),
    (
        json.dumps({"total_input_tokens": 5, "total_output_tokens": 6}),
        "these are totals alone; save each request with --save-detailed (vLLM)",
    ),
    (lines(RESULT, RESULT), "holds 2 results; keep one of them"),
    (lines(RECORD | {"metrics": {}}), "metrics.input_sequence_length: must be a whole number"),
    (lines(RECORD | {"metadata": 5}), "metadata and metrics: must be objects"),
]


@pytest.mark.parametrize(("text", "says"), DAMAGE, ids=[says for _, says in DAMAGE])
def test_damage_is_named_with_place_and_key(read: Read, text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text, timed=False)
    assert says in str(caught.value)


def test_bad_rows_of_json_are_left_out_on_request(read: Read) -> None:
    text = lines(moon()) + "{broken\n" + lines(moon(isl=-1), moon(timestamp=4))
    requests = read(text, skip_bad_rows=True)
    assert (len(requests), requests.skipped_rows) == (2, 2)


def test_times_are_dropped_where_requests_come_otherwise(read: Read) -> None:
    rows = lines(*(moon(100 + i, timestamp=500 * i) for i in range(5)))
    requests = read(rows, timed=False)
    assert not requests.timed
    assert not np.any(requests.arrival_s)
    assert requests.isl.tolist() == [100, 101, 102, 103, 104]


def test_counts_of_tables_with_gaps_are_floats(read: Read) -> None:
    """As pandas writes them."""
    for text in (
        lines(moon(900.0, output_length=8.0), moon(900.0, output_length=None)),
        "timestamp,input_length,output_length,hash_ids\n0,900.0,8.0,\n5,900.0,,\n",
        "prompt_size,token_size\n900.0,8.0\n900.,64\n",
    ):
        requests = read(text)
        assert (requests.isl.tolist(), requests.osl.tolist()) == ([900, 900], [8, 64])


def test_ids_of_blocks_in_a_table(read: Read) -> None:
    table = 'input_length,output_length,hash_ids\n1030,8,"[7, 8, 9]"\n600,8,"[7,11]"\n20,8,[ ]\n'
    rows = (moon(1030, hash_ids=[7, 8, 9]), moon(600, hash_ids=[7, 11]), moon(20, hash_ids=[]))
    found, wanted = (read(text, block_tokens=64).prefixes for text in (table, lines(*rows)))
    assert found is not None
    assert wanted is not None
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.units.tolist() == wanted.units.tolist()
    with pytest.raises(SpecError, match=r"hash_ids: must be a list of whole numbers"):
        read('input_length,output_length,hash_ids\n1030,8,"[7, x]"\n')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"input_length": 9,, "output_length": 3}\n', "Expecting property name"),
        ('[{"input_length": 9}, {"input_length"', "Expecting ':' delimiter"),
        ('{"input_length": 9, "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "nested too deep"),
        ('{"input_length": 9, "x": ' + "1" * 5000 + "}\n", "a number of too many digits"),
        (lines(moon()) + '{"x": ' + "1" * 5000 + "}\n", "a number of too many digits"),
    ],
)
def test_broken_json_is_called_that(read: Read, text: str, problem: str) -> None:
    with pytest.raises(SpecError, match=rf"trace.txt:[12]: not valid JSON: {problem}"):
        read(text)
