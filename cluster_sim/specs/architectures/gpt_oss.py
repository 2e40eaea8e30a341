"""gpt-oss."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases, sliding
from cluster_sim.specs.config_reader import ConfigReader, Data


def _gpt_oss(c: ConfigReader) -> Data:
    data = base(c, dense=False)
    bias = c.flag("attention_bias", True)
    data["biases"] = biases(qkv=bias, attention_output=bias, mlp=True, router=True)
    data["local"] = sliding(c, data, lambda layer: layer % 2 == 0, sinks=True)
    c.read.add("experts_per_token")  # the same number under an older name
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "layers": data["layers"],
    }
    return data


ARCHITECTURES: Architectures = {
    "gpt_oss": _gpt_oss,
}
