"""How files are written: whole under their name or not at all, and refused before the work where
that can be known.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster_sim.errors import SpecError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing of others is cleaned away
    fcntl = None  # type: ignore[assignment]

STAGED = ".cluster-sim-"  # how the names of folders begin in which files are made ready
STALE_S = 3600.0  # from when on one is cleaned away that no process of this machine holds
NAME_BYTES, PATH_BYTES = 255, 4096  # of Linux, where the file system does not say
PROBE_BYTES, MOST_PROBED = 4096, 1 << 20
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


def unwritable(path: Path, error: OSError, option: str = "") -> SpecError:
    """The error of a file or folder that cannot be written, for an option if there is one."""
    to = f"{option}: " if option else ""
    return SpecError(f"{to}cannot write to '{path}': {error.strerror}; choose another folder")


def check_name(path: Path, option: str = "") -> None:
    """Raise SpecError for a path that no file can have: a part of it too long, the whole too long,
    or characters that cannot be shown.
    """
    shown, to = str(path), f"{option}: " if option else ""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in shown):
        raise SpecError(f"{to}{shown!r} holds control characters; choose another name")
    try:
        sizes = [len(os.fsencode(part)) for part in path.parts]
        whole = len(os.fsencode(path.absolute()))
    except UnicodeEncodeError:
        raise SpecError(f"{to}{shown!r} is no text; choose another name") from None
    except OSError as error:  # the working directory is gone
        raise unwritable(path, error, option) from None
    most = _limit(path, "PC_NAME_MAX", NAME_BYTES)
    for part, size in zip(path.parts, sizes, strict=True):
        if size > most:
            raise SpecError(
                f"{to}the name '{part[:40]}...' has {size} bytes, a file's has at most {most}; "
                "choose a shorter one"
            )
    if whole >= PATH_BYTES:
        raise SpecError(
            f"{to}the path '{shown[:40]}...' has {whole} bytes, at most {PATH_BYTES - 1} are "
            "possible; choose a shorter one"
        )


def _limit(path: Path, name: str, default: int) -> int:
    try:
        return os.pathconf(_present(path), name)
    except (AttributeError, OSError, ValueError):
        return default


def _present(path: Path) -> Path:
    """The path itself or what there is of it."""
    return next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))


def check_folder(folder: Path, option: str, need_bytes: int = 0) -> None:
    """Raise SpecError unless files of so many bytes can be written in a folder, which may be made
    for that; it is not made yet.
    """
    check_name(folder, option)
    try:
        present = _present(folder)
        _probe(present, need_bytes)
        free = shutil.disk_usage(present).free
    except OSError as error:
        raise unwritable(folder, error, option) from None
    if free < need_bytes:
        raise SpecError(
            f"{option}: '{folder}' has room for {free / 1e6:,.0f} MB, the results take at least "
            f"{need_bytes / 1e6:,.0f} MB; choose another folder"
        )


def check_file(path: Path, option: str) -> None:
    """Raise SpecError unless a file can be written in a folder that is there."""
    check_name(path, option)
    try:
        if not _is_stream(path):
            target = Path(os.path.realpath(path))
            _mode(target)
            _probe(target.parent)
    except OSError as error:
        raise unwritable(path, error, option) from None


def _probe(folder: Path, size: int = 0) -> None:
    """Raise OSError if a folder takes no file, or none of so many bytes, as far as it is tried."""
    with tempfile.TemporaryFile(dir=folder, prefix=STAGED) as file:
        file.write(b"\0" * min(max(size, PROBE_BYTES), MOST_PROBED))


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device or an open file, which nothing can replace."""
    if str(path.absolute()).startswith(_STREAMS):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _mode(target: Path) -> int | None:
    """The permissions of a file that is there; raises OSError if it is no file or read-only."""
    if not target.exists():
        return None
    if target.is_dir():
        raise IsADirectoryError(21, "it is a folder")
    if not os.access(target, os.W_OK):
        raise PermissionError(13, "the file is read-only")
    return stat.S_IMODE(target.stat().st_mode)


def write_whole(path: Path, data: str | bytes, option: str = "") -> None:
    """Write a file so that its name stands for the old content or for the new one, never for a part
    of it; a link is followed, permissions stay. Raises SpecError with the reason.
    """
    check_name(path, option)
    content = data.encode() if isinstance(data, str) else data
    try:
        if _is_stream(path):
            path.write_bytes(content)
            return
        target = Path(os.path.realpath(path))
        mode = _mode(target)
        with staging(target.parent) as folder:
            staged = folder / "new"
            with staged.open("wb") as file:
                file.write(content)
                sync(file.fileno())
            if mode is not None:
                staged.chmod(mode)
            os.replace(staged, target)
    except BrokenPipeError:
        raise  # as of stdout: whoever reads a pipe may stop
    except OSError as error:
        raise unwritable(path, error, option) from None


def sync(handle: int) -> None:
    """Bring a file to the disk where its file system can."""
    with suppress(OSError):
        os.fsync(handle)


@contextmanager
def staging(where: Path) -> Iterator[Path]:
    """A new hidden folder in another, to make files ready in; it goes away with what is left in it.

    It is locked as long as its process lives, so that those of killed ones can be told from it:
    they are cleaned away an hour later by whoever writes in the same place.
    """
    _clean(where)
    folder, handle = _new_folder(where)
    try:
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(where: Path) -> tuple[Path, int]:
    while True:
        folder = where / f"{STAGED}{secrets.token_hex(6)}"
        folder.mkdir()
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            if _lock(handle, wait=False) is not False and folder.exists():
                return folder, handle
            os.close(handle)  # somebody has just cleaned it away


def _clean(where: Path) -> None:
    """Remove what killed processes left behind."""
    for folder in where.glob(f"{STAGED}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < STALE_S:
                continue
            handle = os.open(folder, os.O_RDONLY)
            try:
                if _lock(handle, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Others that lock the folder wait until the block is left."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool | None:
    """Lock an open folder; False if another process has it, None where that is not possible."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
