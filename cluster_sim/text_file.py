"""Reading the text files that users name."""

from __future__ import annotations

from pathlib import Path

from cluster_sim.errors import SpecError


def read_text(path: Path) -> str:
    """The text of a file, without a byte-order mark; raises SpecError naming the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file (not UTF-8)") from None
