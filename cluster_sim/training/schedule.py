"""Pipeline schedules: what each stage does in which order, and what each operation waits for.

Virtual stages number the parts of the pipeline that micro-batches pass; a chunk of a stage is one
of them:

- one chunk: virtual = stage;
- interleaved: virtual = chunk p + stage;
- DualPipeV: 0 .. p-1 on the way out, p .. 2p-1 on the way back, virtual = 2p-1 - stage;
- DualPipe: numbered as DualPipeV, but two pipelines of p that hold the same parameters: virtual
  stages v and p + v are two copies of one part of the model, each fed with half of the
  micro-batches from its own end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster_sim.errors import SpecError, nearest
from cluster_sim.training.orders import (
    Kind,
    Op,
    bidirectional,
    gpipe,
    interleaved,
    one_f_one_b,
    zb_h1,
)

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v")
SPLIT = ("zb_h1", "dualpipe", "dualpipe_v")  # weight gradients apart
V_SHAPED = ("dualpipe", "dualpipe_v")

# What a node does, in the order of the table of durations.
FORWARD, BACKWARD, WHOLE_BACKWARD, WEIGHT, PAIR = range(5)


_AFTER: dict[Kind, Kind] = {"B": "F", "W": "B"}  # what goes before on the same virtual stage
_Key = tuple[Kind, int, int]  # an operation: its kind, virtual stage and micro-batch


class Node(NamedTuple):
    """An operation, or an overlapped pair of them, and what it waits for.

    ``before`` is the former node of its stage and ``needs`` are the nodes whose results it gets,
    each with the boundary (v: between virtual stages v and v + 1) that they cross, -1 for none;
    -1 for no node. ``virtual`` is that of its first operation.
    """

    stage: int
    ops: tuple[Op, ...]
    doing: int
    virtual: int
    before: int
    needs: tuple[tuple[int, int, Kind], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """The operations of each stage in order; ``nodes`` are the same in an order in which each comes
    after all that it waits for.

    ``copies``: of the parameters. ``peak_alive``: the most (micro-batch, chunk) pairs of which a
    stage holds activations at a time, from the forward pass to the last backward operation; divided
    by ``chunks`` that is micro-batches of the stage's layers where one copy is held.

    Raises ValueError where the operations wait for each other.
    """

    name: str
    stages: int
    micro_batches: int
    chunks: int
    copies: int
    v_shaped: bool
    split: bool
    ops: tuple[tuple[Op, ...], ...]
    nodes: tuple[Node, ...] = field(init=False, repr=False)
    peak_alive: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", _in_valid_order(self))
        object.__setattr__(self, "peak_alive", tuple(_peak_alive(ops) for ops in self.ops))

    @property
    def virtual_stages(self) -> int:
        """Of all stages and copies together."""
        return self.stages * self.chunks

    @property
    def parts(self) -> int:
        """Parts that the model is cut into: virtual stage v holds part ``v % parts``."""
        return self.virtual_stages // self.copies

    def virtual(self, stage: int, chunk: int) -> int:
        """The virtual stage that is a chunk of a stage."""
        if self.v_shaped and chunk:
            return 2 * self.stages - 1 - stage
        return chunk * self.stages + stage

    def home(self, virtual: int) -> tuple[int, int]:
        """The stage and chunk of a virtual stage."""
        chunk, stage = divmod(virtual, self.stages)
        return (self.stages - 1 - stage if self.v_shaped and chunk else stage), chunk

    def crosses(self, boundary: int) -> bool:
        """Whether micro-batches go from virtual stage ``boundary`` to the next, and leave the stage
        for it.
        """
        last = (boundary + 1) % self.parts == 0
        return not last and self.home(boundary)[0] != self.home(boundary + 1)[0]


def schedule(
    name: str, stages: int, micro_batches: int, chunks: int = 1, group: int | None = None
) -> Schedule:
    """The schedule of that name for p ``stages`` and m ``micro_batches`` of a step.

    ``chunks`` (v) is for interleaved; DualPipe and DualPipeV always have two. ``group``: how many
    micro-batches in a row pass a chunk of interleaved; p unless given (Megatron-Core's
    microbatch_group_size_per_vp_stage).

    >>> s = schedule("1f1b", 2, 3)
    >>> ["".join(op.kind for op in ops) for ops in s.ops], s.peak_alive
    (['FFBFBB', 'FBFBFB'], (2, 1))

    Raises SpecError for counts that the schedule cannot do, with the nearest that it can.
    """
    check_schedule(name, stages, micro_batches, chunks, group)
    p, m = stages, micro_batches
    if name == "gpipe":
        ops = [gpipe(m) for _ in range(p)]
    elif name == "1f1b":
        ops = [one_f_one_b(p, m, s) for s in range(p)]
    elif name == "interleaved":
        ops = [interleaved(p, m, chunks, group or p, s) for s in range(p)]
    elif name == "zb_h1":
        ops = [zb_h1(p, m, s) for s in range(p)]
    elif name == "dualpipe_v":
        ops = [bidirectional(p, m, s) for s in range(p)]
    else:
        half, firsts = p // 2, (0, m // 2)
        ops = [
            bidirectional(half, m // 2, min(s, p - 1 - s), int(s >= half), firsts) for s in range(p)
        ]
    return Schedule(
        name=name,
        stages=p,
        micro_batches=m,
        chunks=2 if name in V_SHAPED else chunks,
        copies=2 if name == "dualpipe" else 1,
        v_shaped=name in V_SHAPED,
        split=name in SPLIT,
        ops=tuple(tuple(stage_ops) for stage_ops in ops),
    )


def check_schedule(name: str, p: int, m: int, v: int, group: int | None = None) -> None:
    """Raise SpecError for counts that the schedule cannot do: p stages, m micro-batches, v chunks
    of a stage, micro-batches of a ``group``.
    """
    if name not in SCHEDULES:
        near = nearest(name, SCHEDULES)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(SCHEDULES)}"
        raise SpecError(f"schedule: no pipeline schedule named '{name}'; {hint}")
    for key, count in (("pp", p), ("micro_batches", m), ("chunks", v), ("group", group)):
        if count is not None and count < 1:
            raise SpecError(f"{key}: must be at least 1 (got {count})")
    if name in V_SHAPED and v not in (1, 2):
        raise SpecError(f"chunks: {name} always has 2 of a stage (got {v}); leave it out")
    if name != "interleaved" and name not in V_SHAPED and v > 1:
        raise SpecError(f"chunks: {name} has 1 of a stage (got {v}); interleaved takes more")
    if group is not None and name != "interleaved":
        raise SpecError(f"group: {name} has none (got {group}); leave it out or take interleaved")
    if name == "dualpipe" and p % 2:
        other = f"{p - 1} or {p + 1}" if p > 1 else "2"
        raise SpecError(
            f"pp: dualpipe feeds both ends and takes an even number of stages (got {p}); "
            f"take {other}, or dualpipe_v"
        )
    if name in V_SHAPED and (m < 2 * p or (name == "dualpipe" and m % 2)):
        near_m = str(2 * p) if m < 2 * p else f"{m - 1} or {m + 1}"
        even = "an even number of at least" if name == "dualpipe" else "at least"
        raise SpecError(f"micro_batches: {name} takes {even} 2 x pp(={p}) (got {m}); take {near_m}")
    if name == "interleaved":
        _check_interleaved(p, m, group or p)


def _check_interleaved(p: int, m: int, group: int) -> None:
    """Megatron-Core's rule: p <= group <= m, and the last group is whole or at least p."""
    if group < p:
        raise SpecError(f"group: must be at least pp(={p}) (got {group}); take {p}")

    def fits(count: int) -> bool:
        return count >= group and (count % group == 0 or count % group >= p)

    if fits(m):
        return
    below = next((count for count in range(m - 1, 0, -1) if fits(count)), None)
    above = next(count for count in range(m + 1, m + 2 * group + 1) if fits(count))
    rule = f"a multiple of pp(={p})"
    if group > p:
        rule = f"groups of {group}, the last of at least pp(={p})"
    raise SpecError(
        f"micro_batches: interleaved takes {rule} (got {m}); "
        f"take {f'{below} or ' if below else ''}{above}, or 1f1b"
    )


