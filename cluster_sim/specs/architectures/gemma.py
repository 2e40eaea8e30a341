"""Gemma."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases, sliding
from cluster_sim.specs.config_reader import ConfigReader, Data


def _gemma(c: ConfigReader, *, second: bool = False) -> Data:
    data = base(c, tied=True)
    bias = c.flag("attention_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias)
    if second:
        c.read.add("sliding_window_size")  # the same number under an older name
        data["norms"] = 4
        data["local"] = sliding(c, data, lambda layer: layer % 2 == 0)
    return data


ARCHITECTURES: Architectures = {
    "gemma": _gemma,
    "gemma2": lambda c: _gemma(c, second=True),
}
