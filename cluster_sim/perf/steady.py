"""The steady state of a replica in closed form: TPOT by batch, and who keeps its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from cluster_sim.perf.family import Batch, Family, family_s
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
    adds. With several ranks a prompt anywhere delays all: of the prompts of a round, those of the
    rank that has most count before the shared operators, the largest of as many Poisson numbers. B
    need not be whole: linear in between, one sequence at least.

    An answer of n tokens keeps a limit L if the prompts that come within n L take no longer than
    n (L - d / e). Their sum is compound with a renewal number of them (``gaps``: the squared
    coefficient of variation of the gaps between two at a replica); its chance is that of a shifted
    Gamma variable of the same three moments (Wilson and Hilferty's cube root).
    Limits: the batch does not fluctuate.
    """

    price: StepPrice
    ranks: int
    isl: float
    osl: float
    context: float
    answers: tuple[int, ...]
    prompts: tuple[int, ...]
    attention_s: tuple[float, ...]
    budget: int
    gaps: float
    tokens_per_step: float = 1.0
    mixed: bool = True
    _seen: dict[int, tuple[float, list[float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def tpot_s(self, batch: float) -> float:
        """Mean TPOT with so many sequences a rank."""
        low = max(1, math.floor(batch))
        part, first = max(0.0, batch - low), self._tpot_s(low)
        return first if part == 0 else first + part * (self._tpot_s(low + 1) - first)

    def _tpot_s(self, batch: int) -> float:
        decode_s, delays_s = self._at(batch)
        return decode_s + batch * self.ranks / self.osl * _mean(delays_s)

    def _at(self, batch: int) -> tuple[float, list[float]]:
        """Seconds a token without prompts, and by which each typical prompt delays the replica."""
        known = self._seen.get(batch)
        if known is None:
            alone = self._alone(batch)
            parts = zip(self.prompts_s(batch), self.shared_s(batch), strict=True)
            known = self._decode_s(batch), [alone * own_s + all_s for own_s, all_s in parts]
            self._seen[batch] = known
        return known

    def _decode_s(self, batch: int) -> float:
        """Seconds a token without prompts."""
        near = batch * local_tokens(self.price.local, round(self.context))
        step_s = self.price.step_s(batch, round(batch * self.context), near, 0, 0, 0.0)
        tokens = batch * self.ranks * self.price.decode_tokens
        return self.price.round_s([step_s], tokens) / self.tokens_per_step

    def _alone(self, batch: int) -> float:
        """Share of the prompts that are not computed while another rank computes more of them."""
        mean = batch * self.tokens_per_step / self.osl  # prompts of a rank in a round
        return most_of(self.ranks, mean) / (self.ranks * mean)

    def prompts_s(self, batch: int) -> list[float]:
        """Seconds that each typical prompt adds to the steps of its rank, which has so many
        decoding sequences; without operators that ranks share.
        """
        table, price = self.price.tokens_s, self.price
        there = batch * price.decode_tokens if self.mixed else 0
        each_s = price.prefill_floor_s + (0.0 if self.mixed else price.sequences_s[1])
        found = []
        for (steps, chunk, rest), attention_s in zip(
            self._chunks(there), self.attention_s, strict=True
        ):
            linear = (steps - 1) * table[there + chunk] + table[there + rest] - steps * table[there]
            found.append(linear + attention_s + steps * each_s)
        return found

    def shared_s(self, batch: int) -> list[float]:
        """Seconds that each adds to the operators that the ranks of a replica share."""
        table = self.price.shared_s
        if table is None:
            return [0.0] * len(self.prompts)
        there = batch * self.price.decode_tokens if self.mixed else 0
        all_there, found = there * self.ranks, []
        for steps, chunk, rest in self._chunks(there):
            last = table[all_there + rest] - steps * table[all_there]
            found.append(float((steps - 1) * table[all_there + chunk] + last))
        return found

    def _chunks(self, there: int) -> list[tuple[int, int, int]]:
        """Of each typical prompt: the steps that it takes beside so many tokens of decodes, and its
        tokens in all but the last and in the last of them.
        """
        room, found = max(1, self.budget - there), []
        for tokens in self.prompts:
            if tokens <= room:
                found.append((1, tokens, tokens))
            else:
                steps = -(-tokens // room)
                found.append((steps, room, tokens - (steps - 1) * room))
        return found

    def ttfts_s(self, batch: float, held_steps: float, idle_s: float) -> list[float]:
        """TTFT of each of some typical prompts that are admitted at once; clients see the first
        token so many decode steps, and a time, later than the engine has it.
        """
        whole = max(1, round(batch))
        after_s = idle_s + self.tpot_s(batch) * self.tokens_per_step * (1 + held_steps)
        parts = zip(self.prompts_s(whole), self.shared_s(whole), strict=True)
        return [prompt_s + shared_s + after_s for prompt_s, shared_s in parts]

    def together_s(self, batch: float) -> float:
        """Seconds of a batch that starts together and that nobody joins: prompts, then the steps of
        those that are left until the last answer ends, by quantiles of the answers.
        """
        whole, answers = max(1, round(batch)), sorted(self.answers)
        total, before = whole * _mean(self.prompts_s(whole)), 0
        for i, n in enumerate(answers):
            left = max(1, round(whole * (1 - i / len(answers))))
            total += (n - before) * self._at(left)[0]
            before = n
        return total

    def kept(self, batch: int, limit_s: float | None) -> float:
        """Share of the answers whose TPOT keeps a limit."""
        if limit_s is None:
            return 1.0
        decode_s, delays_s = self._at(batch)
        if limit_s <= decode_s:
            return 0.0
        mean, variance, third = compound(delays_s, self.gaps)
        tpot_s = decode_s + batch * self.ranks / self.osl * mean
        rate = batch * self.ranks / (self.osl * tpot_s)
        come = rate * limit_s
        moments = (come * mean, come * variance, come * third)
        return gamma_shares(limit_s - decode_s, moments, self.answers)

    def reached_s(self, batch: int, share: float) -> float:
        """The TPOT that a share of the answers keeps."""
        low = high = self.tpot_s(batch)
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


def steady_state(
    price: StepPrice,
    job: WorkloadInput,
    ranks: int,
    replicas: int = 1,
    *,
    mixed: bool = True,
) -> Steady:
    """The steady state of one of so many replicas under the traffic of a workload; ``mixed``:
    prompts are computed in steps that decode as well.
    """
    isls, osls = job.workload.shape
    answers = typical(osls)
    prompts, budget = typical(isls), job.software.max_num_batched_tokens
    return Steady(
        price=price,
        ranks=ranks,
        isl=isls.average,
        osl=osls.average,
        context=mean_context(isls, osls),
        answers=tuple(answers),
        prompts=tuple(prompts),
        attention_s=tuple(price.prefill_attention_s(0, tokens) for tokens in prompts),
        budget=min(budget, len(price.tokens_s) - 1),
        gaps=job.workload.arrivals.cv**2 / replicas,
        tokens_per_step=job.software.tokens_per_step,
        mixed=mixed,
    )


def compound(parts: list[float], gaps: float) -> tuple[float, float, float]:
    """Mean, variance and third central moment of a sum of parts, for each that comes in the mean
    over a long time, with gaps of a squared coefficient of variation.

    Model: cumulants of the number of renewals 1, c^2, c^4 (exact for Gamma gaps).
    """
    mean = _mean(parts)
    second = sum((x - mean) ** 2 for x in parts) / len(parts)
    third = sum((x - mean) ** 3 for x in parts) / len(parts)
    return (
        mean,
        second + gaps * mean * mean,
        third + 3 * gaps * mean * second + gaps * gaps * mean**3,
    )


def gamma_shares(most: float, moments: tuple[float, float, float], times: Sequence[int]) -> float:
    """Chance that the sum of n equal parts of a shifted Gamma variable is at most n times so much,
    averaged over n; a part has a mean, a variance and a third central moment.

    Model: with skewness g of a sum and z its distance from the mean in standard deviations, its
    chance is normal in (6 / g) ((1 + g z / 2)^(1/3) - 1) + g / 6 (Wilson and Hilferty 1931).
    """
    mean, variance, third = moments
    if variance <= 0:
        return float(mean <= most)
    away, skew = (most - mean) / math.sqrt(variance), third / variance**1.5
    total = 0.0
    for n in times:
        root = math.sqrt(n)
        g, z = skew / root, away * root
        if abs(g) > 1e-3:
            ratio = 1 + g * z / 2
            if ratio <= 0:
                total += g < 0
                continue
            z = 6 / g * (ratio ** (1 / 3) - 1) + g / 6
        total += 0.5 * math.erfc(z * -math.sqrt(0.5))
    return total / len(times)


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


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