def _peak_alive(ops: Sequence[Op]) -> int:
    alive = peak = 0
    for op in ops:
        if op.kind == "F":
            alive += 1
            peak = max(peak, alive)
        elif op.whole or op.kind == "W":
            alive -= 1
    return peak


def _in_valid_order(plan: Schedule) -> tuple[Node, ...]:
    """Runs through all stages, each as far as it gets."""
    feeds = _feeds(plan)
    done: dict[_Key, int] = {}  # the node of an operation on a virtual stage
    waiting: dict[_Key, int] = {}  # the stage that waits for it
    at, before = [0] * plan.stages, [-1] * plan.stages
    nodes: list[Node] = []
    ready = deque(range(plan.stages))
    while ready:
        stage = ready.popleft()
        ops = plan.ops[stage]
        virtual = [plan.virtual(stage, chunk) for chunk in range(plan.chunks)]
        while at[stage] < len(ops):
            op = ops[at[stage]]
            together = (op, ops[at[stage] + 1]) if op.paired else (op,)
            keys = [(one.kind, virtual[one.chunk], one.micro_batch) for one in together]
            needs, missing = _needs(feeds, keys, done)
            if missing is not None:
                waiting[missing] = stage
                break
            number = len(nodes)
            nodes.append(
                Node(stage, together, _doing(together), keys[0][1], before[stage], tuple(needs))
            )
            before[stage] = number
            at[stage] += len(together)
            for key in keys:
                done[key] = number
                if key in waiting:
                    ready.append(waiting.pop(key))
    stuck = [s for s in range(plan.stages) if at[s] < len(plan.ops[s])]
    if stuck:
        s = stuck[0]
        raise ValueError(f"{plan.name}: stage {s} waits for ever before {plan.ops[s][at[s]]}")
    return tuple(nodes)


