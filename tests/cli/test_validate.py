"""``cluster-sim validate``: what it prints and writes, and how it refuses."""

from __future__ import annotations

import csv
import gzip
import json
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError, SpecError
from cluster_sim.studies import validate as study
from cluster_sim.studies.validate_cases import LEFT_OUT
from cluster_sim.studies.validate_scores import INTERRUPTED

HEAD = "case_id,run_id,source,mode,chip,n_chips,framework,model,weights_dtype,tp,isl,osl,"
HEAD += "concurrency,metric,value,flags\n"
GOOD = "a,r1,mine,closed_loop,h200_sxm,2,vllm,llama3.1-8b,fp8,2,256,64,4,tpot_ms_mean,4.0,\n"
OTHER = "b,r1,mine,closed_loop,h200_sxm,2,vllm,llama3.1-8b,fp8,2,256,64,4,ttft_ms_mean,30,rounded\n"
SUSPECT = (
    "c,r2,mine,closed_loop,h200_sxm,1,vllm,llama3.1-8b,fp8,1,256,64,4,tpot_ms_mean,6.0,suspect\n"
)
OPERATORS = "case_id,chip,op,dtype,m,n,k,metric,value\n"


def run(runner: CliRunner, *arguments: str) -> Result:
    return runner.invoke(cli, ["validate", "--workers", "1", *arguments])


def test_scores_of_a_file_of_mine(runner: CliRunner) -> None:
    Path("mine.csv").write_text(HEAD + GOOD + OTHER + SUSPECT)
    done = run(runner, "--against", "mine.csv", "--format", "json", "--out", "cases.csv")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == ["metrics", "breakdown", "skipped"]
    keys = ["n", "skipped", "median_ape", "mean_ape", "p90_ape", "median_error", "spearman"]
    keys.append("right")
    assert list(found["metrics"]["tpot_ms_mean"]) == keys
    assert found["metrics"]["tpot_ms_mean"]["n"] == 1
    assert found["skipped"] == {"flag suspect": 1}
    assert found["breakdown"]["chip"]["h200_sxm"]["ttft_ms_mean"]["n"] == 1
    rows = list(csv.DictReader(Path("cases.csv").read_text().splitlines()))
    assert [row["case_id"] for row in rows] == ["a", "b", "c"]
    error = float(rows[0]["predicted"]) / float(rows[0]["measured"]) - 1
    assert float(rows[0]["error"]) == pytest.approx(error)
    assert found["metrics"]["tpot_ms_mean"]["median_error"] == pytest.approx(error)
    assert (rows[2]["predicted"], rows[2]["reason"]) == ("", "flag suspect")


def test_what_was_predicted_is_hit(runner: CliRunner) -> None:
    """The program's own numbers as measured values have no error."""
    Path("mine.csv").write_text(HEAD + GOOD)
    run(runner, "--against", "mine.csv", "--out", "cases.csv")
    rows = list(csv.DictReader(Path("cases.csv").read_text().splitlines()))
    Path("own.csv").write_text(HEAD + GOOD.replace(",4.0,", f",{rows[0]['predicted']},"))
    found = json.loads(run(runner, "--against", "own.csv", "--format", "json").stdout)
    assert found["metrics"]["tpot_ms_mean"]["p90_ape"] == 0


def test_flags_asked_for_are_scored(runner: CliRunner) -> None:
    Path("mine.csv").write_text(HEAD + SUSPECT)
    arguments = ("--against", "mine.csv", "--format", "json", "--include", "suspect")
    found = json.loads(run(runner, *arguments).stdout)
    assert (found["metrics"]["tpot_ms_mean"]["n"], found["skipped"]) == (1, {})


def test_packaged_cases_of_one_chip(runner: CliRunner) -> None:
    arguments = ("--where", "chip=h200_sxm", "--where", "op=gemm", "--format", "csv")
    done = run(runner, *arguments)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(done.stdout.splitlines()))
    total = rows[0]
    assert (total["dimension"], total["metric"]) == ("", "time_us")
    assert int(total["n"]) > 400
    assert {row["value"] for row in rows if row["dimension"] == "chip"} == {"h200_sxm"}


