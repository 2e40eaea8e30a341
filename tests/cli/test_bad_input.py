"""One clear message, exit code 2, no traceback, nothing half-written: for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError

RUN = "run --topo h200_nvl8 --workload llama70b"
FAST = f"{RUN} --rate 5 --requests 5"

OPTIONS = [
    ("run --topo h200_nv8 --workload llama70b", "did you mean 'h200_nvl8'"),
    ("run --topo h200_nvl8 --workload lama70b", "did you mean 'llama70b'"),
    (f"{RUN} --model llama3.1-71b", "did you mean 'llama3.1-70b'"),
    (f"{RUN} --set workload.software=vlm", "did you mean 'vllm"),
    (f"{RUN} --rte 5", "No such option"),
    (f"{RUN} --rate 0", "must be > 0"),
    (f"{RUN} --rate -3", "must be > 0"),
    (f"{RUN} --rate nan", "finite"),
    (f"{RUN} --rate inf", "finite"),
    (f"{RUN} --rate many", "not a number"),
    (f"{RUN} --requests 0", "must be a whole number from 1 to 10,000,000, or auto (got 0)"),
    (f"{RUN} --concurrency 0", "0 is not in the range"),
    (f"{RUN} --seed -1", "-1 is not in the range"),
    (f"{RUN} --seeds 0", "0 is not in the range"),
    (f"{RUN} --tp 0", "0 is not in the range"),
    (f"{RUN} --duration 600", "no unit"),
    (f"{RUN} --duration -5s", "must be > 0"),
    (f"{RUN} --precision fp9", "'fp9' is not one of"),
    (f"{RUN} --format xml", "'xml' is not one of"),
    (f"{RUN} --plan tp0", "write auto, tp2, tp2x4 or tp1-ep8-dp8x1"),
    (f"{RUN} --plan pp2", "write auto, tp2, tp2x4 or tp1-ep8-dp8x1"),
    (f"{RUN} --plan tp2x4 --tp 2", "leave out --tp"),
    (f"{RUN} --rate 5 --concurrency 4", "exclude each other"),
    (f"{RUN} --concurrency 4 --duration 5min", "no effect"),
    (f"{RUN} --skip-bad-rows", "no effect without --trace"),
    (f"{RUN} --trace-format azure", "--trace-format has no effect without --trace"),
    (f"{RUN} --time-scale 2", "--time-scale has no effect without --trace"),
    (f"{RUN} --rate 5 --time-scale 2", "--time-scale has no effect without --trace"),
    (f"{RUN} --trace x.csv --time-scale 0", "must be > 0"),
    (f"{RUN} --trace x.csv --time-scale fast", "not a number"),
    (f"{RUN} --trace x.csv --time-scale inf", "finite"),
    (f"{RUN} --trace x.csv --trace-format jsonl", "'jsonl' is not one of"),
    (f"{RUN} --trace x.csv --rate 5", "exclude each other"),
    (f"{RUN} --trace .", "a folder without chunk-*-trace.csv files is not a trace"),
    (
        f"{RUN.replace('llama70b', 'mixed')} --set workload.classes=[]",
        "give 'isl' and 'osl', or 'classes'",
    ),
    (f"{RUN} --slo ttft", "write ttft=2s"),
    (f"{RUN} --slo latency=2s", "unknown limit 'latency'"),
    (f"{RUN} --slo attainment=99%", "gives no limit"),
    (f"{RUN} --slo ttft=2s,ttft=3s", "given twice"),
    (f"{RUN} --slo ttft=2", "no unit"),
    (f"{RUN} --slo ttft=2GB", "not a unit of time"),
    (f"{RUN} --slo ttft=2s,attainment=150%", "at most 1"),
    (f"{RUN} --set plan.tpp=2", "did you mean 'tp'"),
    (f"{RUN} --set plans.tp=2", "did you mean 'plan'"),
    (f"{RUN} --set plan.tp", "write root.key=value"),
    (f"{RUN} --set plan.tp=two", "must be a whole number"),
    (f"{RUN} --set plan.tp=1.5", "must be a whole number"),
    (f"{RUN} --set plan.router=random", "must be one of"),
    (f"{RUN} --set topology.chips=-8", "must be > 0"),
    (f"{RUN} --set topology.scale_up.link_bandwidth=25", "no unit"),
    (f"{RUN} --set economics.pue=0.5", "must be at least 1"),
    (f"{RUN} --set economics.usd=2", "unknown key"),
    (f"{RUN} --set topology.zzz=2", "--set topology.zzz: unknown key; the keys are title, chip"),
    (
        f"{RUN} --set workload.arival.rate=2",
        "--set workload.arival.rate: arival: unknown key; did you mean 'arrivals'?",
    ),
    (f'{RUN} --set workload.plan={{"tpp":2}}', "--set workload.plan: tpp: unknown key; did you"),
    (f"{RUN} --set engine.max_num_seq=4", "did you mean 'max_num_seqs'"),
    (f"{RUN} --set engine.max_num_seqs=0", "must be > 0"),
    (f"{RUN} --set engine.gpu_memory_utilization=0.9", "has no such setting"),
    (f"{RUN} --set engine.memory_fraction=1.5", "must be at most 1"),
    (f"{RUN} --set engine.cuda_graph_sizes=[8,4]", "cuda_graph_sizes must rise (got [8, 4])"),
    (f"{RUN} --set engine.cuda_graph_sizes=[0,4]", "must be > 0"),
    (f"{RUN} --set engine.draft_tokens=1", "has no MTP layers to draft with; set engine.draft"),
    (f"{RUN} --model deepseek-r1 --set engine.draft_tokens=-1", "must be at least 0"),
    (f"{RUN} --model deepseek-r1 --set engine.draft_tokens=99", "must be at most 16"),
    (f"{RUN} --model deepseek-r1 --set engine.draft_acceptance=1.2", "must be at most 1"),
    (f"{RUN} --set engine.speculative_num_steps=1", "has no such setting"),
    (f"{RUN} --set workload.isl={{fixed:0}}", "isl"),
    (f"{RUN} --tp 3", "does not divide"),
    (f"{RUN} --tp 16", "needs 16 devices"),
    (f"{RUN} --plan tp4x4", "needs 16 devices"),
    (f"{RUN} --replicas 9", "lower --replicas"),
    (
        "run --topo a100_nvl8 --workload llama70b --precision fp8",
        "needs a fp8 peak (it has bf16, int8)",
    ),
    ("run --topo h100_nvl8 --workload llama405b --tp 4", "Smallest plan that fits: tp=8"),
    (
        "run --topo a100_nvl8 --workload llama405b --precision bf16",
        "may not cross the scale-up",
    ),
    (f"{RUN} --trace missing.csv", "no such trace"),
    ("run --topo h200_nvl8", "Missing option '--workload'"),
    ("run --topo ./none.yaml --workload llama70b", "no such file"),
    ("show chip h300", "no chip named 'h300'"),
    ("check none.yaml", "no such file"),
    ("compare one.csv", "one.csv: cannot be read"),
    ("compare", "Missing argument 'PATHS...'"),
    ("compare one.csv two.csv", "cannot be read"),
    ("list planets", "'planets' is not one of"),
    (f"{FAST} --out /proc/none", "cannot write"),
    (
        f"{RUN} --model qwen2-0.5b --tp 4",
        "14 attention heads of qwen2-0.5b; use one of 1, 2, 7, 14",
    ),
    (f"{RUN} --model qwen3.5-397b-a17b --tp 32", "16 key heads of the linear attention"),
    (f"{RUN} --model qwen3-30b-a3b --tp 8 --ep 3", "8 devices; use one of 1, 2, 4, 8"),
    (f"{RUN} --model mixtral-8x7b --tp 1 --attn-dp 3 --ep 3", "does not divide the 8 experts"),
    (f"{RUN} --model llama3.1-8b --ep 2", "needs experts; llama3.1-8b is dense"),
    (f"{RUN} --model llama3.1-8b --pp 64", "exceeds the 32 layers"),
    (
        f"{RUN} --model gpt-oss-120b --precision fp4",
        "fp4 needs a fp4 peak (it has bf16, fp8, int8)",
    ),
    (f"{RUN} --model ./none/config.json", "none/config.json: no such file"),
    ("show model deepseek-v9", "did you mean 'deepseek-v3"),
    ("check none/config.json", "no such file"),
]


def fail(runner: CliRunner, line: str) -> str:
    """Run a command that must fail as a user error; what it says."""
    before = sorted(Path.cwd().rglob("summary.csv"))
    result = runner.invoke(cli, line.split())
    assert sorted(Path.cwd().rglob("summary.csv")) == before
    assert not [path for path in Path.cwd().rglob(".*") if path.is_dir()]
    if isinstance(result.exception, ClusterSimError):
        return str(result.exception)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.mark.parametrize(("line", "says"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_bad_options(runner: CliRunner, line: str, says: str) -> None:
    assert says in fail(runner, line)


GOOD = """title: mine
chip: h200_sxm
chips: 8
scale_up:
  technology: NVLink4
  switch: NVSwitch3
  links_per_switch: [5, 4, 4, 5]
  link_bandwidth: 25 GB/s
  in_switch_reduction: true
