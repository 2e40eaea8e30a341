"""What kind of file a user's file is, from what it holds and whatever its name: a spec, a config of
a model, a graph, a trace, a table of measurements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.specs.find import FOLDERS, HUGGING_FACE_FILE, FileRecord
from cluster_sim.studies.validate_cases import KINDS, read_cases
from cluster_sim.text_file import decoded, is_file, json_value, read_bytes, read_text

# Kinds beside the families of specs.
TRACE, EXECUTION, CASES, BENCHMARK = "trace", "execution-trace", "cases", "nccl-tests"
DATA = (TRACE, EXECUTION, CASES, BENCHMARK)
TRIED = (
    f"a spec ({', '.join(FOLDERS)}), config.json of a model, a graph or network, a request trace, "
    "an execution trace (Chakra, SimAI, AICB), measured cases, an output of nccl-tests or the like"
)
_CONFIG = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "text_config")
_YAML = (".yaml", ".yml")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a]")  # in no text, but in short messages of protobuf


def kind_of_file(path: Path) -> str:
    """The family of a spec, or one of ``DATA``; raises SpecError that names what was tried."""
    if path.is_dir():
        return "model" if is_file(path / HUGGING_FACE_FILE) else _of_folder(path)
    data = read_bytes(path)
    try:
        text = decoded(data, str(path))
    except SpecError:
        text = "\1"
    if not text.strip():
        raise SpecError(f"{path}: an empty file")
    if _CONTROL.search(text[:4096]):
        return _of_bytes(path, data)
    named = path.suffix in _YAML
    found = "" if named else _of_data(path, text)
    if found:
        return found
    try:
        return _of_spec(path, text)
    except SpecError:
        found = _of_data(path, text) if named else ""
        if found:
            return found
        if named:
            raise
        broken = _broken_json(text)
        raise SpecError(
            f"{path}: cannot tell what kind of file this is{broken}; tried: {TRIED}; say so with "
            "--as"
        ) from None


def _of_data(path: Path, text: str) -> str:
    """The kind of a text that is no YAML; empty if it is none that is known."""
    found = _of_json(path, text) if text.lstrip()[0] in "{[" else ""
    return found or _of_table(path, text)


def _broken_json(text: str) -> str:
    """Where a text that looks like JSON is none; empty if nothing is wrong with it."""
    if text.lstrip()[0] not in "{[":
        return ""
    try:
        json_value(text, infinite=True)
    except json.JSONDecodeError as error:
        return f" (as JSON it breaks off in line {error.lineno}: {error.msg})"
    except ValueError as error:
        return f" (as JSON: {error})"
    return ""


def _of_bytes(path: Path, data: bytes) -> str:
    """Chakra's protobuf begins with the length of its first message, seven bits a byte."""
    length = 0
    for place, byte in enumerate(data[:10]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if 0 < length < len(data) - place:
                return EXECUTION
            break
    raise SpecError(f"{path}: not a text file, and no Chakra trace")


def _of_folder(path: Path) -> str:
    if any(path.glob("chunk-*-trace.csv")):
        return TRACE
    raise SpecError(
        f"{path}: is a folder; taken are those with {HUGGING_FACE_FILE} (a model) and with "
        "chunk-*-trace.csv (a trace of ServeGen)"
    )


def _of_json(path: Path, text: str) -> str:
    """The kind of a JSON object, list or list of lines; empty if it is none that is known."""
    from cluster_sim.studies.nccl_tests import is_benchmark

    if is_benchmark(text):
        return BENCHMARK
    try:
        data = json_value(text)
    except ValueError:
        data = None  # lines of JSON, or broken
    if not isinstance(data, dict):
        return ""
    if "nodes" in data and ("edges" in data or "links" in data):
        return "topology"
    if "workload_graph" in data or "nodes" in data:
        return EXECUTION
    if path.name == HUGGING_FACE_FILE or any(key in data for key in _CONFIG):
        return "model"
    return ""


def _of_table(path: Path, text: str) -> str:
    """The kind of a text of lines; empty if it is none that is known."""
    from cluster_sim.serving.traces import recognise as request_trace
    from cluster_sim.studies.nccl_tests import is_benchmark
    from cluster_sim.studies.result_cases import is_summary
    from cluster_sim.training.traces import recognise as execution_trace

    header = text.lstrip().partition("\n")[0].strip().split(",")
    if any(2 * len(set(header) & set(kind.needs)) > len(kind.needs) for kind in KINDS):
        return CASES
    if is_summary(text):
        return CASES
    if is_benchmark(text):
        return BENCHMARK
    lines_of_json = text.lstrip()[0] == "{"
    if not lines_of_json and _is(execution_trace, path, text.encode()):
        return EXECUTION
    return TRACE if _is(request_trace, path, text) else ""


def _is(recognise: Callable[..., object], *given: object) -> bool:
    try:
        recognise(*given)
    except SpecError:
        return False
    return True


def _of_spec(path: Path, text: str) -> str:
    from cluster_sim.specs.astra import is_astra
    from cluster_sim.specs.kinds import family_of_text
    from cluster_sim.specs.yaml_text import parse

    if is_astra(parse(text, str(path))[0]):
        return "topology"
    return family_of_text(FileRecord(name="", path=str(path), sha256="", origin="path", text=text))


def count_cases(path: Path) -> int:
    """The values of a file of measured cases, of steps if it has their columns, or of a result of a
    benchmark; raises SpecError with the problems of it.
    """
    from cluster_sim.studies.measure_compare import parse_steps
    from cluster_sim.studies.result_cases import count_figures, is_result

    text = read_text(path)
    if is_result(text):
        return count_figures(text, str(path))
    if {"phase", "glue_kernels_per_layer"} <= set(text.partition("\n")[0].strip().split(",")):
        return len(parse_steps(text, str(path)))
    return len(read_cases([path]))
