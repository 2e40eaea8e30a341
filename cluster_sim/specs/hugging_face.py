"""A Hugging Face ``config.json`` as the mapping that a model file would hold.

Model: each architecture's function (``specs.architectures``) reads the keys that it knows; what is
left over and may change the cost is refused by name. Weights of vision and audio towers are left
out. Source: configuration classes of transformers (recalled) and config.json files of published
models.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.architectures import (
    deepseek,
    deepseek_v4,
    gemma,
    gpt_oss,
    kimi,
    llama,
    mamba,
    mimo,
    minimax,
    nemotron,
    older,
    qwen,
    relatives,
    sparse,
    step,
)
from cluster_sim.specs.architectures.common import Architectures
from cluster_sim.specs.checkpoint import stored
from cluster_sim.specs.config_reader import ConfigReader, Data, json_object
from cluster_sim.specs.find import FileRecord

_TOWERS = ("vision_config", "visual_config", "audio_config", "speech_config")
ARCHITECTURES: Architectures = {
    **llama.ARCHITECTURES,
    **qwen.ARCHITECTURES,
    **deepseek.ARCHITECTURES,
    **deepseek_v4.ARCHITECTURES,
    **kimi.ARCHITECTURES,
    **gpt_oss.ARCHITECTURES,
    **minimax.ARCHITECTURES,
    **mimo.ARCHITECTURES,
    **step.ARCHITECTURES,
    **gemma.ARCHITECTURES,
    **older.ARCHITECTURES,
    **nemotron.ARCHITECTURES,
    **mamba.ARCHITECTURES,
    **relatives.ARCHITECTURES,
    **sparse.ARCHITECTURES,
}


def parse(text: str, shown: str, name: str, beside: Mapping[str, FileRecord] | None = None) -> Data:
    """The mapping of a model file; ``beside`` are the files of the checkpoint by name. Raises
    SpecError with every problem of the config.
    """
    outer = json_object(text, shown)
    inner = outer.get("text_config")
    nested = isinstance(inner, dict)
    config = ConfigReader(outer, shown)
    if isinstance(inner, dict):
        config = ConfigReader(inner, shown, "text_config.")
    kind = config.text("model_type") or (str(outer.get("model_type", "")) if nested else "")
    if kind not in ARCHITECTURES:
        raise SpecError(config.problems or _unknown(shown, kind))
    data = {"title": name, **ARCHITECTURES[kind](config), "notes": _left_out(outer) or None}
    outer_tie = outer.get("tie_word_embeddings")
    if isinstance(outer_tie, bool) and not config.has("tie_word_embeddings"):
        data["tied_embeddings"] = outer_tie
    if not config.problems:
        data |= stored(config, outer, data, kind, beside or {})
    config.refuse_left_overs()
    if config.problems:
        raise SpecError(config.problems)
    return {key: value for key, value in data.items() if value is not None}


def _left_out(outer: Data) -> list[str]:
    """What a config names beside the decoder, which nothing prices."""
    towers = [key.removesuffix("_config") for key in _TOWERS if isinstance(outer.get(key), dict)]
    if not towers:
        return []
    names = " and ".join(towers)
    return [f"the {names} tower is left out: neither its weights nor its time count"]


def _unknown(shown: str, kind: str) -> str:
    if not kind:
        return f"{shown}: model_type: missing; this is not a Hugging Face config of a model"
    near = nearest(kind, ARCHITECTURES)
    hint = f"; the nearest known are {', '.join(near)}" if near else ""
    known = ", ".join(ARCHITECTURES)
    return f"{shown}: model_type: '{kind}' is not known{hint}. Known: {known}"
