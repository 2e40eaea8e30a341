"""A prefix cache: blocks of prompts that stay for later requests until their room is needed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from cluster_sim.serving.requests import Prefixes


@dataclass(slots=True)
class _Unit:
    """One unit of a prefix in the cache, with the number of running requests that use it."""

    users: int


class PrefixCache:
    """What one batch's cache remembers, in units of ``unit_tokens`` tokens.

    A unit is known by the whole chain of ids that it ends, so that equal ids after different
    prefixes differ. Units that nobody uses stay, oldest first in the order of eviction, the end of
    a prompt before its beginning.
    """

    def __init__(self, prefixes: Prefixes, block_tokens: int) -> None:
        self.prefixes = prefixes
        self.unit_blocks = prefixes.unit_tokens // block_tokens
        self.idle: OrderedDict[int, None] = OrderedDict()  # units without users, oldest first
        self.hit_tokens = 0
        self._units: dict[int, _Unit] = {}
        self._chains: dict[int, list[int]] = {}  # by request, while it waits or runs
        self._held: dict[int, int] = {}  # units that a running request uses

    @property
    def idle_blocks(self) -> int:
        """Blocks that could be had by forgetting."""
        return len(self.idle) * self.unit_blocks

    def match(self, request: int, tokens: int) -> tuple[int, int]:
        """Tokens of a prompt that are cached, and how many of their blocks others hold already.

        At least one of its ``tokens`` is left to compute.
        """
        found = used = 0
        most = (tokens - 1) // self.prefixes.unit_tokens
        for unit in self._chain(request)[:most]:
            entry = self._units.get(unit)
            if entry is None:
                break
            found += 1
            used += entry.users > 0
        return found * self.prefixes.unit_tokens, used * self.unit_blocks

    def acquire(self, request: int, tokens: int) -> tuple[int, int]:
        """Use what is cached for an admitted prompt; returns its tokens and the blocks that were
        idle until now.
        """
        cached, _ = self.match(request, tokens)
        units = self._chain(request)[: cached // self.prefixes.unit_tokens]
        woken = 0
        for unit in units:
            entry = self._units[unit]
            if entry.users == 0:
                del self.idle[unit]
                woken += 1
            entry.users += 1
        self._held[request] = len(units)
        self.hit_tokens += cached
        return cached, woken * self.unit_blocks

    def insert(self, request: int, tokens: int) -> int:
        """Remember the first ``tokens`` tokens of a request as far as they are units; returns the
        blocks that the cache takes over from it.

        It stops at a unit that somebody else has computed in the meantime: that one stays the
        cache's, the copy the request's own.
        """
        chain, held = self._chain(request), self._held.get(request, 0)
        start = held
        for unit in chain[held : tokens // self.prefixes.unit_tokens]:
            if unit in self._units:
                break
            self._units[unit] = _Unit(1)
            held += 1
        self._held[request] = held
        return (held - start) * self.unit_blocks

    def release(self, request: int, *, leaves: bool) -> int:
        """A request stops using its units; returns how many blocks those were. ``leaves``: it will
        not come back.
        """
        held = self._held.pop(request, 0)
        chain = self._chain(request)
        for unit in reversed(chain[:held]):
            entry = self._units[unit]
            entry.users -= 1
            if entry.users == 0:
                self.idle[unit] = None
        if leaves:
            del self._chains[request]
        return held * self.unit_blocks

    def forget(self, blocks: int) -> int:
        """Give up the oldest idle units until so many blocks are had; returns the blocks."""
        freed = 0
        while freed < blocks:
            unit, _ = self.idle.popitem(last=False)
            del self._units[unit]
            freed += self.unit_blocks
        return freed

    def shared_blocks(self, request: int) -> int:
        """Blocks of the cache that a running request uses together with others."""
        units = self._chain(request)[: self._held.get(request, 0)]
        return sum(self._units[unit].users > 1 for unit in units) * self.unit_blocks

    def _chain(self, request: int) -> list[int]:
        """Hashes of a request's chain of ids, unit by unit."""
        chain = self._chains.get(request)
        if chain is None:
            chain, state = [], 0
            for unit in self.prefixes.of(request):
                state = hash((state, unit))
                chain.append(state)
            self._chains[request] = chain
        return chain
