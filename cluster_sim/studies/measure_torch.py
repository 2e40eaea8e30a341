"""Torch and its devices: the only module that imports torch, and how a call is timed on a device.

Torch is an extra (``measure``), imported when a device is opened and by nothing else.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster_sim.errors import SpecError

Call = Callable[[], object]
INSTALL = "measuring needs torch; install it with: pip install 'cluster-sim[measure]'"
WARM_UP = 3  # calls before a capture: kernels are loaded, libraries choose theirs
REPLAY_S = 5e-3  # of a graph, so that the few us of its launch do not count
MOST_CALLS = 50  # in a graph
SAMPLES, FEWEST_SAMPLES = 20, 5
SAMPLING_S = 2.0  # of a case, unless that would be less than the fewest samples
CPU_SAMPLES, CPU_SAMPLING_S = 50, 0.02
FLUSH = 4  # times the L2 cache is read to empty it of an operator's inputs
UNKNOWN_L2_BYTES = 2**26  # where torch does not tell; H100 and H200 have 50 MiB
SENSOR_S = 2.0  # patience with nvidia-smi
SENSORS = {"clocks.sm": "SM {} MHz", "clocks.mem": "memory {} MHz", "power.draw": "{} W"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is measured; ``flush`` empties its cache, and is None on the CPU."""

    torch: Any
    kind: str
    name: str
    about: str
    capability: tuple[int, int] = (0, 0)
    uuid: str = ""
    flush: Call | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: median, 10th and 90th percentile of the samples."""

    seconds: float
    p10_s: float
    p90_s: float
    samples: int
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        spread = f"p10 {self.p10_s * 1e6:.4g} us, p90 {self.p90_s * 1e6:.4g} us"
        return f"{spread}, {self.samples} samples"


def import_torch() -> Any:
    """The torch module; raises SpecError that says how to install it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        absent = getattr(error, "name", "") == "torch"
        raise SpecError(INSTALL if absent else f"torch cannot be imported: {error}") from None