host_power: 2.4 kW
sources: {all: test}
"""
FILES = [
    ("", "empty file"),
    ("- a\n- b\n", "must be a mapping"),
    ("title: [\n", "not valid YAML"),
    (GOOD + "chips: 4\n", "mine.yaml:12: chips: duplicate key (first on line 3)"),
    (GOOD + "chps: 4\n", "mine.yaml:12: chps: unknown key; did you mean 'chips'?"),
    (GOOD.replace("25 GB/s", "25"), "mine.yaml:8: scale_up.link_bandwidth: a bare number"),
    (GOOD.replace("25 GB/s", "25 GHz"), "'GHz' is not a unit"),
    (GOOD.replace("25 GB/s", "-25 GB/s"), "must be > 0 (got -25 GB/s)"),
    (GOOD.replace("chips: 8", "chips: 0"), "mine.yaml:3: chips: must be > 0 (got 0)"),
    (GOOD.replace("chips: 8", "chips: .nan"), "mine.yaml:3: chips: must be a whole number"),
    (GOOD.replace("chips: 8", "chips: .inf"), "mine.yaml:3: chips: must be a whole number"),
    (GOOD.replace("chip: h200_sxm\n", ""), "chip: missing"),
    (GOOD.replace("h200_sxm", "h200_sxn"), "did you mean 'h200_sxm'"),
    (GOOD.replace("true", "maybe"), "must be true or false"),
    ("extends: nothing_like_it\n", "no topology named"),
    (GOOD.replace("title: mine", "name: mine"), "taken from the file's name"),
]


@pytest.mark.parametrize(("text", "says"), FILES)
def test_bad_files(runner: CliRunner, text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    assert says in fail(runner, "run --topo ./mine.yaml --workload llama70b --rate 5")


MIX = """title: mine
model: llama3.1-8b
software: vllm
traffic: made up
requests: 50
arrivals: {kind: open, rate: 5 requests/s}
classes:
  - {name: a, share: 50 %, isl: {fixed: 10}, osl: {fixed: 10}, slo: {ttft: 1 s}}
  - {name: b, share: 50 %, isl: {fixed: 10}, osl: {fixed: 10}, slo: {ttft: 1 s}}
