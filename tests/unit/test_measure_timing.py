"""How a call is timed on a GPU, on a clock of its own: no GPU and no torch is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

from cluster_sim.errors import SpecError
from cluster_sim.studies import measure_torch
from cluster_sim.studies.measure_torch import (
    Device,
    fastest,
    missing,
    open_device,
    sensors,
    time_cold,
    time_replay,
)

LAUNCH_S, FLUSH_S = 8e-6, 80e-6


class Cuda:
    """As much of torch.cuda as timing uses: calls take the time that they say, at once or, while a
    graph is captured, when it is replayed after the launch of the graph.
    """

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self, *, captures: bool = True) -> None:
        self.now_s, self.captures = 0.0, captures
        self.recording: list[float] | None = None

    def work(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            if self.recording is not None:
                self.recording.append(seconds)
            else:
                self.now_s += seconds

        return call

    def CUDAGraph(self) -> Any:  # noqa: N802
        graph = SimpleNamespace(parts=[])

        def replay() -> None:
            self.now_s += LAUNCH_S + sum(graph.parts)

        graph.replay = replay
        return graph

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recording = graph.parts
        yield
        self.recording = None

    def Event(self, *, enable_timing: bool) -> Any:  # noqa: N802
        event = SimpleNamespace(at_s=0.0, synchronize=lambda: None)

        def record() -> None:
            event.at_s = self.now_s

        event.record = record
        event.elapsed_time = lambda end: (end.at_s - event.at_s) * 1e3
        return event

    def Stream(self) -> Any:  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def synchronize(self) -> None:
        pass


def gpu(cuda: Cuda, **facts: Any) -> Device:
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.8"))
    return Device(torch, "cuda", "a GPU", "torch", flush=cuda.work(FLUSH_S), **facts)


@pytest.mark.parametrize("seconds", [2e-6, 300e-6, 0.04])
def test_neither_launch_nor_flush_is_part_of_an_operator(seconds: float) -> None:
    cuda = Cuda()
    timing = time_cold(gpu(cuda), cuda.work(seconds))
    assert timing.seconds == pytest.approx(seconds, rel=1e-6)
    assert timing.p10_s == pytest.approx(timing.p90_s, rel=1e-6)
    assert timing.flags == ()


def test_the_launch_of_a_graph_is_part_of_a_step() -> None:
    cuda = Cuda()
    assert time_replay(gpu(cuda), cuda.work(5e-3)).seconds == pytest.approx(5e-3 + LAUNCH_S)


@pytest.mark.parametrize("timer", [time_cold, time_replay])
def test_what_cannot_be_captured_is_timed_without_a_graph(timer: Any) -> None:
    cuda = Cuda(captures=False)
    timing = timer(gpu(cuda), cuda.work(1e-3))
    assert timing.seconds == pytest.approx(1e-3)
    assert timing.flags == ("no_graph",)


def test_long_calls_are_repeated_less() -> None:
    cuda = Cuda()
    assert time_replay(gpu(cuda), cuda.work(2.0)).samples == measure_torch.FEWEST_SAMPLES
    assert time_replay(gpu(cuda), cuda.work(1e-3)).samples == measure_torch.SAMPLES


def refuse() -> None:
    raise RuntimeError("No available kernel\nand more")


def test_the_fastest_that_runs_is_taken() -> None:
    cuda = Cuda()
    slow, fast, faster = (cuda.work(seconds) for seconds in (3e-5, 2e-5, 1e-5))
    groups = [[("a", refuse), ("b", slow), ("c", fast)], [("d", faster)]]
    timing, name = fastest(gpu(cuda), groups)
    assert timing.seconds == pytest.approx(2e-5)
    assert name == "c (b 30 us)"
    assert fastest(gpu(cuda), [[("a", refuse)], [("d", faster)]])[1] == "d"
    with pytest.raises(RuntimeError, match="^No available kernel$"):
        fastest(gpu(cuda), [[("a", refuse)]])


def test_fp8_needs_hardware() -> None:
    assert "needs compute capability 8.9" in missing(gpu(Cuda(), capability=(8, 0)), "fp8")
    assert missing(gpu(Cuda(), capability=(9, 0)), "fp8") == ""
    assert missing(gpu(Cuda(), capability=(8, 0)), "bf16") == ""


def test_clocks_are_read_while_the_call_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    answer = 'case "$*" in *--id=GPU-1*) echo "1980, 2619, 612.34";; esac'
    program.write_text(f"#!/bin/sh\nsleep 0.2\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    cuda = Cuda()
    text = sensors(gpu(cuda, uuid="GPU-1"), cuda.work(1e-6))
    assert text == "SM 1980 MHz, memory 2619 MHz, 612.34 W"
    assert cuda.now_s > 0
    assert sensors(gpu(cuda, uuid="GPU-2"), cuda.work(1e-6)) == ""
    assert sensors(gpu(cuda), cuda.work(1e-6)) == ""


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(__version__="2", cuda=cuda, set_num_threads=lambda n: None)
    monkeypatch.setattr(measure_torch, "import_torch", lambda: torch)
    assert open_device().kind == "cpu"
    with pytest.raises(SpecError, match="torch sees no GPU"):
        open_device("cuda")


def test_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(L2_cache_size=50 * 2**20, uuid="0-1")
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_properties=lambda index: facts,
        get_device_name=lambda index: "NVIDIA H100 80GB HBM3",
        get_device_capability=lambda index: (9, 0),
    )
    read: list[int] = []
    torch = SimpleNamespace(
        __version__="2",
        cuda=cuda,
        float32=None,
        version=SimpleNamespace(cuda="12.8", hip=None),
        ones=lambda count, dtype, device: 4 * count,
        sum=read.append,
    )
    monkeypatch.setattr(measure_torch, "import_torch", lambda: torch)
    device = open_device()
    assert (device.name, device.uuid) == ("NVIDIA H100 80GB HBM3", "GPU-0-1")
    assert device.flush is not None
    device.flush()
    assert read[0] >= 2 * facts.L2_cache_size


def test_one_module_imports_torch() -> None:
    pattern = re.compile(r"^\s*(import|from) torch|import_module\(.torch", re.MULTILINE)
    files = (ROOT / "cluster_sim").rglob("*.py")
    assert [file.name for file in files if pattern.search(file.read_text())] == ["measure_torch.py"]
