"""Readers stop at limits, and say so."""

from __future__ import annotations

import gzip
import os
import resource
import time
from pathlib import Path

import pytest

from cluster_sim import text_file
from cluster_sim.errors import SpecError
from cluster_sim.specs.yaml_text import parse
from cluster_sim.text_file import csv_rows, csv_table, parse_json, read_bytes, read_text


def refused(path: Path, **limits: int) -> str:
    with pytest.raises(SpecError) as caught:
        read_text(path, **limits)
    return str(caught.value)


def test_text_with_a_byte_order_mark_and_gzipped_text(tmp_path: Path) -> None:
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbfrows")
    (tmp_path / "packed").write_bytes(gzip.compress(b"some", mtime=0) + gzip.compress(b" rows"))
    assert read_text(tmp_path / "mark") == "rows"
    assert read_text(tmp_path / "packed") == "some rows"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"caf\xe9", "not a text file (not UTF-8)"),
        ("wide".encode("utf-16"), "not a text file (not UTF-8)"),
        (b"a\0b", "not a text file (holds NUL bytes)"),
        (gzip.compress(b"rows" * 1000, mtime=0)[:-9], "not a gzip file, or a broken one"),
        (b"\x1f\x8b\x08\x00rest of a picture", "not a gzip file, or a broken one"),
    ],
)
def test_what_is_no_text(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert refused(tmp_path / "file") == f"{tmp_path / 'file'}: {says}"


def test_a_name_that_promises_gzip(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(b"a,b")
    assert "not a gzip file" in refused(tmp_path / "rows.csv.gz")


def test_bytes_are_limited_as_they_lie_and_expanded(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 3_000_000)
    assert "has more than 2 MiB, the limit for such a file; split it" in refused(
        tmp_path / "long", most=2 << 20
    )
    (tmp_path / "bomb").write_bytes(gzip.compress(b"0" * 3_000_000, mtime=0))
    assert "expands to more than 2 MiB" in refused(tmp_path / "bomb", most=2 << 20)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, not a file" in refused(tmp_path / "pipe")
    assert "is a folder, not a file" in refused(tmp_path)
    assert "is a device, not a file" in refused(Path("/dev/zero"))
    assert "cannot be read" in refused(Path("/proc/self/mem"))
    assert "no name of a file" in refused(Path("a\0b"))
    assert "File name too long" in refused(tmp_path / ("n" * 300))
    assert not text_file.is_file("n" * 300)
    assert not text_file.is_file("a\0b")


def test_every_reader_goes_through_the_limits() -> None:
    """No other module opens files for reading, or parses JSON and CSV of its own."""
    package = Path(text_file.__file__).parent
    # Recognising a line of a trace, and reading back what this program wrote to its own folder.
    own = {"text_file.py", "json_rows.py", "csv_traces.py", "aicb_csv.py"}
    own |= {"results.py", "folders.py", "validate_text.py"}
    words = ("read_text(encoding", "read_bytes()", "json.loads(", "csv.reader(", "DictReader(")
    found = [
        f"{path.relative_to(package)}: {word}"
        for path in package.rglob("*.py")
        if path.name not in own
        for word in words
        if word in path.read_text()
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("[" * 200 + "]" * 200, "nested more than 100 levels deep"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "1e999 is too large or too long"),
        (f'{{"a": {"9" * 5000}}}', "a number of 5,000 digits; at most 100"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        ('{"a": 1', "file:1: not valid JSON"),
    ],
)
def test_json_is_limited(text: str, says: str) -> None:
    with pytest.raises(SpecError, match="not valid JSON") as caught:
        parse_json(text, "file")
    assert says in str(caught.value)


def test_json_within_the_limits() -> None:
    value = {"id": 2**64, "share": 5e-324, "hash": "9" * 300, "deep": [[[[{}]]]], "e": "1e999"}
    import json

    assert parse_json(json.dumps(value), "file") == value


def test_rows_of_a_table() -> None:
    assert list(csv_rows('a,b\n\n1,"2\n3"\n', "f")) == [(1, ["a", "b"]), (4, ["1", "2\n3"])]
    header, rows = csv_table("a,b\n1\n", "f", first_line=3)
    assert header == ["a", "b"]
    assert list(rows) == [(4, {"a": "1", "b": ""})]
    assert csv_table("", "f")[0] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("," * 100_000, "f:1: 100,001 columns; a table here has at most 1,000"),
        ('a\n"b\n', "f:2: not valid CSV: unexpected end of data"),
        (f"a\n{'b' * 200_000}\n", "f:2: not valid CSV: field larger than field limit"),
        ("a\n1,2\n", "f:2: 2 cells, the header has 1 columns"),
    ],
)
def test_tables_are_limited(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        list(csv_table(text, "f")[1])
    assert says in str(caught.value)


def laughs(levels: int, form: str = "[{}]") -> str:
    """Each list is nine times the one before."""
    lists = [form.format(", ".join([f"*a{level}"] * 9)) for level in range(levels - 1)]
    lines = (f"a{level}: &a{level} {text}" for level, text in enumerate(lists, 1))
    return "\n".join(["a0: &a0 {k: v}", *lines])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (laughs(12), "more than 100,000 values, those that aliases (*name) repeat"),
        (laughs(12, "{{<<: [{}], z: 1}}"), "more than 100,000 values"),
        ("a: &x [*x]", "nested more than 100 levels deep"),
        ("[" * 5000, "nest"),
        ("a: " + "{b: " * 150 + "1" + "}" * 150, "f:1: not valid YAML: nested more than 100"),
        ("a:\n  b: !!bool abc", "f:2: a.b: must be true or false (got abc)"),
        ("a: !!python/object/apply:os.system [ls]", "f:1: a: a tag of its own"),
        ("a: !!binary zz", "f:1: a: a tag of its own"),
        ("? [a, b]\n: 1", "a key must be a word"),
        (f"a: {'9' * 5000}", "line 1: a number of 5,000 digits"),
        ("a: \x01", "not valid YAML: "),
        ("a: \ud800", "not a text"),
        ("a: " + "x" * (8 << 20), "characters, at most"),
    ],
)
def test_yaml_is_limited(text: str, says: str) -> None:
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpecError) as caught:
        parse(text, "f")
    assert says in str(caught.value)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_aliases_within_the_limits() -> None:
    value, _ = parse("a: &x {k: [1, 2]}\nb: *x\nc: {<<: *x, z: 1.5e3}", "f")
    assert value["b"] == value["a"]
    assert value["c"] == {"k": [1, 2], "z": 1500.0}


def test_bytes_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    assert read_bytes(tmp_path / "binary") == b"\0\1\2"
