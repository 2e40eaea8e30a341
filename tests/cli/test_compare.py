"""``cluster-sim compare``: files and folders, formats, notes, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.columns import HEADLINES, SUMMARY_COLUMNS
from cluster_sim.errors import SpecError
from cluster_sim.output.results import format_csv
from cluster_sim.studies.compare_runs import NEW

FAST = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 200"
CAPACITY = HEADLINES[0]


def test_compare_shows_ratios_and_warns(runner: CliRunner) -> None:
    runner.invoke(cli, [*FAST.split(), "--out", "a"])
    runner.invoke(cli, [*FAST.replace("h200", "h100").split(), "--out", "b", "--seed", "3"])
    files = [str(next(Path(name).iterdir())) for name in ("a", "b")]
    result = runner.invoke(cli, ["compare", *files])
    assert result.exit_code == 0, result.output
    assert "seeds differ: 0, 3" in result.stderr
    assert "tpot_mean_ms" in result.stdout


def test_compare_says_what_is_significant(runner: CliRunner) -> None:
    for out, change in (("a", []), ("b", ["--rate", "1"]), ("c", ["--seed", "3"])):
        assert runner.invoke(cli, [*FAST.split(), *change, "--out", out]).exit_code == 0
    a, b, c = (str(next(Path(name).iterdir())) for name in "abc")
    result = runner.invoke(cli, ["compare", a, a, b, f"{c}/summary.csv", "--band"])
    assert result.exit_code == 0, result.output
    same, other, drawn = result.stdout.split("8 in 10 chance:\n")[1:]
    assert all(line.endswith("no difference") for line in same.split("\n\n")[0].splitlines()[1:])
    tpot = next(line for line in other.splitlines() if line.startswith("tpot_mean_ms"))
    assert "lower" in tpot
    tpot = next(line for line in drawn.splitlines() if line.startswith("tpot_mean_ms"))
    assert tpot.endswith("not significant")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("nonsense", "holds no bands"),
        ("{}", "holds no bands"),
        ('{"bands": {"headlines": {"tpot_mean_ms": {"base": "x"}}}}', "holds no bands"),
    ],
)
def test_compare_needs_manifests_for_bands(text: str | None, says: str, runner: CliRunner) -> None:
    runner.invoke(cli, [*FAST.split(), "--out", "a"])
    folder = next(Path("a").iterdir())
    (folder / "manifest.json").unlink()
    if text is not None:
        (folder / "manifest.json").write_text(text)
    result = runner.invoke(cli, ["compare", str(folder), str(folder), "--band"])
    assert result.exit_code != 0
    assert says in str(result.exception)


def compare(runner: CliRunner, *words: str) -> Result:
    result = runner.invoke(cli, ["compare", *words])
    assert result.exit_code == 0, result.output
    return result


def leave(folder: str, *rows: dict[str, object]) -> str:
    """Write a summary.csv of schema 5."""
    Path(folder).mkdir(parents=True)
    empty = dict.fromkeys((*SUMMARY_COLUMNS, *NEW), "")
    same = {"workload": "w", "topology": "t", "schema": 5, "run_id": "w@t"}
    text = format_csv([{**empty, **same, "config_hash": folder, **row} for row in rows])
    (Path(folder) / "summary.csv").write_text(text)
    return folder


def capacity(value: float | str, status: str = "ok", **more: object) -> dict[str, object]:
    return {CAPACITY: value, f"{CAPACITY}_status": status, **more}


def test_a_folder_means_all_runs_below_it_in_order(runner: CliRunner) -> None:
    for name, plan in (("results/b", "tp2"), ("results/a/deep", "tp1"), ("results/.c-new", "tp9")):
        leave(name, capacity(100.0, plan=plan))
    leave("seeds", capacity(100.0, plan="tp1", seed=0), capacity(101.0, plan="tp1", seed=1))
    rows = json.loads(compare(runner, "results", "seeds", "--format", "json").stdout)
    assert [row["plan"] for row in rows] == ["tp1", "tp2", "tp1", "tp1"]
    assert len({row["run"] for row in rows}) == 4
    alone = compare(runner, "seeds/summary.csv", "--format", "csv").stdout
    assert [row["run"] for row in csv.DictReader(alone.splitlines())] == [
        "w@t seed 0",
        "w@t seed 1",
    ]


def test_a_lower_bound_gives_no_ratio_but_a_bound(runner: CliRunner) -> None:
    leave("a", capacity(6460.0, "lower_bound"))
    leave("b", capacity(13089.0))
    leave("c", capacity("", "too_short"))
    result = compare(runner, "a", "b")
    assert ">= 6,460" in result.stdout
    assert "<= 2.03" in result.stdout
    assert ">= 0.494" in compare(runner, "b", "a").stdout
    assert "too short" in compare(runner, "b", "c").stdout
    assert "first too short" in compare(runner, "c", "b").stdout
    rows = list(csv.DictReader(compare(runner, "a", "b", "--format", "csv").stdout.splitlines()))
    assert rows[1][f"{CAPACITY}_ratio_bound"] == "<="
    assert float(rows[1][f"{CAPACITY}_ratio"]) == pytest.approx(13089 / 6460)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_notes_go_to_stderr(form: str, runner: CliRunner) -> None:
    money = {"usd_per_m_output_tokens": 1.5, "usd_per_m_output_tokens_status": "ok"}
    leave("a", capacity(1.0, seed=1, price_basis="rent, 3 years", **money))
    leave("b", capacity(2.0, seed=2, price_basis="owned", **money))
    result = compare(runner, "a", "b", "--format", form)
    assert "Note: seeds differ: 1, 2" in result.stderr
    assert "Note: prices differ in basis: rent, 3 years; owned" in result.stderr
    assert "Note" not in result.stdout


def test_the_width_of_the_terminal_is_obeyed(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, columns in (("a", "90"), ("b", "60")):
        leave(name, capacity(1234.5, "lower_bound", plan=name * 20, **{f"{CAPACITY}_error": 0.01}))
        monkeypatch.setenv("COLUMNS", columns)
        text = compare(runner, "a", name).stdout
        assert 40 < max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("one", "needs at least two runs, one holds one"),
        ("empty one", "empty: no summary.csv here or below"),
        ("one none.csv", "none.csv: cannot be read"),
        ("one norows", "norows/summary.csv: holds no run"),
        ("one ragged.csv", "ragged.csv:2: 2 cells, the header has 4; the file is broken"),
        ("one quoted.csv", "quoted.csv:2: not valid CSV: unexpected end of data"),
        ("one status", f"status/summary.csv:2: {CAPACITY}_status: must be one of ok, lower_bound,"),
        ("one aged", "aged/summary.csv:2: schema: must be 3 or later (got 2)"),
        ("one seeds --band", "seeds/manifest.json: cannot be read"),
    ],
)
def test_bad_input_is_refused_by_name(line: str, says: str, runner: CliRunner) -> None:
    leave("one", capacity(1.0))
    shutil.copytree("one", "norows")
    header = Path("one/summary.csv").read_text().splitlines()[0]
    Path("norows/summary.csv").write_text(f"{header}\n")
    Path("empty").mkdir()
    Path("ragged.csv").write_text("run_id,workload,topology,schema\na,b\n")
    Path("quoted.csv").write_text('run_id,workload,topology,schema\n"a,b,c,5\n')
    leave("status", capacity(1.0, "fine"))
    leave("aged", capacity(1.0, schema=2))
    leave("seeds", capacity(1.0, seed=0), capacity(1.0, seed=1))
    Path("one/manifest.json").write_text('{"bands": {"headlines": {}}}')
    result = runner.invoke(cli, ["compare", *line.split()])
    if isinstance(result.exception, SpecError):
        assert says in str(result.exception)
    else:
        assert result.exit_code == 2
        assert says in result.output
    assert result.stdout == ""


def test_a_name_that_no_file_can_have_is_refused(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["compare", "a" * 300, "b"])
    assert "cannot be read: File name too long" in str(result.exception)


def test_problems_of_all_files_come_at_once(runner: CliRunner) -> None:
    leave("a", capacity("fast"))
    leave("b", capacity(1.0, "fine"))
    result = runner.invoke(cli, ["compare", "a", "b", "c"])
    problems = str(result.exception).splitlines()
    assert [text.split(":")[0] for text in problems] == ["a/summary.csv", "b/summary.csv", "c"]


def test_bands_are_those_of_the_run(runner: CliRunner) -> None:
    leave("a", capacity(1.0))
    manifest = {"config_hash": "another", "bands": {"headlines": {}}}
    Path("a/manifest.json").write_text(json.dumps(manifest))
    result = runner.invoke(cli, ["compare", "a", "a", "--band"])
    assert "a/manifest.json: is of another run" in str(result.exception)
    Path("a/manifest.json").write_text(json.dumps(manifest | {"config_hash": "a"}))
    assert "no headline in common" in compare(runner, "a", "a", "--band").stdout
