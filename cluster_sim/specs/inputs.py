"""What the files of a run resolve to: everything that a simulation reads, with the record of where
it was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import Chip, Fits
from cluster_sim.specs.collective_fits import CollectiveFits, no_constants
from cluster_sim.specs.engines import AUTO, DEFAULTS, exists, refuse
from cluster_sim.specs.find import FileRecord
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.specs.topology import Topology
from cluster_sim.specs.workload import Workload

if TYPE_CHECKING:  # a service needs neither
    from cluster_sim.specs.training import TrainingWorkload
    from cluster_sim.specs.training_software import TrainingSoftware

Choose = Callable[[Workload, str], tuple[FileRecord, Software]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyInput:
    """A topology with its chip, the chip's fitted curves as engines show them (``fits``) and as
    kernels were timed ``alone``, and the constants of its collectives, None where neither the chip
    nor a relative has any. ``graph`` is the file of a fabric of that kind.
    """

    topology: Topology
    chip: Chip
    fits: Fits
    alone: Fits
    collectives: CollectiveFits | None
    graph: FileRecord | None
    files: tuple[FileRecord, ...]

    @property
    def timed_alone(self) -> TopologyInput:
        """The same with the curves of kernels alone, without what engines change."""
        return replace(self, fits=self.alone)

    @property
    def constants(self) -> CollectiveFits:
        """The constants of collectives; raises SpecError where there are none."""
        if self.collectives is None:
            raise no_constants(self.chip.name)
        return self.collectives


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInput:
    """A workload with its model and software profile; engine limits are applied already.

    ``choose`` finds the profile that the workload's software stands for on a vendor's chips.
    Raises SpecError for drafts of a model without layers that make them.
    """

    workload: Workload
    model: Model
    software: Software
    files: tuple[FileRecord, ...]
    choose: Choose | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.software.draft_tokens and not self.model.mtp_layers:
            raise SpecError(
                f"engine.draft_tokens={self.software.draft_tokens}: {self.model.name} has no MTP "
                "layers to draft with; set engine.draft_tokens=0, or mtp_layers in a model file"
            )

    def on(self, chip: Chip) -> WorkloadInput:
        """The same with the engine that the workload's software stands for on a chip, and the
        limits that it chooses there; what it chose stays.

        Raises SpecError for an engine that does not exist on chips of the vendor.
        """
        job = self
        if not exists(self.software.vendors, chip.vendor):
            if self.choose is None:
                raise refuse(self.software.name, chip.vendor)
            record, software = self.choose(self.workload, chip.vendor)
            job = self._with(record, software)
        elif self.workload.software == AUTO and chip.vendor not in DEFAULTS and self.choose:
            record, software = self.choose(self.workload, chip.vendor)
            job = self._with(record, software)
        return replace(job, software=job.software.on_device(chip.device_memory, chip.name))

    def _with(self, record: FileRecord, software: Software) -> WorkloadInput:
        files = (*self.files[:-1], record)
        return replace(self, software=software, files=files, choose=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInput:
    """A training workload with its model and software profile."""

    workload: TrainingWorkload
    model: Model
    software: TrainingSoftware
    files: tuple[FileRecord, ...]
