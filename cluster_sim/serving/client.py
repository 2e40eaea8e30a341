"""What clients wait for beyond the engine: the way there and back whatever the load, and for the
first token longer where others keep the engine busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from cluster_sim.specs.software import Software

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClientWait:
    """How much later than the engine has them clients see the tokens of a request.

    ``idle_s`` delays every token, and with the last one the client's next request (API server,
    tokenizer, detokenizer, HTTP). ``loaded_steps`` are token times (with drafts decode steps) that
    the first token of a request in a busy engine is held back besides.
    """

    idle_s: float = 0.0
    loaded_steps: float = 0.0

    @classmethod
    def of(cls, software: Software) -> ClientWait:
        """What a profile says; with drafts a decode step gives several tokens."""
        client = software.client
        return cls(client.idle, client.loaded_steps * software.tokens_per_step)

    @overload
    def seen_s(self, at_s: float) -> float: ...
    @overload
    def seen_s(self, at_s: FloatArray) -> FloatArray: ...
    def seen_s(self, at_s: float | FloatArray) -> float | FloatArray:
        """When the client sees a token that the engine has at a time."""
        return at_s + self.idle_s

    def held_s(
        self, others: Sequence[int], token_s: FloatArray, answer_s: FloatArray
    ) -> FloatArray:
        """How long first tokens are held back.

        Model: loaded_steps x n / (n + 1) x ``token_s``, n the unfinished requests of its replica
        that a request found, and n / (n + 1) their part of what the engine then works for: nothing
        for one client, about ``loaded_steps`` of a busy engine; at most until the last token,
        ``answer_s`` after the first. Limits: nothing for an answer of one token, and for one whose
        end is not known (NaN).

        >>> found = ClientWait(0.01, 4.0).held_s([0, 3, 3], np.full(3, 0.05), np.array([5, 5, 0.1]))
        >>> found.round(6).tolist()
        [0.0, 0.15, 0.1]
        """
        found = np.array(others, dtype=np.int64)
        held: FloatArray = self.loaded_steps * (found / (found + 1)) * np.nan_to_num(token_s)
        return np.minimum(held, np.nan_to_num(answer_s))
