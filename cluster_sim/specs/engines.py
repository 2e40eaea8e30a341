"""Which inference engines exist on whose chips, and which one a run takes that names none."""

from __future__ import annotations

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.specs.find import names

AUTO = "auto"
# What a workload that names no software runs on. Source: TensorRT-LLM is NVIDIA's own; SGLang and
# vLLM have ROCm builds, and of SGLang there are measured runs on MI300X and MI355X; the plugins of
# vLLM for Ascend, TPU (tpu-inference) and MLU are what their vendors point to.
DEFAULTS = {
    "NVIDIA": "trtllm",
    "AMD": "sglang",
    "Google": "vllm-tpu",
    "Huawei": "vllm-ascend",
    "Cambricon": "vllm-mlu",
}
OTHERS = "vllm"  # of vendors not named here
# The build of a framework for chips that its own releases do not run on.
BUILDS = {
    ("vllm", "Huawei"): "vllm-ascend",
    ("vllm", "Google"): "vllm-tpu",
    ("vllm", "Cambricon"): "vllm-mlu",
}


def engine_for(wanted: str, vendor: str) -> str:
    """The name of the profile that a workload's ``software`` stands for on a vendor's chips: its
    default for ``auto``, its build of a framework for the framework's bare name.

    >>> engine_for("auto", "Huawei"), engine_for("vllm", "Huawei"), engine_for("vllm", "AMD")
    ('vllm-ascend', 'vllm-ascend', 'vllm')
    """
    if wanted == AUTO:
        return DEFAULTS.get(vendor, OTHERS)
    return BUILDS.get((wanted.lower(), vendor), wanted)


def exists(vendors: tuple[str, ...], vendor: str) -> bool:
    """Whether an engine runs on a vendor's chips: one of those it names. What names none, and
    vendors that no profile names, pass: nobody can say.
    """
    return not vendors or vendor in vendors or vendor not in DEFAULTS


def refuse(name: str, vendor: str) -> SpecError:
    """The error for an engine on chips that it does not run on."""
    there = ", ".join(engines_on(vendor)) or "none"
    return SpecError(
        f"software {name} does not exist on chips of {vendor}, there are {there}; leave software "
        f"out for {engine_for(AUTO, vendor)}, or set workload.software to one of them"
    )


def engines_on(vendor: str) -> list[str]:
    """The profiles that name a vendor."""
    from cluster_sim.specs.load import read

    found = []
    for name in names("software"):
        try:
            data = read("software", name)[1]
        except (SpecError, UnknownNameError):
            continue  # told where the file is used
        if vendor in (data.get("vendors") or ()):
            found.append(name)
    return found