TRAINING = "case_id,chip,n_chips,model,precision,seq_len,global_batch,micro_batch,tp,metric,value\n"


def test_training_steps_are_scored_in_every_metric(runner: CliRunner) -> None:
    row = "h100_sxm,8,llama3.1-8b,bf16,8192,128,1,2"
    Path("train.csv").write_text(
        TRAINING
        + f"a,{row},step_time_s,12\nb,{row},tokens_per_s_per_chip,10000\n"
        + f"c,{row},model_tflops_per_chip,500\nd,{row},time_to_train_min,20\n"
    )
    found = json.loads(run(runner, "--against", "train.csv", "--format", "json").stdout)
    assert found["skipped"] == {"convergence is not simulated": 1}
    errors = {metric: one["median_error"] for metric, one in found["metrics"].items() if one["n"]}
    time = 12 * (1 + errors["step_time_s"])
    rate = 10000 * (1 + errors["tokens_per_s_per_chip"])
    assert rate == pytest.approx(128 * 8192 / 8 / time)
    assert 400 < 500 * (1 + errors["model_tflops_per_chip"]) < 989


def test_training_without_a_machine_or_a_shape_is_counted(runner: CliRunner) -> None:
    Path("train.csv").write_text(
        TRAINING
        + "a,gaudi2,8,gpt3-175b,bf16,2048,512,1,8,step_time_s,3.5\n"
        + "b,h100_sxm,8,llama3.1-8b,bf16,8192,128,,2,step_time_s,12\n"
        + "c,h100_sxm,8,llama3.1-8b,bf16,8192,128,1,16,step_time_s,12\n"
    )
    found = json.loads(run(runner, "--against", "train.csv", "--format", "json").stdout)
    assert found["skipped"] == {
        "no machine of this chip to train on": 1,
        "shape not stated": 1,
        "the plan does not fit the machine": 1,
    }


def test_metrics_of_the_same_name_are_told_apart(runner: CliRunner) -> None:
    Path("ops.csv").write_text(OPERATORS + "o,h100_sxm,gemm,bf16,64,4096,4096,time_us,20\n")
    head = "case_id,chip,n_chips,collective,message_bytes,library_family,metric,value\n"
    Path("all.csv").write_text(head + "x,h100_sxm,8,all_reduce,1048576,nccl,time_us,25\n")
    done = run(runner, "--against", "ops.csv", "--against", "all.csv", "--format", "json")
    assert list(json.loads(done.stdout)["metrics"]) == ["collective time_us", "operator time_us"]
    alone = run(runner, "--against", "ops.csv", "--format", "json")
    assert list(json.loads(alone.stdout)["metrics"]) == ["time_us"]


def test_all_forms_print(runner: CliRunner) -> None:
    Path("mine.csv").write_text(HEAD + GOOD + OTHER)
    table = run(runner, "--against", "mine.csv").stdout
    assert "tpot_ms_mean" in table
    assert "Every case was scored." in table
    assert "Software profile by version, of 2 serving cases scored: newest 100%." in table
    markdown = run(runner, "--against", "mine.csv", "--format", "markdown").stdout
    assert markdown.startswith("<!-- accuracy table -->")


