"""Settings of an inference engine under its own names: what a workload or a user says of them, and
forms of the former version.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from typing import Any, get_args

from cluster_sim.errors import SpecError, warn
from cluster_sim.specs.build import Source, build, hint_at, short
from cluster_sim.specs.chip import KvDtype
from cluster_sim.specs.software import Software
from cluster_sim.specs.workload import Workload

ENGINE_KEYS = (
    "scheduler",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "memory_fraction",
    "block_tokens",
    "kv_dtype",
    "preemption",
    "prefix_cache",
    "new_token_ratio",
    "client_idle",
    "client_loaded_steps",
    "draft_tokens",
    "draft_acceptance",
    "cuda_graph_sizes",
)
# Keys that stand in a part of the profile: part and key there.
INSIDE = {
    "memory_fraction": ("memory", "fraction"),
    "block_tokens": ("memory", "block_tokens"),
    "client_idle": ("client", "idle"),
    "client_loaded_steps": ("client", "loaded_steps"),
}
IN_PROCESS = {"idle": "0 s", "loaded_steps": 0}  # what clients wait for without an API server
OLD_STEPS = "first_token_steps"  # the former version's name: of an idle engine as well
# What priced the algorithms that profiles named: TensorRT-LLM's kernels and NCCL.
OLD_SUMS = {"one_shot": "trtllm_custom", "ring": "nccl", "in_switch": "nccl"}
# The frameworks' own names of draft_tokens, where they count the same.
DRAFT_FLAGS = {"trtllm": ("num_nextn_predict_layers",), "sglang": ("speculative_num_steps",)}


def apply_engine(software: Software, data: Mapping[str, Any], workload: Workload) -> Software:
    """The profile with ``engine`` keys and ``engine_args`` of the workload applied."""
    return apply_settings(software, data, {**_engine_args(workload), **workload.engine})


def apply_settings(
    software: Software, data: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Software:
    """The profile with settings applied to its file's ``data``, under the framework's names; raises
    SpecError for one that it does not have.
    """
    if not wanted:
        return software
    known = {**{key: key for key in ENGINE_KEYS}, **software.aliases}
    known[OLD_STEPS] = "client_loaded_steps"
    known |= dict.fromkeys(DRAFT_FLAGS.get(software.framework, ()), "draft_tokens")
    changed, source = copy.deepcopy(dict(data)), Source("engine", {})
    for name, value in wanted.items():
        plain = name.replace("-", "_")
        if plain not in known:
            raise SpecError(
                f"engine.{name}: {software.name} has no such setting{hint_at(plain, known)}; "
                f"it has {', '.join(sorted(set(known) - {OLD_STEPS}))}"
            )
        ours = known[plain]
        if plain == OLD_STEPS:
            _warn_of_old_steps(f"engine.{name}", "engine.client_loaded_steps", "engine.client_idle")
            changed["client"] = {**IN_PROCESS, "source": "set"}
        value = _translated(software, plain, value)
        if ours in INSIDE:
            part, key = INSIDE[ours]
            changed.setdefault(part, {**IN_PROCESS, "source": "set"})[key] = value
            source.renamed[part, key] = name
        elif ours == "kv_dtype":
            if value not in get_args(KvDtype):
                words = ", ".join(get_args(KvDtype))
                raise SpecError(f"engine.{name}: must be one of {words} (got {short(value)})")
            changed["kv_dtype_given"] = value
        else:
            changed[ours] = value
            for small in changed.get("small_devices", ()):
                small.pop(ours, None)  # what the user sets holds on every device
    return build(Software, changed, source, software.name)


def _translated(software: Software, flag: str, value: Any) -> Any:
    """A value of a framework's own flag in our words."""
    words = software.alias_values.get(flag)
    if words is None:
        return value
    if str(value).lower() not in words:
        raise SpecError(f"engine.{flag}: must be one of {', '.join(words)} (got {short(value)})")
    return words[str(value).lower()]


def _engine_args(workload: Workload) -> dict[str, Any]:
    """``--max-num-seqs 512 --flag=value --switch`` as a mapping; a switch alone is true."""
    from cluster_sim.specs.yaml_text import parse

    try:
        words = shlex.split(workload.engine_args)
    except ValueError as error:
        raise SpecError(f"engine_args: {error} (got {workload.engine_args!r})") from None
    found: dict[str, Any] = {}
    while words:
        flag = words.pop(0)
        if not flag.startswith("--"):
            raise SpecError(f"engine_args: expected a --flag (got '{flag}')")
        name, equals, value = flag[2:].partition("=")
        if not equals:
            value = "true" if not words or words[0].startswith("--") else words.pop(0)
        found[name.replace("-", "_")] = parse(f"value: {value}", "engine_args")[0]["value"]
    return found


def rename_old_steps(data: dict[str, Any], shown: str) -> None:
    """Let a profile of the former version say what clients wait for."""
    if OLD_STEPS in data:
        _warn_of_old_steps(f"{shown}: {OLD_STEPS}", "client: {loaded_steps: ...}", "client.idle")
        steps = data.pop(OLD_STEPS)
        old = {**IN_PROCESS, "loaded_steps": steps, "source": f"{OLD_STEPS} of the file"}
        data.setdefault("client", old)


def rename_old_overhead(data: dict[str, Any], shown: str) -> None:
    """Let a profile of the former version say what the engine takes beside weights and cache."""
    memory = data.get("memory")
    if not isinstance(memory, dict):
        return
    if isinstance(memory.get("overhead"), str):
        warn(
            f"{shown}: memory.overhead: is old and goes with the next version; write "
            "overhead: {context: ..., forward: ..., sampling: ...}"
        )
        memory["overhead"] = {"context": memory["overhead"]}
    if memory.pop("activations", None) is not None:
        warn(f"{shown}: memory.activations: is old and has no effect; write overhead.forward")


def rename_old_sums(data: dict[str, Any], shown: str) -> None:
    """Let a profile of the former version name algorithms of all-reduces instead of libraries."""
    named = data.get("all_reduce")
    if not isinstance(named, list) or not OLD_SUMS.keys() & {str(name) for name in named}:
        return
    new = list(dict.fromkeys(OLD_SUMS.get(str(name), name) for name in named))
    warn(
        f"{shown}: all_reduce: algorithms are old and go with the next version; write the "
        f"libraries that the engine has: all_reduce: [{', '.join(map(str, new))}]"
    )
    data["all_reduce"] = new


def _warn_of_old_steps(where: str, name: str, idle: str) -> None:
    text = f"{where}: is old and goes with the next version; write {name}, waited where others keep"
    text += f" the engine busy, and {idle} for what one client waits (0 s if not given)"
    warn(text)
