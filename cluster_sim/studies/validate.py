"""Measured cases replayed one by one: which are simulated, and what comes out beside them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker

import numpy as np

from cluster_sim.errors import SimulationError, SpecError, nearest
from cluster_sim.interrupts import SIGNALS
from cluster_sim.studies import (
    validate_collectives,
    validate_memory,
    validate_operators,
    validate_serving,
    validate_training,
)
from cluster_sim.studies.validate_cases import LEFT_OUT, Case
from cluster_sim.studies.validate_jobs import Job, SkippedError, job_of
from cluster_sim.studies.validate_scores import Replayed

ROWS_AT_ONCE = 400  # operators, collectives, training steps that are priced in one task
TASKS_A_WORKER = 16  # so many make it worth to start one
TASKS_AT_ONCE = 4  # handed to a worker
SAMPLE_SEED = 0
NOT_SAMPLED = "outside the sample of --limit"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Operators, collectives or training steps that are priced together."""

    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Metrics of a job, and those of the same with its model's own drafts where that is not known;
    or why there are none.
    """

    metrics: dict[str, float] | SkippedError
    drafted: dict[str, float] | SkippedError | None


Task = Job | Rows
Outcome = Run | list[float | SkippedError]


def select(cases: Sequence[Case], where: Sequence[tuple[str, str]]) -> list[Case]:
    """The cases whose columns have the wanted values.

    Raises SpecError for a column that no file has, and for a value that no case has.
    """
    kept = list(cases)
    for column, value in where:
        columns = sorted({name for case in cases for name in case.row})
        if column not in columns:
            near = nearest(column, columns)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SpecError(f"--where {column}={value}: no such column{hint}")
        seen = sorted({case.text(column) for case in kept} - {""})
        kept = [case for case in kept if case.text(column) == value]
        if not kept:
            near = nearest(value, seen)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(seen[:12])}"
            raise SpecError(f"--where {column}={value}: no case has that; {hint}")
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Cases that are replayed, by task, and those that are not."""

    refused: tuple[Replayed, ...]
    tasks: Mapping[Task, tuple[Case, ...]]


def prepare(
    cases: Sequence[Case], *, include: Iterable[str] = (), limit: int | None = None
) -> Prepared:
    """Say which cases are replayed, every case once and equal runs together.

    Flags of ``LEFT_OUT`` are kept if they stand in ``include``. ``limit`` takes a seeded sample of
    so many runs, spread evenly over kinds, chips and models.
    """
    refused: list[Replayed] = []
    runnable: list[tuple[Case, Job | None]] = []
    for case in cases:
        try:
            runnable.append((case, _job(case, frozenset(include))))
        except SkippedError as skip:
            refused.append(Replayed(case=case, reason=skip.reason, detail=skip.detail))
    if limit is not None:
        kept = _sample([case for case, _ in runnable], limit)
        out = [case for case, _ in runnable if (case.kind, case.run_id) not in kept]
        refused += [Replayed(case=case, reason=NOT_SAMPLED) for case in out]
        runnable = [pair for pair in runnable if (pair[0].kind, pair[0].run_id) in kept]
    tasks: dict[Task, list[Case]] = {}
    loose: dict[str, list[Case]] = {}
    for case, job in runnable:
        if job is None:
            loose.setdefault(case.kind, []).append(case)
        else:
            tasks.setdefault(job, []).append(case)
    for rows in loose.values():
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            tasks[Rows(tuple(chunk))] = chunk
    return Prepared(
        refused=tuple(refused), tasks={task: tuple(mine) for task, mine in tasks.items()}
    )


