"""The queue in front of a batch: by priority, first come first served within one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain


class WaitingQueue:
    """Requests that wait, ``count`` of them, most urgent first; a lower number is more urgent."""

    def __init__(self, priority: Sequence[int] | None) -> None:
        self._priority = priority
        self._lines: dict[int, deque[int]] = {0: deque()} if priority is None else {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        if self._priority is None:
            return iter(self._lines[0])
        return chain.from_iterable(self._lines.values())

    def append(self, request: int) -> None:
        """Behind all that are as urgent."""
        self._line(request).append(request)
        self.count += 1

    def appendleft(self, request: int) -> None:
        """In front of all that are as urgent."""
        self._line(request).appendleft(request)
        self.count += 1

    def remove(self, request: int) -> None:
        """Take a request out, wherever it stands."""
        line = self._line(request)
        if line[0] == request:
            line.popleft()
        else:
            line.remove(request)
        self.count -= 1

    def _line(self, request: int) -> deque[int]:
        if self._priority is None:
            return self._lines[0]
        urgency = self._priority[request]
        if urgency not in self._lines:
            self._lines[urgency] = deque()
            self._lines = dict(sorted(self._lines.items()))
        return self._lines[urgency]
