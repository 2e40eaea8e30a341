"""A Hugging Face ``config.json`` as the mapping that a model file would hold.

Model: each architecture's function (``specs.architectures``) reads the keys that it knows; what is
left over and may change the cost is refused by name. Of towers for pictures the weights count where
their form is known (``specs.towers``), others are left out. Source: configuration classes of
transformers (recalled) and config.json files of published models.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster_sim.errors import SpecError, meant, nearest
from cluster_sim.specs.architectures import (
    deepseek,
    deepseek_v4,
    early,
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
from cluster_sim.specs.architectures.defaults import fill_in
from cluster_sim.specs.checkpoint import stored
from cluster_sim.specs.config_reader import ConfigReader, Data, json_object, with_lines
from cluster_sim.specs.find import FileRecord
from cluster_sim.specs.likeness import nearest_family, read_like
from cluster_sim.specs.towers import vision_tower

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
    **early.ARCHITECTURES,
}


# Where configs of several modalities keep their decoder.
_DECODERS = ("text_config", "llm_config", "language_config", "thinker_config.text_config")


def parse(
    text: str,
    shown: str,
    name: str,
    beside: Mapping[str, FileRecord] | None = None,
    like: str | None = None,
) -> Data:
    """The mapping of a model file; ``beside`` are the files of the checkpoint by name. Raises
    SpecError with every problem of the config.

    ``like`` is the family that one of an unknown family, or with keys that nobody understands, is
    read as, which its notes say. Raises SpecError for one that needs no likeness.
    """
    outer = json_object(text, shown)
    config, nested = _decoder(outer, shown)
    kind = config.text("model_type") or (str(outer.get("model_type", "")) if nested else "")
    filled = fill_in(config, kind) if nested else []
    if like is not None:
        _needs_likeness(text, shown, name, like)
        found = read_like(config, like, ARCHITECTURES)
        config.problems += [f"--model-like {like}: {problem}" for problem in found.problems]
        data, left = found.data, ", ".join(found.left_over) or "none"
        said = f"priced as {like}" if kind == like else f"family {kind} is priced as {like}"
        data["notes"] = [f"{said}, its figures are a guess; keys not understood: {left}"]
    elif kind in ARCHITECTURES:
        data = ARCHITECTURES[kind](config)
    else:
        problems = config.problems or [_unknown(config, kind)]
        raise SpecError(with_lines(problems, text, shown))
    data = {"title": name, **data, "notes": [*filled, *data.get("notes", [])]}
    data = _whole(outer, config, data, like or kind, beside or {})
    if like is None:
        config.refuse_left_overs()
    if config.problems:
        raise SpecError(with_lines(config.problems, text, shown))
    return {key: value for key, value in data.items() if value is not None}


def _needs_likeness(text: str, shown: str, name: str, like: str) -> None:
    """Refuse a likeness to no family, and one of a config that can be read without."""
    if like not in ARCHITECTURES:
        hint = meant(like, ARCHITECTURES) or ";"
        known = ", ".join(ARCHITECTURES)
        raise SpecError(f"--model-like {like}: no such family{hint} Known: {known}")
    try:
        parse(text, shown, name)
    except SpecError:
        return
    raise SpecError(f"--model-like {like}: has no effect on {shown}, whose family is known")


def _decoder(outer: Data, shown: str) -> tuple[ConfigReader, bool]:
    """The config of the decoder, and whether it lies inside another."""
    for path in _DECODERS:
        inner: object = outer
        for key in path.split("."):
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            return ConfigReader(inner, shown, f"{path}."), True
    return ConfigReader(outer, shown), False


def _whole(
    outer: Data, config: ConfigReader, data: Data, kind: str, beside: Mapping[str, FileRecord]
) -> Data:
    """What a family says, with what all have in common: the tie, what is stored, notes."""
    outer_tie = outer.get("tie_word_embeddings")
    if isinstance(outer_tie, bool) and not config.has("tie_word_embeddings"):
        data = {**data, "tied_embeddings": outer_tie}
    if config.problems:
        return data
    found = stored(config, outer, data, kind, beside)
    tower = vision_tower(outer)
    notes = [*data["notes"], *_beside(outer, tower), *found.get("notes", [])]
    return {**data, **found, "tower_parameters": tower, "notes": notes or None}


def _beside(outer: Data, tower: int | None) -> list[str]:
    """What a config names beside the decoder: a tower of so many weights, others that are left
    out.
    """
    towers = [key.removesuffix("_config") for key in _TOWERS if isinstance(outer.get(key), dict)]
    notes = []
    if tower is not None:
        towers.remove("vision")
        notes = [
            f"the vision tower counts as {tower / 1e9:.2f} billion weights in bf16, not in time, "
            "nor does the memory of its images"
        ]
    if towers:
        names = " and ".join(towers)
        notes.append(f"the {names} tower is left out: neither its weights nor its time count")
    return notes


def _unknown(config: ConfigReader, kind: str) -> str:
    """What the nearest known family would need, and how to price the model as one."""
    shown = config.shown
    if not kind:
        return f"{shown}: model_type: missing; this is not a Hugging Face config of a model"
    near = nearest(kind, ARCHITECTURES)
    text = f"{shown}: model_type: '{kind}' is not known"
    text += f"; the nearest known are {', '.join(near)}" if near else ""
    like = nearest_family(config, ARCHITECTURES)
    left = f"; not understood: {', '.join(like.left_over)}" if like.left_over else ""
    if not like.problems:
        text += f". By its keys it is nearest to '{like.family}'{left}"
        return f"{text}. Price it so with --model-like {like.family}, which the run notes"
    start = f"{shown}: {config.prefix}"
    problems = "; ".join(problem.removeprefix(start) for problem in like.problems)
    return f"{text}. It can be read as none; as '{like.family}': {problems}{left}"