def test_workers_change_nothing(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TASKS_A_WORKER", 1)
    rows = [GOOD.replace("a,r1", f"a{n},r{n}").replace(",4,t", f",{n},t") for n in (1, 2, 3)]
    Path("mine.csv").write_text(HEAD + "".join(rows))
    arguments = ["validate", "--against", "mine.csv", "--format", "json", "--workers"]
    one, two = (runner.invoke(cli, [*arguments, workers]).stdout for workers in ("1", "2"))
    assert json.loads(one)["metrics"]["tpot_ms_mean"]["n"] == 3
    assert one == two


def test_an_interrupt_keeps_what_is_finished(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = study._play
    seen: list[object] = []

    def then_stop(task: study.Task) -> study.Outcome:
        if seen:
            raise KeyboardInterrupt
        seen.append(task)
        return played(task)

    monkeypatch.setattr(study, "_play", then_stop)
    Path("mine.csv").write_text(HEAD + GOOD + GOOD.replace("a,r1", "z,r9").replace(",4,t", ",8,t"))
    done = run(runner, "--against", "mine.csv", "--out", "cases.csv", "--format", "json")
    assert done.exit_code == 130
    assert json.loads(done.stdout)["skipped"] == {INTERRUPTED: 1}
    rows = list(csv.DictReader(Path("cases.csv").read_text().splitlines()))
    assert [bool(row["predicted"]) for row in rows] == [True, False]
    Path("cases.csv").write_text("notes of mine\n")
    done = run(runner, "--against", "mine.csv", "--out", "cases.csv")
    assert done.exit_code == 130
    assert "cases.csv stays" in done.stderr
    assert Path("cases.csv").read_text() == "notes of mine\n"
    assert len(Path("cases-partial.csv").read_text().splitlines()) == 3


BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "mine.csv: is empty"),
    "blank": ("\n \n", "mine.csv: is empty"),
    "only a header": (HEAD, "holds no case"),
    "no CSV": ("just words\nand more\n", "mine.csv:1: not a file of measured cases"),
    "quotes": (HEAD + 'a,"b\n', "mine.csv:2: not valid CSV"),
    "missing column": (HEAD.replace("value,", "") + "x\n", "mine.csv:1: value: column missing"),
    "column twice": (HEAD.replace("run_id", "source"), "mine.csv:1: source: column stands twice"),
    "unknown column": (HEAD.replace("concurrency", "concurency"), "did you mean 'concurrency'?"),
    "chip": (HEAD + GOOD.replace("h200_sxm", "h200_smx"), "mine.csv:2: chip: unknown (got 'h200_"),
    "model": (HEAD + GOOD.replace("llama3.1-8b", "llama3.1-8"), "did you mean 'llama3.1-8b'?"),
    "unit": (HEAD + GOOD.replace("tpot_ms_mean", "tpot_s_mean"), "mine.csv:2: metric: unknown"),
    "dtype": (HEAD + GOOD.replace("fp8", "fp7"), "mine.csv:2: weights_dtype: unknown (got 'fp7')"),
    "mode": (HEAD + GOOD.replace("closed_loop", "closed"), "did you mean 'closed_loop'?"),
    "zero": (HEAD + GOOD.replace(",4.0,", ",0,"), "mine.csv:2: value: must be > 0 (got 0)"),
    "negative": (HEAD + GOOD.replace(",4.0,", ",-1,"), "mine.csv:2: value: must be > 0 (got -1)"),
    "not finite": (HEAD + GOOD.replace(",4.0,", ",nan,"), "mine.csv:2: value: must be > 0"),
    "with a unit": (HEAD + GOOD.replace(",4.0,", ",4 ms,"), "must be a number without a unit"),
    "no value": (HEAD + GOOD.replace(",4.0,", ",,"), "mine.csv:2: value: must be a number"),
    "text as number": (HEAD + GOOD.replace(",256,", ",long,"), "mine.csv:2: isl: must be a num"),
    "same id": (HEAD + GOOD + GOOD, "mine.csv:3: case_id: 'a' stands in line 2 too"),
    "no id": (HEAD + GOOD[1:], "mine.csv:2: case_id: missing"),
    "short row": (HEAD + "a,b\n", "mine.csv:2: 2 cells, the header has 16"),
}


