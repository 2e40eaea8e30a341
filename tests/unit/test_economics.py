from __future__ import annotations

import dataclasses
import re

import pytest

from cluster_sim.economics import (
    chip_usd_per_hour,
    how_to_price,
    usd_per_million_tokens,
    wall_power_w,
)
from cluster_sim.simulation import simulate
from cluster_sim.specs.chip import Price
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.workload import Economics


def test_rent_unless_a_price_is_given(h200: TopologyInput) -> None:
    assert chip_usd_per_hour(h200.chip, Economics()) == h200.chip.price.rent
    given = Economics(basis="owned", usd_per_chip_hour=2.5)
    assert chip_usd_per_hour(h200.chip, given) == 2.5


def test_no_price_is_none_not_zero(h200: TopologyInput) -> None:
    assert chip_usd_per_hour(load_topology("a100_nvl8").chip, Economics()) is None
    priceless = dataclasses.replace(
        h200.chip, price=dataclasses.replace(h200.chip.price, purchase=None)
    )
    assert chip_usd_per_hour(priceless, Economics(basis="owned")) is None


def test_owned_by_hand(h200: TopologyInput) -> None:
    """H200 at 23,500 USD: capital by an annuity of 5 years at 9 %, power and space at 0.945 kW."""
    annuity = 0.09 * 1.09**5 / (1.09**5 - 1)
    capital = 23_500 * 1.35 * annuity / 8766
    running = 0.7 * 1.35 * (130 / 730 + 1.2 * 0.091)
    usd = chip_usd_per_hour(h200.chip, Economics(basis="owned"))
    assert usd == pytest.approx(capital + running, rel=1e-12)
    assert usd == pytest.approx(1.20, abs=0.01)


def test_space_is_paid_as_provisioned_and_electricity_as_drawn(h200: TopologyInput) -> None:
    """Colocation on TDP and host, electricity on the power at the wall: both of one machine."""
    money = Economics(basis="owned", wacc=0.0)
    capital = 23_500 * 1.35 / 5 / 8766
    usd = chip_usd_per_hour(h200.chip, money, host_w=300.0, wall_w=900.0)
    assert usd == pytest.approx(capital + (0.7 + 0.3) * 130 / 730 + 0.9 * 0.091, rel=1e-12)
    idle = chip_usd_per_hour(h200.chip, money, host_w=300.0, wall_w=400.0)
    assert usd - idle == pytest.approx(0.5 * 0.091)


@pytest.mark.parametrize("name", ["ascend_910c_8", "h200_nvl8", "gb200_nvl72", "mi300x_8"])
def test_price_and_energy_count_one_power(name: str) -> None:
    """What electricity adds to the owned price of a run is its energy at the wall."""
    machine = load_topology(name)
    chip = dataclasses.replace(
        machine.chip, price=dataclasses.replace(machine.chip.price, purchase=30e3)
    )
    machine = dataclasses.replace(machine, chip=chip)
    job = load_workload("llama8b", ["workload.requests=40", "workload.arrivals={kind: offline}"])
    owned = Economics(basis="owned")
    free = dataclasses.replace(owned, electricity=0.0)
    found = [simulate(machine, job, economics=money).summary for money in (owned, free)]
    more = found[0]["chip_usd_per_h"] - found[1]["chip_usd_per_h"]
    watts = found[0]["power_w"] / machine.topology.chips
    assert more == pytest.approx(watts / 1e3 * owned.electricity, rel=1e-9)
    host_w = machine.topology.host_power / machine.topology.chips
    assert watts < owned.pue * (chip.tdp + host_w)  # no more is drawn than was provisioned
    space = dataclasses.replace(free, colocation_usd_per_kw_month=0.0)
    less = simulate(machine, job, economics=space).summary["chip_usd_per_h"]
    assert found[1]["chip_usd_per_h"] - less == pytest.approx((chip.tdp + host_w) / 1e3 * 130 / 730)


def test_free_capital_is_straight_line(h200: TopologyInput) -> None:
    free = Economics(basis="owned", wacc=0.0, electricity=0.0, colocation_usd_per_kw_month=0.0)
    assert chip_usd_per_hour(h200.chip, free) == pytest.approx(23_500 * 1.35 / 5 / 8766)
    nearly = dataclasses.replace(free, wacc=1e-6)
    assert chip_usd_per_hour(h200.chip, nearly) == pytest.approx(
        chip_usd_per_hour(h200.chip, free), rel=1e-5
    )


def test_tokens_and_power_at_the_wall() -> None:
    assert usd_per_million_tokens(1.8, 8, 4000.0) == pytest.approx(1.0)
    assert usd_per_million_tokens(None, 8, 4000.0) is None
    assert usd_per_million_tokens(1.8, 8, 0.0) is None
    assert wall_power_w(4000.0, 2000.0, Economics(pue=1.25)) == 7500.0


@pytest.mark.parametrize(
    ("basis", "price", "says"),
    [
        ("rented", Price(purchase=20e3), "no rent of .* is known; --set economics.basis=owned, or"),
        ("owned", Price(rent=2.0), "no purchase price of .* --set economics.basis=rented, or"),
        ("rented", Price(), r"is known; --set economics.usd_per_chip_hour=2.0"),
    ],
)
def test_a_missing_price_says_what_to_do(
    h200: TopologyInput, basis: str, price: Price, says: str
) -> None:
    chip, money = dataclasses.replace(h200.chip, price=price), Economics(basis=basis)  # type: ignore[arg-type]
    assert chip_usd_per_hour(chip, money) is None
    assert re.search(says, how_to_price(chip, money))
