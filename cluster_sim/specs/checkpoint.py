"""What a checkpoint stores, from its config and the files beside it.

Rule: ``quantization_config`` counts; ``hf_quant_config.json`` beside it where there is none, as in
vLLM and SGLang (recalled; TensorRT-LLM reads the latter first). The size of
``model.safetensors.index.json`` is that of the whole checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster_sim.specs.chip import KvDtype
from cluster_sim.specs.config_reader import ConfigReader, Data, json_object
from cluster_sim.specs.find import FileRecord
from cluster_sim.specs.quantization import BF16, Scheme, plain, read_scheme
from cluster_sim.specs.quantized_modules import apart

SIDECAR = "hf_quant_config.json"
INDEX = "model.safetensors.index.json"
BESIDE = (SIDECAR, INDEX)
KEYS = ("quantization_config", "compression_config")  # the second is an older name
MOST_BYTES = 1e16  # of a checkpoint
_NAMED = re.compile(r"(?i)\b(?:(?:nv|mx)?fp[48]|int[48]|w[48]a\d+|awq|gptq|bnb|nf4)\b")
_TOWERS = re.compile(r"(?:^|\.)(?:visual|vision|audio|mm_projector|multi_modal_projector)")


def stored(
    c: ConfigReader, outer: Data, data: Data, kind: str, beside: Mapping[str, FileRecord]
) -> Data:
    """What a model file says of a checkpoint; problems are noted in ``c``.

    ``c`` reads the config of the text model, which may be inside the ``outer`` one; ``data`` are
    its dimensions and ``kind`` its family.
    """
    sources, notes = {"dimensions": c.shown}, []
    own, side = _own_scheme(c, outer), None
    if SIDECAR in beside:
        side = _scheme_beside(c, beside[SIDECAR])
    chosen = own or side
    if chosen is None and not c.problems:
        chosen = Scheme(BF16, BF16, notes=_check_plain(c, data))
    if c.problems or chosen is None:
        return {}
    found = apart(c.data, data, kind, _with_experts(c, chosen))
    if own is not None and side is not None:
        notes += _contradiction(found, apart(c.data, data, kind, side), beside[SIDECAR].path)
    elif side is not None:
        sources["quantization"] = beside[SIDECAR].path
    if INDEX in beside:
        found |= _size(c, data, beside[INDEX], notes)
        sources["size"] = beside[INDEX].path
    return {**found, "notes": [*found["notes"], *notes], "sources": sources}


def _own_scheme(c: ConfigReader, outer: Data) -> Scheme | None:
    """The scheme that the config itself gives."""
    for data, prefix in ((c.data, c.prefix), (outer, "")):
        for key in KEYS:
            c.read.add(key)
            value = data.get(key)
            if value is None or value == {}:
                continue
            if not isinstance(value, dict):
                c.problems.append(
                    f"{c.shown}: {prefix}{key}: must be an object (got {value!r:.60})"
                )
                return None
            return _scheme(c, ConfigReader(value, c.shown, f"{prefix}{key}."))
    return None


def _scheme_beside(c: ConfigReader, record: FileRecord) -> Scheme | None:
    value = json_object(record.text, record.path).get("quantization")
    if not isinstance(value, dict):
        c.problems.append(f"{record.path}: quantization: must be an object (got {value!r:.60})")
        return None
    return _scheme(c, ConfigReader(value, record.path, "quantization."))


def _scheme(c: ConfigReader, reader: ConfigReader) -> Scheme | None:
    """A scheme with what it asks for the KV cache; its problems are noted in ``c``."""
    inner = reader.data.get("quantization")
    if isinstance(inner, dict) and "quant_method" in reader.data:  # ModelOpt's file, taken over
        reader = ConfigReader({**reader.data, **inner}, reader.shown, reader.prefix)
    made = read_scheme(reader)
    kv_dtype, note = _cache_dtype(reader)
    c.problems += reader.problems
    if made is None:
        return None
    return replace(made, kv_dtype=kv_dtype, notes=(*made.notes, *([note] if note else [])))


def _cache_dtype(c: ConfigReader) -> tuple[KvDtype | None, str]:
    """The dtype that a checkpoint asks for its KV cache, and what is to be said of it."""
    named = c.data.get("kv_cache_quant_algo")
    scheme = c.data.get("kv_cache_scheme")
    if named is None and isinstance(scheme, dict):
        bits, kind = scheme.get("num_bits"), scheme.get("type", "float")
        named = {"8 float": "FP8", "8 int": "INT8"}.get(f"{bits} {kind}", f"{bits}-bit {kind}")
    elif named is None:
        named = scheme
    if named is None or str(named).lower() in ("none", "auto"):
        return None, ""
    if not isinstance(named, str):
        c.wrong("kv_cache_scheme", f"must be an object or a name (got {named!r:.60})")
        return None, ""
    found: dict[str, KvDtype] = {"FP8": "fp8", "INT8": "int8", "BF16": "bf16"}
    if named.upper() in found:
        return found[named.upper()], ""
    return None, f"the checkpoint's KV cache of {named} is not modelled: the engine's own counts"


def _with_experts(c: ConfigReader, scheme: Scheme) -> Scheme:
    """The scheme with DeepSeek-V4's ``expert_dtype``: four bits with a scale for each 32."""
    if not c.has("expert_dtype"):
        return scheme
    name = c.text("expert_dtype")
    if name not in ("fp4", "fp8"):
        c.wrong("expert_dtype", f"'{name}' is not known, only fp4 and fp8")
    return replace(scheme, experts=plain("mxfp4")) if name == "fp4" else scheme


