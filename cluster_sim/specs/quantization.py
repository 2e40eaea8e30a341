"""How a checkpoint's ``quantization_config`` stores its weights: by method, and by module.

Source: configuration classes of vLLM, transformers, compressed-tensors and NVIDIA ModelOpt
(recalled), and config.json files of published checkpoints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster_sim.specs.chip import BYTES_PER_ELEMENT, Dtype, KvDtype
from cluster_sim.specs.config_reader import ConfigReader, Data
from cluster_sim.specs.module_patterns import REGEX, Patterns

SCALE_BYTES = 2  # of integer weights: fp16 or bf16
SPARSE = ("marlin-24", "sparse-24-bitmask", "sparse-bitmask")


class Stored(NamedTuple):
    """How a weight is stored: the dtype whose price it has, its bytes with its share of the scales,
    and, if the dtype is a neighbour's, what it really is.
    """

    dtype: Dtype
    width: float
    really: str = ""


def plain(dtype: Dtype, really: str = "") -> Stored:
    """A dtype with its usual scales."""
    return Stored(dtype, BYTES_PER_ELEMENT[dtype], really)


BF16 = plain("bf16")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How modules are stored: those that a rule names by the first of their rules, routed experts
    as ``experts``, other products as ``usual``; ``head``: the LM head is one of them.
    """

    usual: Stored
    experts: Stored
    rules: tuple[tuple[Patterns, Stored], ...] = ()
    head: bool = False
    kv_dtype: KvDtype | None = None
    notes: tuple[str, ...] = field(default=())


class UnknownError(Exception):
    """A method, or a setting of it, that is not known; the message says what is."""


def read_scheme(c: ConfigReader) -> Scheme | None:
    """The scheme of a ``quantization_config`` or of the ``quantization`` of a ModelOpt file, whose
    keys ``c`` reads; problems are noted there and give None.
    """
    before = len(c.problems)
    method = c.text("quant_method").lower()
    if not method and ("quant_algo" in c.data or "quantized_layers" in c.data):
        method = "modelopt"
    if not method and ("load_in_4bit" in c.data or "load_in_8bit" in c.data):
        method = "bitsandbytes"  # as transformers reads the oldest of them
    method = ALIASES.get(method, "modelopt" if method.startswith("modelopt") else method)
    try:
        if method not in METHODS:
            known = ", ".join(METHODS)
            raise UnknownError(f"quant_method '{method}' is not known; known are {known}")
        made = METHODS[method](c)
    except (UnknownError, ValueError) as error:  # ValueError: of a pattern
        c.problems.append(f"{c.shown}: {c.prefix.rstrip('.')}: {error}")
    return made if len(c.problems) == before else None


def _names(c: ConfigReader, *keys: str) -> list[str]:
    """The texts of lists, nested ones as well; one text stands for a list of it."""
    found: list[str] = []
    for key in keys:
        todo = [c.data.get(key)]
        while todo:
            value = todo.pop()
            if isinstance(value, list):
                todo.extend(reversed(value))
            elif isinstance(value, str):
                found.append(value)
            elif value is not None:
                c.wrong(key, f"must be a list of names of modules (got {_short(value)})")
                break
    return found


def _kept(c: ConfigReader, *keys: str) -> tuple[tuple[Patterns, Stored], ...]:
    names = _names(c, *keys)
    return ((Patterns(names), BF16),) if names else ()


def _grouped(names: Mapping[Stored, list[str]]) -> tuple[tuple[Patterns, Stored], ...]:
    return tuple((Patterns(mine), stored) for stored, mine in names.items())


def _integers(bits: object, group: object, *, zeros: bool, really: str = "") -> Stored:
    """Weights of 4 or 8 bits with a scale, and a zero where they have one, for each group."""
    dtypes: dict[int, Dtype] = {4: "w4a16", 8: "w8a16"}
    if not isinstance(bits, int) or bits not in dtypes:
        raise UnknownError(f"weights of {_short(bits)} bits are not known; known are 4 and 8")
    width = bits / 8
    if isinstance(group, int) and group > 0:
        width += (SCALE_BYTES + (bits / 8 if zeros else 0)) / group
    return Stored(dtypes[bits], width, really)


