"""A refusal names the true reason, and only ways out that work."""

from __future__ import annotations

import re

import pytest

from cluster_sim.errors import ClusterSimError
from cluster_sim.machine.host import domain_devices
from cluster_sim.serving.plan import resolve
from cluster_sim.specs.load import load_topology, load_workload


def refusal(topology: str, workload: str, changes: list[str]) -> str:
    with pytest.raises(ClusterSimError) as caught:
        resolve(load_topology(topology), load_workload(workload, changes))
    return str(caught.value)


def offers(text: str, option: str) -> list[str]:
    """What a text offers behind an option: names with ``or`` between them."""
    found = re.search(rf"{option} (.+?)(?:, or a machine|\.?$)", text)
    return [name.strip("'") for name in found[1].split(" or ")] if found else []


CASES = [
    ("h100_nvl8", "llama405b", ["workload.precision=bf16"]),
    ("h100_superpod", "deepseek_r1_8chips", []),
    ("rtx4090_1", "llama70b", []),
    ("2xl40s", "llama70b", ["workload.precision=bf16"]),
    ("h100_nvl8", "llama70b", ["workload.model=gpt-moe-1.8t"]),
    ("a100_nvl8", "llama70b", ["workload.precision=fp8"]),
    ("h100_nvl8", "llama70b", ["workload.precision=fp4"]),
]


@pytest.mark.parametrize(("topology", "workload", "changes"), CASES)
def test_every_way_out_works(topology: str, workload: str, changes: list[str]) -> None:
    text = refusal(topology, workload, changes)
    precisions, machines = offers(text, "--precision"), offers(text, "--topo")
    assert precisions or machines
    for precision in precisions:
        asked = [*changes, f"workload.precision={precision}"]
        assert _runs(topology, workload, asked), precision
    for name in machines:
        assert _runs(name, workload, changes), name


def _runs(topology: str, workload: str, changes: list[str]) -> bool:
    """With some plan, a pipeline too, since the automatic ones have none."""
    job, machine = load_workload(workload, changes), load_topology(topology)
    for pp in (1, 2, 4, 8):
        try:
            resolve(machine, load_workload(workload, [*changes, f"plan.pp={pp}"]))
        except ClusterSimError:
            continue
        return True
    return bool(resolve(machine, job))


def test_a_model_of_several_domains_is_told_what_it_needs() -> None:
    text = refusal("h100_superpod", "deepseek_r1_8chips", [])
    need = re.search(r"needs (\d+) GiB of weights in fp8_block over at least (\d+) devices", text)
    assert need is not None
    # 671 billion parameters of a byte, nearly, on devices of 79.6 GiB.
    assert 600 < float(need[1]) < 700
    assert int(need[2]) == 16
    assert "may not cross the scale-up domain yet, which has 8 devices on h100_superpod" in text
    assert "larger chips" not in text
    assert all(_memory(name) > 643 for name in offers(text, "--topo"))


def _memory(topology: str) -> float:
    """GiB of one domain."""
    machine = load_topology(topology)
    return domain_devices(machine) * machine.chip.device_memory / 2**30


def test_too_few_chips_of_one_domain_are_told_so() -> None:
    text = refusal("2xl40s", "llama70b", ["workload.precision=bf16"])
    assert "over at least 4 devices of L40S (tp=4), and 2xl40s has 2 devices." in text
    assert offers(text, "--topo")[0] == "4 x l40s"
