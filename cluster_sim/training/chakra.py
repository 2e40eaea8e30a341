"""MLCommons Chakra execution traces: one file a rank, as protobuf or as JSON.

Source: mlcommons/chakra, schema/protobuf/et_def.proto; attributes as ASTRA-sim and the PyTorch
converter write them. Times are microseconds; the size of an all-gather is the part that a rank
brings (astra-sim Ring.cc), here the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.find import Files, read_data
from cluster_sim.text_file import decoded, json_value, parse_json
from cluster_sim.training.chakra_messages import read_messages
from cluster_sim.training.task_graph import (
    EVERYBODY,
    Groups,
    Node,
    TaskGraph,
    did_you_mean,
    numbers,
)

NODE_TYPES = (
    "INVALID_NODE",
    "METADATA_NODE",
    "MEM_LOAD_NODE",
    "MEM_STORE_NODE",
    "COMP_NODE",
    "COMM_SEND_NODE",
    "COMM_RECV_NODE",
    "COMM_COLL_NODE",
    "STORAGE_NODE",
    "BATCH_NODE",
    "CHECKPOINT_NODE",
)
COLLECTIVES = {
    "ALL_REDUCE": "all_reduce",
    "REDUCE": "reduce",
    "ALL_GATHER": "all_gather",
    "GATHER": "gather",
    "SCATTER": "scatter",
    "BROADCAST": "broadcast",
    "ALL_TO_ALL": "all_to_all",
    "REDUCE_SCATTER": "reduce_scatter",
    "REDUCE_SCATTER_BLOCK": "reduce_scatter",
    "BARRIER": "barrier",
}
# Played as another that takes as long at the root: what a rank sends or gets is the same.
LIKE = {"gather": "all_gather", "scatter": "all_gather", "barrier": "all_reduce"}
BARRIER_BYTES = 4.0  # Source: assumed, one word, as a library's barrier reduces
MOST_RANKS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """A node as either form has it; attributes by name."""

    id: int
    name: str
    type: str
    after: tuple[int, ...]
    micros: float
    attributes: Mapping[str, Any]
    inputs: str = ""


def read_chakra(
    files: Sequence[tuple[Path, bytes]],
    *,
    ranks: int | None = None,
    groups: Mapping[str, tuple[int, ...]] | None = None,
    cut: bool = False,
) -> TaskGraph:
    """The graph of the ranks whose files are given; ``groups`` are the ranks of groups by name,
    beside those that the traces define.

    Raises SpecError with file, node and key for what is broken.
    """
    by_rank = _by_rank(files)
    count = max(by_rank) + 1 if ranks is None else ranks
    if max(by_rank) >= count:
        raise SpecError(
            f"{by_rank[max(by_rank)][0]}: is rank {max(by_rank)}, beyond --ranks {count}"
        )
    known: dict[str, Groups] = {name: (members,) for name, members in (groups or {}).items()}
    known[EVERYBODY] = (tuple(range(count)),)
    raws: list[tuple[int, Path, list[_Raw]]] = []
    for rank, (path, data) in sorted(by_rank.items()):
        rows = _json_nodes(path, data) if data.lstrip()[:1] == b"{" else _nodes(path, data)
        if not rows:
            raise SpecError(f"{path}: holds no nodes")
        raws.append((rank, path, rows))
        for row in rows:
            known.update(_defined_groups(row, known[EVERYBODY]))
    nodes = [_node(path, rank, row, known) for rank, path, rows in raws for row in rows]
    return TaskGraph(
        ranks=count,
        nodes=tuple(nodes),
        groups=known,
        files={rank: str(path) for rank, path, _ in raws},
        form="chakra",
        cut=cut,
        notes=_notes(nodes, [(rank, row) for rank, _, rows in raws for row in rows], cut),
    )


def bare_name(path: Path) -> str:
    """A file's name without its suffix, and without that of gzip behind it."""
    return Path(path.name.removesuffix(".gz")).stem


def rank_of(path: Path) -> int | None:
    """The rank that a file's name ends in, before its suffix: ``job.3.et`` is rank 3."""
    match = re.search(r"(?:^|[._-]|rank)(\d{1,7})$", bare_name(path))
    return int(match[1]) if match else None


def _by_rank(files: Sequence[tuple[Path, bytes]]) -> dict[int, tuple[Path, bytes]]:
    if len(files) == 1:
        path, data = files[0]
        rank = rank_of(path)
        return {0 if rank is None or rank >= MOST_RANKS else rank: (path, data)}
    found: dict[int, tuple[Path, bytes]] = {}
    for path, data in files:
        rank = rank_of(path)
        if rank is None:
            raise SpecError(f"{path}: whose rank? name the files NAME.0.et, NAME.1.et ...")
        if rank in found:
            raise SpecError(f"{path}: a second file of rank {rank}, beside {found[rank][0]}")
        found[rank] = (path, data)
    return found


