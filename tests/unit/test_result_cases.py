"""Results of benchmarks as measured cases: what is read of them, and what must be added."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.studies.validate_cases import Case, read_cases
from cluster_sim.studies.validate_jobs import job_of

VLLM: dict[str, Any] = {
    "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 4,
    "completed": 40,
    "failed": 0,
    "total_input_tokens": 40_000,
    "total_output_tokens": 4000,
    "request_throughput": 3.5,
    "request_goodput": None,
    "output_throughput": 350.0,
    "total_token_throughput": 3850.0,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 58.0,
    "p99_ttft_ms": 90.0,
    "mean_tpot_ms": 9.0,
    "mean_e2el_ms": 950.0,
}
SGLANG = {
    "backend": "sglang",
    "request_rate": 2.0,
    "max_concurrency": None,
    "completed": 10,
    "total_input_tokens": 5000,
    "total_output_tokens": 1000,
    "output_throughput": 200.0,
    "total_throughput": 1200.0,
    "median_e2e_latency_ms": 800.0,
    "mean_tpot_ms": float("nan"),
}
AIPERF = {
    "input_config": {
        "endpoint": {"model_names": ["Qwen/Qwen3-8B"], "streaming": True},
        "loadgen": {"concurrency": 16, "request_rate": None},
    },
    "request_throughput": {"unit": "requests/sec", "avg": 2.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 256.0},
    "time_to_first_token": {"unit": "ms", "avg": 100.0, "p50": 95.0, "p99": 180.0},
    "inter_token_latency": {"unit": "us", "avg": 9000.0},
    "request_latency": {"unit": "s", "avg": 1.5},
    "input_sequence_length": {"unit": "tokens", "avg": 512.0},
    "output_sequence_length": {"unit": "tokens", "avg": 128.0},
    "error_summary": [],
}
GENAI_CSV = """Metric,avg,min,max,p99,p90,p50
Time To First Token (ms),"1,100.0",90,2000,1900,1500,1000
Inter Token Latency (ms),9.0,8,10,9.9,9.5,9.1
Request Latency (ms),1500,1400,1600,1590,1550,1500
Output Sequence Length (tokens),128.00,120,130,130,130,128
Input Sequence Length (tokens),512.00,510,514,514,513,512

