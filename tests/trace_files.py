"""Small Chakra traces, written byte by byte: what the reader is tested against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

COMP, SEND, RECV, COLL, LOAD, METADATA = 4, 5, 6, 7, 2, 1
ALL_REDUCE, ALL_GATHER = 0, 2


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def attribute(name: str, value: int | str | bool) -> bytes:
    if isinstance(value, bool):
        return text(1, name.encode()) + number(27, int(value))
    if isinstance(value, int):
        return text(1, name.encode()) + number(9, value)
    return text(1, name.encode()) + text(29, value.encode())


def node(
    ident: int,
    kind: int,
    after: Sequence[int] = (),
    *,
    micros: int = 0,
    name: str = "",
    inputs: str = "",
    **attributes: int | str | bool,
) -> bytes:
    parts = [number(1, ident), text(2, (name or f"node{ident}").encode()), number(3, kind)]
    if after:
        parts.append(text(5, b"".join(varint(one) for one in after)))  # packed data_deps
    if micros:
        parts.append(number(7, micros))
    if inputs:
        parts.append(text(8, text(1, inputs.encode())))
    parts += [text(10, attribute(key, value)) for key, value in attributes.items()]
    return b"".join(parts)


def reduce_(ident: int, after: Sequence[int] = (), size: int = 1 << 20, **more: int | str) -> bytes:
    return node(ident, COLL, after, **{"comm_type": ALL_REDUCE, "comm_size": size, **more})


def send(
    ident: int, to: int, after: Sequence[int] = (), size: int = 1 << 20, tag: int = 0
) -> bytes:
    return node(ident, SEND, after, comm_dst=to, comm_size=size, comm_tag=tag)


def recv(
    ident: int, source: int, after: Sequence[int] = (), size: int = 1 << 20, tag: int = 0
) -> bytes:
    return node(ident, RECV, after, comm_src=source, comm_size=size, comm_tag=tag)


def encoded(nodes: Sequence[bytes], metadata: bytes | None = None) -> bytes:
    first = text(1, b"0.0.4") if metadata is None else metadata
    return b"".join(varint(len(one)) + one for one in [first, *nodes])


def write(folder: Path, ranks: Mapping[int, Sequence[bytes]], name: str = "job") -> list[Path]:
    """A file a rank; returns their paths in order of rank."""
    paths = []
    for rank, nodes in ranks.items():
        path = folder / f"{name}.{rank}.et"
        path.write_bytes(encoded(nodes))
        paths.append(path)
    return paths


HEADER = (
    "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: {tp} ep: {ep} pp: {pp} vpp: 1 "
    "ga: {ga} all_gpus: {ranks} checkpoints: 0 checkpoint_initiates: 0{more}"
)
LAYER = "layer -1 500000 ALLGATHER 33554432 400000 REDUCESCATTER 33554432 400000 {dp} 100"


def workload(
    layers: Sequence[str],
    *,
    tp: int = 2,
    ep: int = 1,
    pp: int = 1,
    ga: int = 1,
    ranks: int = 8,
    more: str = "",
) -> str:
    head = HEADER.format(tp=tp, ep=ep, pp=pp, ga=ga, ranks=ranks, more=more)
    return "\n".join([head, str(len(layers)), *layers]) + "\n"
