"""Fitted constants of collectives: one file a chip, what it lacks comes from a relative.

``measured`` says where the timings of a form are; elsewhere it is extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, cast

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.specs.chip import Provenance
from cluster_sim.specs.constraints import Factor, FactorOrZero, PositiveInt, Text
from cluster_sim.specs.find import FileRecord
from cluster_sim.specs.seen import Seen
from cluster_sim.units import Bytes, BytesPerSecond, Seconds, SecondsOrZero

_STRICT: dict[str, Any] = {"extra": "forbid"}
FAMILY = "collectives"
MOST_RELATIVES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``latency + per_peer (n - 1) + bytes / bandwidth``; for transfers between two ranks without
    ``per_peer``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    per_peer: SecondsOrZero = 0.0
    bandwidth: BytesPerSecond
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """``latency + per_peer (n - 1) + bytes / bandwidth`` of the protocols for short messages."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    per_peer: SecondsOrZero
    bandwidth: BytesPerSecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(Line):
    """All-to-all inside one domain: as a ``Line``, or by ``short`` where that is faster."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    short: Small | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """``(L^p + (bytes / bandwidth)^p)^(1/p)`` with ``L = latency + per_peer (n - 1)``.

    ``copy`` is the share of the message that every rank moves whatever the number of ranks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    per_peer: SecondsOrZero
    bandwidth: BytesPerSecond
    power: Factor
    copy: FactorOrZero = 0.0
    measured: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A ring collective inside one domain: LL and LL128 below ``switch`` bytes times ranks, Simple
    above; ``in_switch`` where switches reduce.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    small: Small
    switch: Bytes
    large: Large
    in_switch: Large | None = None
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """All-reduce over several domains: in the domain, across, in the domain again.

    ``(L^p + X^p)^(1/p)``, L the latency in the domain and two ``hop`` per doubling of domains, X
    the longer of the parts in the domain and over the NICs and ``overlap`` of the shorter (none of
    it with two domains).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    hop: dict[str, Seconds]
    domain_bandwidth: BytesPerSecond
    nic_bandwidth: BytesPerSecond
    overlap: FactorOrZero
    power: Factor
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsRing:
    """A ring over several domains with the Simple protocol.

    ``steps x (1 + growth c / (c + chunk)) x (1 + spread log2 N) + X + sqrt(X fill)``: c the
    bytes of one rank's step, X the bytes over the slower of the two networks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    step: Seconds
    hop: Seconds
    growth: FactorOrZero
    chunk: Bytes
    spread: FactorOrZero
    fill: SecondsOrZero
    domain_bandwidth: BytesPerSecond
    nic_bandwidth: BytesPerSecond
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsDirect:
    """All-to-all over NICs: ``latency + X + sqrt(X fill)``, X the bytes that leave the domain."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    fill: SecondsOrZero
    nic_bandwidth: BytesPerSecond
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Nccl:
    """NCCL on one chip. ``call`` is what older versions and harnesses add to every call."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    all_reduce: Domain
    gather: Domain
    exchange: Pairs
    send_recv: Line
    call: dict[str, SecondsOrZero] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """NCCL over several domains: rates are with NICs of ``nic``, latencies where links and switches
    took ``way`` from one host to another.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    nic: BytesPerSecond
    way: SecondsOrZero = 0.0
    all_reduce: Hierarchy
    ring: HostsRing
    exchange: HostsDirect
    send_recv: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom:
    """A library's own all-reduce: one-shot, two-shot, NCCL above.

    ``limits[n]``: the bytes up to which n ranks use one-shot and two-shot. ``two_shot_in_switch``:
    the second shot is done by the switches.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    one_shot: Small
    two_shot: Small
    two_shot_in_switch: bool = False
    limits: dict[PositiveInt, tuple[Bytes, Bytes]]
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Dispatch or combine of experts: ``latency + per_doubling log2 n + per_expert E + (copies +
    local) bytes of a token n^crowding / bandwidth``; ``crowding`` is how rates fall with ranks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    per_doubling: SecondsOrZero = 0.0
    per_expert: SecondsOrZero = 0.0
    local: FactorOrZero = 0.0
    crowding: FactorOrZero = 0.0
    bandwidth: BytesPerSecond
    measured: tuple[Seen, ...] = ()
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLibrary:
    """A library for expert parallelism.

    ``copies``: a token is sent once per ``expert`` that it is for, or once per ``rank`` that holds
    one (``full_rank``: routing meets no rank twice while it can). ``dispatch_hosts`` and
    ``combine_hosts`` are the rates over NICs.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    copies: Literal["expert", "rank", "full_rank"]
    dispatch: Exchange
    combine: Exchange
    dispatch_hosts: Exchange | None = None
    combine_hosts: Exchange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hccl:
    """Huawei's collectives by alpha and beta: launch, time of a step and rate to ranks of the same
    package, of the same host, of the same domain beyond, and over NICs, with what links and
    switches took of the latter (``way``).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    launch: Seconds
    package: Line | None = None
    host: Line
    domain: Line
    nic: Line
    way: SecondsOrZero = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFits:
    """All constants of a chip; bandwidths are of machines whose ranks send ``link`` bytes/s into
    their domain.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    chip: str
    borrows: str = ""
    link: BytesPerSecond
    nccl: Nccl | None = None
    hosts: Hosts | None = None
    custom: dict[Literal["trtllm_custom", "vllm_custom", "sglang_custom"], Custom] = field(
        default_factory=dict
    )
    experts: dict[
        Literal[
            "deepep_normal",
            "deepep_low_latency",
            "trtllm_nvlink_one_sided",
            "trtllm_nvlink_two_sided",
        ],
        ExpertLibrary,
    ] = field(default_factory=dict)
    hccl: Hccl | None = None


def load_collective_fits(chip: str, lender: str = "") -> CollectiveFits:
    """The constants of a chip, as ``find_collective_fits``; raises SpecError where it has none."""
    fits, _ = find_collective_fits(chip, lender)
    if fits is None:
        raise no_constants(chip)
    return fits


def no_constants(chip: str) -> SpecError:
    """The error for a chip whose collectives nobody can price."""
    return SpecError(
        f"{chip}: no constants of collectives; write "
        f"topologies/chips/fits/collectives/{chip}.yaml with 'borrows: h100_sxm'"
    )


def find_collective_fits(
    chip: str, lender: str = "", passed: tuple[str, ...] = ()
) -> tuple[CollectiveFits | None, tuple[FileRecord, ...]]:
    """The constants of a chip, those of relatives where it has none, and the files that they are
    from; None when there is neither file nor relative.

    A file may name its own relative; without a file ``lender`` is the relative. Bandwidths of a
    relative are scaled by the ratio of link rates and marked transferred; without a ``link`` of its
    own they stay those of ranks with the relative's. Raises SpecError for a file with mistakes, and
    one that borrows from a chip without any.
    """
    from cluster_sim.specs.build import Source, build
    from cluster_sim.specs.load import read

    if chip in passed or len(passed) > MOST_RELATIVES:
        raise SpecError(f"{chip}: collectives borrow in a circle: {' > '.join((*passed, chip))}")
    try:
        record, data, lines = read(FAMILY, chip)
    except UnknownNameError:
        if not lender:
            return None, ()
        lent, files = find_collective_fits(lender, "", (*passed, chip))
        return lent and _lent(lent, lender), files
    source = Source(record.path, lines)
    filled = {"chip": record.name, **data}
    if not data.get("borrows"):
        return build(CollectiveFits, filled, source, record.name), (record,)
    lending = str(data["borrows"])
    relative, more = find_collective_fits(lending, "", (*passed, record.name))
    if relative is None:
        raise SpecError(source.problem(("borrows",), str(no_constants(lending))))
    if "link" not in data:
        filled["link"] = f"{relative.link!r} B/s"
    own = build(CollectiveFits, filled, source, record.name)
    return _filled(own, relative), (record, *more)


def _filled(own: CollectiveFits, relative: CollectiveFits) -> CollectiveFits:
    """A chip's own constants with those of its relative where it has none."""
    lent = _scaled(_lent(relative, own.borrows), own.link / relative.link)
    return replace(
        own,
        nccl=own.nccl or lent.nccl,
        hosts=own.hosts or lent.hosts,
        custom={**lent.custom, **own.custom},
        experts={**lent.experts, **_over_nics(own, lent)},
        hccl=own.hccl or lent.hccl,
    )


