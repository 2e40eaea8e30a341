"""Routers: which replica an arriving request goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster_sim.specs.registered import enter

Router = Callable[[int, Sequence[int]], int]

_MASK = (1 << 64) - 1


def round_robin(number: int, outstanding: Sequence[int]) -> int:
    """Request number n goes to replica n modulo the number of replicas."""
    return number % len(outstanding)


def least_outstanding(_number: int, outstanding: Sequence[int]) -> int:
    """The replica with the fewest unfinished requests, the first among equals."""
    return outstanding.index(min(outstanding))


def power_of_two(number: int, outstanding: Sequence[int]) -> int:
    """Of two replicas drawn by a hash of the request's number, the one with fewer unfinished
    requests.

    Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001).
    """
    bits = _mix(number)
    first = (bits & 0xFFFFFFFF) * len(outstanding) >> 32
    if len(outstanding) == 1:
        return first
    second = (first + 1 + ((bits >> 32) * (len(outstanding) - 1) >> 32)) % len(outstanding)
    return second if outstanding[second] < outstanding[first] else first


def _mix(number: int) -> int:
    """64 well mixed bits of a number (splitmix64)."""
    z = (number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


ROUTERS: dict[str, Router] = {
    "round_robin": round_robin,
    "least_outstanding": least_outstanding,
    "power_of_two": power_of_two,
}
enter("router", ROUTERS.keys())
IGNORES_LOAD = frozenset({"round_robin"})  # all others, a user's too, see who is busy
