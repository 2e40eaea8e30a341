"""What captured decode graphs cost: a step of decodes alone runs at the next captured batch size.

Engines capture the launches of a decode step for a list of batch sizes. A batch between two of them
is filled up with sequences that do nothing.

Model: products, small kernels, sums and hand-offs of such a step pass the tokens of the filled
batch. Attention reads no cache for the filling, host and LM head see real sequences, and its
tokens, all alike, touch no further expert. Batches above the largest size run as they are: the
launches of their kernels hide behind kernels that are long by then.
Source: vLLM ``CompilationConfig``, SGLang ``CudaGraphRunner``, TensorRT-LLM ``CudaGraphConfig``
with ``enable_padding`` (behaviour).
Limits: steps with prompts are not padded (vLLM pads those below its largest size too); ranks of
attention groups are filled each for itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cluster_sim.perf.family import Family

UNTOUCHED = ("expert_math", "expert_weights")


def filled(sizes: Sequence[int], decodes: int, most: int) -> int:
    """The batch that so many decoding sequences run in; no batch holds over ``most``.

    >>> [filled((1, 2, 4, 8), decodes, 6) for decodes in (0, 2, 3, 5, 6)]
    [0, 2, 4, 6, 6]
    """
    after = bisect_left(sizes, decodes)
    return decodes if not decodes or after == len(sizes) else min(sizes[after], most)


def with_graphs(
    families: tuple[Family, ...], sizes: Sequence[int], most: int
) -> tuple[Family, ...]:
    """Families whose steps of decodes alone cost what their filled batches do, up to ``most``
    sequences.
    """
    if not sizes:
        return families
    return tuple(
        family if family.name in UNTOUCHED else _filled_family(family, sizes, most)
        for family in families
    )


def _filled_family(family: Family, sizes: Sequence[int], most: int) -> Family:
    use = family.use and _filled_family(family.use, sizes, most)
    if family.tokens_s is None:
        return replace(family, use=use)
    batches = np.array([filled(sizes, decodes, most) for decodes in range(most + 1)])
    by_batch = family.tokens_s[:: family.decode_tokens][: most + 1]
    return replace(family, filling_s=by_batch[batches] - by_batch, use=use)