"""
MIXES = [
    (MIX.replace("share: 50 %", "share: 60 %"), "must add up to 100 %, not 120.0000%"),
    (MIX.replace("name: b", "name: a"), "two of 'classes' have the same name"),
    (MIX.replace("share: 50 %", "share: 0.5"), "mine.yaml:8: classes.0.share: a bare number"),
    (MIX.replace("name: a", "nam: a"), "unknown key; did you mean 'name'"),
    (MIX + "isl: {fixed: 3}\n", "with 'classes', isl, osl, prefix and sessions stand in them"),
    (MIX.replace("isl: {fixed: 10}", "isl: {mean: 10}"), "'mean' needs 'cv' and 'max'"),
    (MIX.replace("isl: {fixed: 10}", "isl: {fixed: 10, cv: 1}"), "belong to 'mean'"),
    (MIX.replace("isl: {fixed: 10}", "isl: {fixed: 10, mean: 1}"), "give one of 'fixed'"),
    (MIX.replace("isl: {fixed: 10}", "isl: {mean: 9, cv: 1, max: 5}"), "must not lie below"),
    (MIX.replace("osl:", "prefix: {tokens: 0}, osl:"), "prefix.tokens: must be > 0 (got 0)"),
    (MIX.replace("osl:", "prefix: {tokens: 9, share: 120 %}, osl:"), "must be at most 1"),
    (MIX.replace("osl:", "sessions: {turns: {fixed: 2}}, osl:"), "sessions.think: missing"),
    (
        MIX.replace("osl:", "sessions: {turns: {fixed: 2}, think: {mean: 3}}, osl:"),
        "sessions.think.mean: a bare number has no unit",
    ),
    (MIX.replace("slo:", "priority: high, slo:"), "priority: must be a whole number"),
    (
        MIX.replace("requests/s}", "requests/s, time_scale: 2}"),
        "'trace_format' and 'time_scale' belong to trace arrivals",
    ),
]


@pytest.mark.parametrize(("text", "says"), MIXES, ids=[says for _, says in MIXES])
def test_bad_mixes(runner: CliRunner, text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    assert says in fail(runner, "run --topo h200_nvl8 --workload ./mine.yaml")


def test_a_limit_for_all_has_no_effect_where_each_class_has_its_own(runner: CliRunner) -> None:
    Path("mine.yaml").write_text(MIX)
    line = "run --topo h200_nvl8 --workload ./mine.yaml --slo ttft=1s"
    assert "each class of mine has its own" in fail(runner, line)


def test_all_problems_of_a_file_come_at_once(runner: CliRunner) -> None:
    text = GOOD.replace("25 GB/s", "25").replace("chips: 8", "chips: 0") + "chps: 4\n"
    Path("mine.yaml").write_text(text)
    says = fail(runner, "run --topo ./mine.yaml --workload llama70b")
    assert all(f"mine.yaml:{line}:" in says for line in (3, 8, 12))


def test_a_binary_file_is_refused(runner: CliRunner) -> None:
    Path("mine.yaml").write_bytes(b"\x89PNG\x00\xff")
    assert "not a text file" in fail(runner, "run --topo ./mine.yaml --workload llama70b")


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"
TRACES = [
    ("", "bad.csv: empty file"),
    ("TIMESTAMP,ContextTokens\n", "missing column GeneratedTokens"),
    (HEADER, "no usable request"),
    (HEADER + "yesterday,3,4\n", "bad.csv:2: TIMESTAMP: not a time"),
    (HEADER + ROW + "2023-11-16 18:15:45,3,4\n", "bad.csv:3: TIMESTAMP: runs backwards"),
    (HEADER + "2023-11-16 18:15:45,x,4\n", "ContextTokens: must be a whole number"),
    (HEADER + "2023-11-16 18:15:45,3,0\n", "GeneratedTokens: must be a whole number"),
    (HEADER + "2023-11-16 18:15:45,3\n", "GeneratedTokens: must be a whole number"),
    (HEADER + "2023-11-16 18:15:45,-3,4\n", "--skip-bad-rows"),
]


NEUTRAL = "arrival_s,isl,osl,slo_class\n0,30,4,a\n1,30,4,c\n"


def test_classes_of_a_trace_must_be_those_of_the_workload(runner: CliRunner) -> None:
    Path("mine.yaml").write_text(MIX)
    Path("trace.csv").write_text(NEUTRAL)
    line = "run --topo h200_nvl8 --workload ./mine.yaml --trace trace.csv"
    assert "trace.csv:3: slo_class: not a class of the workload (got 'c')" in fail(runner, line)


@pytest.mark.parametrize(("text", "says"), TRACES)
def test_bad_traces(runner: CliRunner, text: str, says: str) -> None:
    Path("bad.csv").write_text(text)
    assert says in fail(runner, f"{RUN} --trace bad.csv")


def test_bad_rows_can_be_left_out(runner: CliRunner) -> None:
    Path("bad.csv").write_text(HEADER + ROW + "broken,1,1\n" + ROW)
    result = runner.invoke(cli, [*RUN.split(), "--trace", "bad.csv", "--skip-bad-rows"])
    assert result.exit_code == 0, result.output
    assert "1 bad rows of the trace left out" in result.output


def test_requests_that_can_never_fit_are_rejected_and_counted(runner: CliRunner) -> None:
    shape = "{quantiles: {0%: 100, 50%: 100, 51%: 131072, 100%: 131072}}"
    line = [*FAST.split(), "--set", f"workload.isl={shape}", "--format", "json"]
    result = runner.invoke(cli, line)
    assert 0 < json.loads(result.stdout)["rejected"] < 5


def test_a_workload_of_which_nothing_fits_is_refused(runner: CliRunner) -> None:
    text = fail(runner, f"{FAST} --set workload.isl.quantiles=~ --set workload.isl.fixed=131072")
    assert "every request of llama70b is longer than the context" in text
    assert "131,072 tokens" in text


@pytest.mark.parametrize("line", ["run --topo h200_nv8 --workload llama70b", f"{RUN} --tp 3"])
def test_the_program_itself_shows_no_traceback(line: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from cluster_sim.cli import main; main()", *line.split()]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error:" in done.stderr
