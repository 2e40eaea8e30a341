"""Progressive filling as plain loops: over lists as they stand, over arrays when compiled.

The twin of ``fluid_solver.fill_rounds``, with the same additions in the same order. numba is an
optional extra and imported by ``compiled_fill`` only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, MutableSequence, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cluster_sim.errors import ClusterSimError

# Shares closer than this count as equal: they differ by rounding only. Source: assumed, some
# thousand times the rounding of a double and a thousandth of the certificate's tolerance.
TIE = 1e-14


def fill_loops(
    start: Sequence[int],
    column: Sequence[int],
    per_level: Sequence[float],
    ceiling: Sequence[float],
    free: MutableSequence[float],
    level: MutableSequence[float],
    load: MutableSequence[float],
    share: MutableSequence[float],
    spent: MutableSequence[float],
    waits: MutableSequence[bool],
    columns: MutableSequence[int],
    rows: MutableSequence[int],
) -> None:
    """Write the levels into ``level``. The arguments after it are scratch, zero at first, of the
    length of ``free`` (``rows``: of ``level``); ``free`` is used up.
    """
    active, open_columns = len(ceiling), len(free)
    for c in range(open_columns):
        columns[c] = c
    for i in range(active):
        rows[i] = i
        for e in range(start[i], start[i + 1]):
            load[column[e]] += per_level[e]
    while active > 0:
        kept = 0
        for k in range(open_columns):
            c = columns[k]
            if load[c] > 0.0:
                free[c] = max(free[c] - spent[c], 0.0)
                share[c] = free[c] / load[c]
                load[c] = spent[c] = 0.0
                waits[c] = False
                columns[kept] = c
                kept += 1
        open_columns = kept
        for k in range(active):
            i = rows[k]
            lowest = ceiling[i]
            for e in range(start[i], start[i + 1]):
                lowest = min(lowest, share[column[e]])
            level[i] = lowest
            bound = lowest * (1 + TIE)
            for e in range(start[i], start[i + 1]):
                # A resource that offers one of its activities more than another one does waits.
                waits[column[e]] |= share[column[e]] > bound
        kept = 0
        for k in range(active):
            i = rows[k]
            frozen = ceiling[i] <= level[i] * (1 + TIE)
            if frozen:
                level[i] = ceiling[i]
            else:
                for e in range(start[i], start[i + 1]):
                    if not waits[column[e]]:
                        frozen = True
                        break
            if frozen:
                for e in range(start[i], start[i + 1]):
                    spent[column[e]] += per_level[e] * level[i]
            else:
                for e in range(start[i], start[i + 1]):
                    load[column[e]] += per_level[e]
                rows[kept] = i
                kept += 1
        active = kept


@cache
def compiled_fill() -> Callable[..., NDArray[np.float64]]:
    """``fill_loops`` compiled by numba, behind the signature of ``fluid_solver.fill_rounds``.

    Raises ClusterSimError when numba is not installed.
    """
    try:
        numba = importlib.import_module("numba")
    except ImportError as error:
        raise ClusterSimError(
            "compiled=True needs numba, which is not installed; install 'cluster-sim[fast]' or"
            " leave it out: results are the same"
        ) from error
    loops = numba.njit(cache=True)(fill_loops)

    def fill(
        start: NDArray[np.int64],
        column: NDArray[np.int64],
        per_level: NDArray[np.float64],
        ceiling: NDArray[np.float64],
        free: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        level = np.zeros(len(ceiling))
        load, share, spent = np.zeros((3, len(free)))
        waits = np.zeros(len(free), np.bool_)
        # Unsigned indices spare the compiled loops a check for negative ones: a third of the time.
        columns, rows = np.empty(len(free), np.uint64), np.empty(len(ceiling), np.uint64)
        scratch = (load, share, spent, waits, columns, rows)
        index = start.view(np.uint64), column.view(np.uint64)
        loops(*index, per_level, ceiling, free.copy(), level, *scratch)
        return level

    one, zero = np.ones(1), np.zeros(1, np.int64)
    fill(np.arange(2), zero, one, one, one)  # compile now
    return fill
