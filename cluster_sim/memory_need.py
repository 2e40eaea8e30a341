"""What a command will need of memory, told from counts before it starts.

The bytes of one request, pair of ranks or task were measured as the growth of the peak resident set
of whole commands (CPython 3.11, numpy 2, x86-64); a test holds those of serving to a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster_sim.errors import SpecError

PROGRAM_BYTES = 60e6  # of a run with next to nothing in it
DEFAULT_MOST = "4 GiB"
GIB = 2.0**30
REQUEST_BYTES = 550.0  # drawn, played and written
STEP_BYTES = 24.0  # of an engine
RECORDED_STEP_BYTES = 130.0  # more of each with a timeline
STEP_TASK_BYTES = 1_200.0  # a micro-batch in a virtual stage of a training step
RECORDED_TASK_BYTES = 2_000.0  # more of each with a timeline
PAIR_BYTES = 32.0  # two ranks of a collective in which everybody sends to everybody
EXPERT_PAIR_BYTES = 4.0  # and of a dispatch or combine of experts
NODE_BYTES = 1_500.0  # a node of an execution trace on one rank, read, priced and played


@dataclass(frozen=True, slots=True)
class Need:
    """So many things of a kind, and the bytes that one takes at the moment of most memory."""

    count: float
    noun: str
    bytes_each: float

    @property
    def bytes(self) -> float:
        """All of them together."""
        return self.count * self.bytes_each


def needed_bytes(needs: Sequence[Need]) -> float:
    """The peak resident bytes of a command."""
    return PROGRAM_BYTES + sum(need.bytes for need in needs)


def check_memory(needs: Sequence[Need], most_bytes: float | None, way_out: str) -> None:
    """Raise SpecError where a command would need more memory than it may take, if that is said."""
    needed = needed_bytes(needs)
    if most_bytes is None or needed <= most_bytes:
        return
    parts = ", ".join(
        f"{need.count:,.0f} {need.noun} of {need.bytes_each:,.0f} bytes"
        for need in needs
        if need.bytes > 0.1 * needed
    )
    raise SpecError(
        f"would need about {needed / GIB:,.1f} GiB of memory ({parts}), more than the "
        f"{most_bytes / GIB:,.3g} GiB of --max-memory; {way_out}, or allow more with --max-memory"
    )


def run_needs(requests: int, steps: float, *, record: bool) -> list[Need]:
    """Of a serving run; ``record``: for a timeline."""
    each = STEP_BYTES + (RECORDED_STEP_BYTES if record else 0.0)
    return [Need(requests, "requests", REQUEST_BYTES), Need(steps, "engine steps", each)]


def check_run_memory(
    requests: int, steps: float, most_bytes: float | None, *, record: bool
) -> None:
    """Raise SpecError for a serving run of too many requests or steps."""
    needs = run_needs(requests, steps, record=record)
    check_memory(needs, most_bytes, "run fewer with --requests")


def check_step_memory(tasks: int, most_bytes: float | None, *, record: bool) -> None:
    """Raise SpecError for a training step of too many tasks, micro-batches times virtual stages."""
    each = STEP_TASK_BYTES + (RECORDED_TASK_BYTES if record else 0.0)
    needs = [Need(tasks, "tasks (micro-batches x stages)", each)]
    check_memory(needs, most_bytes, "take a smaller --global-batch or a larger micro-batch")


def check_collective_memory(ranks: int, operation: str, most_bytes: float | None) -> None:
    """Raise SpecError for a collective between too many pairs of ranks."""
    each = PAIR_BYTES if operation == "all_to_all" else EXPERT_PAIR_BYTES
    if operation == "all_to_all" or operation.startswith("moe"):
        needs = [Need(float(ranks) ** 2, "pairs of ranks", each)]
        check_memory(needs, most_bytes, "take fewer --ranks or --chips")


def check_replay_memory(nodes: int, most_bytes: float | None) -> None:
    """Raise SpecError for execution traces of too many nodes, ranks that repeat others included."""
    needs = [Need(nodes, "nodes", NODE_BYTES)]
    check_memory(needs, most_bytes, "give fewer ranks or a shorter trace")