def play(prepared: Prepared, *, workers: int = 1) -> Generator[list[Replayed], None, None]:
    """Replay task by task, always in the same order, in so many processes.

    Whoever is interrupted while waiting has what was yielded; no further task is begun.
    """
    tasks = list(prepared.tasks.items())
    workers = min(workers, 1 + len(tasks) // TASKS_A_WORKER)
    if workers == 1:
        for task, cases in tasks:
            yield _joined(cases, _play(task))
        return
    # Not forked: a fork would copy whatever threads and locks the caller has.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin_worker)
    others, processes = set(multiprocessing.active_children()), set()
    try:
        with _signals_blocked():
            parts = [tasks[at : at + TASKS_AT_ONCE] for at in range(0, len(tasks), TASKS_AT_ONCE)]
            futures = [pool.submit(_play_all, [task for task, _ in part]) for part in parts]
            processes = set(multiprocessing.active_children()) - others
        for part, future in zip(parts, futures, strict=True):
            for (_, cases), outcome in zip(part, future.result(), strict=True):
                yield _joined(cases, outcome)
        pool.shutdown()
    except BrokenExecutor:
        raise SpecError(
            f"one of the {workers} processes was ended from outside, as a machine does that has no "
            "memory left; take fewer with --workers"
        ) from None
    finally:
        # Ended in the middle of what they do. Futures are not cancelled: their thread would stumble
        # over a cancelled one when it finds the processes gone.
        for process in processes:
            process.kill()
        pool.shutdown(wait=False)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Signals wait, and processes begun meanwhile never get them: what becomes of an interrupt is
    the business of their caller, who may be one of a group that it is sent to.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would let them through when it is begun
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave interrupts from the keyboard to the caller, and end when the caller does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _job(case: Case, include: frozenset[str]) -> Job | None:
    """The serving job of a case, None for what is priced without a run; raises SkippedError."""
    flagged = [flag for flag in LEFT_OUT if flag in case.flags and flag not in include]
    if flagged:
        raise SkippedError(f"flag {flagged[0]}")
    if case.unknown is not None:
        column, name = case.unknown
        raise SkippedError(f"unknown {column}", name)
    if case.kind == "training":
        validate_training.run_of(case)  # raises where nothing can be priced
    return job_of(case) if case.kind == "serving" else None


def _sample(cases: Sequence[Case], limit: int) -> set[tuple[str, str]]:
    """Runs drawn in turn from the strata of kind, chip and model (or operation)."""
    strata: dict[tuple[str, str, str], dict[str, None]] = {}
    for case in cases:
        what = case.text("model") or case.text("op") or case.text("collective")
        strata.setdefault((case.kind, case.text("chip"), what), {})[case.run_id] = None
    rng = np.random.default_rng(SAMPLE_SEED)
    queues = []
    for key in sorted(strata):
        runs = sorted(strata[key])
        queues.append([(key[0], runs[place]) for place in rng.permutation(len(runs))])
    order = [queues[place] for place in rng.permutation(len(queues))]
    longest = max((len(queue) for queue in order), default=0)
    drawn = [queue[turn] for turn in range(longest) for queue in order if turn < len(queue)]
    return set(drawn[:limit])


def _play_all(tasks: Sequence[Task]) -> list[Outcome]:
    """What tasks give; runs in a worker."""
    return [_play(task) for task in tasks]


def _play(task: Task) -> Outcome:
    if isinstance(task, Rows):
        return [_priced(case) for case in task.cases]
    again = validate_serving.with_own_drafts(task)
    return Run(_metrics(task), None if again is None else _metrics(again))


def _metrics(job: Job) -> dict[str, float] | SkippedError:
    try:
        return validate_serving.replay(job)
    except SkippedError as skip:
        return skip
    except SimulationError as error:
        return SkippedError("the simulation broke", str(error))


def _priced(case: Case) -> float | SkippedError:
    """An operator, a collective or a training step, which needs no run."""
    try:
        if case.kind == "training":
            return validate_training.predicted(case)
        if case.kind == "memory":
            return validate_memory.predicted(case)
        if case.kind == "operator":
            return validate_operators.operator_us(case)
        return validate_collectives.predicted(case)
    except SkippedError as skip:
        return skip


def _joined(cases: Sequence[Case], outcome: Outcome) -> list[Replayed]:
    """Cases with their part of an outcome."""
    if isinstance(outcome, list):
        return [_replayed(case, value) for case, value in zip(cases, outcome, strict=True)]
    found: list[Replayed] = []
    for case in cases:
        drafted = None
        if outcome.drafted is not None:
            drafted = _replayed(case, _value(case, outcome.drafted))
        found.append(_replayed(case, _value(case, outcome.metrics), drafted))
    return found


def _value(case: Case, metrics: dict[str, float] | SkippedError) -> float | SkippedError:
    """A case's value among the metrics of its job."""
    if isinstance(metrics, SkippedError):
        return metrics
    try:
        return validate_serving.predicted(case, metrics)
    except SkippedError as skip:
        return skip


def _replayed(case: Case, value: float | SkippedError, drafted: Replayed | None = None) -> Replayed:
    if isinstance(value, SkippedError):
        return Replayed(case=case, reason=value.reason, detail=value.detail, drafted=drafted)
    return Replayed(case=case, predicted=value, drafted=drafted)
