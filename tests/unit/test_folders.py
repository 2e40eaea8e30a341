"""A folder of results holds one run: whole, of one writer, and beside it what is not of it."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_output_results import FILES, contents, stub

from cluster_sim import read_results
from cluster_sim.errors import SpecError
from cluster_sim.output import folders
from cluster_sim.output.files import STAGED
from cluster_sim.output.folders import is_complete
from cluster_sim.output.results import ResultWriter, find_summaries, read_summary
from cluster_sim.output.timeline import Timeline
from cluster_sim.result import Result

RUN = "w@t-123456"
STEPS = ("rename", "replace", "unlink", "link", "mkdir", "rmdir")  # that change a folder


def run_of(rate: float, *, partial: bool = False) -> Result:
    """A run with as many requests as its rate, so that its files say which run they are of."""
    result, count = stub(RUN, float(rate)), int(rate)
    result.summary["partial"] = partial
    result.requests.update(
        request=list(range(count)), ttft_ms=[rate] * count, within_slo=[True] * count
    )
    return Result(result.summary, result.requests, {"rate": rate}, partial)


def rates_of(folder: Path) -> tuple[float, float, int]:
    """What summary, manifest and requests say which run it is."""
    rows = (folder / "requests.csv").read_text().splitlines()[1:]
    manifest = json.loads((folder / "manifest.json").read_text())
    return float(read_summary(folder)[0]["requests_per_s"]), manifest["rate"], len(rows)


def trace(name: str) -> Timeline:
    return Timeline(events=iter([]), about={"name": name}, note="no events")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is gone before its given change of a folder; returns whether it
    came so far.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 9
    left = step
    for name in STEPS:
        real = getattr(os, name)

        def once(*args: object, real: Callable[..., object] = real, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return real(*args, **more)

        setattr(os, name, once)
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("before", [None, run_of(3, partial=True), run_of(3), run_of(5)])
@pytest.mark.parametrize("partial", [False, True])
def test_whenever_a_writer_is_killed_no_result_is_lost_and_none_is_mixed(
    tmp_path: Path, before: Result | None, partial: bool
) -> None:
    new = run_of(5, partial=partial)
    for step in range(60):
        out = tmp_path / str(step)
        writer = ResultWriter(out)
        if before is not None:
            writer.write(before, timeline=trace("first"))
        killed = killed_at(step, lambda writer=writer: writer.write(new))  # type: ignore[misc]
        try:
            found = find_summaries(out) if out.is_dir() else []
        except SpecError:
            found = []
        seen = [rates_of(file.parent) for file in found]
        assert all(len(set(rates)) == 1 for rates in seen)
        complete = {rates[0] for rates, file in zip(seen, found, strict=True) if of_whole(file)}
        if before is not None and not before.partial:
            assert complete & {3.0, 5.0}
        if not killed:
            break
        writer.write(new)  # and the next one finds its way
        if not partial:
            assert find_summaries(out) == [out / RUN / "summary.csv"]
    else:
        pytest.fail("never came to its end")
    stays = partial and before is not None and not before.partial
    assert rates_of(out / RUN)[0] == (before.manifest["rate"] if stays and before else 5.0)
    assert step >= 2


def of_whole(file: Path) -> bool:
    return is_complete(file.parent, file.name)


@pytest.mark.parametrize("failing", range(5))
def test_a_result_comes_back_when_its_successor_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    writer = ResultWriter(tmp_path)
    folder = writer.write(run_of(3), timeline=trace("first"))
    before, real, left = contents(folder), os.replace, failing

    def replace(*args: Path) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise OSError(5, "Input/output error")
        real(*args)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(SpecError, match="Input/output error"):
        writer.write(run_of(5))
    after = contents(folder)
    after.pop(folders.TIMELINE_BEFORE, None)
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == [RUN]


def test_the_same_numbers_leave_what_an_earlier_run_had_more_of(tmp_path: Path) -> None:
    told: list[str] = []
    writer, more = ResultWriter(tmp_path, told.append), run_of(3)
    more.summary["workload"] = name = "a\u2028b\x85, c\rd"  # lines, to some readers
    more.manifest.update(bands={"headlines": {}, "again": {"low": 1}}, notes=["a", "b"])
    folder = writer.write(more, timeline=trace("first"))
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}
    assert is_complete(folder, "summary.csv")
    less = run_of(3)
    less.summary["workload"] = name
    less.manifest.update(bands={"headlines": {}}, notes=["a"])
    writer.write(less, {"simulated_s": "1"})
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}
    assert [name for name in before if after[name] != before[name]] == ["run.log"]
    assert len(told) == 1
    assert "manifest.json stays" in told[0]
    less.manifest["notes"] = ["c"]
    writer.write(less)
    assert json.loads((folder / "manifest.json").read_text()) == less.manifest


def test_the_timeline_of_other_numbers_is_kept_and_called_so(tmp_path: Path) -> None:
    told: list[str] = []
    writer = ResultWriter(tmp_path, told.append)
    writer.write(run_of(3), timeline=trace("first"))
    folder = writer.write(run_of(5))
    assert {path.name for path in folder.iterdir()} == {*FILES, folders.TIMELINE_BEFORE}
    assert b"first" in gzip.decompress((folder / folders.TIMELINE_BEFORE).read_bytes())
    assert len(told) == 1
    assert str(folder / folders.TIMELINE_BEFORE) in told[0]
    writer.write(run_of(5), timeline=trace("second"))
    assert {path.name for path in folder.iterdir()} == {
        *(*FILES, folders.TIMELINE_BEFORE, "timeline.json.gz")
    }


def test_a_partial_result_stands_beside_a_complete_one(tmp_path: Path) -> None:
    told: list[str] = []
    writer = ResultWriter(tmp_path, told.append)
    assert writer.write(run_of(2, partial=True)).name == RUN
    assert writer.write(run_of(5)).name == RUN
    before = contents(tmp_path / RUN)
    assert not told
    assert writer.write(run_of(3, partial=True)).name == f"{RUN}-partial"
    assert writer.write(run_of(4, partial=True)).name == f"{RUN}-partial"
    assert contents(tmp_path / RUN) == before
    assert rates_of(tmp_path / f"{RUN}-partial") == (4.0, 4.0, 4)
    assert "holds a complete run and stays" in told[0]
    assert list(read_results(tmp_path)["partial"]) == [False, True]


def test_tables_of_a_replay_follow_the_same_rules(tmp_path: Path) -> None:
    def write(makespan_s: float, *, partial: bool) -> Path:
        row = {"run_id": RUN, "makespan_s": makespan_s, "partial": partial}
        tables = {"replay.csv": (list(row), [row]), "collectives.csv": (["rank"], [])}
        return ResultWriter(tmp_path).write_tables(tables, {}, partial=partial)

    folder = write(1.0, partial=False)
    assert (folder / "collectives.csv").read_text() == "rank\n"
    assert write(0.5, partial=True).name == f"{RUN}-partial"
    assert "1.0" in (folder / "replay.csv").read_text()


@pytest.mark.parametrize(
    "text", ["", "run_id,partial\n", "run_id,partial\na,false", "a,partial\n1\n"]
)
def test_half_a_summary_is_no_complete_result(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "summary.csv").write_text(text)
    assert not is_complete(tmp_path / RUN, "summary.csv")
    with pytest.raises(SpecError):
        read_results(tmp_path)
    assert ResultWriter(tmp_path).write(run_of(3, partial=True)).name == RUN


def test_hidden_folders_are_no_results(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    folder = writer.write(run_of(3))
    shutil.copytree(folder, tmp_path / f".{RUN}-ab12")
    shutil.copytree(folder, tmp_path / RUN / f"{STAGED}ab12")
    shutil.copytree(folder, tmp_path / ".trash" / RUN)
    assert find_summaries(tmp_path) == [folder / "summary.csv"]
    assert len(read_results(tmp_path)) == 1


def test_links_lead_to_results(tmp_path: Path) -> None:
    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "disk" / "one" / "notes.txt").write_text("mine")
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / RUN).symlink_to(tmp_path / "disk" / "one")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "disk")
    writer = ResultWriter(tmp_path / "results")
    writer.write(run_of(3))
    folder = writer.write(run_of(5))
    assert folder.is_symlink()
    assert rates_of(tmp_path / "disk" / "one") == (5.0, 5.0, 5)
    assert {path.name for path in folder.iterdir()} == {*FILES, "notes.txt"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"one", "round", RUN}
    assert len(read_results(tmp_path / "results")) == 1
    (tmp_path / "disk" / RUN).unlink()
    (tmp_path / "disk" / RUN).symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="cannot write"):
        writer.write(run_of(3))


@pytest.mark.parametrize(
    ("run_id", "says"),
    [("a" * 250, "has 258 bytes"), ("a/../b", "holds '/'"), ("a\nb", "control characters")],
)
def test_names_that_no_folder_can_have_are_refused(tmp_path: Path, run_id: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        ResultWriter(tmp_path).write(stub(run_id))
    assert not list(tmp_path.iterdir())


def test_runs_whose_hashes_begin_alike_have_folders_of_their_own(tmp_path: Path) -> None:
    told: list[str] = []
    one, other = run_of(3), run_of(5)
    one.summary["config_hash"], other.summary["config_hash"] = "123456" + "0" * 9, "123456abcdef7"
    writer = ResultWriter(tmp_path, told.append)
    for _ in range(2):
        assert writer.write(one).name == RUN
        assert writer.write(other).name == f"{RUN}abcdef"
    other.summary["partial"] = True
    partial = Result(other.summary, other.requests, other.manifest, True)
    assert writer.write(partial).name == f"{RUN}abcdef-partial"
    assert "holds another run" in told[0]
    assert len(read_results(tmp_path)) == 3


def _write_again_and_again(out: Path, rate: float) -> None:
    for _ in range(20):
        ResultWriter(out).write(run_of(rate))


def test_writers_at_the_same_time_do_not_mix_their_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_again_and_again, args=(tmp_path, r)) for r in (3, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(set(rates_of(tmp_path / RUN))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [RUN]
    assert {path.name for path in (tmp_path / RUN).iterdir()} == FILES