def _check_plain(c: ConfigReader, data: Data) -> tuple[str, ...]:
    """Sixteen and thirty-two bits count as bf16, and other dtypes need a scheme; what to note where
    the model's name has one.
    """
    named = c.text("dtype") or c.text("torch_dtype")
    if named not in ("", "auto", "bfloat16", "float16", "float32"):
        c.wrong("torch_dtype", f"'{named}' is not known without a quantization_config")
    found = _NAMED.search(data.get("title", ""))
    if found is None:
        return ()
    return (
        f"the name says {found[0]} and {c.shown} has no quantization_config: bf16 counts; "
        f"put the checkpoint's {SIDECAR} beside it",
    )


def _contradiction(ours: Data, theirs: Data, shown: str) -> list[str]:
    """Where both files say different things, that the config's counts."""
    keys = ("native_dtype", "kept", "kv_dtype")
    apart_ = [key for key in keys if ours[key] != theirs[key]]
    if not apart_:
        return []
    words = ", ".join(f"{key} {_words(ours[key])} and {_words(theirs[key])}" for key in apart_)
    return [f"config.json and {shown} differ ({words}): config.json counts, as in vLLM and SGLang"]


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{one['part']}:{one['dtype']}" for one in value) or "nothing"
    return str(value)


def _size(c: ConfigReader, data: Data, record: FileRecord, notes: list[str]) -> Data:
    """Bytes of a checkpoint by its index. Towers for pictures and sound are not counted, so a size
    with them says nothing.
    """
    index = json_object(record.text, record.path)
    metadata, names = index.get("metadata"), index.get("weight_map")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if size is None and isinstance(metadata, dict | None):
        notes.append(f"{record.path}: says no metadata.total_size: weights are counted")
        return {}
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST_BYTES:
        problem = f"must be bytes, a whole number up to {MOST_BYTES:g} (got {size!r:.60})"
        c.problems.append(f"{record.path}: metadata.total_size: {problem}")
        return {}
    tensors = list(names) if isinstance(names, dict) else []
    if any(_TOWERS.search(name) for name in tensors):
        notes.append(f"{record.path}: {size / 1e9:,.1f} GB hold other towers: weights are counted")
        return {}
    draft = re.compile(rf"(?:^|\.)(?:mtp|layers\.{data['layers']})\.")
    drafts = any(draft.search(name) for name in tensors)
    return {"checkpoint_bytes": size, "checkpoint_drafts": drafts}
