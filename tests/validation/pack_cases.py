"""How the packaged cases were made: facts of measured cases, without the words of their sources.

    python tests/validation/pack_cases.py FOLDER

FOLDER holds the files of ``FILES`` with the columns that ``docs/reference.md`` names under
"Measured cases". Notes are dropped but for limits and settings that a replay needs, which get
columns of their own; columns that are always empty are dropped; the licence of each source is
added.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FILES: dict[str, tuple[str, ...]] = {
    "serving": ("serving_cases.csv",),
    "operators": ("op_cases.csv",),
    "collectives": ("collective_cases.csv", "collective_cases_2026_11.csv"),
    "training": ("training_cases.csv",),
}
# Licence of what each source publishes, by the beginning of its name; numbers alone were taken.
LICENCES = {
    "ai-dynamo/aiconfigurator": "Apache-2.0",
    "mlcommons/": "Apache-2.0",
    "MLPerf Inference": "Apache-2.0",
    "NVIDIA/TensorRT-LLM": "Apache-2.0",
    "casys-kaist/LLMServingSim": "MIT",
    "vllm-project/vllm-ascend": "Apache-2.0",
    "kvcache-ai/Mooncake": "Apache-2.0",
    "deepseek-ai/open-infra-index": "CC0-1.0",
    "deepseek-ai/DeepGEMM": "MIT",
    "deepseek-ai/DeepEP": "MIT",
    "Azure/": "MIT",
    "microsoft/": "MIT",
    "aws-samples/": "MIT-0",
    "stas00/ml-engineering": "CC-BY-SA-4.0",
    "NVIDIA DGX Cloud": "MIT",
    "NVIDIA Megatron-Bridge": "Apache-2.0",
    "NVIDIA NeMo": "Apache-2.0",
    "MosaicML llm-foundry": "Apache-2.0",
    "MLPerf Training": "Apache-2.0",
    "SimuMax": "Apache-2.0",
    "torchtitan": "BSD-3-Clause",
    "Megatron-LM": "BSD-3-Clause",
    "Korthikanti": "Apache-2.0",
}
AS_PUBLISHED = "as published"
DROPPED = ("note", "split")
DROPPED_FLAGS = ("released_after_blind",)  # of how a row came here, not of what it measures
_LIMITS = re.compile(r"p99 limits TTFT / TPOT ([\d.]+) s / ([\d.]+) ms")
_PEAK = re.compile(r"measured peak memory ([\d.]+) GiB")
_KERNEL = re.compile(r"kernel (\w+)")
_VERSION = re.compile(r"version ([\w.]+)")


def licence_of(source: str) -> str:
    """The licence of a source."""
    found = (name for begin, name in LICENCES.items() if source.startswith(begin))
    return next(found, AS_PUBLISHED)


def from_note(kind: str, note: str) -> dict[str, str]:
    """What a replay needs of a note."""
    found: dict[str, str] = {}
    if kind == "serving":
        if limits := _LIMITS.search(note):
            found["ttft_limit_ms"] = f"{float(limits[1]) * 1e3:g}"
            found["tpot_limit_ms"] = f"{float(limits[2]):g}"
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if value := re.search(rf"{name} (\d+)", note):
                found[name] = value[1]
    if kind == "training" and (peak := _PEAK.search(note)):
        found["peak_memory_gib"] = peak[1]
    if kind == "operators":
        if kernel := _KERNEL.search(note):
            found["kernel"] = kernel[1]
        if version := _VERSION.search(note):
            found["framework_version"] = version[1]
    return found


def packed_rows(kind: str, folder: Path) -> list[dict[str, str]]:
    """The rows of a packaged file, made from a folder of measured cases."""
    rows = []
    for file in FILES[kind]:
        text = (folder / file).read_text(encoding="utf-8")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            kept = {name: cell for name, cell in row.items() if name not in DROPPED}
            flags = [flag for flag in row["flags"].split(";") if flag not in DROPPED_FLAGS]
            kept["flags"] = ";".join(flags)
            kept["licence"] = licence_of(row["source"])
            rows.append({**kept, **from_note(kind, row["note"])})
    names = list(dict.fromkeys(name for row in rows for name in row))
    used = [name for name in names if any(row.get(name) for row in rows)]
    return [{name: row.get(name, "") for name in used} for row in rows]


def pack(kind: str, folder: Path) -> bytes:
    """A packaged file: gzip without a time stamp, so that the same cases give the same bytes."""
    text, rows = io.StringIO(), packed_rows(kind, folder)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(text.getvalue().encode())
    return packed.getvalue()


def main() -> None:
    """Write all packaged files."""
    for kind in FILES:
        (ROOT / "cases" / f"{kind}.csv.gz").write_bytes(pack(kind, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
