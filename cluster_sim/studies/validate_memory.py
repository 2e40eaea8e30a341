"""What start-up logs say of memory, beside what the memory rules say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cluster_sim.errors import ClusterSimError, DoesNotFitError
from cluster_sim.kernels.layout import Layout, Recipe, check_layout, recipe
from cluster_sim.perf.memory import GIB, DeviceMemory, device_memory, graph_bytes
from cluster_sim.perf.startup import why_not
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.engine_settings import apply_settings
from cluster_sim.specs.load import load_spec, read
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import DTYPES, PROFILES, SkippedError, profile_of

CONFIG = "config.json"
# Flags that change nothing in the memory of a device as it is counted here.
IDLE = (
    *("load_format", "trust_remote_code", "enable_expert_parallel", "engine"),
    *("enable_chunked_prefill", "cuda_graph_max_bs", "sampler"),
    *("torchao_config", "smoothquant", "max_input_len", "max_output_len"),
)
# Cases with these flags are not replayed: defects of an engine, memory shared with the host, what
# else lies on the device, settings that are not known.
LEFT_OUT = (
    *("engine_bug", "transformers_backend", "unified_memory", "lora"),
    *("development_version", "weights_in_gb", "utilization_unknown", "tp_unknown", "odd_weights"),
    *("derived_from_nvidia_smi", "approximate"),
)
HYBRID = "kv_tokens_hybrid"  # tokens as printed for a cache of groups are no tokens of a sequence
NO_GRAPHS = ("enforce_eager", "disable_cuda_graph")
FIRST_ENGINE = "vllm-0.6"  # takes whole prompts as a step unless they are very long
LONGEST_WHOLE = 32_768  # tokens


def predicted(case: Case) -> float:
    """The value of a case in its unit (GiB, tokens, 1 for an engine that starts); raises
    SkippedError.
    """
    chip, metric = _chip(case.text("chip")), case.text("metric")
    flagged = [flag for flag in LEFT_OUT if flag in case.flags]
    if flagged or (metric == "kv_tokens" and HYBRID in case.flags):
        raise SkippedError(f"flag {(*flagged, HYBRID)[0]}")
    if metric == "total_gib":
        return chip.visible_memory / GIB
    try:
        model, software, layout, dtypes = _parts(case, chip)
        check_layout(model, layout)
        memory = device_memory(chip, model, software, layout, dtypes)
    except ClusterSimError as error:
        if case.verdict and isinstance(error, DoesNotFitError):
            return 0.0
        raise SkippedError("inputs refused", str(error).splitlines()[0]) from None
    if case.verdict:
        return float(not why_not(chip, model, software, layout, dtypes, memory))
    return _values(model, software, layout, memory)[metric]


def _values(
    model: Model, software: Software, layout: Layout, memory: DeviceMemory
) -> dict[str, float]:
    return {
        "weights_gib_per_gpu": memory.weights / GIB,
        "kv_gib_per_gpu": memory.room / GIB,
        "kv_tokens": float(memory.tokens * layout.pp),
        "activation_gib": (memory.counted - memory.base) / GIB,
        "non_torch_gib": memory.base / GIB,
        "graphs_gib": graph_bytes(model, software, layout) / GIB,
    }


def _parts(case: Case, chip: Chip) -> tuple[Model, Software, Layout, Recipe]:
    name = case.text("framework").replace("-", "_")
    if name not in PROFILES:
        raise SkippedError("no software profile", f"framework {name or 'not stated'}")
    profile = profile_of(name, case.text("version") or case.text("framework_version"))[0]
    base, data = load_spec("software", profile, Software)[1], read("software", profile)[1]
    model = _model(case)
    settings = _settings(case)
    if profile == FIRST_ENGINE and "max_num_batched_tokens" not in settings:
        longest = case.count("max_model_len", model.max_context)
        if longest <= LONGEST_WHOLE:
            settings["max_num_batched_tokens"] = max(longest, base.max_num_batched_tokens)
    software = apply_settings(base, data, settings)
    software = software.on_device(chip.device_memory, chip.name)
    dtype = case.text("weights_dtype") or model.native_dtype
    dtype = DTYPES.get(dtype, dtype)
    kv_dtype = software.cache_dtype(model, dtype)
    degrees = {key: case.count(key) for key in ("tp", "pp", "ep", "attn_dp")}
    return model, software, Layout(**degrees), recipe(chip, model, dtype, kv_dtype)


@cache
def _chip(name: str) -> Chip:
    return load_spec("chip", name, Chip)[1]


@cache
def _named(name: str) -> Model:
    return load_spec("model", name, Model)[1]


def _model(case: Case) -> Model:
    """The model of a case: the config that it names beside its file, else by name."""
    config = case.text("config")
    path = Path(case.file).parent / config / CONFIG
    if config and path.is_file():
        return _named(str(path))
    if not case.text("model"):
        raise SkippedError("model not stated")
    return _named(case.text("model"))


def _settings(case: Case) -> dict[str, Any]:
    """Flags of the engine by its own names: ``flag=value;flag=value``, and the columns."""
    settings: dict[str, Any] = {}
    for text in filter(None, case.text("settings").split(";")):
        flag, _, value = text.partition("=")
        if flag.strip() in NO_GRAPHS:
            settings["cuda_graph_sizes"] = []
        elif flag.strip() not in IDLE:
            settings[flag.strip()] = _number(value.strip())
    kv_dtype = DTYPES.get(case.text("kv_dtype"), case.text("kv_dtype"))
    settings |= {"kv_dtype": kv_dtype} if kv_dtype else {}
    if case.text("max_model_len"):
        settings["max_model_len"] = case.count("max_model_len")
    return settings


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
