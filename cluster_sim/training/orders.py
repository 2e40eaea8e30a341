"""The order of a stage's operations in each pipeline schedule.

A stage is one of p in a pipeline; its chunks are the parts of the model that it holds. All
functions are pure: they say what a stage does one after the other, never when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["F", "B", "W"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An operation of a stage on a micro-batch.

    ``F`` is the forward pass, ``B`` the gradient of its inputs, ``W`` that of its weights.
    ``whole``: a backward pass that holds its weight gradient. ``paired``: a forward pass that runs
    as one with the backward pass after it, each computing while the other communicates.
    """

    kind: Kind
    micro_batch: int
    chunk: int = 0
    whole: bool = False
    paired: bool = False


def gpipe(micro_batches: int) -> list[Op]:
    """All forward passes, then all backward passes, the last first.

    Source: Huang et al. 2019, GPipe (arXiv 1811.06965), figure 2c.
    """
    forwards = [Op(kind="F", micro_batch=i) for i in range(micro_batches)]
    backwards = [Op(kind="B", micro_batch=i, whole=True) for i in range(micro_batches)]
    return forwards + backwards[::-1]


def one_f_one_b(stages: int, micro_batches: int, stage: int) -> list[Op]:
    """As many forward passes as there are stages behind, then forward and backward in turn.

    Source: Narayanan et al. 2021 (arXiv 2104.04473), figure 4 top; Megatron-Core,
    pipeline_parallel/schedules.py: the stages behind are the warm-up.
    """
    forwards = [Op(kind="F", micro_batch=i) for i in range(micro_batches)]
    backwards = [Op(kind="B", micro_batch=i, whole=True) for i in range(micro_batches)]
    return _alternate(forwards, backwards, stages - stage - 1)


def interleaved(stages: int, micro_batches: int, chunks: int, group: int, stage: int) -> list[Op]:
    """1F1B over chunks: ``group`` micro-batches pass a chunk of all stages before the next chunk.

    Source: Narayanan et al. 2021 (arXiv 2104.04473), figure 4 bottom; Megatron-Core,
    pipeline_parallel/schedules.py: a warm-up of 2 (p - stage - 1) + (v - 1) group passes.
    """
    order = [
        (micro_batch, chunk)
        for first in range(0, micro_batches, group)
        for chunk in range(chunks)
        for micro_batch in range(first, min(first + group, micro_batches))
    ]
    forwards = [Op(kind="F", micro_batch=i, chunk=c) for i, c in order]
    backwards = [Op(kind="B", micro_batch=i, chunk=chunks - 1 - c, whole=True) for i, c in order]
    return _alternate(forwards, backwards, 2 * (stages - stage - 1) + (chunks - 1) * group)


def _alternate(forwards: Sequence[Op], backwards: Sequence[Op], warm_up: int) -> list[Op]:
    first = min(warm_up, len(forwards))
    ops = list(forwards[:first])
    for forward, backward in zip(forwards[first:], backwards, strict=False):
        ops += (forward, backward)
    return ops + list(backwards[len(forwards) - first :])


def zb_h1(stages: int, micro_batches: int, stage: int) -> list[Op]:
    """1F1B with split backward passes: stage s runs its weight gradients s micro-batches late, so
    that input gradients pass without waiting and no stage holds more than p micro-batches.

    Model: of equal stages each waits (p-1) (F + B - 2W), B with W, while W <= F and W <= B - W.
    Source: Qi et al. 2024, Zero Bubble Pipeline Parallelism (arXiv 2401.10241), figure 3 top.
    """
    warm_up = min(stages - stage - 1, micro_batches)
    ops = [Op(kind="F", micro_batch=i) for i in range(warm_up)]
    for i in range(micro_batches):
        if warm_up + i < micro_batches:
            ops.append(Op(kind="F", micro_batch=warm_up + i))
        ops.append(Op(kind="B", micro_batch=i))
        if i >= stage:
            ops.append(Op(kind="W", micro_batch=i - stage))
    late = range(max(micro_batches - stage, 0), micro_batches)
    return ops + [Op(kind="W", micro_batch=i) for i in late]


class _Feed:
    """What a stage of a bidirectional schedule did of its two chunks; ``near`` is the chunk that
    micro-batches reach first.
    """

    def __init__(self, near: int, firsts: tuple[int, int]) -> None:
        self.near = near
        self.next = {"F": list(firsts), "B": list(firsts)}
        self.late: deque[Op] = deque()
        self.ops: list[Op] = []

    def take(self, kind: Kind, far: int, *, whole: bool = False, paired: bool = False) -> None:
        """The next forward or backward pass of the near (0) or far (1) chunk."""
        chunk = self.near ^ far
        micro_batch = self.next[kind][chunk]
        self.next[kind][chunk] += 1
        self.ops.append(
            Op(kind=kind, micro_batch=micro_batch, chunk=chunk, whole=whole, paired=paired)
        )
        if kind == "B" and not whole:
            self.late.append(Op(kind="W", micro_batch=micro_batch, chunk=chunk))

    def pair(self, forward: int, backward: int) -> None:
        """A forward and a backward pass that overlap."""
        self.take("F", forward, paired=True)
        self.take("B", backward, whole=True)

    def weight(self) -> None:
        """The oldest weight gradient that is late."""
        self.ops.append(self.late.popleft())


def bidirectional(
    depth: int, micro_batches: int, distance: int, near: int = 0, firsts: tuple[int, int] = (0, 0)
) -> list[Op]:
    """DualPipe's order for the stage at ``distance`` from an end of ``depth`` stages, with
    ``micro_batches`` on each of its two chunks, that begin with ``firsts``.

    DualPipe has two halves of p/2 stages; DualPipeV is one of them, with depth p.

    Model: with n = depth - 1 and b = B - W, the stages in the middle wait
    max(nF, nb - F) + n (F&B - W - min(b, W)) where a pair F&B takes no less than F or B; the
    published n (F&B + B - 3W) is that for F = b >= W. Stage d < n - 1 has n - 1 - d pairs less than
    these, and waits (n - 1 - d) (F + B - F&B) less.
    Source: DeepSeek, DualPipe (github.com/deepseek-ai/DualPipe), dualpipe.py and dualpipev.py,
    steps 1 to 8.
    """
    feed, behind = _Feed(near, firsts), depth - distance - 1
    for _ in range(2 * behind):
        feed.take("F", 0)
    for _ in range(distance + 1):
        feed.take("F", 0)
        feed.take("F", 1)
    for _ in range(behind):
        feed.take("B", 1)
        feed.weight()
        feed.take("F", 1)
    for i in range(micro_batches - 2 * depth + distance + 1):
        if i == 0 and behind == 0:
            feed.take("F", 0)  # apart, so that the other half gets its input sooner
            feed.take("B", 1, whole=True)
        else:
            feed.pair(0, 1)
        feed.pair(1, 0)
    for _ in range(behind):
        feed.take("B", 1, whole=True)
        feed.pair(1, 0)
    # Of the last 2 (distance + 1) backward passes the second half is split, from one that belongs
    # to the far chunk where the distance is odd.
    for i in range(2 * (distance + 1)):
        feed.take("B", (i + 1) % 2, whole=i < distance + 1)
    for _ in range(behind):
        feed.weight()
        feed.take("B", 0)
    for _ in range(distance + 1):
        feed.weight()
    return feed.ops
