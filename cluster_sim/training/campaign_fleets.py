"""Measured failure rates, fleet by fleet, with their sources.

Rates are failures per 1,000 days of a host with as many chips as the fleet's. What hits a job
whatever its size (software, users) is a rate per day of the job. Sources say "recalled" where a
figure was not read in the publication itself, and "assumed" where nothing was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster_sim.specs.campaign import Component, FleetName

_RSC = "arXiv:2410.21680 (Meta RSC, 11 months, 4 M jobs)"
# Jobs of 1,024 GPUs of RSC live 7.9 h on average, measured; 128 hosts at 6.50 per 1,000 host-days
# fail every 28.8 h. What is left is not the hosts': 24 / 7.9 - 0.128 x 6.50 a day.
_RSC_JOB_PER_DAY = 24.0 / 7.9 - 0.128 * 6.50
# Llama 3 405B: 419 unexpected interruptions in 54 days on 2,048 hosts.
_LLAMA_DAYS, _LLAMA_HOSTS = 54.0, 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRates:
    """Failure rates of one fleet; ``chip`` is the chip that they were measured on, empty where the
    source names none.
    """

    chip: str
    chips_per_host: int = 8
    components: Mapping[str, Component]
    job_per_day: float = 0.0
    source: str


def _llama(count: int, *, of_chip: bool = True, loses_host: bool = True) -> Component:
    rate = count / (_LLAMA_DAYS * _LLAMA_HOSTS) * 1e3
    return Component(
        per_1000_host_days=rate, of="chip" if of_chip else "host", loses_host=loses_host
    )


def _host(rate: float, *, of_chip: bool = True) -> dict[str, Component]:
    return {"host": Component(per_1000_host_days=rate, of="chip" if of_chip else "host")}


_LLAMA3 = {
    "gpu": _llama(148),
    "hbm": _llama(72),
    "gpu_sram": _llama(19),
    "gpu_processor": _llama(17),
    "network": _llama(35),
    "nic": _llama(7),
    "silent_corruption": _llama(6),
    "thermal": _llama(6),
    "host_maintenance": _llama(32, of_chip=False),
    "cpu": _llama(2, of_chip=False),
    "host_memory": _llama(2, of_chip=False),
    "ssd": _llama(3, of_chip=False),
    "power_supply": _llama(3, of_chip=False),
    "chassis": _llama(2, of_chip=False),
    "io_board": _llama(2, of_chip=False),
    "nccl_watchdog": _llama(7, of_chip=False, loses_host=False),
}
_CRUSOE = {
    name: Component(per_1000_host_days=8.54 * share, loses_host=loses_host)
    for name, share, loses_host in (
        ("gpu_host", 0.415, True),
        ("gpu_recoverable", 0.195, False),
        ("network", 0.122, True),
        ("network_other", 0.17, False),
        ("network_recoverable", 0.049, False),
        ("host_other", 0.049, True),
    )
}
FLEETS: dict[FleetName, FleetRates] = {
    "none": FleetRates(chip="", components={}, source="nothing fails"),
    "rsc1": FleetRates(
        chip="a100_80g_sxm",
        components=_host(6.50),
        job_per_day=_RSC_JOB_PER_DAY,
        source=f"{_RSC}: RSC-1, 6.50 per 1,000 host-days; jobs of 1,024 GPUs live 7.9 h",
    ),
    "rsc2": FleetRates(
        chip="a100_80g_sxm",
        components=_host(2.34),
        job_per_day=_RSC_JOB_PER_DAY,
        source=f"{_RSC}: RSC-2, 2.34 per 1,000 host-days; rate of jobs as in RSC-1, assumed",
    ),
    "llama3_h100": FleetRates(
        chip="h100_sxm",
        components=_LLAMA3,
        job_per_day=(54 + 2) / _LLAMA_DAYS,
        source="Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 H100 (counts of "
        "GPU, HBM, SRAM, system processor, network and CPU read in press accounts, the others "
        "recalled); that software (54) and dependencies (2) do not grow with hosts, and that the "
        "network takes a host with it, is assumed",
    ),
    "meta_32k": FleetRates(
        chip="",
        components=_host(2.3),
        source="arXiv:2602.00277: 2.3 interruptions per 1,000 servers and day at 32K GPUs",
    ),
    "h100_field_low": FleetRates(
        chip="h100_sxm",
        components=_host(8e3 / 5000),
        source="SemiAnalysis 2025-08-20: 5,000 GPU-days per interruption, the best of the range",
    ),
    "h100_field_high": FleetRates(
        chip="h100_sxm",
        components=_host(8e3 / 2000),
        source="SemiAnalysis 2025-08-20: 2,000 GPU-days per interruption, the worst of the range",
    ),
    "crusoe_h200": FleetRates(
        chip="h200_sxm",
        components=_CRUSOE,
        source="Crusoe at GTC 2025, as cited by glennklockwood.com: 205 failures in 120 days, size "
        "of the sample (1,600 GPUs) not certain; what recovers without a new host is as named",
    ),
    "imbue_h100": FleetRates(
        chip="h100_sxm",
        components=_host(4.29),
        source="Imbue: about 3 % of 511 hosts a week, recalled",
    ),
    "opt_a100": FleetRates(
        chip="a100_80g_sxm",
        components=_host(2e3 / 128),
        job_per_day=90 / 33 - 2,
        source="OPT-175B logbook: about 90 restarts in 33 days on 1,024 A100, about 2 hosts lost a "
        "day",
    ),
    "tpu_v4": FleetRates(
        chip="tpu_v4",
        chips_per_host=4,
        components=_host(0.8, of_chip=False),
        source="NSDI 2024, TPU v4 resiliency: 0.08 % of machines a day; cables (0.005 %) and "
        "optical switches (0.04 % a day) left out, their number per machine is not given",
    ),
}
# A generation without measured rates takes those of the largest published run.
FLEET_OF_CHIP: dict[str, FleetName] = {
    "a100_80g_sxm": "rsc1",
    "h100_sxm": "llama3_h100",
    "h200_sxm": "llama3_h100",
    "tpu_v4": "tpu_v4",
}
DEFAULT_FLEET: FleetName = "llama3_h100"
