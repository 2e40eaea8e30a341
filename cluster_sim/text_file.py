"""Reading the files that users name, within limits: bytes, nesting, digits and columns.

Every reader of the program goes through here. A file beyond a limit is refused with the limit and
the way out, and so is what is no file: a folder, a pipe, a device.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cluster_sim.errors import SpecError

MIB = 1 << 20
# Specs and configs: the largest packaged file has 12 kB, a config.json of 1,000 layers some 100 kB.
MOST_SPEC_BYTES = 8 * MIB
# Traces, logs and tables, as they lie there and expanded: the largest published traces that come as
# one file, weeks of BurstGPT, have some 200 MB.
MOST_DATA_BYTES = 512 * MIB
MOST_DEPTH = 100  # lists and mappings inside each other; no format that is read here has over 20
MOST_DIGITS = 100  # of one number; an exact binary fraction between 0 and 1 has up to 55
MOST_COLUMNS = 1_000  # of a table; the widest that is written here has under 150
MOST_EXPANSION = 200  # bytes of one that is packed; tables of numbers come to 3 to 20
_EVEN_SO = 16 * MIB  # what even a very dense one may expand to
_CHUNK = MIB
_LONG_NUMBER = re.compile(rf"\d{{{MOST_DIGITS + 1}}}|\d[eE]\+?\d{{3}}", re.ASCII)
_GZIP = b"\x1f\x8b"
_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a pipe, not a file; save what comes out of it to a file first",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def read_text(path: Path, *, shown: str = "", most: int = MOST_DATA_BYTES) -> str:
    """The text of a file, without a byte-order mark; one that is gzipped is expanded.

    Raises SpecError naming the file (as ``shown``): it cannot be read, is no regular file, has more
    than ``most`` bytes, is not UTF-8, or holds zero bytes.
    """
    shown = shown or str(path)
    return decoded(read_bytes(path, shown=shown, most=most), shown)


def decoded(data: bytes, shown: str) -> str:
    """Bytes as text, without a byte-order mark; raises SpecError for what is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{shown}: not a text file (not UTF-8)") from None
    if "\0" in text:
        raise SpecError(f"{shown}: not a text file (holds NUL bytes)")
    return text


def read_bytes(path: Path, *, shown: str = "", most: int = MOST_DATA_BYTES) -> bytes:
    """The bytes of a file; one that is gzipped is expanded. Raises SpecError as ``read_text``."""
    shown = shown or str(path)
    try:
        with _opened(path, shown) as raw:
            size = os.fstat(raw.fileno()).st_size
            if size > most:
                raise _too_long(f"{shown}: has", most)
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if not packed and path.suffix == ".gz":
                raise SpecError(f"{shown}: not a gzip file, or a broken one")
            if not packed:
                return _up_to(raw, most, f"{shown}: has")
            with gzip.GzipFile(fileobj=raw) as file:
                dense = max(_EVEN_SO, MOST_EXPANSION * size)
                return _up_to(file, min(most, dense), f"{shown}: expands to")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SpecError(f"{shown}: not a gzip file, or a broken one") from None
    except OSError as error:
        raise SpecError(f"{shown}: cannot be read: {error.strerror}") from None


def digest(path: Path) -> str:
    """SHA-256 of a file as it lies there; raises SpecError if it cannot be read."""
    found, shown = hashlib.sha256(), str(path)
    try:
        with _opened(path, shown) as raw:
            while piece := raw.read(_CHUNK):
                found.update(piece)
    except OSError as error:
        raise SpecError(f"{shown}: cannot be read: {error.strerror}") from None
    return found.hexdigest()


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file, or a link to one; False for a name that cannot be one."""
    return os.path.isfile(path)  # pathlib's raises for a name that is too long


def _opened(path: Path, shown: str) -> BinaryIO:
    """A regular file, opened; whatever else it is would never end, or do something when read."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind in _KINDS:
            raise SpecError(f"{shown}: cannot be read: is {_KINDS[kind]}")
        return open(path, "rb", opener=_at_once)
    except ValueError:  # a zero byte in the name
        raise SpecError(f"{shown!r}: cannot be read: no name of a file") from None


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for a writer: some files of /proc never end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _up_to(file: BinaryIO | gzip.GzipFile, most: int, it: str) -> bytes:
    pieces, total = [], 0
    while piece := file.read(_CHUNK):
        total += len(piece)
        if total > most:
            raise _too_long(it, most)
        pieces.append(piece)
    return b"".join(pieces)


def _too_long(it: str, most: int) -> SpecError:
    limit = f"more than {most // MIB:,} MiB, the limit for such a file"
    return SpecError(f"{it} {limit}; split it, or keep what is needed of it")


def parse_json(text: str | bytes, shown: str, *, infinite: bool = False) -> Any:
    """The value in a JSON text; raises SpecError with file and line for what is none, and for what
    ``json_value`` refuses.
    """
    try:
        return json_value(text, infinite=infinite)
    except json.JSONDecodeError as error:
        raise SpecError(f"{shown}:{error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise SpecError(f"{shown}: not valid JSON: {error}") from None


def json_value(text: str | bytes, *, infinite: bool = False) -> Any:
    """The value in a JSON text. Raises ValueError (JSONDecodeError with the place) for what is no
    JSON, a key that stands twice in an object, NaN and infinities (unless ``infinite``), numbers of
    more than MOST_DIGITS digits, and more than MOST_DEPTH levels.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    hooks: dict[str, Any] = {} if infinite else {"parse_constant": _no_number}
    if _LONG_NUMBER.search(text):
        hooks |= {"parse_int": _short_int, "parse_float": _finite_float}
    try:
        value = json.loads(text, object_pairs_hook=_without_twins, **hooks)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"nested more than {MOST_DEPTH} levels deep"


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")


def _short_int(word: str) -> int:
    if len(word) > MOST_DIGITS:
        raise ValueError(f"a number of {len(word):,} digits; at most {MOST_DIGITS} make sense")
    return int(word)


def _finite_float(word: str) -> float:
    value = float(word)
    if len(word) > 2 * MOST_DIGITS or not math.isfinite(value):
        raise ValueError(f"{word[:40]} is too large or too long for a number")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key '{twin[:40]}'")
    return found


def csv_rows(text: str, shown: str, *, first_line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV text that hold anything, header and all, with their lines (the text begins
    with line ``first_line``).

    Raises SpecError for what is no CSV, and for more than MOST_COLUMNS cells in a row.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            line = reader.line_num + first_line - 1
            if len(cells) > MOST_COLUMNS:
                raise SpecError(
                    f"{shown}:{line}: {len(cells):,} columns; a table here has at most "
                    f"{MOST_COLUMNS:,}"
                )
            if cells:
                yield line, cells
    except csv.Error as error:
        line = reader.line_num + first_line - 1
        raise SpecError(f"{shown}:{line}: not valid CSV: {error}") from None


def csv_table(
    text: str, shown: str, *, first_line: int = 1
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header of a CSV text (empty without one) and its rows by column, with their lines; cells
    that a row lacks are empty. Raises SpecError as ``csv_rows``, and for a row with more cells than
    the header.
    """
    rows = csv_rows(text, shown, first_line=first_line)
    _, header = next(rows, (first_line, []))
    return header, _by_column(rows, header, shown)


def _by_column(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], shown: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in rows:
        if len(cells) > len(header):
            raise SpecError(
                f"{shown}:{line}: {len(cells)} cells, the header has {len(header)} columns"
            )
        yield line, dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=True))
