"""A file is written whole or not at all, and refused before the work where that can be known."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from full_disk import no_file_over

from cluster_sim.errors import SpecError
from cluster_sim.output import files
from cluster_sim.output.files import STAGED, check_file, check_folder, staging, write_whole

not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "old.svg").write_text("old")
    for name in ("old.svg", "new.svg"):
        with no_file_over(1000), pytest.raises(SpecError) as error:
            write_whole(tmp_path / name, "x" * 2000, "--draw")
        assert str(error.value).startswith(f"--draw: cannot write to '{tmp_path / name}': File too")
    assert [path.name for path in tmp_path.iterdir()] == ["old.svg"]
    assert (tmp_path / "old.svg").read_text() == "old"


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "net.json", tmp_path / "net.json"
    link.symlink_to(target)
    write_whole(link, "1")
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()
    target.chmod(0o640)
    write_whole(link, b"2")
    assert link.is_symlink()
    assert target.read_text() == "2"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["net.json"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_file(pipe, "--export")
    write_whole(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    with pytest.raises(SpecError, match="No space left on device"):
        write_whole(Path("/dev/full"), "through")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none/a.svg", "No such file or directory"),
        ("folder", "it is a folder"),
        ("file/a.svg", "Not a directory"),
        ("a" * 252 + ".svg", "has 256 bytes, a file's has at most 255"),
        ("ä" * 126 + ".svg", "has 256 bytes"),
        ("b/" * 2500 + "a.svg", "bytes, at most 4095 are possible"),
        ("a\nb.svg", "control characters"),
        ("a\0b.svg", "control characters"),
        ("\ud800.svg", "is no text"),
    ],
)
def test_what_no_file_can_be_is_refused_before_and_when_it_is_written(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=says) as before:
        check_file(tmp_path / name, "--draw")
    assert str(before.value).startswith("--draw: ")
    with pytest.raises(SpecError, match=says):
        write_whole(tmp_path / name, "text", "--draw")


@not_root
def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text("old")
    (tmp_path / "a.svg").chmod(0o444)
    with pytest.raises(SpecError, match="the file is read-only"):
        write_whole(tmp_path / "a.svg", "new")


def test_a_full_disk_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_file_over(1000), pytest.raises(SpecError, match="cannot write to .*: File too large"):
        check_folder(tmp_path / "results", "--out")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    check_folder(tmp_path, "--out", 900_000_000)
    with pytest.raises(SpecError, match="has room for 1,000 MB, the results take at least 5,000"):
        check_folder(tmp_path, "--out", 5_000_000_000)
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_cleaned_away_an_hour_later(tmp_path: Path) -> None:
    killed, young, foreign = (tmp_path / f"{STAGED}{name}" for name in ("a", "b", "c"))
    for folder in (killed, young):
        folder.mkdir()
        (folder / "requests.csv").write_text("half")
    foreign.write_text("no folder")
    an_hour_ago = time.time() - 2 * files.STALE_S
    os.utime(killed, (an_hour_ago, an_hour_ago))
    with staging(tmp_path) as mine:
        os.utime(mine, (an_hour_ago, an_hour_ago))
        with staging(tmp_path) as other:  # cleans, and leaves the one that is in use
            assert {path.name for path in tmp_path.iterdir()} == {
                *(path.name for path in (mine, other, young, foreign))
            }
    assert set(tmp_path.iterdir()) == {young, foreign}
