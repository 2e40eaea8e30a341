"""From a measured serving run to what is simulated for it, or the reason why nothing is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cluster_sim.specs.find import names
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_recipes import recipe_of

PROFILES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "vllm_ascend": "vllm-ascend"}
EXACT, OLDER, OLDEST, NEWEST = "exact", "nearest older", "oldest", "newest"
_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")
DTYPES = {"fp16": "bf16", "int4": "w4a16", "nvfp4": "fp4"}
POOLS = "pools are not simulated"
STAGES = "a stage alone is not simulated"
UNSTATED = ("mtp_unknown", "mtp_likely")  # flags of runs that may have drafted or not
OWN_DRAFTS = 1  # assumed of those that did, accepted as in any engine (DRAFT_ACCEPTANCE)
_LIMITS = re.compile(r"p99 limits TTFT / TPOT ([\d.]+) s / ([\d.]+) ms")


class SkippedError(Exception):
    """A case that cannot be replayed: a reason to count by, and details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)

    def __reduce__(self) -> tuple[type[SkippedError], tuple[str, str]]:
        """Pickle with both texts."""
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What decides a replay; equal jobs are simulated once. ``tp`` None: the best plan.

    ``drafts_unstated``: the run may have had drafts or not.
    """

    mode: str
    chip: str
    n_chips: int
    software: str
    model: str
    dtype: str
    kv_dtype: str
    tp: int | None
    pp: int | None
    ep: int | None
    attn_dp: int | None
    replicas: int | None
    isl: float
    osl: float
    lengths: str
    concurrency: int | None
    batch: int | None
    rate: float | None
    ttft_limit_ms: float | None
    tpot_limit_ms: float | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    held_steps: int
    scheduler: str
    memory_fraction: float | None
    cuda_graph_sizes: tuple[int, ...]
    draft_tokens: int
    drafts_unstated: bool

    @property
    def best_plan(self) -> bool:
        """Whether the measured run does not say how the model was laid out."""
        return self.tp is None


def job_of(case: Case) -> Job:
    """The job of a serving case; raises SkippedError for one that cannot be replayed."""
    mode = case.text("mode")
    if mode == "disagg_closed_loop":
        raise SkippedError(POOLS)
    if mode in ("prefill_only", "decode_only"):
        raise SkippedError(STAGES)
    framework = case.text("framework")
    if not framework:
        raise SkippedError("framework not stated")
    if framework not in PROFILES:
        raise SkippedError("no software profile", f"framework {framework}")
    dtype = case.text("weights_dtype")
    if not dtype:
        raise SkippedError("precision not stated")
    isl, osl = case.number("isl"), case.number("osl")
    if not isl or not osl:
        raise SkippedError("lengths not stated")
    ttft_limit, tpot_limit = _limits(case)
    degrees, recipe = _degrees(case, mode), recipe_of(case)
    degrees["ep"] = recipe.ep or degrees["ep"]
    tokens = _setting(case, "max_num_batched_tokens")
    return Job(
        mode=mode,
        chip=case.text("chip"),
        n_chips=case.count("n_chips", 0),
        software=profile_of(framework, case.text("framework_version"))[0],
        model=case.text("model"),
        dtype=DTYPES.get(dtype, dtype),
        kv_dtype=DTYPES.get(case.text("kv_dtype"), case.text("kv_dtype")) or recipe.kv_dtype,
        **degrees,
        isl=isl,
        osl=osl,
        lengths=case.text("isl_dist") or recipe.lengths,
        **_load(case, mode),
        rate=_rate(case),
        ttft_limit_ms=ttft_limit,
        tpot_limit_ms=tpot_limit,
        max_num_seqs=_setting(case, "max_num_seqs"),
        max_num_batched_tokens=tokens or recipe.max_num_batched_tokens,
        held_steps=recipe.held_steps,
        scheduler=recipe.scheduler,
        memory_fraction=recipe.memory_fraction,
        cuda_graph_sizes=recipe.cuda_graph_sizes,
        draft_tokens=case.count("mtp_draft_tokens", 0),
        drafts_unstated=not case.text("mtp_draft_tokens")
        and not set(UNSTATED).isdisjoint(case.flags),
    )


@cache
def profile_of(framework: str, version: str) -> tuple[str, str]:
    """The software profile of a framework's version, and how it was chosen: the exact release (what
    follows its numbers, ``rc3`` or ``.post2``, does not count), else the nearest older, else the
    oldest, or the newest of a version that is no number. Raises KeyError for a framework without
    profiles.
    """
    bare = PROFILES[framework]
    known = {
        _release(name.removeprefix(f"{bare}-")): name
        for name in names("software")
        if name.startswith(f"{bare}-")
    }
    known.pop((), None)
    wanted = _release(version)
    if wanted in known:
        return known[wanted], EXACT
    older = [release for release in known if release < wanted]
    if older:
        return known[max(older)], OLDER
    if wanted and known:
        return known[min(known)], OLDEST
    return known[max(known)] if known else bare, NEWEST


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at the end; empty if there are none."""
    found = _RELEASE.match(version)
    numbers = [int(number) for number in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _rate(case: Case) -> float | None:
    """The rate of open traffic that is replayed; None where the highest within limits is sought.

    Throughput of a best plan is that at its own capacity, latencies are those at the measured rate.
    """
    if case.text("mode") != "open_loop":
        return None
    if case.text("tp") or "_ms" in case.text("metric"):
        return case.number("request_rate_per_s")
    return None


def _limits(case: Case) -> tuple[float | None, float | None]:
    """p99 limits of TTFT and TPOT in ms, from their columns or from the words of the note."""
    ttft, tpot = case.number("ttft_limit_ms"), case.number("tpot_limit_ms")
    found = _LIMITS.search(case.text("note"))
    if ttft is None and tpot is None and found:
        return float(found[1]) * 1e3, float(found[2])
    return ttft, tpot


def _setting(case: Case, name: str) -> int | None:
    """A limit of the engine, from its column or from the words of the note."""
    found = re.search(rf"{name} (\d+)", case.text("note"))
    return case.count(name, int(found[1]) if found else 0) or None


def _degrees(case: Case, mode: str) -> dict[str, int | None]:
    """Degrees of parallelism; all None where only the chips are stated and the mode allows it.

    Experts whose spread is not stated are spread as the plan's rule has it.
    """
    chips, names = case.count("n_chips", 0), ("tp", "pp", "ep", "attn_dp", "replicas")
    if not chips:
        raise SkippedError("number of chips not stated")
    if not case.text("tp"):
        if mode not in ("offline", "open_loop"):
            raise SkippedError("parallelism not stated")
        return dict.fromkeys(names)
    degrees: dict[str, int | None] = {name: case.count(name) for name in names}
    if "ep_unknown" in case.flags:
        degrees["ep"] = None
    return degrees


def _load(case: Case, mode: str) -> dict[str, int | None]:
    """Concurrency and batch as far as the mode has them."""
    concurrency, batch = case.count("concurrency", 0), case.count("batch", 0)
    if mode == "closed_loop" and not concurrency:
        raise SkippedError("load not stated")
    if mode == "static_batch" and not batch:
        raise SkippedError("load not stated")
    if mode == "open_loop" and _rate(case) is None:
        searched = not case.text("tp") and "_ms" not in case.text("metric")
        if not searched or _limits(case) == (None, None):
            raise SkippedError("load not stated")
    return {
        "concurrency": concurrency if mode == "closed_loop" else None,
        "batch": batch if mode == "static_batch" else None,
    }
