"""Settings of published benchmark scripts that their results do not repeat.

Sources: benchmarks/ of SemiAnalysisAI/InferenceX, generator/ of ai-dynamo/aiconfigurator; commits
stand at each. Of several versions of a script the one whose date fits is taken, else the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.studies.validate_cases import Case

BATCH_WAIT = 20  # iterations
BALANCE_WAIT = 60  # iterations
SGLANG_INTERVALS = {"b200": 30, "b300": 20, "h200_sxm": 20}  # steps
OVER_PROMPT = 1500  # tokens of a step
BLACKWELL = ("b200", "b300")
INFERENCEX_LENGTHS = "uniform_0.8_1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a script sets: steps that requests or their first tokens are held back, dtype of the
    cache, tokens of a step, scheduler, fraction of the memory, batches that graphs are captured
    for, devices that experts are spread over; ``lengths`` where the results do not say which they
    have.
    """

    held_steps: int = 0
    kv_dtype: str = ""
    max_num_batched_tokens: int | None = None
    scheduler: str = ""
    memory_fraction: float | None = None
    cuda_graph_sizes: tuple[int, ...] = ()
    ep: int | None = None
    lengths: str = "fixed"


def recipe_of(case: Case) -> Recipe:
    """The settings of a closed loop of InferenceX, or of one that aiconfigurator's authors ran."""
    if case.text("mode") != "closed_loop" or "silicon_sample" not in case.text("source"):
        return Recipe()
    if "aic-gap-analysis" in case.text("source_detail"):
        return _of_aiconfigurator(case)
    found = RECIPES.get((case.text("framework"), case.text("model")))
    return Recipe() if found is None else found(case)


def _of_aiconfigurator(case: Case) -> Recipe:
    """A step has room for a prompt, 1,500 tokens and the batch; SGLang mixes prompts and decodes.

    Source: rule_plugin/benchmark/*.rule (@581e459, @2b264ba, @043c66c). The template of SGLang
    0.5.1 does not pass the flag for mixed steps (@5dc6d4f), later ones do (@ff1a4aa); that of vLLM
    0.12 does not pass the tokens either (@11324a6), but its runs on half ``fit`` are as if it did.
    """
    tokens = case.count("isl") + OVER_PROMPT + case.count("concurrency")
    if case.text("framework") != "sglang":
        return Recipe(max_num_batched_tokens=tokens)
    if case.text("framework_version").startswith("0.5.1."):
        return Recipe()
    return Recipe(max_num_batched_tokens=tokens, scheduler="sglang_mixed")


def _trtllm_llama(case: Case) -> Recipe:
    """Waits 20 iterations for fuller batches at 1024/1024 below TP 8, fills up batches (@73ef922,
    @a267b4b).
    """
    square = case.number("isl") == 1024 == case.number("osl")
    waits = square and case.count("tp") < 8
    return Recipe(held_steps=BATCH_WAIT if waits else 0, cuda_graph_sizes=captured(1024))


def _trtllm_deepseek(case: Case) -> Recipe:
    """An fp8 cache, batches filled up; attention groups wait up to 60 iterations until all of them
    have a prompt (``timeout_iters``, @34bc7c4).

    Limits: the whole wait is added to the first token; that prompts come together is not played.
    """
    return Recipe(
        held_steps=BALANCE_WAIT if case.count("attn_dp") > 1 else 0,
        kv_dtype="fp8",
        cuda_graph_sizes=captured(case.count("concurrency")),
    )


def _sglang_qwen(case: Case) -> Recipe:
    """Streams tokens in groups of 30 on B200 (@01fa35c, @088fe66) and of 50 on H200 and B300
    (@2116fc4, @5632483), polls for requests every 10 to 30 steps, sets chunks of 32,768 on B200 and
    an fp8 cache unless weights are bf16.

    What the two intervals add up to was fitted on half ``fit``: 34 steps on B200, where the 30 of
    its script are kept, 20 on H200 and B300. All results without lengths are those of other rows
    that have InferenceX's.
    """
    chip = case.text("chip")
    return Recipe(
        held_steps=SGLANG_INTERVALS.get(chip, 0),
        kv_dtype="" if case.text("weights_dtype") == "bf16" else "fp8",
        max_num_batched_tokens=32_768 if chip == "b200" else None,
        lengths=INFERENCEX_LENGTHS,
    )


def _sglang_deepseek(case: Case) -> Recipe:
    """B200: an fp8 cache, chunks and share of the memory by TP, the intervals of Qwen3.5's script
    (@16ffb65). Its limit of 128 sequences is left out: runs of 256 clients did not queue.
    """
    wide = case.count("tp") == 8
    return Recipe(
        held_steps=SGLANG_INTERVALS.get(case.text("chip"), 0),
        kv_dtype="fp8",
        max_num_batched_tokens=32_768 if wide else 8192,
        memory_fraction=0.82 if wide else 0.95,
    )


def _vllm_minimax(case: Case) -> Recipe:
    """H200 over eight: experts are spread, whatever the results say (minimaxm2.5_fp8_h200 since
    2026-03-13). Blackwell: an fp8 cache and steps of two prompts (B300 @5632483, which repeats that
    of B200; B200 @8eec0d4, @45c4f91), not yet with 0.17 (@07e171a).
    """
    if case.text("chip") == "h200_sxm" and case.count("tp") == 8:
        return Recipe(ep=8)
    if case.text("chip") not in BLACKWELL or case.text("framework_version").startswith("0.17."):
        return Recipe()
    return Recipe(kv_dtype="fp8", max_num_batched_tokens=2 * case.count("isl"))


def _vllm_llama(_case: Case) -> Recipe:
    """An fp8 cache for fp4 weights too (@bb4c7f9, @2a205bb)."""
    return Recipe(kv_dtype="fp8", max_num_batched_tokens=8192)


RECIPES = {
    ("trtllm", "llama3.1-70b"): _trtllm_llama,
    ("trtllm", "deepseek-r1"): _trtllm_deepseek,
    ("sglang", "qwen3.5-397b-a17b"): _sglang_qwen,
    ("sglang", "deepseek-r1"): _sglang_deepseek,
    ("vllm", "minimax-m2.5"): _vllm_minimax,
    ("vllm", "llama3.1-70b"): _vllm_llama,
}


def captured(most: int) -> tuple[int, ...]:
    """Batches up to ``most`` that TensorRT-LLM captures if it may fill them up: 1, 2, 4, by 8 to
    128, powers of 2, and the largest (CudaGraphConfig of 1.0 to 1.2).
    """
    sizes = {1, 2, 4, *range(8, 129, 8), *(2**n for n in range(8, 14)), most}
    return tuple(sorted(size for size in sizes if size <= most))
