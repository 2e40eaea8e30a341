"""A prefix cache: blocks of prompts and answers that stay for later requests until their room is
needed.
"""

from __future__ import annotations

from collections import OrderedDict

from cluster_sim.serving.requests import Prefixes

ROOT = -1
PORTIONS = 1024  # of the cache: it forgets one at a time, so that not every step must forget


class PrefixCache:
    """What one batch's cache remembers, in units of ``unit_tokens`` tokens.

    Model: a request begins with runs, each the first units of an endless text; the texts form a
    tree, a text that follows n units of another being its child. Of each text the first ``cached``
    units are there, of those the first ``held`` are in use by running requests. What nobody uses
    stays, oldest first in the order of forgetting, the end of a text before its beginning and what
    follows a text before the text.
    """

    def __init__(self, prefixes: Prefixes, block_tokens: int, blocks: int) -> None:
        self.prefixes, self.unit_tokens = prefixes, prefixes.unit_tokens
        self.unit_blocks = prefixes.unit_tokens // block_tokens
        self._portion = max(1, blocks // PORTIONS // self.unit_blocks)  # units
        self.idle: OrderedDict[int, None] = OrderedDict()  # texts with unused units, oldest first
        self.hit_tokens = 0
        self._idle_units = 0
        self._number: dict[tuple[int, int, int], int] = {}  # of a text: parent, units of it, id
        self._cached: list[int] = []
        self._used: list[int] = []
        self._extents: list[list[int]] = []  # units of a text that each of its users holds
        self._chains: dict[int, list[tuple[int, int]]] = {}  # text and units, waiting or running
        self._held: dict[int, list[int]] = {}  # units that a running request uses of each text

    @property
    def idle_blocks(self) -> int:
        """Blocks that could be had by forgetting."""
        return self._idle_units * self.unit_blocks

    def match(self, request: int, tokens: int) -> tuple[int, int]:
        """Tokens of a prompt that are cached, and how many of their blocks others hold already.

        At least one of its ``tokens`` is left to compute.
        """
        left = (tokens - 1) // self.unit_tokens
        found = used = 0
        for text, units in self._chains.get(request) or self._chain(request):
            take = min(self._cached[text], units, left)
            found += take
            used += min(take, self._used[text])
            left -= take
            if take < units:
                break
        return found * self.unit_tokens, used * self.unit_blocks

    def acquire(self, request: int, tokens: int) -> int:
        """Use what is cached for an admitted prompt; returns its tokens."""
        left = (tokens - 1) // self.unit_tokens
        held: list[int] = []
        for text, units in self._chains.get(request) or self._chain(request):
            take = min(self._cached[text], units, left)
            if take == 0:
                break
            self._extents[text].append(take)
            if take > self._used[text]:
                self._idle_units -= take - self._used[text]
                self._used[text] = take
                if take == self._cached[text]:
                    del self.idle[text]
            held.append(take)
            left -= take
            if take < units:
                break
        self._held[request] = held
        cached = sum(held) * self.unit_tokens
        self.hit_tokens += cached
        return cached

    def insert(self, request: int, tokens: int) -> None:
        """Remember the first ``tokens`` tokens of a request as far as they are units; the cache
        takes those over from it.

        It stops at a unit that somebody else has computed in the meantime: that one stays the
        cache's, the copy the request's own.
        """
        left = tokens // self.unit_tokens
        held = self._held.setdefault(request, [])
        for place, (text, units) in enumerate(self._chains.get(request) or self._chain(request)):
            extent = min(units, left)
            have = held[place] if place < len(held) else 0
            if extent > have:
                if self._cached[text] > have:
                    break
                self._cached[text] = self._used[text] = extent
                if place < len(held):
                    held[place] = extent
                    self._extents[text].remove(have)
                else:
                    held.append(extent)
                self._extents[text].append(extent)
            left -= extent
            if extent < units or left == 0:
                break

    def release(self, request: int, *, leaves: bool) -> int:
        """A request stops using its units; returns how many blocks those were. ``leaves``: it will
        not come back.
        """
        held = self._held.pop(request, None)
        chain = self._chains.pop(request, []) if leaves else self._chains.get(request, [])
        if not held:
            return 0
        for place in range(len(held) - 1, -1, -1):
            text = chain[place][0]
            extents = self._extents[text]
            extents.remove(held[place])
            if held[place] == self._used[text] and held[place] not in extents:
                self._used[text] = max(extents, default=0)
                self._idle_units += held[place] - self._used[text]
                self.idle[text] = None
            if text in self.idle:
                self.idle.move_to_end(text)
        return sum(held) * self.unit_blocks

    def forget(self, blocks: int) -> int:
        """Give up the oldest unused units, in portions, until so many blocks are had or nothing is
        left; returns the blocks.
        """
        wanted = -(-blocks // (self._portion * self.unit_blocks)) * self._portion
        left = wanted = min(wanted, self._idle_units)
        while left:
            text = next(iter(self.idle))
            units = min(self._cached[text] - self._used[text], left)
            self._cached[text] -= units
            if self._cached[text] == self._used[text]:
                del self.idle[text]
            left -= units
        self._idle_units -= wanted
        return wanted * self.unit_blocks

    def shared_blocks(self, request: int) -> int:
        """Blocks of the cache that a running request uses together with others."""
        shared = 0
        for units, (text, _) in zip(
            self._held.get(request, ()), self._chains.get(request, ()), strict=False
        ):
            others = self._extents[text].copy()
            others.remove(units)
            shared += min(units, max(others, default=0))
        return shared * self.unit_blocks

    def _chain(self, request: int) -> list[tuple[int, int]]:
        """The texts that a request begins with, and how many units of each."""
        parent = branch = ROOT
        chain: list[tuple[int, int]] = []
        for text_id, units in self.prefixes.of(request):
            key = (parent, branch, text_id)
            text = self._number.get(key)
            if text is None:
                text = self._number[key] = len(self._cached)
                self._cached.append(0)
                self._used.append(0)
                self._extents.append([])
            chain.append((text, units))
            parent, branch = text, units
        self._chains[request] = chain
        return chain