def _fp8(c: ConfigReader) -> Scheme:
    """FP8 of a whole checkpoint; DeepSeek-V4 has experts of four bits in it, and ModelOpt's of that
    names them in ``quantized_layers``: there ``ignore`` means what is not in four bits.
    """
    block = c.data.get("weight_block_size")
    if block is not None and not (isinstance(block, list) and len(block) == 2):
        c.wrong("weight_block_size", f"must be a list of two numbers (got {_short(block)})")
    usual = experts = plain("fp8_block" if block else "fp8")
    rules = _kept(c, "modules_to_not_convert", "ignored_layers")
    if "quantized_layers" in c.data:
        rules += _listed(c)
    elif c.data.get("moe_quant_algo"):
        experts = _algorithm(c.data, "moe_quant_algo")
    return Scheme(usual, experts, rules)


def _fbgemm(c: ConfigReader) -> Scheme:
    return Scheme(plain("fp8"), plain("fp8"), _kept(c, "modules_to_not_convert"))


def _mxfp8(c: ConfigReader) -> Scheme:
    keys = ("modules_to_not_convert", "ignored_layers", "exclude_modules", "ignore")
    return Scheme(MXFP8, MXFP8, _kept(c, *keys))


def _mxfp4(c: ConfigReader) -> Scheme:
    """Only experts are quantised (vLLM, gpt-oss)."""
    return Scheme(BF16, plain("mxfp4"), _kept(c, "modules_to_not_convert"))


def _gptq(c: ConfigReader) -> Scheme:
    """GPTQ; GPTQModel's ``dynamic`` has other bits for ``+:`` patterns and none for ``-:``."""
    zeros = not c.flag("sym", True)
    usual = _integers(c.data.get("bits"), c.data.get("group_size"), zeros=zeros)
    rules = _kept(c, "modules_to_not_convert")
    other: dict[Stored, list[str]] = defaultdict(list)
    for pattern, change in c.mapping("dynamic").items():
        change = change if isinstance(change, dict) else {}
        stored = BF16
        if not pattern.startswith("-"):
            bits, group = change.get("bits", c.data.get("bits")), change.get("group_size")
            group = c.data.get("group_size") if group is None else group
            stored = _integers(bits, group, zeros=zeros)
        other[stored].append(REGEX + pattern.lstrip("+-:"))
    rules += _grouped(other)
    inside = _names(c, "modules_in_block_to_quantize")
    if inside:
        rules += ((Patterns(inside), usual),)
        return Scheme(BF16, BF16, rules, head=False)
    return Scheme(usual, usual, rules, head=c.flag("lm_head", False))


def _awq(c: ConfigReader) -> Scheme:
    bits = c.data.get("bits", c.data.get("w_bit"))
    group = c.data.get("group_size", c.data.get("q_group_size"))
    usual = _integers(bits, group, zeros=c.flag("zero_point", True))
    return Scheme(usual, usual, _kept(c, "modules_to_not_convert"))


def _auto_round(c: ConfigReader) -> Scheme:
    """AutoRound: ``extra_config`` has other bits for modules; 16 or more are none."""
    group, zeros = c.data.get("group_size"), not c.flag("sym", True)
    usual = _integers(c.data.get("bits"), group, zeros=zeros)
    other: dict[Stored, list[str]] = defaultdict(list)
    for name, change in c.mapping("extra_config").items():
        bits = change.get("bits", c.data.get("bits")) if isinstance(change, dict) else 16
        own = change.get("group_size", group) if isinstance(change, dict) else group
        wide = isinstance(bits, int) and bits >= 16
        other[BF16 if wide else _integers(bits, own, zeros=zeros)].append(name)
    return Scheme(usual, usual, _grouped(other))


def _hqq(c: ConfigReader) -> Scheme:
    """HQQ: bits and groups of all linear layers, or of those that ``quant_config`` names; a scale
    and a zero of sixteen bits for each group.
    """
    given = c.mapping("quant_config")
    params = given.get("weight_quant_params")
    if isinstance(params, dict):
        usual = _hqq_form(params)
        return Scheme(usual, usual, _kept(c, "skip_modules"))
    other: dict[Stored, list[str]] = defaultdict(list)
    for name, entry in given.items():
        inside = entry.get("weight_quant_params") if isinstance(entry, dict) else None
        if isinstance(inside, dict):
            other[_hqq_form(inside)].append(name)
    if not other:
        raise UnknownError("hqq needs quant_config.weight_quant_params")
    return Scheme(BF16, BF16, _kept(c, "skip_modules") + _grouped(other))


