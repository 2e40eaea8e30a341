"""Where files are: names are looked up one by one in ./, $CLUSTER_SIM_PATH and the packaged data.

Standard library only, and no file is parsed to list names, so that ``list`` and shell completion
stay quick.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.text_file import (
    MOST_SPEC_BYTES,
    decoded,
    digest,
    is_file,
    read_bytes,
    read_text,
)

FOLDERS = {
    "topology": "topologies",
    "chip": "topologies/chips",
    "fits": "topologies/chips/fits",
    "collectives": "topologies/chips/fits/collectives",
    "workload": "workloads",
    "model": "workloads/models",
    "software": "workloads/software",
    "training": "workloads/software/training",
}
PATH_VARIABLE = "CLUSTER_SIM_PATH"
HUGGING_FACE_FILE = "config.json"
DATA = "data"  # where files come from that are no specs
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file that a run was made from. ``path`` is never absolute for packaged data; it
    ``shadows`` a packaged file that says something else. ``more`` are the files that it is read
    with: the one that it extends, those beside a config.
    """

    name: str
    path: str
    sha256: str
    origin: str
    shadows: bool = False
    text: str = field(default="", repr=False, compare=False)
    more: tuple[FileRecord, ...] = ()


def every(files: Iterable[FileRecord]) -> tuple[FileRecord, ...]:
    """All of some files and those that they are read with, each once, in order."""
    return tuple(dict.fromkeys(one for file in files for one in (file, *every(file.more))))


Files = dict[str, FileRecord]


def read_data(path: Path, files: Files | None = None) -> bytes:
    """The bytes of a file of data (a trace, a graph, a map), whose record, without text, goes into
    ``files``; raises SpecError as ``read_bytes``.
    """
    data, shown = read_bytes(path), str(path)
    if files is not None:
        found = hashlib.sha256(data).hexdigest()
        files[shown] = FileRecord(name=path.name, path=shown, sha256=found, origin=DATA)
    return data


def names(family: str) -> list[str]:
    """All names of a family (topology, chip, model, workload, software, training), sorted."""
    return sorted({path.stem for root, _ in _roots() for path in _files(root, family)})


def texts(family: str) -> dict[str, str]:
    """The texts of all files of a family by name, sorted; a name's first file counts."""
    found: dict[str, str] = {}
    for root, _ in _roots():
        for path in _files(root, family):
            if path.stem not in found:
                try:
                    found[path.stem] = read_text(path, most=MOST_SPEC_BYTES)
                except SpecError:
                    found[path.stem] = ""
    return dict(sorted(found.items()))


def chip_marks() -> dict[str, str]:
    """What to know of each chip before using it: its status unless it ships, and what its file
    lacks. A scan of lines, not a parse.
    """
    found, marks = texts("chip"), {}
    for name, text in found.items():
        base = re.search(r"^extends: *(\S+)", text, re.MULTILINE)
        full = text + found.get(base[1], "") if base else text
        status = re.search(r"^status: *(\w+)", full, re.MULTILINE)
        words = [status[1]] if status and status[1] != "shipping" else []
        lacks = [
            what
            for what, key in (("no scale_up", "scale_up:"), ("no TDP", "tdp:"))
            if not re.search(rf"^{key}", full, re.MULTILINE)
        ]
        peaks = re.search(r"^peak:.*\n((?: .*\n)*)", full, re.MULTILINE)
        if peaks is None or not re.search(r"^ +bf16:", peaks[1], re.MULTILINE):
            lacks.insert(0, "no bf16 peak" if peaks else "no peak")
        stops = [lack for lack in lacks if lack != "no TDP"]
        words += [f"incomplete: {', '.join(stops)}"] if stops else []
        tdp = ["no TDP"] if "no TDP" in lacks else []
        marks[name] = "; ".join([*filter(None, [", ".join(words)]), *tdp])
    return marks


def find(family: str, name: str) -> FileRecord:
    """The file behind a name or a path; raises UnknownNameError with the nearest names, SpecError
    if unreadable.

    Names compare without case and with ``- _ .`` and space alike; a bare framework name takes its
    newest version. A topology may be written inline.
    """
    if _is_path(name):
        path = Path(name)
        if family == "model" and is_file(path / HUGGING_FACE_FILE):
            path /= HUGGING_FACE_FILE
        return _read(path, _name_of(path), str(path) if path != Path(name) else name, "path")
    wanted = _plain(name)
    matches = []
    for root, origin in _roots():
        for path in _files(root, family):
            if _plain(path.stem) == wanted:
                matches.append((path, root, origin))
                break
    if not matches and family in ("software", "training"):
        versions = [known for known in names(family) if known.rpartition("-")[0] == name.lower()]
        if versions:
            return find(family, max(versions, key=_version))
    if not matches and family == "model" and is_file(Path(name) / HUGGING_FACE_FILE):
        return find(family, os.path.join(name, HUGGING_FACE_FILE))
    if not matches and family == "topology":
        from cluster_sim.specs.inline import inline_topology, is_inline

        if is_inline(name):
            return inline_topology(name)
    if not matches:
        raise UnknownNameError(family, name, [*_frameworks(family), *names(family)])
    path, root, origin = matches[0]
    shown = f"{origin}:{path.relative_to(root)}" if origin == "packaged" else _shown(path)
    record = _read(path, path.stem, shown, origin)
    packaged = next((place for place, _, start in matches[1:] if start == "packaged"), None)
    if origin != "packaged" and packaged is not None:
        return replace(record, shadows=digest(packaged) != record.sha256)
    return record


def _frameworks(family: str) -> list[str]:
    """The bare names that stand for the newest version of a framework."""
    if family not in ("software", "training"):
        return []
    return sorted({known.rpartition("-")[0] for known in names(family)} - {""})


def beside(record: FileRecord, wanted: Iterable[str]) -> dict[str, FileRecord]:
    """The files of these names that lie in the folder of a Hugging Face config."""
    path = Path(record.path)
    if path.name != HUGGING_FACE_FILE:
        return {}
    paths = [path.with_name(name) for name in wanted]
    return {
        path.name: _read(path, path.name, str(path), "path") for path in paths if path.is_file()
    }


def packaged_root() -> Path:
    """The folder that holds the packaged topologies/ and workloads/: inside a wheel, or the
    checkout.
    """
    inside = _PACKAGE / "_data"
    return inside if inside.is_dir() else _PACKAGE.parent


def _roots() -> Iterator[tuple[Path, str]]:
    here = Path.cwd()
    packaged = packaged_root()
    if here.resolve() != packaged:
        yield here, "cwd"
    for part in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if part:
            yield Path(part), "env"
    yield packaged, "packaged"


def _files(root: Path, family: str) -> list[Path]:
    folder = root / FOLDERS[family]
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _is_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith((".yaml", ".yml", ".json"))


def _name_of(path: Path) -> str:
    """A file's name without suffix; a Hugging Face config takes its folder's."""
    return (path.parent.name if path.name == HUGGING_FACE_FILE else "") or path.stem


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower())


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _read(path: Path, name: str, shown: str, origin: str) -> FileRecord:
    if not os.path.lexists(path):
        raise SpecError(f"{shown}: no such file")
    data = read_bytes(path, shown=shown, most=MOST_SPEC_BYTES)
    found = hashlib.sha256(data).hexdigest()
    text = decoded(data, shown)
    return FileRecord(name=name, path=shown, sha256=found, origin=origin, text=text)
