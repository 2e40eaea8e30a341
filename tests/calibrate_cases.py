"""Synthetic timings of kernels, made from curves that a calibration has to find again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cluster_sim.specs.chip import Chip
from cluster_sim.studies.calibrate_forms import problem_of
from cluster_sim.studies.calibrate_rows import Timing

COLUMNS = "case_id,source,date,chip,framework,op,dtype,kv_dtype,m,n,k,batch,seq_len,heads,kv_heads"
COLUMNS += ",head_dim,experts,top_k,ep,tp,tokens,message_bytes,metric,value,flags,note"
SHAPES: dict[str, list[dict[str, int]]] = {
    "gemm": [
        {"m": m, "n": n, "k": k}
        for m in (1, 16, 128, 1024, 8192)
        for n, k in ((1536, 8192), (4096, 4096), (8192, 1024), (8192, 8192), (16384, 4096))
    ],
    "attention_prefill": [
        {"batch": batch, "seq_len": length, "heads": heads, "kv_heads": 8, "head_dim": 128}
        for batch in (1, 4)
        for length in (512, 1024, 4096, 16384)
        for heads in (16, 64)
    ],
    "attention_decode": [
        {"batch": batch, "seq_len": length, "heads": 8 * kv, "kv_heads": kv, "head_dim": 128}
        for batch in (1, 16, 256, 512)
        for length in (128, 1024, 8192)
        for kv in (1, 8)
    ],
    "mla_decode": [
        {"batch": batch, "seq_len": length, "heads": heads}
        for batch in (1, 16, 256)
        for length in (128, 1024, 8192)
        for heads in (16, 128)
    ],
    "moe_ffn": [
        {"tokens": t, "n": n, "k": 4096, "experts": e, "top_k": 2, "ep": 1, "tp": 1}
        for t in (1, 8, 64, 512, 4096, 32768)
        for n, e in ((14336, 8), (2048, 64))
    ],
    "glue": [{"message_bytes": 4**power} for power in range(2, 14)],
}
SHAPES["mla_prefill"] = [
    {name: shape[name] for name in ("batch", "seq_len", "heads")}
    for shape in SHAPES["attention_prefill"]
]
SECTION_OF = {"moe_ffn": "moe"}


def timings(
    chip: Chip, op: str, dtype: str, values: Mapping[str, float], flags: Iterable[str] = ()
) -> list[Timing]:
    """Kernels of a family that take exactly what the values of a curve say."""
    rows = [
        Timing(
            line=line,
            case_id=f"{op}-{dtype}-{line}",
            op=op,
            dtype=dtype,
            kv_dtype=dtype,
            framework="lab",
            source="synthetic",
            date="2026-01",
            flags=frozenset(flags),
            note="version 1.0",
            shape=shape,
            time_s=1.0,
        )
        for line, shape in enumerate(SHAPES[op], start=2)
    ]
    points = problem_of(chip, SECTION_OF.get(op, op), dtype, rows, best=1.0).points
    seconds = points.seconds(values, np.arange(len(rows)))
    return [
        Timing(**{name: getattr(row, name) for name in Timing.__slots__} | {"time_s": float(time)})
        for row, time in zip(rows, seconds, strict=True)
    ]


def csv_text(rows: Iterable[Timing], chip: str) -> str:
    """The rows as a file that the command reads."""
    lines = [COLUMNS]
    for row in rows:
        cells = {
            "case_id": row.case_id,
            "source": row.source,
            "date": row.date,
            "chip": chip,
            "framework": row.framework,
            "op": row.op,
            "dtype": row.dtype,
            "kv_dtype": row.kv_dtype,
            "metric": "time_us",
            "value": repr(row.time_s * 1e6),
            "flags": ";".join(sorted(row.flags)),
            "note": row.note,
            **{name: str(number) for name, number in row.shape.items()},
        }
        lines.append(",".join(cells.get(name, "") for name in COLUMNS.split(",")))
    return "\n".join(lines) + "\n"
