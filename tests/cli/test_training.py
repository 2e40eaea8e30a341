"""Training workloads on the command line."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster_sim import train_run
from cluster_sim.cli import cli
from cluster_sim.cli import training as training_cli
from cluster_sim.cli.options import with_chips
from cluster_sim.specs.find import names
from cluster_sim.specs.load import kind_of, load_topology
from cluster_sim.specs.load_training import load_training
from cluster_sim.train import MEMORY_USES
from cluster_sim.training.closed import OWNERS, step_of
from cluster_sim.training.job import make_job
from cluster_sim.training.memory import memory_of
from cluster_sim.training.priced import price

SMALL = "run --topo h100_nvl8 --workload llama3_8b_train"
# Workload, preset (- for the plan of the file), topology, chips.
PLACES = [
    ("deepseek_v3_train", "-", "gb200_nvl72_pod", 256),
    ("deepseek_v3_train", "bridge_gb300", "gb300_nvl72_pod", 256),
    ("deepseek_v3_train", "bridge_gb200", "gb200_nvl72_pod", 256),
    ("deepseek_v3_train", "bridge_b200", "b200_superpod", 256),
    ("deepseek_v3_train", "bridge_h100", "h100_superpod", 1024),
    ("deepseek_v3_train", "deepseek_h800", "h800_pod", 2048),
    ("gpt3_175b_train", "-", "h100_superpod", 128),
    ("gpt3_175b_train", "nemo_h100_fp8", "h100_superpod", 128),
    ("gpt3_175b_train", "mlperf_11616", "h100_superpod", 11616),
    ("gpt3_175b_train", "megatron_a100", "a100_superpod", 64),
    ("gpt_moe_1.8t_train", "-", "h100_superpod", 1920),
    ("llama3_405b_train", "-", "h100_superpod", 16384),
    ("llama3_405b_train", "meta_8192", "h100_superpod", 8192),
    ("llama3_405b_train", "meta_16384", "h100_superpod", 16384),
    ("llama3_405b_train", "meta_long", "h100_superpod", 16384),
    ("llama3_70b_train", "-", "h100_superpod", 64),
    ("llama3_70b_train", "nemo_h100_bf16", "h100_superpod", 64),
    ("llama3_70b_train", "bridge_h100", "h100_superpod", 64),
    ("llama3_70b_train", "bridge_gb200", "gb200_nvl72", 64),
    ("llama3_8b_train", "-", "h100_nvl8", 8),
    ("llama3_8b_train", "nemo_h100_bf16", "h100_nvl8", 8),
    ("llama3_8b_train", "bridge_h100", "h100_nvl8", 8),
    ("llama3_8b_train", "bridge_b200", "b200_nvl8", 8),
    ("llama2_70b_lora", "-", "h100_nvl8", 8),
    ("llama2_70b_lora", "mlperf_h100", "h100_nvl8", 8),
    ("llama2_70b_lora", "mlperf_h200", "h200_nvl8", 8),
    ("llama2_70b_lora", "mlperf_b200", "b200_nvl8", 8),
    ("mixtral_8x22b_train", "-", "h100_superpod", 128),
    ("mixtral_8x7b_train", "-", "h100_superpod", 64),
    ("nemotron4_340b_train", "-", "h100_superpod", 512),
    ("nemotron4_340b_train", "nemo_h100_fp8", "h100_superpod", 512),
    ("pangu_ultra_moe_train", "-", "ascend_910b_pod", 6144),
    ("qwen3_235b_train", "-", "h100_superpod", 256),
    ("qwen3_30b_train", "-", "h100_superpod", 16),
    ("qwen3_30b_train", "bridge_h100", "h100_superpod", 16),
    ("qwen3_30b_train", "bridge_gb200", "gb200_nvl72", 8),
]
TRAINING = [name for name in names("workload") if kind_of(name) == "training"]


def invoke(runner: CliRunner, line: str) -> Result:
    return runner.invoke(cli, line.split())


def ok(runner: CliRunner, line: str) -> Result:
    result = invoke(runner, line)
    assert result.exit_code == 0, result.output
    return result


def fail(runner: CliRunner, line: str) -> str:
    """The message of a mistake: exit code 2 and nothing written."""
    result = invoke(runner, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        from cluster_sim.errors import ClusterSimError

        assert isinstance(result.exception, ClusterSimError), result.exception
        says = str(result.exception)
    else:
        assert result.exit_code == 2, result.output
        says = result.output
    assert not list(Path.cwd().rglob("summary.csv"))
    return says


def folder() -> Path:
    (found,) = Path("results").iterdir()
    return found


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_packaged_plan_has_its_place() -> None:
    presets = {name: ["-", *load_training(name).workload.presets] for name in TRAINING}
    assert [(w, p) for w in sorted(presets) for p in presets[w]] == sorted(
        ((w, p) for w, p, _, _ in PLACES),
        key=lambda place: (place[0], presets[place[0]].index(place[1])),
    )


def loaded(workload: str, preset: str, topology: str, chips: int) -> Any:
    given = load_training(workload, preset=None if preset == "-" else preset)
    pod = load_topology(topology)
    if pod.topology.chips != chips and pod.topology.fabric is not None:
        pod = load_topology(topology, [f"topology.chips={chips}"])
    return make_job(with_chips(pod, chips), given)


@pytest.mark.parametrize(("workload", "preset", "topology", "chips"), PLACES)
def test_every_packaged_plan_has_a_step(
    workload: str, preset: str, topology: str, chips: int
) -> None:
    one = loaded(workload, preset, topology, chips)
    assert one.warnings == ()
    priced = price(one)
    assert memory_of(priced).missing <= 0
    step = step_of(priced)
    assert 0.2 < step.seconds < 120
    assert step.owners["compute"] > 0.25 * step.seconds


@pytest.mark.parametrize("place", [p for p in PLACES if p[1] == "-" and p[3] <= 128])
def test_workloads_run(runner: CliRunner, place: tuple[str, str, str, int]) -> None:
    workload, _, topology, chips = place
    result = ok(runner, f"run --topo {topology} --chips {chips} --workload {workload}")
    assert "Where a step goes" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert (folder() / "steps.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", [p for p in PLACES if p[1] == "-" and p[3] > 128])
def test_large_workloads_run(runner: CliRunner, place: tuple[str, str, str, int]) -> None:
    test_workloads_run(runner, place)


@pytest.mark.parametrize("name", TRAINING)
def test_workloads_are_listed_shown_and_checked(runner: CliRunner, name: str) -> None:
    assert name in ok(runner, "list workloads").stdout.splitlines()
    assert "kind: training" in ok(runner, f"show workload {name}").stdout
    assert f"{name}: ok (workload)" in ok(runner, f"check {name}").stdout


@pytest.mark.parametrize("name", names("training"))
def test_profiles_are_listed_shown_and_checked(runner: CliRunner, name: str) -> None:
    assert name in ok(runner, "list training").stdout.splitlines()
    assert "framework:" in ok(runner, f"show training {name}").stdout
    assert f"{name}: ok (training)" in ok(runner, f"check {name}").stdout


def test_schemas_of_training(runner: CliRunner) -> None:
    workload = json.loads(ok(runner, "schema workload").stdout)
    assert "TrainingWorkload" in workload["$defs"]
    training = json.loads(ok(runner, "schema training").stdout)["$defs"]["TrainingSoftware"]
    assert "step_factor" in training["properties"]


def test_explain(runner: CliRunner) -> None:
    told = ok(runner, "explain --topo h100_nvl8 --workload llama3_8b_train --pp 2 --cp 1").stdout
    assert "pp2-dp4 on h100_nvl8, 1f1b" in told
    assert "[measured]" in told
    assert not Path("results").exists()


def test_csv_and_json_say_the_same(runner: CliRunner) -> None:
    given = ok(runner, f"{SMALL} --format json")
    found = json.loads(given.stdout)
    (row,) = csv.DictReader(ok(runner, f"{SMALL} --format csv").stdout.splitlines())
    assert row.keys() == found.keys()
    for key, value in found.items():
        if isinstance(value, float):
            assert float(row[key]) == value
        elif not isinstance(value, bool):
            assert row[key] == ("" if value is None else str(value))
    assert rows(folder() / "summary.csv") == [row]
    tokens, chips = 128 * 8192, 8
    per_chip = tokens / found["step_time_s"] / chips
    assert found["train_tokens_per_s_per_chip"] == pytest.approx(per_chip)
    assert found["mfu"] * 1979 == pytest.approx(found["tflops_per_chip"])
    assert found["step_time_s_low"] < found["step_time_s"] < found["step_time_s_high"]
    shares = {key: value for key, value in found.items() if key.startswith("share_")}
    assert sum(value or 0 for value in shares.values()) == pytest.approx(1)
    assert sum(value for key, value in found.items() if key.startswith("prov_")) == (
        pytest.approx(1)
    )


def test_steps_csv(runner: CliRunner) -> None:
    ok(runner, f"{SMALL} --cp 1 --tp 2 --pp 2 --vpp 4 --set plan.recompute=full")
    found = rows(folder() / "steps.csv")
    assert [row["stage"] for row in found] == ["0", "1"]
    owners = [f"{owner}_s" for owner in OWNERS]
    uses = [f"{use}_gib" for use in MEMORY_USES]
    assert list(found[0]) == ["step", "stage", "step_time_s", *owners, *uses]
    manifest = json.loads((folder() / "manifest.json").read_text())
    for row in found:
        seconds = {name: float(row[name]) for name in owners}
        assert sum(seconds.values()) == pytest.approx(float(row["step_time_s"]), rel=1e-12)
        parts = [float(row[name]) for name in uses[:-1]]
        assert sum(parts) == pytest.approx(float(row["total_gib"]))
        assert seconds["recompute_s"] > 0.1 * seconds["compute_s"]
    mean = sum(float(row["tp_s"]) for row in found) / 2
    assert manifest["step"]["owners"]["tp"] == pytest.approx(mean)


def test_options_change_the_job(runner: CliRunner) -> None:
    line = f"{SMALL} --cp 1 --tp 2 --pp 2 --micro-batch 2 --global-batch 64 --seq-len 4096"
    row = json.loads(ok(runner, f"{line} --precision bf16 --seed 3 --format json").stdout)
    assert (row["plan"], row["load"]) == ("tp2-pp2-dp2", "64 x 4096 tokens")
    assert (row["weights_dtype"], row["seed"], row["scheduler"]) == ("bf16", 3, "1f1b")
    named = json.loads(ok(runner, f"{SMALL} --plan tp2-pp2-vpp4 --format json").stdout)
    assert (named["plan"], named["scheduler"]) == ("tp2-pp2-vpp4-dp2", "interleaved")
    preset = json.loads(ok(runner, f"{SMALL} --plan nemo_h100_bf16 --format json").stdout)
    assert (preset["weights_dtype"], preset["software"]) == ("bf16", "megatron-24.12")


def test_the_timeline(runner: CliRunner) -> None:
    line = f"{SMALL} --plan tp2-pp2-vpp4 --timeline"
    result = ok(runner, line)
    assert "timeline.json.gz, one pipeline of 2 stages" in result.stderr
    packed = (folder() / "timeline.json.gz").read_bytes()
    trace = json.loads(gzip.decompress(packed))
    kinds = Counter(event["ph"] for event in trace["traceEvents"])
    assert kinds["X"] > 1000
    assert kinds["C"] > 100
    ends = [e["ts"] + e["dur"] for e in trace["traceEvents"] if e["ph"] == "X"]
    (row,) = rows(folder() / "summary.csv")
    assert max(ends) / 1e6 <= float(row["step_time_s"])
    memory = [e["args"]["GiB"] for e in trace["traceEvents"] if e["ph"] == "C"]
    assert max(memory) == pytest.approx(float(row["mem_peak_gib"]), abs=0.001)
    ok(runner, line)
    assert (folder() / "timeline.json.gz").read_bytes() == packed


def test_a_run_to_so_many_tokens(runner: CliRunner) -> None:
    line = SMALL + " --until 20B --set workload.run.tokens=1B --set workload.run.replications=4"
    result = ok(runner, line)
    assert "To 20B tokens" in result.stdout
    text = " ".join(result.stdout.split())
    assert "the step's own band (10 % to one sigma, the same all along) and 4 draws" in text
    run = json.loads((folder() / "manifest.json").read_text())["run"]
    assert 2e10 <= run["tokens"] < 2e10 + 128 * 8192  # whole steps
    (row,) = rows(folder() / "summary.csv")
    least_h = 2e10 / (128 * 8192) * float(row["step_time_s"]) / 3600
    low, middle, high = run["band"]["days"]
    assert least_h / 24 <= middle
    assert low < middle < high
    step = float(row["step_time_s"])
    assert middle / low >= 0.95 * step / float(row["step_time_s_low"])
    assert high / middle >= 0.95 * float(row["step_time_s_high"]) / step
    paid_h = sum(run["ledger"].values())
    assert paid_h == pytest.approx(run["band"]["chip_hours"][1], rel=0.5)
    assert run["ledger"]["productive"] > 0.4 * paid_h  # half of it stands by


def test_a_run_on_chips_of_unknown_power_has_no_energy(runner: CliRunner) -> None:
    line = "run --topo ascend_950dt_superpod --chips 64 --workload llama3_8b_train --until 20B"
    told = ok(runner, f"{line} --precision bf16").stdout
    assert "energy" not in told.lower().replace("power and energy are empty", "")
    assert "energy_kwh" not in json.loads((folder() / "manifest.json").read_text())["run"]["band"]


@pytest.mark.parametrize("tokens", ["many", "0", "0 B", "-3B", "15.6 GB"])
def test_tokens_that_are_none(runner: CliRunner, tokens: str) -> None:
    result = runner.invoke(cli, [*SMALL.split(), f"--until={tokens}"])
    assert "--until" in str(result.exception)
    assert not Path("results").exists()


def test_an_interrupt_writes_nothing_or_what_is_done(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_run, "simulate_campaign", stop)
        result = invoke(runner, f"{SMALL} --until 20B")
    assert result.exit_code == 130
    assert "nothing to write" in result.stderr
    assert not Path("results").exists()
    seen = []

    def update(self: object, stage: str, share: float) -> None:
        seen.append(share)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_cli.Bar, "update", update)
    result = invoke(runner, f"{SMALL} --until 20B")
    assert result.exit_code == 130
    assert "partial" in result.stderr
    assert json.loads((folder() / "manifest.json").read_text())["run"]["replications"] == 2
    assert rows(folder() / "summary.csv")[0]["partial"] == "true"


QWEN = "run --topo h100_superpod --workload qwen3_30b_train"
DEEPSEEK = "run --topo h100_superpod --chips 1024 --workload deepseek_v3_train --precision fp8"
MISTAKES = [
    (f"{SMALL} --tp 3", "tp 3 x pp 1 x cp 2 = 6 does not divide the 8 devices of h100_nvl8"),
    (f"{SMALL} --tp 3", "degrees that multiply to one of 1, 2, 4, 8"),
    (f"{SMALL} --chips 6 --tp 3 --cp 1", "tp=3 does not divide the 32 attention heads"),
    (f"{SMALL} --chips 6 --tp 3 --cp 1", "use one of 1, 2, 4, 8, 16, 32"),
    (f"{SMALL} --cp 1 --dp 4", "tp 1 x pp 1 x cp 1 x dp 4 = 4 devices, h100_nvl8 has 8; use dp=8"),
    (f"{SMALL} --plan tp16", "does not divide the 8 devices of h100_nvl8"),
    (f"{SMALL} --plan tp2-dp3", "= 6 devices, h100_nvl8 has 8; use dp=4"),
    (f"{SMALL} --plan bridge_h200", "no preset of that name"),
    (f"{SMALL} --plan bridge_h10", "did you mean 'bridge_h100'?"),
    (f"{SMALL} --plan tp2-tp4", "not a plan like tp8-pp16-vpp8-dp128"),
    (f"{SMALL} --global-batch 7", "is not a multiple of dp 4 x micro_batch 1 = 4; use 4 or 8"),
    (f"{SMALL} --global-batch 3", "use 4."),
    (f"{SMALL} --micro-batch 3", "dp 4 x micro_batch 3 = 12; use 120 or 132"),
    (f"{SMALL} --cp 1 --pp 4 --vpp 16", "pp 4 x vpp 16 exceeds the 32 layers of llama3.1-8b"),
    (f"{SMALL} --vpp 2", "vpp=2 needs a pipeline; set pp above 1"),
    (f"{SMALL} --cp 1 --pp 4 --set plan.layers=[8,8,8,9]", "plan.layers add up to 33"),
    (f"{SMALL} --cp 1 --pp 4 --set plan.layers=[8,8]", "layers names 2 virtual stages"),
    (
        f"{SMALL} --cp 1 --pp 4 --set plan.layers=[8,8,8,8] --set plan.schedule=dualpipe_v",
        "plan.layers names 4 virtual stages, dualpipe_v of pp 4 has 8",
    ),
    (f"{SMALL} --ep 2", "ep=2 needs experts; llama3.1-8b is dense"),
    (f"{SMALL} --seq-len 8191", "cp=2 does not divide the 8191 tokens of a sequence; use one of 1"),
    (
        f"{SMALL} --cp 1 --tp 8 --seq-len 8188",
        "tp=8 does not divide the 8188 tokens of a context-parallel rank; use one of 1, 2, 4",
    ),
    (f"{SMALL} --cp 8 --tp 1 --set plan.context=ring --global-batch 9 --dp 2", "use dp=1"),
    (f"{QWEN} --chips 16 --ep 3", "ep=3 does not divide the 128 experts of qwen3-30b-a3b"),
    (f"{QWEN} --chips 16 --ep 3", "use one of 1, 2, 4, 8"),
    (f"{QWEN} --chips 16 --ep 16", "does not divide the tp x cp x dp = 8 devices of a stage"),
    (f"{QWEN} --chips 24", "ep x etp=8 does not divide the tp x cp x dp = 12 devices of a stage"),
    (f"{DEEPSEEK} --tp 3", "use degrees that multiply to one of"),
    (f"{DEEPSEEK} --plan tp2-pp8-vpp4-ep8", "GiB too much. What would fit: "),
    (f"{SMALL} --cp 1 --model llama3.1-70b", "GiB too much. No plan that was tried fits; use more"),
    (f"{SMALL} --cp 1 --dp 8 --model llama2-34b", "fit: tp=8 with pp=1, zero=1 and"),
    (f"{DEEPSEEK} --plan pp2", "What would fit: tp="),
    (f"{SMALL} --set plan.zero=4", "--set plan.zero: must be at most 3 (got 4)"),
    (f"{SMALL} --set plan.shard=3", "shard=3 does not divide the dp x cp = 8 ranks"),
    (f"{SMALL} --set plan.shard=2 --set plan.zero=0", "shard has no effect with zero 0"),
    (f"{SMALL} --set plan.recompute_layers=2", "no effect without recompute"),
    (f"{SMALL} --set plan.order=[tp,dp]", "order must name each of tp, cp, dp, pp once"),
    (f"{SMALL} --set plan.placement=[0,1]", "must name each of the 8 devices once"),
    (f"{SMALL} --set plan.schedule=1f2b", "did you mean '1f1b'"),
    (f"{SMALL} --cp 1 --pp 2 --vpp 2 --set plan.schedule=1f1b", "1f1b has one chunk a stage"),
    (
        f"{SMALL} --cp 1 --pp 4 --vpp 2 --global-batch 12",
        "interleaved takes a multiple of pp(=4) (got 6); take 4 or 8, or 1f1b",
    ),
    (
        f"{SMALL} --cp 1 --pp 4 --vpp 2 --global-batch 12",
        "micro_batches are global_batch 12 / (dp 2 x micro_batch 1)",
    ),
    (f"{SMALL} --cp 1 --pp 8 --set plan.schedule=dualpipe --global-batch 8", "at least 2 x pp"),
    (f"{SMALL} --set workload.mtp=true", "has no layers that predict further tokens; leave it out"),
    (f"{SMALL} --set workload.software=megatrn", "did you mean 'megatron"),
    (f"{SMALL} --set workload.lora.rank=8", "lora belongs to task lora, and only there"),
    (f"{SMALL} --set plan.recomput=full", "unknown key; did you mean 'recompute'?"),
    (f"{SMALL} --set engine.block_size=8", "--set engine: has no effect on training"),
    (f"{SMALL} --precision w4a16", "must be one of"),
    (f"{SMALL} --precision mxfp8", "h100_sxm: has no products in mxfp8; use fp8_block or fp8"),
    (f"{SMALL} --precision mxfp8", "this plan runs with --precision fp8 or fp8_block."),
    ("run --topo h800_pod --workload deepseek_v3_train", "alone, --plan bridge_h100 or deepseek_h"),
    (f"{SMALL} --chips 16", "h100_nvl8 has 8 chips"),
    ("run --topo tpu_v5p_pod --workload llama3_8b_train --chips 8", "tpu_v5p"),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES)
def test_mistakes_name_the_way_out(runner: CliRunner, line: str, says: str) -> None:
    assert says in fail(runner, line)


@pytest.mark.parametrize(
    "option",
    [
        *("--rate 5", "--concurrency 4", "--requests 10", "--slo ttft=2s", "--duration 5min"),
        *("--attn-dp 2", "--replicas 2", "--trace x.csv", "--seeds 3", "--step-by-step"),
        *("--band run", "--live", "--background flows:20:seed=1:bytes=1GiB"),
        "--timeline-window 1s..2s",
    ],
)
def test_options_of_a_service_have_no_effect(runner: CliRunner, option: str) -> None:
    says = fail(runner, f"{SMALL} {option}")
    assert f"{option.split()[0]} has no effect" in says


@pytest.mark.parametrize(
    "option",
    ["--vpp 2", "--cp 2", "--dp 2", "--micro-batch 1", "--global-batch 8", "--seq-len 8"]
    + ["--until 1B"],
)
def test_options_of_training_have_no_effect_on_a_service(runner: CliRunner, option: str) -> None:
    says = fail(runner, f"run --topo h200_nvl8 --workload llama70b {option}")
    assert f"{option.split()[0]} has no effect: llama70b is a workload of serving" in says


def test_a_group_that_crosses_a_domain_is_told_with_its_cost(runner: CliRunner) -> None:
    line = "run --topo h100_superpod --chips 64 --workload llama3_8b_train --tp 2 --cp 1"
    told = " ".join(ok(runner, f"{line} --set plan.order=[dp,tp,cp,pp]").stdout.split())
    assert "tp crosses scale-up domains although 2 ranks fit into one of 8: a call takes" in told
    assert "times as long; see plan.order" in told
    assert "crosses" not in ok(runner, line).stdout


def test_a_file_of_ones_own(runner: CliRunner) -> None:
    text = "title: mine\nkind: training\nmodel: llama3.1-8b\nseq_len: 4096\nglobal_batch: 64\n"
    Path("mine.yaml").write_text(text + "plan: {tp: 2, recompute: selective}\n")
    assert "mine.yaml: ok (workload)" in ok(runner, "check ./mine.yaml").stdout
    ok(runner, "run --topo h100_nvl8 --workload ./mine.yaml")
    Path("mine.yaml").write_text(text + "plan: {tpp: 2}\n")
    assert "mine.yaml:6: plan.tpp: unknown key; did you mean 'tp'?" in str(
        invoke(runner, "run --topo h100_nvl8 --workload ./mine.yaml").exception
    )


def test_the_page_says_whose_constants_stand_in(runner: CliRunner) -> None:
    line = "run --topo ascend_910b_pod --chips 64 --workload llama3_8b_train --precision bf16"
    told = " ".join(ok(runner, line).stdout.split())
    assert "on chips of Huawei was measured: its constants, fitted on chips of NVIDIA," in told
    own = line.replace("ascend_910b_pod", "h100_superpod")
    assert "stand in" not in ok(runner, own).stdout