@pytest.mark.parametrize(
    ("column", "known", "unknown"),
    [("chip", "h200_sxm", "h900_sxm"), ("model", "llama3.1-8b", "llama9-8b")],
)
def test_rows_of_unknown_names_are_counted(
    runner: CliRunner, column: str, known: str, unknown: str
) -> None:
    other = GOOD.replace(known, unknown).replace("a,r1", "z,r9")
    Path("mine.csv").write_text(HEAD + GOOD + other)
    done = run(runner, "--against", "mine.csv", "--out", "cases.csv", "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["skipped"] == {f"unknown {column}": 1}
    rows = list(csv.DictReader(Path("cases.csv").read_text().splitlines()))
    assert [row["detail"] for row in rows] == ["", unknown]


@pytest.mark.parametrize("name", BAD)
def test_bad_files(runner: CliRunner, name: str) -> None:
    text, words = BAD[name]
    Path("mine.csv").write_text(text)
    done = run(runner, "--against", "mine.csv", "--out", "cases.csv", "--strict")
    assert isinstance(done.exception, ClusterSimError)
    assert words in str(done.exception)
    assert not Path("cases.csv").exists()


def test_all_problems_of_a_file_at_once(runner: CliRunner) -> None:
    rows = [GOOD.replace("a,", f"a{n},").replace(",4.0,", ",0,") for n in range(30)]
    Path("mine.csv").write_text(HEAD + "".join(rows))
    told = str(run(runner, "--against", "mine.csv").exception).splitlines()
    assert len(told) == 21
    assert told[-1].endswith("10 more problems")


def test_files_that_are_none(runner: CliRunner) -> None:
    Path("bytes.csv").write_bytes(b"\xff\xfe\x00case_id")
    Path("broken.csv.gz").write_bytes(gzip.compress(b"case_id")[:-6])
    Path("no.csv.gz").write_bytes(b"case_id")
    Path("twice.csv").write_text(HEAD + GOOD)
    for arguments, words in (
        (["absent.csv"], "absent.csv: cannot be read: No such file"),
        (["bytes.csv"], "bytes.csv: not a text file (not UTF-8)"),
        (["broken.csv.gz"], "broken.csv.gz: not a gzip file, or a broken one"),
        (["no.csv.gz"], "no.csv.gz: not a gzip file"),
        (["twice.csv", "twice.csv"], "twice.csv:2: case_id: 'a' stands in twice.csv:2 too"),
    ):
        done = run(runner, *(word for file in arguments for word in ("--against", file)))
        assert isinstance(done.exception, ClusterSimError)
        assert words in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "chips=h200_sxm"], "no such column; did you mean 'chip'?"),
        (["--where", "chip=h200"], "no case has that; did you mean 'h200_sxm'?"),
        (["--where", "chip"], "write column=value"),
        (["--include", "wrong"], "'suspect', 'duplicate_run'"),
        (["--limit", "0"], "--limit"),
        (["--out", "no/where.csv"], "must be a file in a folder that is there"),
    ],
)
def test_bad_options(runner: CliRunner, arguments: list[str], words: str) -> None:
    Path("mine.csv").write_text(HEAD + GOOD)
    done = run(runner, "--against", "mine.csv", *arguments)
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)


def test_flags_of_the_option_are_those_of_the_study() -> None:
    include = next(p for p in cli.commands["validate"].params if p.name == "include")
    assert list(include.type.choices) == list(LEFT_OUT)  # type: ignore[attr-defined]


def test_a_process_that_is_ended_from_outside(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a machine without memory left does: no traceback, and the way out."""

    class Pool:
        def __init__(self, *given: object) -> None: ...

        def submit(self, *given: object) -> Future[None]:
            ended: Future[None] = Future()
            ended.set_exception(BrokenProcessPool("ended"))
            return ended

        def shutdown(self, **given: object) -> None: ...

    monkeypatch.setattr("cluster_sim.studies.validate.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("cluster_sim.studies.validate.TASKS_A_WORKER", 1)
    result = runner.invoke(cli, ["validate", "--limit", "20", "--workers", "2", "--quiet"])
    assert isinstance(result.exception, SpecError)
    assert "take fewer with --workers" in str(result.exception)