def _hqq_form(params: Mapping[str, Any]) -> Stored:
    return _wide_zeros(params.get("nbits"), params.get("group_size"), "HQQ weights")


def _wide_zeros(bits: object, group: object, really: str = "") -> Stored:
    """Weights of 4 or 8 bits with a scale and a zero of sixteen bits each for a group."""
    stored = _integers(bits, None, zeros=False, really=really)
    share = 2 * SCALE_BYTES / group if isinstance(group, int) and group > 0 else 0.0
    return stored._replace(width=stored.width + share)


# How torchao's configurations store weights, but for integers in groups.
_TORCHAO: dict[str, Stored] = {
    "Float8DynamicActivationFloat8WeightConfig": plain("fp8"),
    "Float8WeightOnlyConfig": plain("w8a16", "FP8 weights alone"),
    "Int8DynamicActivationInt8WeightConfig": plain("int8"),
    "Int8WeightOnlyConfig": plain("w8a16"),
    "float8_dynamic_activation_float8_weight": plain("fp8"),
    "float8_weight_only": plain("w8a16", "FP8 weights alone"),
    "int8_dynamic_activation_int8_weight": plain("int8"),
    "int8_weight_only": plain("w8a16"),
}
_TORCHAO_INT4 = ("Int4WeightOnlyConfig", "int4_weight_only")


def _torchao(c: ConfigReader) -> Scheme:
    """torchao: a configuration for all linear layers, or one for each module of
    ``ModuleFqnToConfig``, where ``_default`` is that of the others.
    """
    given = c.data.get("quant_type")
    if isinstance(given, dict):
        given = given.get("default", given)
    one = _torchao_entry(given, c.data.get("quant_type_kwargs"))
    modules = one.pop("module_fqn_to_config", None)
    if not isinstance(modules, dict):
        usual = _torchao_form(one)
        return Scheme(usual, usual, _kept(c, "modules_to_not_convert"))
    other: dict[Stored, list[str]] = defaultdict(list)
    for name, entry in modules.items():
        if name != "_default":
            other[_torchao_form(_torchao_entry(entry))].append(name)
    usual = _torchao_form(_torchao_entry(modules.get("_default")))
    return Scheme(usual, usual, _kept(c, "modules_to_not_convert") + _grouped(other))


def _torchao_entry(given: object, arguments: object = None) -> Data:
    """A configuration as its name with what it says; older ones are a name and arguments."""
    if isinstance(given, dict):
        inside = given.get("_data")
        return {**(inside if isinstance(inside, dict) else {}), "name": given.get("_type")}
    return {**(arguments if isinstance(arguments, dict) else {}), "name": given}


def _torchao_form(entry: Mapping[str, Any]) -> Stored:
    if entry["name"] is None:
        return BF16
    name = str(entry["name"])
    if name in _TORCHAO_INT4:
        return _wide_zeros(4, entry.get("group_size", 128))
    if name not in _TORCHAO:
        known = ", ".join((*_TORCHAO_INT4, *_TORCHAO))
        raise UnknownError(f"torchao's {_short(name)} is not known; known are {known}")
    return _TORCHAO[name]


def _bitsandbytes(c: ConfigReader) -> Scheme:
    """Four bits have an fp32 scale for each 64, quantised again to one byte with
    ``bnb_4bit_use_double_quant``. LLM.int8 costs what other eight-bit weights do.
    """
    if c.flag("load_in_4bit", False):
        double = c.flag("bnb_4bit_use_double_quant", False)
        width = 0.5 + ((1 + 4 / 256) if double else 4) / 64
        usual = Stored("w4a16", width, f"bitsandbytes {c.text('bnb_4bit_quant_type') or 'fp4'}")
    elif c.flag("load_in_8bit", False):
        usual = plain("w8a16", "bitsandbytes int8")
    else:
        raise UnknownError("bitsandbytes needs load_in_4bit or load_in_8bit")
    return Scheme(usual, usual, _kept(c, "llm_int8_skip_modules"))


