"""Money and energy around the chips."""

from __future__ import annotations

from cluster_sim.specs.chip import Chip
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.workload import Economics

HOURS_PER_YEAR, HOURS_PER_MONTH = 8766.0, 730.0


def chip_usd_per_hour(
    chip: Chip,
    economics: Economics,
    *,
    host_w: float | None = None,
    wall_w: float | None = None,
) -> float | None:
    """US dollars per chip-hour; None when the chip has no such price.

    Model: the given price if there is one; rented: the chip's rent; owned: purchase (1 +
    host_share) CRF / 8766 h + provisioned kW x colocation / 730 h + kW at the wall x electricity,
    with the capital recovery factor CRF = r / (1 - (1 + r)^-years). Space is paid for what may be
    drawn, electricity for what is drawn: provisioned are the TDP and ``host_w``, the share of a
    chip in the power of its host; at the wall is ``wall_w``, the mean of the run that its energy is
    counted with, PUE included. Without a host's power provisioned is TDP (1 + host_share), without
    the run's power drawn is the provisioned one times PUE. Source of the defaults: electricity
    0.091 USD/kWh, US industrial average of 2025-11 (EIA); PUE 1.2, hyperscale new build; colocation
    130 USD/kW-month (SemiAnalysis, hyperscale); life 5 years, WACC 9 %, host and network 35 % of
    the chip's price and, unless known, of its power: assumed, within the ranges of published cost
    models. Limits: without a TDP there is no owned price.
    """
    if economics.usd_per_chip_hour is not None:
        return economics.usd_per_chip_hour
    if economics.basis == "rented":
        return chip.price.rent
    if chip.price.purchase is None or chip.tdp is None:
        return None
    rate, years = economics.wacc, economics.life_years
    recovery = rate / (1 - (1 + rate) ** -years) if rate > 0 else 1 / years
    capital = chip.price.purchase * (1 + economics.host_share) * recovery / HOURS_PER_YEAR
    provisioned_w = chip.tdp + (chip.tdp * economics.host_share if host_w is None else host_w)
    drawn_w = provisioned_w * economics.pue if wall_w is None else wall_w
    space = provisioned_w * economics.colocation_usd_per_kw_month / HOURS_PER_MONTH
    return capital + (space + drawn_w * economics.electricity) / 1e3


def machine_usd_per_hour(
    machine: TopologyInput, economics: Economics, power_w: float | None
) -> float | None:
    """The same of a chip in a machine that draws ``power_w`` at the wall in all (None: unknown)."""
    topology = machine.topology
    host_w = None if topology.host_power is None else topology.host_power / topology.chips
    wall_w = None if power_w is None else power_w / topology.chips
    return chip_usd_per_hour(machine.chip, economics, host_w=host_w, wall_w=wall_w)


def price_columns(chip: Chip, economics: Economics) -> dict[str, object]:
    """What the price of a run rests on: basis, date, currency; electricity (USD/kWh) where it is
    paid for, and PUE.
    """
    rented, given = economics.basis == "rented", economics.usd_per_chip_hour is not None
    price = chip.price
    basis = price.rent_basis if rented else f"owned; purchase {price.purchase_basis}"
    date = price.rent_date if rented else price.purchase_date
    known = chip_usd_per_hour(chip, economics) is not None
    return {
        "price_basis": ("as given" if given else basis) if known else None,
        "price_date": None if given or not known else date,
        "price_currency": "USD" if known else None,
        "electricity_usd_per_kwh": None if rented or given else economics.electricity,
        "pue": economics.pue,
    }


def how_to_price(chip: Chip, economics: Economics) -> str:
    """What the user can do where a chip has no price on the wanted basis."""
    other = {"rented": ("owned", chip.price.purchase), "owned": ("rented", chip.price.rent)}
    basis, price = other[economics.basis]
    known = "" if price is None else f"--set economics.basis={basis}, or "
    what = "rent" if economics.basis == "rented" else "purchase price"
    return f"no {what} of {chip.title} is known; {known}--set economics.usd_per_chip_hour=2.0"


def usd_per_million_tokens(
    usd_per_chip_hour: float | None, chips: int, tokens_per_s: float | None
) -> float | None:
    """Cost of a million tokens when all ``chips`` are paid for; None without a price or without
    tokens.
    """
    if usd_per_chip_hour is None or not tokens_per_s:
        return None
    return usd_per_chip_hour * chips / 3600.0 / tokens_per_s * 1e6


def wall_power_w(chips_w: float, host_w: float, economics: Economics) -> float:
    """Power at the wall (W): chips and the rest of the host, times PUE."""
    return (chips_w + host_w) * economics.pue