def _feeds(plan: Schedule) -> dict[tuple[Kind, int], tuple[int, int]]:
    """The virtual stage that feeds a pass of another, and the boundary between them (-1: within a
    stage).
    """
    feeds: dict[tuple[Kind, int], tuple[int, int]] = {}
    for boundary in range(plan.virtual_stages - 1):
        if (boundary + 1) % plan.parts:
            crossed = boundary if plan.crosses(boundary) else -1
            feeds["F", boundary + 1] = boundary, crossed
            feeds["B", boundary] = boundary + 1, crossed
    return feeds


def _needs(
    feeds: dict[tuple[Kind, int], tuple[int, int]], keys: Sequence[_Key], done: dict[_Key, int]
) -> tuple[list[tuple[int, int, Kind]], _Key | None]:
    """What operations get from others, and the first of all that is not done yet."""
    needs: list[tuple[int, int, Kind]] = []
    for kind, virtual, micro_batch in keys:
        own = _AFTER.get(kind)
        if own is not None and (own, virtual, micro_batch) not in done:
            return needs, (own, virtual, micro_batch)
        feed = feeds.get((kind, virtual))
        if feed is not None:
            key = (kind, feed[0], micro_batch)
            number = done.get(key)
            if number is None:
                return needs, key
            needs.append((number, feed[1], kind))
    return needs, None


def _doing(ops: Sequence[Op]) -> int:
    if len(ops) == 2:
        return PAIR
    kind = ops[0].kind
    if kind == "B":
        return WHOLE_BACKWARD if ops[0].whole else BACKWARD
    return FORWARD if kind == "F" else WEIGHT
