"""Whether a service keeps up with its traffic, and how fast it falls behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run
from cluster_sim.window import FloatArray, Window

POINTS = 40  # instants at which requests inside are counted
LEAST_GROWTH = 0.005  # of the arrivals: what a run can tell from none at best
SIGMAS = 4.0  # of the scatter around the trend, between its ends
LATE = 0.5  # share of the time that is looked at: the later part


@dataclass(frozen=True, slots=True)
class Trend:
    """How the number of requests inside changes: arrivals, and growth of it, a second."""

    arrivals_per_s: float
    growth_per_s: float
    grows: bool


def trend(run: Run, requests: Requests, window: Window) -> Trend:
    """The trend of the requests inside the service while they come.

    Model: least squares over the number inside at ``POINTS`` instants of the later half of the time
    from the window's start to the last arrival. It grows if the trend lifts it by more than
    ``SIGMAS`` times the scatter around it and by more than ``LEAST_GROWTH`` of the arrivals.
    Limits: near saturation a queue wanders for long; a short run may call that growth, or miss it.
    """
    arrival = np.sort(_known(np.array(run.outcomes.arrival_s)))
    left = np.array(run.outcomes.finish_s)
    status = np.array(run.outcomes.status)
    left = np.sort(_known(np.where(status > 1, np.array(run.outcomes.arrival_s), left)))
    starts = np.array(run.outcomes.arrival_s)
    if requests.after is not None:
        starts = starts[requests.after < 0]
    last_s = min(float(np.nanmax(starts)), run.known_s) if len(starts) else 0.0
    first_s = min(window.start_s, last_s)
    first_s += (1 - LATE) * (last_s - first_s)
    if last_s <= first_s:
        return Trend(0.0, 0.0, False)
    at_s = np.linspace(first_s, last_s, POINTS)
    inside = np.searchsorted(arrival, at_s, "right") - np.searchsorted(left, at_s, "right")
    slope, level = np.polyfit(at_s - first_s, inside, 1)
    scatter = float(np.std(inside - (level + slope * (at_s - first_s))))
    came = int(((arrival > first_s) & (arrival <= last_s)).sum())
    per_s, rise = came / (last_s - first_s), float(slope) * (last_s - first_s)
    grows = rise > SIGMAS * max(scatter, 0.5) and rise > LEAST_GROWTH * came
    return Trend(per_s, float(slope), grows)


def _known(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]
