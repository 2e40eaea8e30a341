"""How often a job is struck, by what, and what stands in for a lost host."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from cluster_sim.errors import SpecError
from cluster_sim.specs.campaign import Blast, Component, Failures
from cluster_sim.training.campaign_fleets import DEFAULT_FLEET, FLEET_OF_CHIP, FLEETS

DAY_S = 86400.0
COVERED = 0.999  # share of the lost hosts for which a spare is there, where spares are not given
JOB = "software"  # what strikes a job whatever its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Strikes:
    """What strikes a job: rates per second by component, in a fixed order."""

    names: tuple[str, ...]
    per_s: tuple[float, ...]
    loses_host: tuple[bool, ...]
    source: str
    chip: str | None  # that they were measured on, empty where the source names none

    @property
    def total_per_s(self) -> float:
        """All of them: the rate of interruptions."""
        return math.fsum(self.per_s)

    @property
    def host_per_s(self) -> float:
        """Those that grow with the machine; what is left is the job's own."""
        pairs = zip(self.names, self.per_s, strict=True)
        return math.fsum(rate for name, rate in pairs if name != JOB)

    @property
    def loss_per_s(self) -> float:
        """Those that take a host."""
        pairs = zip(self.loses_host, self.per_s, strict=True)
        return math.fsum(rate for loses, rate in pairs if loses)


def strikes_on(failures: Failures, hosts: int, chips_per_host: int, chip: str) -> Strikes:
    """The rates at which a job on ``hosts`` hosts is struck.

    Model: hosts x rate per host-day, for components of chips times chips per host over those of
    the fleet's hosts, times ``factor``; and the rate of the job itself.
    """
    name = failures.fleet or FLEET_OF_CHIP.get(chip, DEFAULT_FLEET)
    fleet = FLEETS[name]
    components, source = fleet.components, f"{name}: {fleet.source}"
    scale, per_day = chips_per_host / fleet.chips_per_host, fleet.job_per_day
    if failures.components is not None:
        components, scale, per_day = failures.components, 1.0, 0.0
        source = "components of the workload"
    if failures.job_per_day is not None:
        per_day = failures.job_per_day
    rates = {
        part: (_per_s(one, hosts, scale) * failures.factor, one.loses_host)
        for part, one in components.items()
    }
    own, loses = rates.get(JOB, (0.0, False))
    rates[JOB] = (own + per_day / DAY_S, loses)
    rates = {part: rate for part, rate in rates.items() if rate[0] > 0}
    return Strikes(
        names=tuple(rates),
        per_s=tuple(rate for rate, _ in rates.values()),
        loses_host=tuple(loses for _, loses in rates.values()),
        source=source,
        chip=None if failures.components is not None or not rates else fleet.chip,
    )


def _per_s(component: Component, hosts: int, scale: float) -> float:
    share = scale if component.of == "chip" else 1.0
    return component.per_1000_host_days / 1e3 / DAY_S * hosts * share


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What is exchanged when a host is lost: ``working`` units of ``hosts_each`` hosts, ``spares``
    more of them, and hosts inside each unit that can stand in (``inner``).
    """

    working: int
    hosts_each: int
    inner: int
    spares: int

    @property
    def hosts_paid(self) -> int:
        """Hosts that are there, those that wait included."""
        return (self.working + self.spares) * self.hosts_each


def units_of(failures: Failures, hosts: int, domain_hosts: int, loss_per_s: float) -> Units:
    """The units of a job on ``hosts`` working hosts, with as many spares as wanted.

    Model: where spares are not given, the number out for repair is Poisson with mean units x
    P(more lost than stand in inside the unit within the time of a repair); the spares are its
    smallest number that is enough with probability 0.999.
    Raises SpecError where spares inside a domain leave nothing to work with.
    """
    blast = blast_of(failures, domain_hosts)
    inner = failures.spares_in_domain
    if inner >= domain_hosts and inner:
        raise SpecError(
            f"run.failures.spares_in_domain: a domain has {domain_hosts} hosts (got {inner}); "
            f"write at most {domain_hosts - 1}"
        )
    each = 1 if blast == "host" else domain_hosts
    working = -(-hosts // (each - inner))
    lost = loss_per_s / working * failures.repair
    out = 1.0 - math.exp(-lost) * math.fsum(islice(_powers(lost), inner + 1))
    spares = failures.spares
    if spares is None:
        spares = poisson_quantile(working * max(0.0, out), COVERED)
    return Units(working=working, hosts_each=each, inner=inner, spares=spares)


def blast_of(failures: Failures, domain_hosts: int) -> Blast:
    """What one failure takes: on a machine with one host a domain the host, else a tray unless
    given.
    """
    return failures.blast or ("host" if domain_hosts == 1 else "tray")


def _powers(mean: float) -> Iterator[float]:
    """mean^k / k! for k = 0, 1, 2 ..."""
    term = 1.0
    for k in count(1):
        yield term
        term *= mean / k


def poisson_quantile(mean: float, share: float) -> int:
    """The smallest k with P(X <= k) >= share for X Poisson of a mean.

    >>> poisson_quantile(1.0, 0.9)
    2
    """
    if mean > 500:  # normal from here on; exp(-mean) would vanish
        from statistics import NormalDist

        return math.ceil(mean + math.sqrt(mean) * NormalDist().inv_cdf(share))
    term = total = math.exp(-mean)
    k = 0
    while total < share and term > 0:
        k += 1
        term *= mean / k
        total += term
    return k


class Pool:
    """Who works, who stands by, and who is in repair.

    A unit leaves when more of its hosts are lost than ``inner`` can stand in for; it comes back as
    a spare as soon as enough of them are repaired.
    """

    def __init__(self, units: Units, repair_s: float) -> None:
        self.units, self.repair_s = units, repair_s
        self.working = list(range(units.working))
        self.ready = deque(range(units.working, units.working + units.spares))
        self.broken = [0] * (units.working + units.spares)
        self.repairs: deque[tuple[float, int]] = deque()  # (time, unit): all take equally long

    @property
    def missing(self) -> int:
        """Units that the job lacks."""
        return self.units.working - len(self.working)

    @property
    def due_s(self) -> float:
        """When the next repair ends."""
        return self.repairs[0][0] if self.repairs else math.inf

    def lose(self, now_s: float, pick: Callable[[int], int]) -> None:
        """A host of a working unit is lost; ``pick(n)`` chooses one of n."""
        if not self.working:
            return
        place = pick(len(self.working))
        unit = self.working[place]
        self.broken[unit] += 1
        self.repairs.append((now_s + self.repair_s, unit))
        if self.broken[unit] > self.units.inner:
            self.working[place] = self.working[-1]
            self.working.pop()

    def advance(self, now_s: float) -> None:
        """Take back what is repaired by now, and fill the gaps of the job with what is ready."""
        while self.repairs and self.repairs[0][0] <= now_s:
            unit = self.repairs.popleft()[1]
            self.broken[unit] -= 1
            if self.broken[unit] == self.units.inner:
                self.ready.append(unit)
        while self.ready and self.missing:
            self.working.append(self.ready.popleft())
