"""How much of their contexts the decoding sequences of a batch read in layers with local
attention, kept as a sum.
"""

from __future__ import annotations

from heapq import heappop, heappush

from cluster_sim.perf.step_price import local_change, local_tokens
from cluster_sim.specs.model import LocalAttention


class LocalContext:
    """The sum over a batch whose clock is the number of tokens that each sequence has gained.
    ``tokens`` are read by the next decode step, ``growing`` more for each token gained, until the
    next change.
    """

    def __init__(self, local: LocalAttention | None) -> None:
        self.local = local
        self.tokens = self.growing = 0
        self._members: dict[int, int] = {}  # request -> admission
        self._changes: list[tuple[int, int, int]] = []  # heap: decode count, admission, request

    def steps_to_change(self, decodes: int, most: int) -> int:
        """Tokens from clock ``decodes`` on until the growth changes, at most ``most``."""
        return min(most, self._changes[0][0] - decodes) if self._changes else most

    def join(self, request: int, admission: int, context: int, decodes: int) -> None:
        """A sequence whose next decode reads ``context`` tokens, at a decode count of the batch."""
        if self.local is None:
            return
        self._members[request] = admission
        self.tokens += local_tokens(self.local, context)
        change = local_change(self.local, context)
        if change is not None:
            self.growing += 1
            heappush(self._changes, (decodes + change, admission, request))

    def leave(self, request: int, context: int) -> None:
        """A sequence whose next decode would have read ``context`` tokens."""
        if self.local is None:
            return
        del self._members[request]
        self.tokens -= local_tokens(self.local, context)
        if local_change(self.local, context) is not None:
            self.growing -= 1

    def advance(self, tokens: int, decodes: int) -> None:
        """All have gained so many tokens, up to ``decodes`` of the batch."""
        self.tokens += tokens * self.growing
        while self._changes and self._changes[0][0] <= decodes:
            change, admission, request = heappop(self._changes)
            if self._members.get(request) != admission:
                continue  # it has left or was preempted
            assert self.local is not None
            if self.local.kind == "chunked":
                self.tokens -= self.local.tokens
                heappush(self._changes, (change + self.local.tokens, admission, request))
            else:
                self.tokens -= decodes - change
                self.growing -= 1
