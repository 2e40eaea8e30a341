"""The raw export of GenAI-Perf as a trace: texts of several servers, counts where given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_rows import TraceOptions
from cluster_sim.serving.traces import read_trace


def request(at: int, answer: list[Any], inputs: object = None) -> dict[str, Any]:
    asked = {"payload": '{"prompt": "' + "a" * 40 + '"}'} if inputs is None else inputs
    return {"timestamp": at, "request_inputs": asked, "response_outputs": answer}


def read(folder: Path, *requests: object, **options: Any) -> Requests:
    path = folder / "export.json"
    path.write_text(json.dumps({"experiments": [{"requests": list(requests)}]}))
    return read_trace(path, None, TraceOptions(**options))


@pytest.mark.parametrize(
    "answer",
    [
        [{"text_output": "bbbb"}, {"text_output": "bbbb"}],  # Triton
        ["bbbb", "bbbb"],  # early versions
        [{"response": json.dumps({"choices": [{"message": {"content": "b" * 8}}]})}],
        [{"response": json.dumps({"choices": [{"text": "b" * 8}]})}],
        [{"response": 'data: {"choices":[{"delta":{"reasoning_content":"bbbbbbbb"}}]}\n\n'}],
        [{"response": 'data: {"choices":[{"delta":{"content":"bbbb"}}]}\n\n' * 2}],
    ],
)
def test_texts_of_answers(tmp_path: Path, answer: list[Any]) -> None:
    requests = read(tmp_path, request(5_000_000_000, answer), request(4_000_000_000, answer))
    assert requests.isl.tolist() == [10, 10]
    assert requests.osl.tolist() == [2, 2]
    assert requests.arrival_s.tolist() == [0.0, 1.0]
    assert "4 bytes a token" in requests.assumed[0]


def test_counts_of_the_server_are_taken(tmp_path: Path) -> None:
    counts = json.dumps({"choices": [], "usage": {"prompt_tokens": 33, "completion_tokens": 7}})
    requests = read(tmp_path, request(5, [{"response": f"data: {counts}\n\n"}]))
    assert (requests.isl.tolist(), requests.osl.tolist(), requests.assumed) == ([33], [7], ())


def test_prompts_stand_in_several_places(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a" * 40}]
    for inputs in ({"text_input": "a" * 40}, {"payload": json.dumps({"messages": said})}):
        assert read(tmp_path, request(5, ["b"], inputs)).isl.tolist() == [10]


def test_requests_without_an_answer_are_left_out(tmp_path: Path) -> None:
    requests = read(tmp_path, request(5, ["b"]), request(6, [{"response": ""}]), request(7, []))
    assert (len(requests), requests.failed_rows) == (1, 2)


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (request(-5, ["b"]), "requests.0: timestamp: must be finite and not negative"),
        (request(5, ["b"], {"stream": True}), "request_inputs: has none of text_input, prompt"),
        (request(5, ["b"], {"payload": "{"}), "not valid JSON"),
        (request(5, [7]), "response_outputs: must hold texts (got 7)"),
        ({"timestamp": 5}, "response_outputs: missing"),
        (5, "must be an object with timestamp, response_outputs (got 5)"),
    ],
)
def test_damage_is_named(tmp_path: Path, damaged: object, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, damaged)
    assert problem in str(caught.value)
    assert len(read(tmp_path, damaged, request(5, ["b"]), skip_bad_rows=True)) == 1


def test_several_experiments_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    for experiments, problem in (
        ([{"requests": []}] * 2, "experiments: 2; keep one"),
        ([], "experiments: 0; keep one"),
        ([{}], "experiments.0.requests: must be a list"),
        (5, "experiments: must be a list of objects .got 5."),
        ([{"requests": []}], "no usable request"),
    ):
        path.write_text(json.dumps({"experiments": experiments}))
        with pytest.raises(SpecError, match=problem):
            read_trace(path, None, TraceOptions())
