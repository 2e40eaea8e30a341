"""How many tokens the decode steps of a batch give to each of its sequences.

With drafts a step gives a sequence its next token and the accepted drafts. Model: the mean, spread
as evenly as whole tokens allow and alike for all sequences of a batch: after d decode steps each
has gained floor(d e). Limits: no sequence is luckier than others, so that TPOT does not spread by
it (n tokens would take n / e steps within sqrt(n) times the deviation of one step over e sqrt(e)).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BITS = 24  # of the fraction: whole numbers keep both replicas and all machines alike
SHORT = 24  # steps up to which a Python loop beats the fixed cost of numpy calls


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens a decode step, as a whole number of 2^-24."""

    parts: int

    @classmethod
    def of(cls, tokens_per_step: float) -> Pace | None:
        """The pace of so many tokens a step; None for one token a step."""
        parts = round(tokens_per_step * 2**_BITS)
        return cls(parts) if parts > 1 << _BITS else None

    def gained(self, done: int, steps: int = 1) -> int:
        """Tokens of each sequence in so many steps after those ``done``.

        >>> [Pace.of(1.6).gained(done) for done in range(5)]
        [1, 2, 1, 2, 1]
        """
        return (((done + steps) * self.parts) >> _BITS) - ((done * self.parts) >> _BITS)

    def steps_for(self, done: int, tokens: int) -> int:
        """Steps after those ``done`` until each sequence has gained that many tokens."""
        whole = ((done * self.parts) >> _BITS) + tokens
        return -((-whole << _BITS) // self.parts) - done

    def before(self, done: int, steps: int) -> NDArray[np.int64]:
        """What each sequence has gained before each of so many steps after those ``done``."""
        number = np.arange(done, done + steps, dtype=np.int64)
        upto: NDArray[np.int64] = (number * self.parts) >> _BITS
        return upto - ((done * self.parts) >> _BITS)

    def total_before(self, done: int, steps: int) -> int:
        """The sum of ``before``."""
        if steps == 1:
            return 0
        if steps > SHORT:
            return int(self.before(done, steps).sum())
        parts, start = self.parts, (done * self.parts) >> _BITS
        upto = sum((number * parts) >> _BITS for number in range(done, done + steps))
        return upto - steps * start

    def each(self, done: int, steps: int) -> list[int]:
        """What each sequence gains in each of so many steps after those ``done``."""
        if steps > SHORT:
            found: list[int] = np.diff(self.before(done, steps + 1)).tolist()
            return found
        parts = self.parts
        upto = [(number * parts) >> _BITS for number in range(done, done + steps + 1)]
        return [after - before for before, after in pairwise(upto)]
