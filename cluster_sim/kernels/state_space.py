"""What a Mamba layer counts: weights of a model, products and states of one device."""

from __future__ import annotations

from cluster_sim.specs.model import StateSpace

STATE_FLOP = 5  # decay, write (product and sum), read (product and sum) of an element
_BYTES = {"fp32": 4, "bf16": 2}
_CONV_BYTES = 2  # the last inputs of the convolution are kept as activations are


def state_space_parameters(ssm: StateSpace, hidden: int) -> int:
    """Weights of the products of one layer: into gate, inputs and what drives the state, and back.

    Mamba-2: hidden x (2 inner + 2 groups x state + heads) in one product; Mamba-1: hidden x 2
    inner, then inner x (dt_rank + 2 state) and dt_rank x inner; a convolution between gates: hidden
    x 3 inner. All: inner x hidden.
    """
    return sum(n * k for _, n, k in products(ssm, hidden, 1))


def state_space_small(ssm: StateSpace, hidden: int) -> int:
    """Convolution, steps of time, decays, skips, norms and biases of one layer."""
    mixed = convolved(ssm, 1)
    count = ssm.conv * mixed + (mixed if ssm.conv_bias else 0)
    if ssm.kind == "mamba2":
        inputs = 2 * ssm.inner + 2 * ssm.groups * ssm.state + ssm.heads
        count += 3 * ssm.heads + (ssm.inner if ssm.gated_norm else 0)
    elif ssm.kind == "short_conv":
        inputs = 3 * ssm.inner
    else:
        inputs = 2 * ssm.inner
        count += ssm.inner * (ssm.state + 2)
        count += ssm.dt_rank + 2 * ssm.state if ssm.inner_norms else 0
    return count + (inputs + hidden if ssm.projection_bias else 0)


def products(ssm: StateSpace, hidden: int, tp: int) -> list[tuple[str, int, int]]:
    """Name, outputs and inputs of one layer's products on one device.

    Heads and channels are cut; a device has the groups of its heads, so fewer groups than devices
    are replicated. Source: vLLM's mamba_mixer and mamba_mixer2 (behaviour).
    """
    inner = -(-ssm.inner // tp)
    back = ("state_space_out", hidden, inner)
    if ssm.kind == "mamba1":
        driven = ssm.dt_rank + 2 * ssm.state
        return [
            ("state_space_in", 2 * inner, hidden),
            ("state_space_drive", driven, inner),
            ("state_space_step", inner, ssm.dt_rank),
            back,
        ]
    if ssm.kind == "short_conv":
        return [("state_space_in", 3 * inner, hidden), back]
    driven = 2 * groups_per_device(ssm, tp) * ssm.state + -(-ssm.heads // tp)
    return [("state_space_in", 2 * inner + driven, hidden), back]


def groups_per_device(ssm: StateSpace, tp: int) -> int:
    """Groups of the heads on the fullest shard."""
    return -(-ssm.groups // tp)


def convolved(ssm: StateSpace, tp: int) -> int:
    """Elements of a token that pass the convolution on one device."""
    if ssm.kind != "mamba2":
        return -(-ssm.inner // tp)
    return -(-ssm.inner // tp) + 2 * groups_per_device(ssm, tp) * ssm.state


def summed_elements(ssm: StateSpace) -> int:
    """Elements of a token that devices add up inside a layer: what drives the state of Mamba-1,
    whose product sums over cut channels (vLLM's mamba_mixer, behaviour).
    """
    return ssm.dt_rank + 2 * ssm.state if ssm.kind == "mamba1" else 0


def state_elements(ssm: StateSpace, tp: int) -> int:
    """Elements of the state that one layer keeps of a sequence on one device."""
    return -(-ssm.inner // tp) * ssm.state


def state_space_bytes(ssm: StateSpace, tp: int) -> int:
    """One layer's state of a sequence on one device, and the last ``conv`` - 1 inputs of the
    convolution in bf16.
    """
    tail = (ssm.conv - 1) * convolved(ssm, tp) * _CONV_BYTES
    return state_elements(ssm, tp) * _BYTES[ssm.state_dtype] + tail


def glue_elements(ssm: StateSpace, tp: int) -> int:
    """Elements that the kernels between the products of one layer move for one token: the
    convolution reads and writes its inputs, each gate (with its norm) reads two and writes one
    inner vector.
    """
    gates = 2 if ssm.kind == "short_conv" else 1
    return 2 * convolved(ssm, tp) + gates * 3 * -(-ssm.inner // tp)
