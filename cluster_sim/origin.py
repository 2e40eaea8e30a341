"""What a run was made from: every input and file that it read, and one hash over all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster_sim import __version__
from cluster_sim.specs.find import DATA, FileRecord, every
from cluster_sim.specs.inputs import TopologyInput, TrainingInput, WorkloadInput
from cluster_sim.specs.workload import ABOUT_A_TRACE, Economics

Job = WorkloadInput | TrainingInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The inputs of a run as plain values by name, the files that they are from, and the hash of
    everything that decides the numbers.
    """

    inputs: Mapping[str, Any]
    files: tuple[FileRecord, ...]
    config_hash: str

    def manifest(self) -> dict[str, Any]:
        """What the manifest of every run says of its origin. The text of data stays out of it."""
        files = [
            {
                "name": file.name,
                "path": file.path,
                "sha256": file.sha256,
                "origin": file.origin,
                "shadows": file.shadows,
                "text": "" if file.origin == DATA else file.text,
            }
            for file in self.files
        ]
        return {
            "version": __version__,
            "config_hash": self.config_hash,
            "inputs": dict(self.inputs),
            "files": files,
        }


def origin_of(
    machine: TopologyInput,
    job: Job | None = None,
    economics: Economics | None = None,
    *,
    data: Sequence[FileRecord] = (),
    options: Mapping[str, Any] | None = None,
) -> Origin:
    """The origin of a run on a machine. ``data`` are its files that are no specs: what they hold
    counts, not where they are. ``options`` is what else decides the numbers.
    """
    files = every((*machine.files, *(job.files if job is not None else ()), *data))
    inputs = {
        "topology": asdict(machine.topology),
        "chip": asdict(machine.chip),
        "fits": asdict(machine.alone if isinstance(job, TrainingInput) else machine.fits),
        "collectives": None if machine.collectives is None else asdict(machine.collectives),
    }
    if job is not None:
        inputs |= {key: asdict(getattr(job, key)) for key in ("workload", "model", "software")}
    if economics is not None:
        inputs["economics"] = asdict(economics)
    read = sorted(file.sha256 for file in files if file.origin == DATA)
    shared = bool((options or {}).get("others"))
    decides = [__version__, _without_idle(inputs, job, shared), read, dict(options or {})]
    return Origin(inputs=inputs, files=files, config_hash=_sha256(decides))


def one_sha256(files: Sequence[FileRecord]) -> str | None:
    """SHA-256 of what some files hold, of several that of theirs; None without any."""
    found = [file.sha256 for file in files]
    return _sha256(found) if len(found) > 1 else next(iter(found), None)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _without_idle(inputs: Mapping[str, Any], job: Job | None, shared: bool) -> dict[str, Any]:
    """The inputs without what decides nothing in serving: rates of training, the ceiling of a
    memory that is not ``shared``, settings of drafts without any, and what is said of no trace.
    """
    found = dict(inputs)
    if not isinstance(job, WorkloadInput):
        return found
    if not shared:
        chip = inputs["chip"]
        memory = {k: v for k, v in chip["memory"].items() if k != "ceiling"}
        sources = {k: v for k, v in chip["sources"].items() if k != "ceiling"}
        found["chip"] = chip | {"memory": memory, "sources": sources}
    found["fits"] = {k: v for k, v in inputs["fits"].items() if k != "training"}
    if not job.software.draft_tokens:
        software = inputs["software"].items()
        found["software"] = {k: v for k, v in software if not k.startswith("draft_")}
    if not job.workload.arrivals.replays:
        arrivals = inputs["workload"]["arrivals"].items()
        told = {k: v for k, v in arrivals if k not in ABOUT_A_TRACE}
        found["workload"] = inputs["workload"] | {"arrivals": told}
    return found
