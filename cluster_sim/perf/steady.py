"""The steady state of a replica in closed form: TPOT by batch, and who keeps its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from cluster_sim.perf.families import Batch, Family, family_s
from cluster_sim.perf.step_price import StepPrice, local_tokens
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.workload import Lengths

EQUAL_SHARES = 40  # of a length distribution, for averages of functions of the length
STRETCH = 1.1  # elasticities are secants over batches and step times so much larger and smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A replica whose ranks decode B sequences each while successors are prefilled.

    Model: TPOT(B) = d(B) / e + B p / OSL with d the round at the mean context of a decoding
    sequence, e the tokens of a sequence in it (1 without drafts) and p the mean time that a prompt
    adds. A request of n tokens meets about n TPOT B / (OSL TPOT) prompts, a Poisson number, so its
    own TPOT spreads by sqrt(B E[p^2] cv^2 / (OSL n)). With several ranks a prompt anywhere delays
    all: of the prompts of a round, those of the rank that has most count before the shared
    operators, the largest of as many Poisson numbers. Answers keep a limit with a normal tail,
    averaged over their lengths. B need not be whole: linear in between, one sequence at least.
    """

    price: StepPrice
    ranks: int
    isl: float
    osl: float
    context: float
    answers: tuple[int, ...]
    prompts_s: tuple[float, ...]
    shared_s: float
    spread: float
    tokens_per_step: float = 1.0

    @property
    def prompt_s(self) -> float:
        """Seconds that a prompt adds to the steps of its rank in the mean."""
        return sum(self.prompts_s) / len(self.prompts_s)

    def tpot_s(self, batch: float) -> float:
        """Mean TPOT with so many sequences a rank."""
        low = max(1, math.floor(batch))
        part, first = max(0.0, batch - low), self._tpot_s(low)
        return first if part == 0 else first + part * (self._tpot_s(low + 1) - first)

    def _tpot_s(self, batch: int) -> float:
        context = self.context
        near = batch * local_tokens(self.price.local, round(context))
        step_s = self.price.step_s(batch, round(batch * context), near, 0, 0, 0.0)
        tokens = batch * self.ranks * self.price.decode_tokens
        decode, each = self.price.round_s([step_s], tokens), self.tokens_per_step
        arriving = self.ranks * batch * each / self.osl  # prompts a round
        meeting = most_of(self.ranks, arriving / self.ranks)
        return (decode + meeting * self.prompt_s + arriving * self.shared_s) / each

    def ttfts_s(self, batch: float, first_token_steps: float) -> list[float]:
        """TTFT of each of some typical prompts that are admitted at once."""
        step_s = self.tpot_s(batch) * self.tokens_per_step
        after_s = self.shared_s + step_s * (1 + first_token_steps)
        return [prompt_s + after_s for prompt_s in self.prompts_s]

    def kept(self, batch: int, limit_s: float | None) -> float:
        """Share of the answers whose TPOT keeps a limit."""
        if limit_s is None:
            return 1.0
        margin = limit_s - self.tpot_s(batch)
        deviations = [
            math.sqrt(batch * self.ranks * self.spread / (self.osl * n)) for n in self.answers
        ]
        tails = [0.5 * math.erfc(-margin / (d * math.sqrt(2))) for d in deviations]
        return sum(tails) / len(self.answers)

    def reached_s(self, batch: int, share: float) -> float:
        """The TPOT that a share of the answers keeps."""
        low = high = self.tpot_s(batch)
        if self.spread == 0:
            return high
        while self.kept(batch, high) < share:
            high *= 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.kept(batch, middle) >= share else (middle, high)
        return high

    def growth(self, batch: float, share: float | None = None) -> float:
        """d ln TPOT / d ln batch around a batch, of the mean or of what a share keeps."""
        low = max(1, math.floor(batch / STRETCH))
        high = min(max(low + 1, math.ceil(batch * STRETCH)), len(self.price.decode_base_s) - 1)
        if high <= low:
            return 0.0
        first, last = (
            self.tpot_s(n) if share is None else self.reached_s(n, share) for n in (low, high)
        )
        return math.log(last / first) / math.log(high / low)


def steady_state(price: StepPrice, job: WorkloadInput, ranks: int) -> Steady:
    """The steady state under the traffic of a workload."""
    isls, osls = job.workload.shape
    lengths, budget = typical(isls), job.software.max_num_batched_tokens
    budget = min(budget, len(price.tokens_s) - 1)
    prompts = [_prompt_s(price, length, budget) for length in lengths]
    return Steady(
        price=price,
        ranks=ranks,
        isl=isls.average,
        osl=osls.average,
        context=mean_context(isls, osls),
        answers=tuple(typical(osls)),
        prompts_s=tuple(prompts),
        shared_s=sum(_shared_s(price, n) for n in lengths) / len(lengths),
        spread=sum(p * p for p in prompts) / len(prompts) * job.workload.arrivals.cv**2,
        tokens_per_step=job.software.tokens_per_step,
    )


