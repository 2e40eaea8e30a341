"""Keys that a user sets and that change nothing in the run at hand: refused, with the reason.

Only where that is certain. Keys of files are left alone: a file is meant for many runs, and one
that extends another takes its keys over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cluster_sim.errors import SpecError
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.registered import BUILT_IN
from cluster_sim.specs.workload import ABOUT_A_TRACE, Economics

# Facts of a chip that are shown and that no price is made of.
FACTS = ("year", "process", "dies", "die_area_mm2", "status")
_OF_ANY = ("trace", "trace_format", *ABOUT_A_TRACE)
# What a kind of arrivals reads beside what is about a trace, which is checked with the file.
_ARRIVALS = {
    "open": ("kind", "cv", "rate", "load"),
    "closed": ("kind", "concurrency"),
    "offline": ("kind",),
    "trace": ("kind", "trace", "trace_format", "time_scale"),
}
_OF_A_TRACE = ("isl", "prefix", "sessions", "classes")  # its rows may leave answers (osl) open
_SGLANG = ("sglang", "sglang_mixed")
_NEVER_PREEMPT = ("trtllm_no_evict", "static")
_BETWEEN_HOSTS = (
    ("topology", "fabric"),
    ("topology", "board"),
    ("topology", "scale_up", "switch_latency"),
    ("topology", "scale_up", "link_latency"),
    ("topology", "scale_up", "package_latency"),
    ("topology", "faults"),
    ("chip", "nic"),
    ("chip", "host", "board"),
)
# Inside a domain collectives are timed ones, which hold its latencies; the rest is shown alone.
_NO_PRICE = (
    ("topology", "scale_up", "switch_latency"),
    ("topology", "scale_up", "link_latency"),
    ("topology", "scale_up", "package_latency"),
    ("topology", "scale_up", "inner", "uplink_latency"),
    ("topology", "board", "cpus"),
    ("topology", "board", "cpu"),
    ("topology", "board", "cpu_interconnect"),
    ("topology", "board", "nic"),
)
_OUTSIDE = (
    ("topology", "fabric"),
    ("topology", "board", "nic_bandwidth"),
    ("topology", "board", "pcie_latency"),
    ("chip", "nic"),
)
_CEILING = ("chip", "memory", "ceiling")
_OWNED = ("electricity", "life_years", "wacc", "host_share", "colocation_usd_per_kw_month")


def refuse_idle_keys(given: Mapping[str, str], job: WorkloadInput) -> None:
    """Raise SpecError for keys among ``given`` (dotted key -> option) that a service ignores."""
    problems = [
        f"{option}: has no effect: {why}"
        for key, option in given.items()
        if (why := _why_idle(key, job))
    ]
    if problems:
        raise SpecError(problems)


def _why_idle(key: str, job: WorkloadInput) -> str:
    workload, software = job.workload, job.software
    root, _, rest = key.partition(".")
    kind = workload.arrivals.kind
    if root == "arrivals" and rest.partition(".")[0] not in ("", *_ARRIVALS[kind], *_OF_ANY):
        reads = ", ".join(name for name in _ARRIVALS[kind] if name != "kind") or "no such key"
        return f"arrivals are {kind}, which read {reads}; set workload.arrivals.kind too"
    if root == "duration" and kind in ("closed", "offline"):
        return (
            f"{workload.name} has {kind} arrivals; use --requests (workload.requests), or --rate "
            "for open traffic"
        )
    if workload.arrivals.replays and root in _OF_A_TRACE:
        return "the requests are those of the trace"
    if root == "slo" and workload.classes and all(part.slo for part in workload.classes):
        return f"each class of {workload.name} has its own; change them in the file"
    if root != "engine":
        return ""
    ours = software.aliases.get(rest.replace("-", "_"), rest)
    if ours == "draft_acceptance" and not software.draft_tokens:
        return "nothing is drafted; set engine.draft_tokens too"
    own = software.scheduler not in BUILT_IN["scheduler"]  # a user's may read anything
    if ours == "new_token_ratio" and not own and software.scheduler not in _SGLANG:
        return f"scheduler {software.scheduler} does not read it; {' and '.join(_SGLANG)} do"
    if ours == "preemption" and software.scheduler in _NEVER_PREEMPT:
        return f"scheduler {software.scheduler} never preempts a request"
    if ours == "prefix_cache" and job.model.recurrent:
        owner = "linear attention" if job.model.linear is not None else "recurrent layers"
        return f"{job.model.name} has {owner}, whose states are not shared"
    return ""


def refuse_idle_facts(keys: Sequence[Sequence[str]]) -> None:
    """Raise SpecError for keys of a chip that are facts for the reader alone."""
    idle = [key[0] for key in keys if key[0] in FACTS]
    if idle:
        raise SpecError(
            [f"--set chip.{key}: has no effect: it is shown, no figure follows" for key in idle]
        )


def refuse_idle_network(keys: Sequence[Sequence[str]]) -> None:
    """Raise SpecError for keys (root first) of what lies between hosts, of latencies, and of what
    memory gives to all that read it, which a service alone does not read: its replicas stay inside
    a domain, whose timings are measured, and have their devices to themselves.
    """
    problems = [
        f"--set {'.'.join(key)}: has no effect: replicas stay inside a scale-up domain, whose "
        "timings are measured ones; it shows in training, collective and --background"
        for key in keys
        if any(tuple(key[: len(start)]) == start for start in _BETWEEN_HOSTS)
    ]
    problems += [
        f"--set {'.'.join(key)}: has no effect: nobody else reads the memory; it shows in "
        "training, replay and --background"
        for key in keys
        if tuple(key) == _CEILING
    ]
    if problems:
        raise SpecError(problems)


def refuse_idle_links(keys: Sequence[Sequence[str]], *, spans: bool) -> None:
    """Raise SpecError for keys (root first) that no price of a training step or of a collective is
    made of; ``spans``: its ranks stand in several scale-up domains.
    """
    problems = []
    for key in keys:
        where = f"--set {'.'.join(key)}: has no effect: "
        if any(tuple(key[: len(start)]) == start for start in _NO_PRICE):
            problems.append(
                f"{where}no price reads it; collectives inside a domain are timed ones, between "
                "hosts topology.fabric.switch_latency and link_latency are read"
            )
        elif not spans and any(tuple(key[: len(start)]) == start for start in _OUTSIDE):
            problems.append(f"{where}all ranks lie in one scale-up domain")
    if problems:
        raise SpecError(problems)


def refuse_idle_economics(economics: Economics, given: Collection[str]) -> None:
    """Raise SpecError for keys of the economics among ``given`` that the price does not contain."""
    problems = []
    stated = economics.usd_per_chip_hour is not None
    for key in given:
        where = f"--set economics.{key}: has no effect: "
        if stated and key in ("basis", *_OWNED):
            problems.append(
                f"{where}economics.usd_per_chip_hour already is the price; leave it out"
            )
        elif economics.basis == "rented" and key in _OWNED:
            problems.append(
                f"{where}the rent of a chip contains it; for chips that you own "
                "--set economics.basis=owned"
            )
    if problems:
        raise SpecError(problems)


def refuse_idle_money(
    machine: TopologyInput,
    economics: Economics,
    given: Collection[str],
    keys: Sequence[Sequence[str]],
) -> None:
    """Raise SpecError for a PUE (among ``given``), and prices and powers of the chip (``keys``),
    that neither power nor price contains on this machine.
    """
    chip, name = machine.chip, machine.topology.name
    stated, rented = economics.usd_per_chip_hour is not None, economics.basis == "rented"
    powered = machine.fits.power is not None and chip.idle_power is not None
    powered = powered and machine.topology.host_power is not None
    dark = f"no power of {name} is known, and the price does not contain it"
    other = "economics.usd_per_chip_hour is the price" if stated else "chips are "
    problems = []
    if "pue" in given and (rented or stated) and not powered:
        problems.append(f"--set economics.pue: has no effect: {dark}")
    for key in keys:
        where = f"--set chip.{'.'.join(key)}: has no effect: "
        if list(key) == ["price", "rent"] and (stated or not rented):
            problems.append(where + other + ("" if stated else "owned (economics.basis)"))
        if list(key) == ["price", "purchase"] and (stated or rented):
            problems.append(where + other + ("" if stated else "rented (economics.basis)"))
        if list(key) == ["tdp"] and machine.fits.power is None and (stated or rented):
            problems.append(where + dark)
    if problems:
        raise SpecError(problems)