def _nodes(path: Path, data: bytes) -> list[_Raw]:
    rows = []
    for message in read_messages(path, data):
        if not 0 <= message.type < len(NODE_TYPES):
            raise SpecError(
                f"{path}: node {message.id}: type {message.type} is unknown; known are 0 to "
                f"{len(NODE_TYPES) - 1} ({NODE_TYPES[-1]})"
            )
        rows.append(
            _Raw(
                id=message.id,
                name=message.name,
                type=NODE_TYPES[message.type],
                after=tuple(dict.fromkeys([*message.ctrl_deps, *message.data_deps])),
                micros=message.duration_micros,
                attributes={one.name: _value(one) for one in message.attr},
                inputs=message.inputs.values,
            )
        )
    return rows


def _value(attribute: Any) -> Any:
    kind = attribute.WhichOneof("value")
    if kind == "bool_list":
        return list(attribute.bool_list.values)
    return getattr(attribute, kind) if kind else None


def _json_nodes(path: Path, data: bytes) -> list[_Raw]:
    tree = parse_json(data, str(path))
    rows = tree.get("workload_graph", tree.get("nodes")) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise SpecError(f"{path}: no list of nodes under workload_graph or nodes")
    return [_json_node(path, number, row) for number, row in enumerate(rows)]


def _json_node(path: Path, number: int, row: Any) -> _Raw:
    where = f"{path}: node at place {number}"
    if not isinstance(row, dict):
        raise SpecError(f"{where}: must be an object with id, name, type (got {str(row)[:40]})")
    plain = {re.sub("[_ ]", "", str(key)).lower(): value for key, value in row.items()}
    attributes: dict[str, Any] = {}
    for one in plain.get("attr", ()) if isinstance(plain.get("attr", ()), list) else ():
        values = [value for key, value in one.items() if key not in ("name", "docString")]
        attributes[str(one.get("name"))] = values[0] if values else None
    for key in ("is_cpu_op", "num_ops", "tensor_size", "comm_type", "comm_size", "comm_src"):
        attributes |= _given(plain, key)
    for key in ("comm_dst", "comm_tag", "pg_name", "comm_group"):
        attributes |= _given(plain, key)
    kind = str(plain.get("nodetype", plain.get("type")))
    if kind.isdigit() and int(kind) < len(NODE_TYPES):
        kind = NODE_TYPES[int(kind)]
    if kind not in NODE_TYPES:
        hint = did_you_mean(kind, NODE_TYPES)
        raise SpecError(f"{where}: type: unknown (got {kind}){hint}")
    micros = plain.get("runtime", plain.get("durationmicros", 0))
    after = [*plain.get("ctrldeps", ()), *plain.get("datadeps", ())]
    return _Raw(
        id=_whole(where, "id", plain.get("id")),
        name=str(plain.get("name", "")),
        type=kind,
        after=tuple(dict.fromkeys(_whole(where, "a dependency", one) for one in after)),
        micros=_amount(where, "runtime", micros),
        attributes=attributes,
    )


