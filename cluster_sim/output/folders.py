"""Folders of results: a folder holds the files of one run, appears with all of them, and counts as
finished by its last file alone.

A run that is repeated gives the same numbers, so that most of its files are there already: they are
left alone, and with them what an earlier run had more of, such as a timeline. Files of others are
never touched.
"""

from __future__ import annotations

import csv
import filecmp
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_sim.columns import SHORT_HASH
from cluster_sim.errors import SpecError
from cluster_sim.output.files import check_name, locked, staging, sync, unwritable

MANIFEST, TIMELINE, LOG = "manifest.json", "timeline.json.gz", "run.log"
TIMELINE_BEFORE = "timeline-earlier.json.gz"
RESULT_BEFORE = "earlier-result"  # of other numbers, while it is replaced
PARTIAL = "-partial"
TRIES = 100  # while others write and remove the same folder
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Published:
    """What becomes of a folder: its name, the hash of what it was made from, its last file, and
    whether it was interrupted.
    """

    run_id: str
    config_hash: str
    last: str
    partial: bool

    @property
    def longer_name(self) -> str:
        """The name with more digits of the hash, for where another run has the first ones too."""
        return self.run_id + self.config_hash[SHORT_HASH : 2 * SHORT_HASH]


def publish(folder: Path, what: Published, fill: Callable[[Path], None], tell: Tell) -> Path:
    """Fill a hidden folder and move its files to the one of the run, the last one behind the
    others; returns where they are.

    What is partial stands beside a complete result, as ``-partial``. Raises SpecError if that
    cannot be written; what was there before is there then.
    """
    if "/" in what.run_id:
        raise SpecError(f"'{what.run_id}' cannot name a folder of results: it holds '/'")
    check_name(folder / (what.longer_name + PARTIAL), "--out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with staging(_place(folder, folder / what.run_id)) as staged:
            fill(staged)
            for file in staged.iterdir():
                _sync(file)
            final = _moved(staged, folder, what, tell)
        _sync(folder)
    except OSError as error:
        raise unwritable(folder, error, "--out") from None
    return final


def _place(folder: Path, final: Path) -> Path:
    """Where files are made ready: in the folder itself if it is on another disk, as a link may."""
    if final.is_dir() and final.stat().st_dev != folder.stat().st_dev:
        return final
    return folder


def _moved(staged: Path, folder: Path, what: Published, tell: Tell) -> Path:
    """Give the files their place. A folder of that name may appear and go away meanwhile."""
    final = folder / what.run_id
    for _ in range(TRIES):
        if not os.path.lexists(final):
            try:
                os.rename(staged, final)
            except OSError:
                if not final.is_dir():
                    raise
                continue
            return final
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(final))
            except FileNotFoundError:
                if final.is_symlink():
                    raise
                continue
            whole = is_complete(final, what.last)
            if whole and _hash_in(final / what.last) not in ("", what.config_hash):
                tell(f"{final} holds another run, whose hash begins alike")
                final = folder / what.longer_name
            elif whole and what.partial:
                beside = final.with_name(final.name + PARTIAL)
                tell(f"{final} holds a complete run and stays; this partial one is in {beside}")
                final = beside
            else:
                _renew(staged, final, what.last, tell)
                return final
    raise OSError(0, f"'{final.name}' keeps being rewritten by others")


def _hash_in(file: Path) -> str:
    """The hash of what a result was made from; empty if it has none."""
    with file.open(encoding="utf-8", newline="") as text:
        return next(csv.DictReader(text)).get("config_hash") or ""


def is_complete(folder: Path, last: str) -> bool:
    """Whether a folder holds a result that is whole and was not interrupted."""
    try:
        text = (folder / last).read_text(encoding="utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        whole = all(len(row) == len(header) for row in rows) and text.endswith("\n")
        place = header.index("partial")
        return whole and bool(rows) and all(row[place] == "false" for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError):
        return False


def _renew(staged: Path, final: Path, last: str, tell: Tell) -> None:
    """Move the files of a run to where an earlier one of the same inputs lies."""
    new = sorted((path.name for path in staged.iterdir()), key=lambda name: (name == last, name))
    for name in new:
        if (final / name).is_dir():
            raise IsADirectoryError(0, f"'{final / name}' is a folder")
    changed = [name for name in new if not _same(staged / name, final / name)]
    if any(name.endswith(".csv") for name in changed):
        with _kept(final, [*new, TIMELINE], last) if is_complete(final, last) else nullcontext():
            (final / last).unlink(missing_ok=True)
            if TIMELINE not in new and (final / TIMELINE).exists():
                os.replace(final / TIMELINE, final / TIMELINE_BEFORE)
                tell(f"the timeline of an earlier run, of other numbers: {final / TIMELINE_BEFORE}")
            _move(staged, final, new)
    else:
        if MANIFEST in changed and holds_all(_json(final / MANIFEST), _json(staged / MANIFEST)):
            changed.remove(MANIFEST)
            tell(f"{final / MANIFEST} stays: it holds all of this run and more of an earlier one")
        _move(staged, final, changed)
    if (final / RESULT_BEFORE).is_dir() and is_complete(final, last):
        _drop(final / RESULT_BEFORE, [last, *new, TIMELINE])


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _move(staged: Path, final: Path, names: Sequence[str]) -> None:
    for name in names:
        os.replace(staged / name, final / name)


@contextmanager
def _kept(final: Path, names: Sequence[str], last: str) -> Iterator[None]:
    """A complete result that is being replaced is kept in a folder below, and comes back if that
    fails; so whenever the process ends, one of both is there.
    """
    before = final / RESULT_BEFORE
    before.mkdir(exist_ok=True)
    kept = [name for name in names if (final / name).is_file()]
    for name in kept:
        (before / name).unlink(missing_ok=True)
        try:
            os.link(final / name, before / name)
        except OSError:  # a file system without hard links
            shutil.copy2(final / name, before / name)
    try:
        yield
    except BaseException:
        _move(before, final, kept)
        _drop(before, kept)  # links to a file that had not been moved yet
        raise


def _drop(folder: Path, names: Sequence[str]) -> None:
    """Remove files in this order, and the folder unless others put something into it."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def holds_all(earlier: Any, new: Any) -> bool:
    """Whether a JSON value has all that another one has, and perhaps more."""
    if isinstance(earlier, dict) and isinstance(new, dict):
        return all(key in earlier and holds_all(earlier[key], new[key]) for key in new)
    if isinstance(earlier, list) and isinstance(new, list):
        return earlier[: len(new)] == new
    return bool(earlier == new)


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            sync(handle)
        finally:
            os.close(handle)
