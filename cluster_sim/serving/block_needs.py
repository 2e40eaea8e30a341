"""When the decoding sequences of a batch need a new KV block each, kept as counts.

A sequence needs one when its cached tokens fill its blocks. All gain tokens together, so it is
enough to count sequences by the remainder of the tokens that the batch has gained.
"""

from __future__ import annotations

from collections.abc import Iterable


class BlockNeeds:
    """Counts over a batch whose clock is the number of tokens that each sequence has gained.

    ``at[c]`` sequences need a block for the next token when (c + clock) % size == 0.
    """

    __slots__ = ("at", "members", "size")

    def __init__(self, block_tokens: int) -> None:
        self.size = block_tokens
        self.at = [0] * block_tokens
        self.members = 0

    def join(self, cached: int, clock: int) -> None:
        """A sequence with so many cached tokens decodes from now on."""
        self.at[(cached - clock) % self.size] += 1
        self.members += 1

    def leave(self, cached: int, clock: int) -> None:
        """A sequence with so many cached tokens decodes no more."""
        self.at[(cached - clock) % self.size] -= 1
        self.members -= 1

    def of(self, clock: int, tokens: int) -> int:
        """New blocks for so many more tokens of each sequence."""
        size, needs = self.size, self.at
        if tokens == 1:
            return needs[-clock % size]
        rounds, rest = divmod(tokens, size)
        last = -clock % size  # the first token looks here, the next below it, then from above
        first = last - rest + 1
        part = sum(needs[max(0, first) : last + 1])
        if first < 0:
            part += sum(needs[first + size :])
        return rounds * self.members + part

    def lasting(self, clock: int, free: int, tokens: int) -> int:
        """How many of so many tokens of each sequence the free blocks last."""
        size = self.size
        rounds = min(free // self.members, tokens // size)
        done, free = rounds * size, free - rounds * self.members
        while done < tokens:
            free -= self.at[-(clock + done) % size]
            if free < 0:
                break
            done += 1
        return done

    def rising(self, clock: int, gains: Iterable[int], used: int) -> list[int]:
        """Blocks in use after each of some gains, from ``used`` on."""
        found = []
        for tokens in gains:
            used += self.of(clock, tokens)
            clock += tokens
            found.append(used)
        return found