def _over_nics(own: CollectiveFits, lent: CollectiveFits) -> dict[Any, ExpertLibrary]:
    """A chip's own expert libraries with a relative's rates over NICs where it has none."""
    found: dict[Any, ExpertLibrary] = {}
    for name, library in own.experts.items():
        other = lent.experts.get(name)
        if other is not None:
            library = replace(
                library,
                dispatch_hosts=library.dispatch_hosts or other.dispatch_hosts,
                combine_hosts=library.combine_hosts or other.combine_hosts,
            )
        found[name] = library
    return found


def _lent(fits: CollectiveFits, name: str) -> CollectiveFits:
    """The same with what was measured marked as transferred from ``name``."""

    def mark(item: Any) -> Any:
        if getattr(item, "provenance", "") in ("measured", "datasheet"):
            source = f"constants of {name}: {item.source}"
            return replace(item, provenance="transferred", source=source)
        return item

    return cast(CollectiveFits, _mapped(fits, mark))


def _scaled(fits: CollectiveFits, ratio: float) -> CollectiveFits:
    """The same with all rates inside a domain times ``ratio``; those over NICs stay."""
    hosts, hccl = fits.hosts, fits.hccl
    if hosts is not None:
        hosts = replace(
            hosts, all_reduce=_faster(hosts.all_reduce, ratio), ring=_faster(hosts.ring, ratio)
        )
    if hccl is not None:
        inside = {key: _faster(getattr(hccl, key), ratio) for key in ("package", "host", "domain")}
        hccl = replace(hccl, **inside)
    experts = {
        name: replace(
            library,
            dispatch=_faster(library.dispatch, ratio),
            combine=_faster(library.combine, ratio),
        )
        for name, library in fits.experts.items()
    }
    nccl, custom = _faster(fits.nccl, ratio), _faster(fits.custom, ratio)
    return replace(fits, nccl=nccl, custom=custom, hosts=hosts, hccl=hccl, experts=experts)


def _faster(value: Any, ratio: float) -> Any:
    """A tree with every ``bandwidth`` and ``domain_bandwidth`` times ``ratio``."""

    def scale(item: Any) -> Any:
        changed = {
            entry.name: getattr(item, entry.name) * ratio
            for entry in fields(item)
            if entry.name in ("bandwidth", "domain_bandwidth")
        }
        return replace(item, **changed)

    return _mapped(value, scale)


def _mapped(value: Any, change: Any) -> Any:
    """A tree of dataclasses and mappings with ``change`` applied to each dataclass, leaves up."""
    if isinstance(value, dict):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    inner = {entry.name: _mapped(getattr(value, entry.name), change) for entry in fields(value)}
    return change(replace(value, **inner))