MXFP8 = Stored("fp8", 1 + 1 / 32, "MXFP8")
_ALGORITHMS: dict[str, Stored] = {
    "FP8": plain("fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": plain("fp8"),
    "FP8_PB_WO": plain("fp8_block"),
    "FP8_PB_REAL": plain("fp8_block"),
    "FP8_BLOCK_SCALES": plain("fp8_block"),
    "MXFP8": MXFP8,
    "NVFP4": plain("fp4"),
    "NVFP4_AWQ": plain("fp4"),
    "NVFP4_SVDQUANT": plain("fp4"),
    "W4A8_NVFP4_FP8": plain("fp4", "NVFP4 weights with FP8 activations"),
    "W4A16_NVFP4": Stored("w4a16", BYTES_PER_ELEMENT["fp4"], "NVFP4 weights alone"),
    "MXFP4": plain("mxfp4"),
    "W4A8_MXFP4_FP8": plain("mxfp4", "MXFP4 weights with FP8 activations"),
    "INT8_SQ": plain("int8"),
    "W8A8_SQ_PER_CHANNEL": plain("int8"),
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": plain("int8"),
    "NONE": BF16,
    "NO_QUANT": BF16,
}
_INTEGERS = {"W4A16": 4, "W4A16_AWQ": 4, "INT4_AWQ": 4, "W4A8_AWQ": 4, "W8A16": 8}


def _algorithm(entry: Mapping[str, Any], key: str = "quant_algo") -> Stored:
    """How one of ModelOpt's algorithms stores weights."""
    value = entry.get(key)
    name = "NONE" if value is None else str(value).upper()
    if name in _INTEGERS:
        really = "int4 weights with FP8 activations" if name == "W4A8_AWQ" else ""
        return _integers(_INTEGERS[name], entry.get("group_size", 128), zeros=False, really=really)
    if name not in _ALGORITHMS:
        known = ", ".join(("MIXED_PRECISION", *_ALGORITHMS, *_INTEGERS))
        raise UnknownError(f"{key} {_short(value)} is not known; known are {known}")
    return _ALGORITHMS[name]


def _listed(c: ConfigReader) -> tuple[tuple[Patterns, Stored], ...]:
    """The modules of ``quantized_layers``, by how they are stored."""
    names: dict[Stored, list[str]] = defaultdict(list)
    seen: dict[tuple[str, object], Stored] = {}
    for name, entry in c.mapping("quantized_layers").items():
        if not isinstance(entry, dict):
            c.wrong("quantized_layers", f"{_short(name)}: must be an object (got {_short(entry)})")
            break
        group = entry.get("group_size")
        kind = (str(entry.get("quant_algo")), group if isinstance(group, int) else None)
        if kind not in seen:
            seen[kind] = _algorithm(entry)
        names[seen[kind]].append(name)
    return _grouped(names)


def _modelopt(c: ConfigReader) -> Scheme:
    """ModelOpt: one algorithm for all, or one for each module listed and none for the others."""
    rules = _kept(c, "ignore", "exclude_modules")
    mixed = str(c.data.get("quant_algo") or "").upper() == "MIXED_PRECISION"
    if mixed or ("quantized_layers" in c.data and not c.data.get("quant_algo")):
        return Scheme(BF16, BF16, rules + _listed(c))
    if not c.data.get("quant_algo") and c.data.get("config_groups"):
        return _compressed(c)
    usual = _algorithm(c.data)
    experts = _algorithm(c.data, "moe_quant_algo") if c.data.get("moe_quant_algo") else usual
    return Scheme(usual, experts, rules)


def _compressed(c: ConfigReader) -> Scheme:
    """compressed-tensors: groups of modules, by name before those by class; the LM head is one of
    the linear layers unless it is ignored.
    """
    for name in (c.text("format"), str(c.mapping("sparsity_config").get("format"))):
        if name in SPARSE:
            raise UnknownError(f"format '{name}': sparse weights are not modelled")
    rules = _kept(c, "ignore")
    usual: Stored | None = None
    groups = c.mapping("config_groups")
    for key, group in groups.items():
        if not isinstance(group, dict) or not isinstance(group.get("weights"), dict | None):
            c.wrong(f"config_groups.{key}", "must be an object whose weights are an object")
            continue
        stored = _group(group)
        reader = ConfigReader(group, c.shown, f"{c.prefix}config_groups.{key}.")
        targets = _names(reader, "targets") or ["Linear"]
        c.problems += reader.problems
        named = [t for t in targets if t.startswith(REGEX) or "." in t or t[:1].islower()]
        if named:
            rules += ((Patterns(named), stored),)
        if "Linear" in targets or len(named) < len(targets):
            usual = usual or stored
    if not groups:
        raise UnknownError("compressed-tensors needs config_groups")
    rest = usual or BF16
    return Scheme(rest, rest, rules, head=True)


def _group(group: Data) -> Stored:
    """How a group of compressed-tensors stores weights."""
    weights, inputs = group.get("weights"), group.get("input_activations")
    if weights is None:
        return BF16
    bits, kind, size = (
        weights.get("num_bits"),
        weights.get("type", "int"),
        weights.get("group_size"),
    )
    alone = not isinstance(inputs, dict)
    eight = isinstance(inputs, dict) and inputs.get("num_bits") == 8
    if (bits, kind) == (8, "float"):
        if size == 32:
            return MXFP8
        if alone:
            return plain("w8a16", "FP8 weights alone")
        return plain("fp8_block" if weights.get("strategy") == "block" else "fp8")
    if (bits, kind) == (4, "float"):
        usual = plain("mxfp4" if size == 32 else "fp4")
        name = "MXFP4" if size == 32 else "NVFP4"
        if alone:
            return Stored("w4a16", usual.width, f"{name} weights alone")
        return usual._replace(really=f"{name} weights with FP8 activations" if eight else "")
    if (bits, kind) == (8, "int") and not alone:
        return plain("int8")
    if kind == "int":
        really = "" if alone else "int4 weights with 8-bit activations"
        return _integers(bits, size, zeros=weights.get("symmetric") is False, really=really)
    raise UnknownError(f"weights of {_short(bits)} bits of type {_short(kind)} are not known")


def _quark(c: ConfigReader) -> Scheme:
    """AMD Quark: one form for all, others for patterns in ``layer_quant_config``."""
    other: dict[Stored, list[str]] = defaultdict(list)
    for pattern, entry in c.mapping("layer_quant_config").items():
        other[_quark_form(entry)].append(pattern)
    rules = _kept(c, "exclude") + _grouped(other)
    usual = _quark_form(c.data.get("global_quant_config"))
    return Scheme(usual, usual, rules)


def _quark_form(entry: object) -> Stored:
    weight = entry.get("weight") if isinstance(entry, dict) else None
    if isinstance(weight, list):
        weight = weight[0] if weight else None
    if not isinstance(weight, dict):
        return BF16
    alone = not isinstance(entry, dict) or not entry.get("input_tensors")
    dtype, group = str(weight.get("dtype")), weight.get("group_size")
    if dtype.startswith("fp8"):
        return plain("w8a16", "FP8 weights alone") if alone else plain("fp8")
    if dtype == "fp4":
        width = BYTES_PER_ELEMENT["mxfp4"]
        return Stored("w4a16", width, "MXFP4 weights alone") if alone else plain("mxfp4")
    if dtype == "int8" and not alone:
        return plain("int8")
    if dtype in ("int4", "uint4", "int8"):
        return _integers(4 if "4" in dtype else 8, group, zeros=dtype == "uint4")
    raise UnknownError(f"quark weights of dtype {_short(dtype)} are not known")


METHODS: dict[str, Callable[[ConfigReader], Scheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "mxfp8": _mxfp8,
    "mxfp4": _mxfp4,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
    "quark": _quark,
    "hqq": _hqq,
    "torchao": _torchao,
}
ALIASES = {  # engines' names of methods, and older ones
    "gptq_marlin": "gptq",
    "awq_marlin": "awq",
    "auto_round": "auto-round",
    "intel/auto-round": "auto-round",
    "compressed_tensors": "compressed-tensors",
}


def neighbours(stored: Iterable[Stored]) -> list[str]:
    """What is priced as something else, in words."""
    found = dict.fromkeys(one for one in stored if one.really)
    return [f"{one.really} are priced as {one.dtype}: a neighbour's curve" for one in found]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
