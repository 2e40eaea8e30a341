"""What a user sets has an effect, or is refused with the reason; amounts have units."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim import simulate
from cluster_sim.cli import cli
from cluster_sim.economics import chip_usd_per_hour
from cluster_sim.errors import OldFormWarning, SpecError
from cluster_sim.kernels.power import chip_power_w
from cluster_sim.specs.load import load_economics, load_topology, load_workload

OWNED = "economics.basis=owned"


@pytest.mark.parametrize(
    "change",
    [
        "electricity=0.2 USD/kWh",
        "life_years=3",
        "wacc=5 %",
        "host_share=50 %",
        "colocation_usd_per_kw_month=200",
    ],
)
def test_what_belongs_to_owned_chips_changes_their_price_alone(change: str) -> None:
    chip = load_topology("h200_nvl8").chip
    before = chip_usd_per_hour(chip, load_economics([OWNED]))
    assert chip_usd_per_hour(chip, load_economics([OWNED, f"economics.{change}"])) != before
    with pytest.raises(
        SpecError, match=rf"economics.{change.split('=')[0]}: has no effect: .*owned"
    ):
        load_economics([f"economics.{change}"])
    stated = [OWNED, "economics.usd_per_chip_hour=2", f"economics.{change}"]
    with pytest.raises(SpecError, match="usd_per_chip_hour already is the price") as caught:
        load_economics(stated)
    assert len(caught.value.problems) == 2  # the basis has no effect either


def test_a_pue_without_any_power_is_refused() -> None:
    known, dark = load_topology("h200_nvl8"), load_topology("h200_nvl8")
    dark = dataclasses.replace(dark, fits=dataclasses.replace(dark.fits, power=None))
    assert load_economics(["economics.pue=1.5"], known).pue == 1.5
    assert load_economics([OWNED, "economics.pue=1.5"], dark).pue == 1.5
    with pytest.raises(SpecError, match="economics.pue: has no effect: no power of h200_nvl8"):
        load_economics(["economics.pue=1.5"], dark)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ([OWNED], "price.rent=2 USD/h"),
        ([], "price.purchase=20000 USD"),
        (["economics.usd_per_chip_hour=2"], "price.rent=2 USD/h"),
        (["economics.usd_per_chip_hour=2"], "price.purchase=20000 USD"),
    ],
)
def test_a_price_of_the_other_basis_is_refused(changes: list[str], key: str) -> None:
    given = [*changes, f"chip.{key}"]
    with pytest.raises(SpecError, match=rf"--set chip.{key.split('=')[0]}: has no effect"):
        load_economics(given, load_topology("h200_nvl8", given))


@pytest.mark.parametrize(
    ("changes", "key"),
    [([], "price.rent=2 USD/h"), ([OWNED], "price.purchase=20000 USD"), ([], "tdp=900 W")],
)
def test_a_price_of_the_basis_is_taken(changes: list[str], key: str) -> None:
    given = [*changes, f"chip.{key}"]
    assert load_economics(given, load_topology("h200_nvl8", given))


def test_keys_of_a_whole_run_need_the_run(runner: CliRunner) -> None:
    line = "run --topo h100_nvl8 --workload llama3_8b_train --plan nemo_h100_bf16 --set"
    words = [*line.split(), "workload.run.tokens=1B", "--set", "workload.run.failures.fleet=none"]
    assert "run.tokens: has no effect on one step; run it with --until" in (
        runner.invoke(cli, words).output
    )
    assert runner.invoke(cli, [*words, "--until", "1B"]).exit_code == 0
    explain = runner.invoke(cli, ["explain", *words[1:]])
    assert "has no effect on one step" in explain.output


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("electricity=0.05 USD/kWh", "electricity", 0.05),
        ("electricity=50 USD/MWh", "electricity", 0.05),
        ("electricity=0 USD/kWh", "electricity", 0.0),
        ("colocation_usd_per_kw_month=150 USD/kW-month", "colocation_usd_per_kw_month", 150.0),
        ("colocation_usd_per_kw_month=150", "colocation_usd_per_kw_month", 150.0),
        ("life_years=6 years", "life_years", 6.0),
        ("wacc=8 %", "wacc", 0.08),
        ("wacc=0.08", "wacc", 0.08),
    ],
)
def test_money_and_energy_have_units(text: str, key: str, value: float) -> None:
    read = load_economics([OWNED, f"economics.{text}"])
    assert getattr(read, key) == pytest.approx(value)


def test_a_bare_price_of_electricity_is_read_with_a_warning() -> None:
    with pytest.warns(OldFormWarning, match=r"write '0.05 USD/kWh'; the next version refuses"):
        read = load_economics([OWNED, "economics.electricity=0.05"])
    assert read.electricity == 0.05


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("electricity=5 W", "'W' is not a unit of energy price; write '0.091 USD/kWh'"),
        ("electricity=-1 USD/kWh", "must not be negative"),
        ("usd_per_chip_hour=0", "must be > 0"),
        ("usd_per_chip_hour=2 EUR/h", "'EUR/h' is not a unit of money rate"),
        ("wacc=true", "expected a quantity such as '70 %'"),
        ("wacc=.inf", "not a quantity"),
    ],
)
def test_other_units_are_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_economics([OWNED, f"economics.{text}"])
    assert says in str(caught.value)


SERVICE = "llama70b"
IDLE = [
    ("llama70b_closed", "workload.arrivals.rate=5 requests/s", "arrivals are closed, which read"),
    ("llama70b_closed", "workload.arrivals.cv=2", "which read concurrency; set workload.arrivals"),
    ("llama70b_closed", "workload.duration=5 min", "has closed arrivals; use --requests"),
    ("llama70b_offline", "workload.arrivals.concurrency=4", "arrivals are offline"),
    (SERVICE, "workload.arrivals.concurrency=4", "arrivals are open"),
    (SERVICE, "engine.draft_acceptance=0.5", "nothing is drafted; set engine.draft_tokens too"),
    (SERVICE, "engine.new_token_ratio=0.5", "trtllm_no_evict does not read it; sglang and"),
    (SERVICE, "engine.preemption=swap", "trtllm_no_evict never preempts"),
]


@pytest.mark.parametrize(("workload", "change", "says"), IDLE)
def test_keys_that_a_service_does_not_read(workload: str, change: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_workload(workload, [change])
    assert str(caught.value).startswith(f"--set {change.split('=')[0]}: has no effect: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("workload", "changes"),
    [
        ("llama70b_closed", ["workload.arrivals.concurrency=4"]),
        ("llama70b", ["workload.arrivals={kind: closed, concurrency: 4}"]),
        ("llama70b", ["workload.software=sglang", "engine.new_token_ratio=0.5"]),
        ("llama70b", ["workload.software=vllm", "engine.preemption=swap"]),
        ("llama70b", ["engine.scheduler=trtllm_max_utilization", "engine.preemption=swap"]),
        ("deepseek_r1_8chips", ["engine.draft_tokens=2", "engine.draft_acceptance=0.5"]),
    ],
)
def test_the_same_keys_where_they_are_read(workload: str, changes: list[str]) -> None:
    assert load_workload(workload, changes)


def test_lengths_beside_a_trace_are_refused(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.0,100,20\n"
    )
    line = "run --topo h200_nvl8 --workload llama70b --trace mine.csv --set"
    done = runner.invoke(cli, [*line.split(), "workload.isl={fixed: 9}"])
    assert "--set workload.isl: has no effect: the requests are those" in str(done.exception)


@pytest.mark.parametrize("key", ["die_area_mm2=5", "process=N2", "dies=3", "year=2030"])
def test_facts_that_no_figure_follows_from(key: str) -> None:
    with pytest.raises(SpecError, match=rf"--set chip.{key.split('=')[0]}: has no effect"):
        load_topology("h200_nvl8", [f"chip.{key}"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("topology.scale_up.link_latency=5 us", "no price reads it"),
        ("topology.scale_up.switch_latency=5 us", "no price reads it"),
        ("topology.board.cpus=4", "no price reads it"),
        ("topology.fabric.oversubscription=4", "all ranks lie in one scale-up domain"),
        ("topology.board.nic_bandwidth=10 GB/s", "all ranks lie in one scale-up domain"),
    ],
)
def test_what_no_price_of_training_and_collectives_reads(
    runner: CliRunner, change: str, why: str
) -> None:
    pod = ["--topo", "h200_superpod", "--chips", "8", "--set", change]
    for words in (
        ["collective", *pod, "--bytes", "1GiB"],
        ["run", *pod, "--workload", "llama3_8b_train"],
    ):
        done = runner.invoke(cli, words)
        assert done.exit_code != 0
        text = f"{done.output}{done.exception}"
        assert f"--set {change.split('=')[0]}: has no effect: {why}" in text


@pytest.mark.parametrize(
    "change",
    [
        "topology.fabric.switch_latency=5 us",
        "topology.board.nic_bandwidth=10 GB/s",
        "chip.nic=10 GB/s",
    ],
)
def test_what_lies_between_hosts_is_not_read_by_a_service(runner: CliRunner, change: str) -> None:
    pod = ["--topo", "h200_superpod", "--chips", "16", "--set", change]
    service = ["--workload", "llama70b", "--rate", "5", "--requests", "20"]
    for command in ("run", "explain"):
        done = runner.invoke(cli, [command, *pod, *service])
        assert f"--set {change.split('=')[0]}: has no effect: repl" in str(done.exception)
    others = ["--background", "all_reduce:1GiB:ranks=0-15"]
    for words in (
        ["run", *pod, *service, *others],
        ["collective", *pod, "--bytes", "1GiB..1GiB"],
        ["run", *pod, "--workload", "llama3_8b_train", "--plan", "tp2-dp8"],
    ):
        done = runner.invoke(cli, words)
        assert done.exit_code == 0, f"{done.output}{done.exception}"
        assert "has no effect" not in f"{done.output}{done.exception}"
    job = load_workload("llama70b", ["workload.requests=20"])
    rows = [
        simulate(load_topology("h200_superpod", ["topology.chips=16", *changes]), job).summary
        for changes in ([], [change])
    ]
    same = [{k: v for k, v in row.items() if k not in ("run_id", "config_hash")} for row in rows]
    assert same[0] == same[1]


@pytest.mark.parametrize("command", ["collective", "show topology", "replay trace.et"])
def test_a_machine_alone_has_no_workload(runner: CliRunner, command: str) -> None:
    topo = "h100_nvl8" if "show" in command else "--topo h100_nvl8"
    for change in ("plan.tp=2", "engine.block_tokens=8", "economics.pue=1.3", "workload.seed=2"):
        done = runner.invoke(cli, [*f"{command} {topo}".split(), "--set", change])
        assert done.exit_code != 0
        assert f"--set {change.split('=')[0]}: has no effect" in f"{done.output}{done.exception}"


@pytest.mark.parametrize("option", ["--sharp", "--seed 3"])
def test_one_domain_has_no_fabric(runner: CliRunner, option: str) -> None:
    words = ["--bytes", "1MiB..1MiB", *option.split()]
    done = runner.invoke(cli, ["collective", "--topo", "h100_nvl8", *words])
    assert f"{option.split()[0]} has no effect: the ranks lie in one" in done.output
    pod = ["--topo", "h100_superpod", "--chips", "64", *words]
    assert runner.invoke(cli, ["collective", *pod]).exit_code == 0


@pytest.mark.parametrize("topology", ["h200_nvl8", "8xh20_141g"])
def test_power_goes_with_the_tdp(topology: str) -> None:
    """By the ratio of both TDPs, whether the watts are a chip's own or borrowed."""
    busy = {"gemm_math": 1.0}
    plain = load_topology(topology)
    assert plain.chip.tdp is not None
    double = load_topology(topology, [f"chip.tdp={2 * plain.chip.tdp} W"])
    before, after = chip_power_w(plain, busy), chip_power_w(double, busy)
    assert before is not None
    assert after == pytest.approx(2 * before)
    assert double.fits.power is not None
    assert double.fits.power.provenance == "transferred"
    same = load_topology(topology, [f"chip.tdp={plain.chip.tdp} W"])
    assert same.fits.power == plain.fits.power


def test_a_run_takes_the_watts_of_its_tdp() -> None:
    job = load_workload("llama70b", ["workload.requests=20"])
    plain = simulate(load_topology("h200_nvl8"), job).summary
    higher = simulate(load_topology("h200_nvl8", ["chip.tdp=1000 W"]), job).summary
    assert higher["power_w"] > 1.1 * plain["power_w"]
    assert higher["output_tokens_per_s"] == plain["output_tokens_per_s"]
