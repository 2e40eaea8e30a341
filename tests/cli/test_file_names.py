"""Names that no file can have: refused as one that is not there, by every option that takes one."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError

RUN = "run --topo h200_nvl8 --workload llama8b --rate 1 --requests 10"
NAMES = {"too long": "a" * 256, "too long a folder": "a" * 256 + "/b", "zero byte": "a\0b"}
COMMANDS = (
    "check NAME",
    "run --topo h200_nvl8 --workload llama8b --trace NAME",
    "explain --topo h200_nvl8 --workload llama8b --trace NAME",
    f"{RUN} --out NAME",
    f"{RUN} --set workload.arrivals.trace=NAME --set workload.arrivals.kind=trace",
    "replay NAME --topo h100_nvl8",
    "validate --against NAME",
    "validate --limit 1 --out NAME",
    "collective --topo h100_nvl8 --op all_reduce --against NAME",
    "compare NAME NAME",
    "calibrate --ops NAME --chip h100_sxm",
    "show topology h200_nvl8 --export NAME",
    "show topology h200_nvl8 --draw NAME.svg",
    "run --topo NAME --workload llama8b",
    "run --topo h200_nvl8 --workload NAME",
    "fit --model NAME --chip h100_sxm",
)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_are_refused(runner: CliRunner, command: str, name: str) -> None:
    words = [word.replace("NAME", name) for word in command.split()]
    result = runner.invoke(cli, words)
    assert result.exit_code == 2 or isinstance(result.exception, ClusterSimError), result.exception
