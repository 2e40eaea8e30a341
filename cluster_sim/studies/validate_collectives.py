"""Collectives against the constants of their libraries, size by size."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.shape import LIBRARIES, OPERATIONS, Shape, bus_factor
from cluster_sim.collectives.time import collective
from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.collective_fits import CollectiveFits, load_collective_fits
from cluster_sim.specs.load import load_spec
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import SkippedError

# Flags of rows that say nothing about a library on a fabric as it is built.
NOT_COMPARABLE = {
    "mistuned": "the source calls its cluster mistuned",
    "threshold_not_measurement": "a limit, not a measurement",
    "spread_over_hosts": "fabric between the hosts not stated",
    "shape_incomplete": "shape not stated",
}
FITTED_TOKENS = {  # tokens per rank that constants of expert exchanges were fitted to
    "deepep_low_latency": {1, 32, 256},
    "deepep_normal": {128, 1024, 4096, 16384},
    "trtllm_nvlink_one_sided": {128, 4096},
    "trtllm_nvlink_two_sided": {128, 4096},
}
# Ranks of DeepEP on Ascend, timed at one size each, that its constants were fitted to.
FITTED_GROUPS = (8, 32, 128)
FITTED_ASYMPTOTES = (8, 16, 32, 72)  # ranks whose largest messages constants were fitted to
DEFAULT_NIC_BYTES_PER_S = 50e9  # one 400 Gb/s NIC a chip, where a row does not say
AMPERE_NIC_BYTES_PER_S = 25e9  # HDR InfiniBand, the usual one of its time
# Scale-up domains that span all ranks of a row, whatever the hosts.
DOMAINS_OF = {"gb200": 1, "ascend_910c": 1}
OVER_NICS = "h800_sxm"  # its rows send everything over NICs, inside a host too


@cache
def constants(chip: str) -> CollectiveFits:
    """The constants of a chip; an H800 takes those of its relative."""
    return load_collective_fits(chip, "h100_sxm" if chip == OVER_NICS else "")


@cache
def _chip(name: str) -> Chip:
    return load_spec("chip", name, Chip)[1]


def shape_of(case: Case) -> Shape:
    """The group of ranks that a row was measured on; raises SkippedError."""
    chip, ranks = case.text("chip"), case.count("n_chips", 0)
    if chip == "h100_pcie":
        raise SkippedError("no constants of collectives", "pairs of cards on PCIe")
    if not ranks:
        raise SkippedError("number of chips not stated")
    per_host = case.count("chips_per_host", 0) or min(ranks, 8)
    hosts = math.ceil(ranks / per_host)
    domains, devices = DOMAINS_OF.get(chip) or hosts, _chip(chip).devices_per_chip
    reduces = chip != "a100_80g_sxm" and case.number("in_switch_reduction") != 0
    return Shape(
        ranks=ranks * devices,
        domains=ranks if chip == OVER_NICS else domains,
        hosts=hosts,
        link_bytes_per_s=constants(chip).link,
        nic_bytes_per_s=_nic(case),
        in_switch=reduces,
        in_network="SHARP" in case.text("library"),
        technology=case.text("scale_out"),
        architecture=_chip(chip).architecture,
        ranks_per_package=devices,
    )


def _nic(case: Case) -> float:
    """Bytes/s of a rank's NIC, from a fabric such as ``ib400`` (Gb/s)."""
    if case.text("chip") == "a100_80g_sxm":
        return AMPERE_NIC_BYTES_PER_S
    rate = re.search(r"(\d+)$", case.text("scale_out"))
    return int(rate[1]) * 1e9 / 8 if rate else DEFAULT_NIC_BYTES_PER_S


def fitted(case: Case) -> bool:
    """Whether a constant was fitted to this row."""
    if case.text("chip") == OVER_NICS:
        return True  # the rates of low-latency kernels over NICs, on all eight figures
    family = case.text("library_family")
    if _on_ascend(case):
        return case.count("n_chips", 0) * _chip(case.text("chip")).devices_per_chip in FITTED_GROUPS
    if family in FITTED_TOKENS:
        return case.count("tokens_per_rank", 0) in FITTED_TOKENS[family]
    size, ranks = case.number("message_bytes") or 1.0, case.count("n_chips")
    return math.log2(size) % 2 == 0 or (size >= 2**33 and ranks in FITTED_ASYMPTOTES)


def _library(case: Case) -> str:
    family, printed = case.text("library_family") or "nccl", case.text("library")
    if _on_ascend(case):
        return "deepep_low_latency" if "low latency" in printed else "deepep_normal"
    if family == "nccl" and ("2.18" in printed or printed == "NCCL (nccl-tests)"):
        return "nccl_2.18"
    return family


def _on_ascend(case: Case) -> bool:
    return case.text("library").startswith("DeepEP-Ascend")


def _scored(case: Case, operation: str) -> bool:
    """Whether a row's metric is what can be told: bandwidths of expert exchanges are over bytes
    that each library counts its own way; DeepEP on Ascend counts nominal ones (its test harness,
    sgl-project/sgl-kernel-npu, tests/python/deepep), and where it prints times too they count.
    """
    metric = case.text("metric")
    if metric == "algbw_gb_per_s" and operation.startswith("moe"):
        return _on_ascend(case) and "primary" in case.flags
    return metric == "time_us" or (metric == "busbw_gb_per_s" and not operation.startswith("moe"))


def predicted(case: Case) -> float:
    """A row's time in us, or bandwidth in GB/s; raises SkippedError."""
    for flag, reason in NOT_COMPARABLE.items():
        if flag in case.flags:
            raise SkippedError(reason)
    size = case.number("message_bytes")
    if not size:
        raise SkippedError("message size not stated")
    library, operation = _library(case), case.text("collective").replace("ep_", "moe_")
    if library not in LIBRARIES or operation not in OPERATIONS:
        raise SkippedError("library not modelled", f"{operation} of {library}")
    experts, metric = operation.startswith("moe"), case.text("metric")
    if not _scored(case, operation):
        raise SkippedError("metric not predicted", f"{metric} of {operation}")
    routing = None
    if experts:
        routing = Routing(top_k=case.count("top_k"), experts=case.count("experts", 256))
    try:
        shape = shape_of(case)
        fits, sizes = constants(case.text("chip")), np.array([size])
        priced = collective(fits, shape, operation, sizes, library=library, routing=routing)
    except SpecError as error:
        raise SkippedError("no constants of collectives", str(error)) from None
    seconds = float(priced.seconds[0])
    if metric == "time_us":
        return seconds * 1e6
    if metric == "algbw_gb_per_s":
        return size / seconds / 1e9
    return bus_factor(operation, shape.ranks) * size / seconds / 1e9