def open_device(wanted: str = "auto") -> Device:
    """The first GPU that torch sees, or the CPU; ``auto`` takes the GPU if there is one."""
    torch = import_torch()
    version = f"torch {torch.__version__}"
    there = torch.cuda.is_available()
    if wanted == "cpu" or (wanted == "auto" and not there):
        torch.set_num_threads(1)  # small calls on several threads measure the scheduler
        return Device(torch, "cpu", "", f"{version}, one CPU thread")
    if not there:
        raise SpecError("--device cuda: torch sees no GPU (torch.cuda.is_available() is false)")
    facts = torch.cuda.get_device_properties(0)
    runtime = torch.version.cuda or torch.version.hip
    size = FLUSH * (getattr(facts, "L2_cache_size", 0) or UNKNOWN_L2_BYTES)
    buffer = torch.ones(size // 4, dtype=torch.float32, device="cuda")
    return Device(
        torch,
        "cuda",
        torch.cuda.get_device_name(0),
        f"{version}, {'CUDA' if torch.version.cuda else 'ROCm'} {runtime}",
        torch.cuda.get_device_capability(0),
        f"GPU-{getattr(facts, 'uuid', '')}" if torch.version.cuda else "",
        # Read, not written: dirty lines would be written back while the operator runs.
        lambda: torch.sum(buffer),
    )


def missing(device: Device, dtype: str) -> str:
    """Why products of a dtype cannot run on a device; empty if they can."""
    if dtype != "fp8" or device.kind == "cpu":
        return ""
    if not device.torch.version.cuda:
        return "fp8 is measured on NVIDIA GPUs only"
    if device.capability < (8, 9):
        major, minor = device.capability
        return f"fp8 needs compute capability 8.9, {device.name} has {major}.{minor}"
    return ""


@contextmanager
def quiet(device: Device) -> Iterator[None]:
    """Without gradients, and without torch's warnings of why it did not take a kernel."""
    with device.torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def time_cold(device: Device, call: Call) -> Timing:
    """Seconds of a call that finds its inputs in memory and not in the cache.

    Model: a CUDA graph of n times (empty the cache, call) less one of n times (empty the cache),
    over n. So launches inside a graph count, that of the graph and the events does not. Where a
    call cannot be captured, events around single calls, flag ``no_graph``. On the CPU the clock
    around single calls, and no cache is emptied. Limits: activations are cold too.
    """
    if device.kind == "cpu" or device.flush is None:
        return _time_cpu(call)
    flush = device.flush
    _warm(device, flush)
    _warm(device, call)
    once_s = _events_s(device, call)
    calls = max(1, min(MOST_CALLS, round(REPLAY_S / max(once_s, 1e-6))))

    def both() -> None:
        for _ in range(calls):
            flush()
            call()

    def empty() -> None:
        for _ in range(calls):
            flush()

    replay, alone = _graph(device, both), _graph(device, empty)
    if replay is None or alone is None:
        return _time_eager(device, call, once_s)
    replay(), alone()
    found = [
        (_events_s(device, replay) - _events_s(device, alone)) / calls
        for _ in range(_samples(once_s * calls))
    ]
    timing = _timing(found)
    if timing.seconds <= 0:
        raise RuntimeError("shorter than the noise of emptying the cache")
    return timing


def time_replay(device: Device, call: Call) -> Timing:
    """Seconds of a call that is long and reads far more than the cache holds, such as a step: each
    sample one replay of a CUDA graph, its launch included.
    """
    if device.kind == "cpu":
        return _time_cpu(call)
    _warm(device, call)
    replay = _graph(device, call)
    if replay is None:
        return _time_eager(device, call, _events_s(device, call))
    once_s = _events_s(device, replay)
    return _timing([_events_s(device, replay) for _ in range(_samples(once_s))])


def _samples(once_s: float) -> int:
    return max(FEWEST_SAMPLES, min(SAMPLES, int(SAMPLING_S / max(once_s, 1e-9))))


def _timing(samples: Sequence[float], *flags: str) -> Timing:
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(statistics.median(samples), tenths[0], tenths[-1], len(samples), flags)


def _time_cpu(call: Call) -> Timing:
    call()
    samples: list[float] = []
    begun = time.perf_counter()
    while len(samples) < CPU_SAMPLES:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        samples.append(end - start)
        if end - begun > CPU_SAMPLING_S and len(samples) >= FEWEST_SAMPLES:
            break
    return _timing(samples, "cpu")


def _time_eager(device: Device, call: Call, once_s: float) -> Timing:
    """Events around single calls; emptying the cache gives the host time to get ahead."""
    samples = []
    for _ in range(_samples(once_s)):
        if device.flush is not None:
            device.flush()
        samples.append(_events_s(device, call))
    return _timing(samples, "no_graph")


def _warm(device: Device, call: Call) -> None:
    """Call it on a side stream, as a capture wants it."""
    cuda = device.torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    cuda.current_stream().wait_stream(side)
    cuda.synchronize()


def _events_s(device: Device, call: Call) -> float:
    cuda = device.torch.cuda
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _graph(device: Device, call: Call) -> Call | None:
    """A call that replays a CUDA graph of ``call``; None if it cannot be captured."""
    cuda = device.torch.cuda
    graph = cuda.CUDAGraph()
    try:
        with cuda.graph(graph):
            call()
    except cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        cuda.synchronize()
        return None
    replay: Call = graph.replay
    return replay


def fastest(device: Device, choices: Sequence[Sequence[tuple[str, Call]]]) -> tuple[Timing, str]:
    """Timing and name of the fastest call; a later group counts only if nothing of those before it
    runs. The name tells what others took.

    Raises RuntimeError with what torch said if none runs.
    """
    refused = "nothing to run"
    for group in choices:
        found: list[tuple[Timing, str]] = []
        for name, call in group:
            try:
                call()
                found.append((time_cold(device, call), name))
            except RuntimeError as error:
                refused = first_line(error)
        if found:
            best, *others = sorted(found, key=lambda entry: entry[0].seconds)
            slower = "".join(f" ({name} {t.seconds * 1e6:.4g} us)" for t, name in others)
            return best[0], best[1] + slower
    raise RuntimeError(refused)


def first_line(error: Exception) -> str:
    """What an error of torch says, in one short line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


def recover(device: Device, error: RuntimeError) -> None:
    """Free what a failed case held; raises SpecError if the GPU itself no longer answers."""
    if device.kind == "cpu":
        return
    try:
        device.torch.cuda.synchronize()
        device.torch.cuda.empty_cache()
    except RuntimeError:
        raise SpecError(
            f"the GPU stopped working ({first_line(error)}); what was measured is kept, "
            "run the command again for the rest"
        ) from None


def sensors(device: Device, call: Call) -> str:
    """Clocks and power as nvidia-smi reads them while a call repeats; empty without it."""
    if not device.uuid:
        return ""
    query = ["nvidia-smi", f"--query-gpu={','.join(SENSORS)}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(
            [*query, f"--id={device.uuid}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return ""
    with process:
        until = time.perf_counter() + SENSOR_S
        while process.poll() is None and time.perf_counter() < until:
            call()
            device.torch.cuda.synchronize()
        if process.poll() is None:
            process.kill()
        text = process.communicate()[0].strip()
    cells = [cell.strip() for cell in text.split(",")]
    if process.returncode != 0 or len(cells) != len(SENSORS):
        return ""
    return ", ".join(form.format(cell) for form, cell in zip(SENSORS.values(), cells, strict=True))


def count_kernels(device: Device, call: Call) -> int:
    """Operations of a call that do work, apart from matrix products and attention.

    Counted where torch dispatches them: views, allocations, products and attention are left out.
    Limits: an operation of several kernels counts once.
    """
    base = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode
    counted: list[str] = []

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        if not func.is_view and not name.startswith(_NO_GLUE):
            counted.append(name)
        return func(*args, **(kwargs or {}))

    with type("Counting", (base,), {"__torch_dispatch__": dispatch})():
        call()
    return len(counted)


_NO_GLUE = ("empty", "mm", "_scaled_mm", "bmm", "_scaled_dot_product", "_unsafe_view", "_reshape")