def _given(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    short = key.replace("_", "")
    return {key: plain[short]} if short in plain else {}


def _whole(where: str, key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise SpecError(f"{where}: {key}: must be a whole number (got {value})") from None
    if number < 0 or (isinstance(value, float) and value != number):
        raise SpecError(f"{where}: {key}: must be a whole number from 0 on (got {value})")
    return number


def _amount(where: str, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SpecError(f"{where}: {key}: must be a number (got {value})") from None
    if not 0 <= number < float("inf"):
        raise SpecError(f"{where}: {key}: must not be negative, and finite (got {value})")
    return number


def _defined_groups(row: _Raw, everybody: Groups) -> dict[str, Groups]:
    """Groups that a metadata node of PyTorch defines: a JSON list inside a list of text."""
    text = row.inputs
    if row.type != "METADATA_NODE" or "pg_name" not in text:
        return {}
    text = text[text.find("[{") : text.rfind("}]") + 2].replace('\\"', '"')
    try:
        rows = json_value(text)
        found = {str(one["pg_name"]): tuple(int(r) for r in one.get("ranks", ())) for one in rows}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {name: (ranks,) if ranks else everybody for name, ranks in found.items()}


def _node(path: Path, rank: int, row: _Raw, groups: Mapping[str, Groups]) -> Node:
    where = f"{path}: node {row.id} '{row.name[:48]}'"
    base: dict[str, Any] = {"rank": rank, "id": row.id, "name": row.name, "after": row.after}
    seconds, attributes = row.micros * 1e-6, row.attributes
    on_host = str(attributes.get("is_cpu_op", False)).lower() in ("true", "1")

    def amount(key: str) -> float:
        return _amount(where, key, attributes.get(key) or 0)

    if row.type in ("MEM_LOAD_NODE", "MEM_STORE_NODE"):
        size = amount("tensor_size")
        return Node(kind="memory", bytes=size, seconds=seconds or None if size else seconds, **base)
    if row.type == "COMP_NODE" and not on_host:
        flop, size = amount("num_ops"), amount("tensor_size")
        timed = seconds > 0 or not (flop or size)
        return Node(
            kind="compute", seconds=seconds if timed else None, flop=flop, bytes=size, **base
        )
    if row.type in ("COMM_SEND_NODE", "COMM_RECV_NODE") and not on_host:
        sends = row.type == "COMM_SEND_NODE"
        peer = "comm_dst" if sends else "comm_src"
        if attributes.get(peer) is None:
            raise SpecError(f"{where}: {peer}: missing; a message needs the rank at its other end")
        return Node(
            kind="send" if sends else "recv",
            peer=_whole(where, peer, attributes[peer]),
            tag=_whole(where, "comm_tag", attributes.get("comm_tag") or 0),
            bytes=amount("comm_size"),
            **base,
        )
    if row.type == "COMM_COLL_NODE" and not on_host:
        if attributes.get("comm_type") is not None:
            return _collective(where, row, groups, amount("comm_size"), base)
        if not seconds:
            raise SpecError(f"{where}: comm_type: missing, and there is no time either; add one")
        return Node(kind="timed", seconds=seconds, **base)
    return Node(kind="host", seconds=seconds, **base)


def _collective(
    where: str, row: _Raw, groups: Mapping[str, Groups], size: float, base: dict[str, Any]
) -> Node:
    kind = str(row.attributes["comm_type"])
    known = list(COLLECTIVES)
    if kind.isdigit() and int(kind) < len(known):
        kind = known[int(kind)]
    plain = re.sub("[- ]", "_", kind).upper()
    if plain not in COLLECTIVES:
        hint = did_you_mean(plain, known)
        raise SpecError(f"{where}: comm_type: unknown (got {kind}){hint or '.'} There are 0 to 9")
    operation = COLLECTIVES[plain]
    given = row.attributes.get("pg_name") or row.attributes.get("comm_group")
    name = EVERYBODY if given in (None, "") else str(given)
    if name not in groups:
        raise SpecError(
            f"{where}: group '{name}' is not defined in the trace; give --groups FILE with "
            f'its ranks, such as {{"{name}": [0, 1]}}'
        )
    dims = row.attributes.get("involved_dim")
    if name == EVERYBODY and isinstance(dims, list) and not all(dims):
        raise SpecError(
            f"{where}: involved_dim leaves dimensions of the simulated network out, which says not "
            "which ranks; name the group (pg_name) and give --groups"
        )
    if operation in ("all_gather", "gather"):
        size *= len(groups[name][0])
    if operation == "barrier":
        size = BARRIER_BYTES
    return Node(
        kind="collective",
        operation=LIKE.get(operation, operation),
        group=name,
        bytes=size,
        **base,
    )


def _notes(nodes: list[Node], raws: list[tuple[int, _Raw]], cut: bool) -> tuple[str, ...]:
    notes = []
    timed = sum(node.kind == "timed" for node in nodes)
    if timed:
        notes.append(f"{timed} communications give no size: played for the time of the trace")
    empty = sum(node.kind == "compute" and node.seconds == 0 for node in nodes)
    if empty:
        notes.append(f"{empty} compute nodes give neither time nor FLOP: they take no time")
    like = {
        plain
        for _, row in raws
        if row.type == "COMM_COLL_NODE" and (plain := _plain(row)) in LIKE and plain != "barrier"
    }
    notes += [f"{one} is played as all_gather: as many bytes at the root" for one in sorted(like)]
    if cut:
        have = {(node.rank, node.id) for node in nodes}
        gone = sum((node.rank, one) not in have for node in nodes for one in node.after)
        notes.append(f"{gone} dependencies on nodes that are not in the trace count as done")
    return tuple(notes)


def _plain(row: _Raw) -> str:
    kind = str(row.attributes.get("comm_type"))
    names = list(COLLECTIVES)
    return COLLECTIVES.get(names[int(kind)] if kind.isdigit() and int(kind) < 10 else kind, "")


def read_groups(path: Path, records: Files | None = None) -> dict[str, tuple[int, ...]]:
    """Groups of ranks as ASTRA-sim writes them: a JSON object of lists by name."""
    tree = parse_json(decoded(read_data(path, records), str(path)), str(path))
    if not isinstance(tree, dict):
        raise SpecError(f'{path}: must be an object such as {{"0": [0, 1], "1": [2, 3]}}')
    found = {}
    for name, ranks in tree.items():
        if not isinstance(ranks, list) or not ranks:
            raise SpecError(f"{path}: {name}: must be a list of ranks (got {str(ranks)[:40]})")
        members = tuple(_whole(str(path), name, rank) for rank in ranks)
        if len(set(members)) < len(members):
            raise SpecError(f"{path}: {name}: names a rank twice ({numbers(members)})")
        found[name] = members
    return found