Metric,Value
Output Token Throughput (per sec),256.0
Request Throughput (per sec),2.0
"""
MACHINE = {"chip": "h100_sxm", "n_chips": "1", "tp": "1", "weights_dtype": "bf16"}


def cases(folder: Path, text: str | bytes, **filled: str) -> dict[str, Case]:
    path = folder / "mine"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {case.text("metric"): case for case in read_cases([path], MACHINE | filled)}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_result_of_vllm(tmp_path: Path, indent: int | None, packed: bool) -> None:
    text = json.dumps(VLLM, indent=indent).encode()
    found = cases(tmp_path, gzip.compress(text) if packed else text)
    values = {metric: case.value for metric, case in found.items()}
    assert values == {
        "requests_per_s": 3.5,
        "output_tokens_per_s": 350.0,
        "total_tokens_per_s": 3850.0,
        "ttft_ms_mean": 60.0,
        "ttft_ms_p50": 58.0,
        "ttft_ms_p99": 90.0,
        "tpot_ms_mean": 9.0,
        "e2e_ms_mean": 950.0,
    }
    job = job_of(found["tpot_ms_mean"])
    assert (job.mode, job.concurrency, job.model, job.software[:4]) == (
        *("closed_loop", 4, "llama3.1-8b", "vllm"),
    )
    assert (job.isl, job.osl, job.dtype, job.tp, job.n_chips) == (1000, 100, "bf16", 1, 1)


def test_results_of_sglang_one_a_line(tmp_path: Path) -> None:
    text = json.dumps(SGLANG) + "\n" + json.dumps(SGLANG | {"output_throughput": 300.0}) + "\n"
    found = read_cases([_file(tmp_path, text)], MACHINE | {"model": "qwen3-8b"})
    assert [case.run_id for case in found] == ["mine"] * 3 + ["mine#2"] * 3
    assert [case.value for case in found[:3]] == [200.0, 1200.0, 800.0]
    assert [case.line for case in found] == [1] * 3 + [2] * 3
    job = job_of(found[2])
    assert (job.mode, job.rate, job.software[:6]) == ("open_loop", 2.0, "sglang")


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine"
    path.write_text(text)
    return path


@pytest.mark.parametrize("inside", [False, True])
def test_statistics_of_aiperf(tmp_path: Path, inside: bool) -> None:
    data = {"metrics": AIPERF, "input_config": AIPERF["input_config"]} if inside else AIPERF
    found = cases(tmp_path, json.dumps(data), framework="vllm")
    assert found["tpot_ms_mean"].value == pytest.approx(9.0)
    assert found["e2e_ms_mean"].value == pytest.approx(1500.0)
    assert found["ttft_ms_p99"].value == 180.0
    job = job_of(found["output_tokens_per_s"])
    assert (job.mode, job.concurrency, job.model, job.isl) == ("closed_loop", 16, "qwen3-8b", 512)


def test_statistics_of_genai_perf_in_csv(tmp_path: Path) -> None:
    load = {"mode": "closed_loop", "concurrency": "8", "framework": "trtllm", "model": "qwen3-8b"}
    found = cases(tmp_path, GENAI_CSV, **load)
    values = {metric: case.value for metric, case in found.items()}
    assert values["ttft_ms_mean"] == 1100.0
    assert (values["tpot_ms_p99"], values["requests_per_s"]) == (9.9, 2.0)
    assert job_of(found["requests_per_s"]).concurrency == 8


BAD = [
    (VLLM | {"backend": "openai-chat"}, {}, "framework: not in this result; give what is true"),
    (VLLM | {"model_id": "mine/own"}, {}, "--fill model=llama3.1-8b"),
    (VLLM | {"request_rate": 4.0}, {}, "mode: not in this result"),
    (VLLM | {"completed": 0}, {}, "isl, osl: not in this result"),
    (VLLM, {"concurrency": "8"}, "concurrency: is 4 by the result, --fill says 8"),
    (VLLM, {"chip": "h1oo"}, "chip: unknown (got 'h1oo')"),
    (VLLM, {"modell": "x"}, "--fill modell: no column of serving cases to fill; did you mean"),
    (VLLM, {"value": "3"}, "--fill value: no column of serving cases to fill"),
    (VLLM | {"failed": 3}, {}, "failed: 3 requests failed"),
    (VLLM | {"request_rate": 4.0, "burstiness": 0.5}, {}, "burstiness: 0.5; only Poisson"),
    (VLLM | {"request_rate": "fast"}, {}, "request_rate: must be a number or inf (got 'fast')"),
    (VLLM | {"mean_ttft_ms": -1}, {}, "mean_ttft_ms: must be a number of at least 0 (got -1)"),
    (VLLM | {"mean_ttft_ms": "1e999"}, {}, "mean_ttft_ms: must be a number of at least 0"),
    (VLLM | {"mean_ttft_ms": [1]}, {}, "mean_ttft_ms: must be a number of at least 0 (got [1])"),
    ({"hello": 1}, {}, "not a result of vLLM, SGLang, AIPerf or GenAI-Perf"),
    (AIPERF | {"request_latency": {"unit": "min", "avg": 1}}, {}, "request_latency.unit: must be"),
    ({"metadata": {}, "metrics": {"request_latency": {"value": 1}}}, {}, "a record of a request"),
]


@pytest.mark.parametrize(("result", "filled", "says"), BAD, ids=[says for *_, says in BAD])
def test_what_is_missing_or_wrong_is_told(
    tmp_path: Path, result: dict[str, Any], filled: dict[str, str], says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        cases(tmp_path, json.dumps(result), **filled)
    assert says in str(caught.value)


def test_broken_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="mine:2: not valid JSON"):
        cases(tmp_path, json.dumps(SGLANG) + "\n{broken\n")
    with pytest.raises(SpecError, match="mine:1: not valid JSON"):
        cases(tmp_path, '{"a": ' + "[" * 100_000)


def test_cells_of_a_table_are_filled_where_it_leaves_them_empty(tmp_path: Path) -> None:
    head = "case_id,mode,chip,n_chips,model,framework,isl,osl,concurrency,metric,value"
    text = head + "\na,closed_loop,h200_sxm,,llama3.1-8b,,256,64,4,tpot_ms_mean,4.0\n"
    found = cases(tmp_path, text, framework="vllm")["tpot_ms_mean"]
    assert [found.text(name) for name in ("chip", "n_chips", "tp")] == ["h200_sxm", "1", "1"]
    assert job_of(found).software.startswith("vllm")


def test_a_list_holds_several_results(tmp_path: Path) -> None:
    filled = {"chip": "h100_sxm", "n_chips": "1", "tp": "1", "weights_dtype": "bf16"}
    file = tmp_path / "all.json"
    file.write_text(json.dumps([VLLM, VLLM | {"max_concurrency": 8}], indent=1))
    cases = read_cases([file], filled)
    assert {case.run_id: case.text("concurrency") for case in cases} == {
        "all.json": "4",
        "all.json#2": "8",
    }
    for text, problem in (
        ("[]", "an empty list"),
        ("[5]", "must be an object"),
        ('{"experiments": []}', "profile_export_genai_perf.json"),
    ):
        file.write_text(text)
        with pytest.raises(SpecError, match=problem):
            read_cases([file], filled)


def test_the_first_versions_of_aiperf_hold_statistics_as_records(tmp_path: Path) -> None:
    filled = {"chip": "h100_sxm", "n_chips": "1", "tp": "1", "weights_dtype": "bf16"}
    filled |= {"framework": "vllm"}
    outer = {key: AIPERF[key] for key in ("input_config", "error_summary")}
    inner = {key: value for key, value in AIPERF.items() if key not in outer}
    inner["ttft"] = inner.pop("time_to_first_token")
    values = []
    for number, result in enumerate((AIPERF, outer | {"records": inner})):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(result))
        values.append({case.metric: case.value for case in read_cases([file], filled)})
    assert values[0] == values[1]
    assert values[0]["ttft_ms_p99"] == 180.0
