"""Which part of a service is played to learn what all of it can do, and with which requests.

Law: behind a round-robin router equal replicas with independent requests are exchangeable: each
gets every R-th request of the stream, so its gaps are sums of R gaps of the stream, and its lengths
are those of the workload. One replica on its exact share stands for all R; rates are R times its
own. Where requests depend on each other (sessions, shared prefixes, clients of a closed loop) or
the router looks at the load, the whole service is played.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster_sim.serving.generators import draw_requests
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Service
from cluster_sim.specs.workload import Workload

TRIES = 10  # of a stated number of requests each, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How sure a figure must be (half of its 95 % interval, relative), the most requests that may
    be played for it, in all and in one try, and the tries near a capacity that are played at least:
    an error that few tries give is itself unsure.
    """

    error: float = 0.03
    most_requests: int = 400_000
    most_a_try: int = 400_000
    full_tries: int = 4

    def within(self, requests: int | None) -> Effort:
        """The same with at most so many requests a try, if a number is given."""
        if requests is None:
            return self
        return replace(
            self,
            most_requests=min(TRIES * requests, self.most_requests),
            most_a_try=min(requests, self.most_a_try),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A service that is played for ``times`` its size, and the traffic to draw for it; ``seats``
    sequences are in it at once when it is full, by the closed form.
    """

    service: Service
    times: int
    wanted: Workload
    block_tokens: int
    seats: int

    def draw(self, count: int, number: int) -> Requests:
        """``count`` requests at one start a second in the mean; ``number`` counts draws that are
        independent of each other, the first being that of the run itself.
        """
        return draw_requests(
            self.wanted,
            count,
            seed=self.wanted.seed,
            draw=number,
            block_tokens=self.block_tokens,
            every=self.times,
        )

    @property
    def starts_share(self) -> float:
        """Starts of sessions over requests, in the mean."""
        return 1.0 / self.wanted.mean_turns


def sample_of(service: Service, wanted: Workload, *, block_tokens: int, seats: int) -> Sample:
    """The smallest part of a service that stands for it; ``seats`` are those of the whole one."""
    closed = service.concurrency is not None
    dependent = closed or any(part.sessions or part.prefix for part in wanted.parts)
    if dependent or service.router != "round_robin" or service.replicas == 1:
        return Sample(service, 1, wanted, block_tokens, seats)
    alone = replace(service, replicas=1)
    seats = max(1, seats // service.replicas)
    return Sample(alone, service.replicas, wanted, block_tokens, seats)
