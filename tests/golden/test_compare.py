"""What counts as the same result: last bits may differ, nothing else."""

from __future__ import annotations

import pytest

from .compare import differences, message, same_cell
from .play import Output
from .regenerate import changes
from .tables import Kept, read, to_keep, written

SUMMARY = b"run_id,seed,load,ttft_s\nchat@h200-0f1e2d,0,70 % of it,0.123456789012\n"
PAGE = "Served 1,240 tokens/s, 12.5 % idle, by Llama-3.3\nFiles  out/chat@h200-0f1e2d/x\n"


def kept(page: str = PAGE, summary: bytes = SUMMARY, hash_: str = "0f1e2d") -> Kept:
    files = {f"out/chat@h200-{hash_}/summary.csv": summary}
    return to_keep("run", Output(page, "", files))


def found(new: Kept) -> list[str]:
    return [str(one) for one in differences("r", read(written(kept())), new)]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("0.123456789", "0.1234567894999", True),
        ("0.123456789", "0.123456792", False),
        ("1e-12", "0.0", True),
        ("1e-6", "1.0000002e-6", False),
        ("3", "3.0", True),
        ("123456789", "123456790", False),  # a count
        ("", "0.0", False),
        ("nan", "nan", True),
        ("nan", "1.0", False),
        ("70 % of it", "71 % of it", True),  # may be rounded
        ("70 % of it", "72 % of it", False),
        ("llama-3.3", "llama-3.4", False),
    ],
)
def test_cells(old: str, new: str, same: bool) -> None:
    assert same_cell(old, new) is same


def test_what_is_kept_is_read_as_it_was() -> None:
    assert found(kept()) == []


def test_hashes_may_change() -> None:
    other = kept(PAGE.replace("0f1e2d", "aaaaaa"), SUMMARY.replace(b"0f1e2d", b"aaaaaa"), "aaaaaa")
    assert found(other) == []


def test_a_difference_names_its_place() -> None:
    (one,) = found(kept(summary=SUMMARY.replace(b"0.1234", b"0.1235")))
    assert one == "r summary.csv ttft_s: 0.123456789 -> 0.123556789 (+0.00081 of it)"
    (gone, new) = found(kept(summary=SUMMARY.replace(b"ttft_s", b"ttft_ms")))
    assert gone == "r summary.csv ttft_s: there -> gone"
    assert new == "r summary.csv ttft_ms: not there -> new"


@pytest.mark.parametrize(
    ("old", "new", "differ"),
    [
        ("1,240", "1,250", False),  # one in the last of three digits
        ("1,240", "1,260", True),
        ("12.5", "12.6", False),
        ("12.5", "12.7", True),
        ("Llama-3.3", "Llama-3.4", True),
        ("idle", "busy", True),
        ("12.5 %", "12.5  %", True),
    ],
)
def test_pages(old: str, new: str, differ: bool) -> None:
    told = found(kept(PAGE.replace(old, new)))
    assert bool(told) is differ
    assert all(one.startswith("r page line 1: ") for one in told)


def test_a_page_has_few_numbers_that_rounding_turns_over() -> None:
    line = "a 1.0 b 2.0 c 3.0"
    old, new = Kept("", {"page": [line]}, {}), Kept("", {"page": [line.replace(".0", ".1")]}, {})
    assert len(list(differences("r", old, new))) == 1


def test_other_rows_are_told_and_long_tables_cut() -> None:
    rows = [b"0,%d,x,0.5\n" % place for place in range(250)]
    long = [kept(summary=b"run_id,seed,load,ttft_s\n" + b"".join(rows[:end])) for end in (250, 249)]
    assert len(long[0].tables["summary.csv"].rows) == 100 + 2
    told = list(differences("r", *long))
    assert [one.column for one in told] == ["seed", "ttft_s"]
    assert "and 3 more" in message([*told, *told] * 3 + told[:1] * 3)
    assert changes(told) == "summary.csv seed -0.022; summary.csv ttft_s -0.02"
