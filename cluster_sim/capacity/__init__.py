"""What a service can do in the long run: saturation, and the largest rate within the SLO."""

from cluster_sim.capacity.finalists import play_finalists
from cluster_sim.capacity.sample import Effort, Sample, sample_of
from cluster_sim.capacity.saturation import Saturation, find_saturation
from cluster_sim.capacity.search import Capacity, find_capacity

__all__ = [
    "Capacity",
    "Effort",
    "Sample",
    "Saturation",
    "find_capacity",
    "find_saturation",
    "play_finalists",
    "sample_of",
]