def most_of(ranks: int, mean: float) -> float:
    """The mean of the largest of as many Poisson numbers: sum over k of 1 - P(N < k)^ranks.

    >>> round(most_of(1, 0.3), 12), round(most_of(8, 0.01), 3)
    (0.3, 0.077)
    """
    if ranks == 1:
        return mean
    total, chance = 0.0, math.exp(-mean)
    below, k = chance, 0
    while below < 1 - 1e-9 / ranks:
        total += 1 - below**ranks
        k += 1
        chance *= mean / k
        below += chance
        if chance == 0.0 and k > mean:
            break
    return total


def step_family_s(
    price: StepPrice, family: Family, ranks: int, decodes: int, context: int, prompt: int
) -> float:
    """Seconds of a family in one step of each batch of a replica: ``decodes`` sequences of a
    context, and a prompt of so many tokens (0: none) in one of the batches.
    """
    step = Batch(
        decodes=decodes,
        context=decodes * context,
        local_context=decodes * local_tokens(price.local, context),
        prefill_tokens=prompt,
        prompts=1 if prompt else 0,
        prefill_s=price.prefill_attention_s(0, prompt) if prompt else 0.0,
        swapped=0,
    )
    mine = decodes * price.decode_tokens
    return float(family_s(family, step, mine + prompt if prompt else ranks * mine))


def capacity_elasticity(steady: Steady, batch: int, most: int, attainment: float) -> float:
    """d ln rate / d ln step time where the TPOT limit decides the batch.

    Model: the limit L holds at Q(B) s = L with Q the TPOT that a share ``attainment`` keeps and s a
    factor on all step times, so B ~ s^(-1/q), at most ``most``; rate = B / (OSL TPOT(B) s). With
    local powers q of Q and e of the mean TPOT, without the cap: -(1 - e) / q - 1. Secant over s
    from 1 / 1.1 to 1.1.
    """
    q, e = steady.growth(batch, attainment), steady.growth(batch)

    def rate(s: float) -> float:
        grown = min(most / batch, s ** (-1 / q)) if q > 0 else (1.0 if s > 1 else most / batch)
        return float(grown ** (1 - e) / s)

    return math.log(rate(STRETCH) / rate(1 / STRETCH)) / (2 * math.log(STRETCH))


def mean_context(isls: Lengths, osls: Lengths) -> float:
    """Tokens in the cache of a decoding sequence, averaged over all decode steps.

    Model: an answer of n tokens has n steps with n / 2 tokens of it behind them in the mean:
    E[ISL] + E[n^2] / (2 E[n]), prompts and answers drawn independently.
    """
    answers = typical(osls)
    return isls.average + sum(n * n for n in answers) / (2 * sum(answers))


def typical(lengths: Lengths) -> list[int]:
    """Token counts at the middles of equal shares of a distribution."""
    if lengths.fixed is not None:
        return [lengths.fixed]
    if lengths.mean is not None:
        mu, sigma = lengths.log_normal
        parts = ((i + 0.5) / EQUAL_SHARES for i in range(EQUAL_SHARES))
        drawn = (math.exp(mu + sigma * NormalDist().inv_cdf(part)) for part in parts)
        return [max(1, min(round(x), lengths.longest)) for x in drawn]
    shares, tokens = zip(*(lengths.quantiles or ()), strict=True)
    middles = (np.arange(EQUAL_SHARES) + 0.5) / EQUAL_SHARES
    return [max(1, round(float(x))) for x in np.interp(middles, shares, tokens)]


def _prompt_s(price: StepPrice, tokens: int, budget: int) -> float:
    """Seconds that a prompt adds to the steps that compute it, over the cost of one more token;
    without operators that batches share.
    """
    steps = -(-tokens // budget)
    linear = (steps - 1) * price.tokens_s[budget] + price.tokens_s[tokens - (steps - 1) * budget]
    attention = price.prefill_attention_s(0, tokens)
    return linear - price.tokens_s[1] + attention + steps * price.prefill_floor_s


def _shared_s(price: StepPrice, tokens: int) -> float:
    """Seconds that a prompt adds to the operators that the batches of a replica share."""
    if price.shared_s is None:
        return 0.0
    last = min(tokens, len(price.shared_s) - 1)
    return float(price.shared_s[last] - price.shared_s[1]) * tokens / last
