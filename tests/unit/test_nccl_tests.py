"""Outputs of benchmarks of collectives, as people keep them."""

from __future__ import annotations

import json

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.studies.nccl_tests import is_benchmark, parse_nccl_tests

HEADER = (
    "#       size         count      type   redop    root     time   algbw   busbw #wrong"
    "     time   algbw   busbw #wrong"
)
UNITS = "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)"
ROW = "     4194304       1048576     float     sum      -1    50.25   83.47  146.1      0    49.75   84.31  147.5      0"  # noqa: E501
TABLE = [
    "# nThread 1 nGpus 8 minBytes 4194304 maxBytes 4194304 step: 2(factor) warmup iters: 5",
    "# Using devices",
    "#  Rank  0 Group  0 Pid   100 on node-a device  0 [0000:04:00] Some GPU",
    "#  Rank  1 Group  0 Pid   101 on node-a device  1 [0000:05:00] Some GPU",
    HEADER,
    UNITS,
    ROW,
    "# Avg bus bandwidth    : 146.8",
]
PREFIXES = {
    "none": "",
    "tag of mpirun": "[1,0]<stdout>:",
    "tag of Open MPI 5": "[prterun-node-a-77@1,0]<stdout>: ",
    "time and tag": "Thu Jul 18 15:41:05 2024[1,0]<stdout>:",
    "time of mpirun": "Thu Jul 18 15:41:05 2024<stdout>:",
    "rank of mpich": "[0] ",
    "label of srun": " 0: ",
    "wide label of srun": "  0:",
    "slurm host": "node-a-01: ",
    "ISO time": "2024-07-18T15:41:05.123456Z ",
    "kubectl": "[pod/launcher-x7/main] ",
    "compose": "nccl-1  | ",
    "log": "2024-07-18 15:41:05,123 INFO [bench] ",
    "colours": "\x1b[32m[1,0]\x1b[0m<stdout>:\x1b[1m",
    "diff": "+ ",
}


@pytest.mark.parametrize("name", PREFIXES)
def test_whatever_stands_before_a_line(name: str) -> None:
    text = "\n".join(PREFIXES[name] + line for line in TABLE)
    (row,) = parse_nccl_tests(text, "file")
    assert (row.size_bytes, row.time_us, row.ranks) == (4194304, 50.25, 2)
    assert is_benchmark(text)


def test_xml_of_mpirun_and_windows_lines() -> None:
    text = "\r\n".join(f'<stdout rank="0">{line}&#010;</stdout>' for line in TABLE)
    assert [row.time_us for row in parse_nccl_tests(text, "file")] == [50.25]


def test_a_size_that_fills_its_column_touches_the_tag() -> None:
    text = f"[1,0]<stdout>:1099511627776  274877906944     float{ROW.partition('float')[2]}"
    (row,) = parse_nccl_tests(text, "file")
    assert (row.size_bytes, row.time_us) == (1099511627776, 50.25)


COLUMNS = {
    "per iteration": (
        "# size count type redop root time algbw busbw #wrong i_min i_max i_p99 i_cv% "
        "time algbw busbw #wrong i_min i_max i_p99 i_cv% timestamp",
        "1024 256 float sum -1 12.5 0.08 0.14 0 12 13 13 1.0 11.0 0.09 0.16 0 10 12 12 1.0 "
        "2026-01-02 03:04:05",
    ),
    "cpu time": (
        "# size count type redop root cputime algbw busbw #wrong",
        "1024 256 f8e4m3 sum -1 12.5 0.08 0.14 N/A 11.0 0.09 0.16 N/A",
    ),
    "before redop and root": (
        "#       size    count     type     time  algbw  busbw    error     time  algbw  busbw",
        "1024 256 float 12.5 0.08 0.14 0e+00 11.0 0.09 0.16 0e+00",
    ),
    "root alone": (
        "# size count type root time algbw busbw error time algbw busbw error",
        "1024 256 bfloat16 0 12.5 0.08 0.14 0e+00 11.0 0.09 0.16 0e+00",
    ),
    "one of the runs": ("", "1024 256 half sum -1 12.5 0.08 0.14 0"),
    "no error column": (
        "size(B) count(elems) type time(us) algbw(GB/s) busbw(GB/s)",
        "1024 1024 uint8 12.5 0.08 0.14",
    ),
    "hccl_test": (
        "data_size(Bytes): | aveg_time(us): | alg_bandwidth(GB/s): | check_result:",
        "[1,0]<stdout>:1024              | 12.50       | 0.08192             | success",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_other_versions_and_benchmarks(name: str) -> None:
    text = "\n".join(COLUMNS[name])
    (row,) = parse_nccl_tests(text, "file")
    assert (row.size_bytes, row.time_us) == (1024, 12.5)
    assert is_benchmark(text)


def test_several_runs_keep_their_operations() -> None:
    first, second = (
        "# Collective test starting: all_reduce_perf",
        "./build/alltoall_perf -b 4M -g 2",
    )
    text = "\n".join([first, *TABLE, second, *TABLE[2:], TABLE[2].replace("0 G", "7 G"), ROW])
    rows = parse_nccl_tests(text, "file")
    assert [(row.operation, row.ranks) for row in rows] == [
        ("all_reduce", 2), ("all_to_all", 2), ("all_to_all", 8),
    ]  # fmt: skip
    rows = parse_nccl_tests("\n".join([ROW, ROW, "# Collective test concluded: sendrecv_perf"]), "")
    assert [row.operation for row in rows] == ["send_recv", "send_recv"]


def document(**more: object) -> dict[str, object]:
    half = {"time": 31.5, "alg_bw": 1.0, "bus_bw": 1.75, "nwrong": 0}
    row = {"size": 4096, "count": 1024, "type": "float", "out_of_place": half, "in_place": half}
    return {
        "version": 2,
        "args": ["./build/reduce_scatter_perf", "-J", "out.json"],
        "config": {"nthreads": 1, "devices": [{"rank": 0}, {"rank": 1}]},
        "results": [{**row, **more}],
    }


def test_json_of_nccl_tests() -> None:
    text = json.dumps(document())
    (row,) = parse_nccl_tests(text, "file")
    assert (row.size_bytes, row.time_us) == (4096, 31.5)
    assert (row.operation, row.ranks) == ("reduce_scatter", 2)
    assert is_benchmark(text)
    rows = parse_nccl_tests(f"{text}\n{text}", "file")
    assert len(rows) == 2
    only = document(out_of_place=None, in_place={"cpu_time": 7.0})
    assert parse_nccl_tests(json.dumps(only), "file")[0].time_us == 7.0


def test_json_of_rccl_tests() -> None:
    row = {"numCycle": 0, "name": "AllGather", "size": 64, "type": "float", "busBw": 1.0}
    both = [{**row, "inPlace": place, "time": 5.0 + place} for place in (0, 1)]
    (found,) = parse_nccl_tests(json.dumps(both), "file")
    assert (found.operation, found.time_us) == ("all_gather", 5.0)
    assert parse_nccl_tests(json.dumps(both[1:]), "file")[0].time_us == 6.0


@pytest.mark.parametrize("time", ["0.00", "nan", "-nan", "-3.1", "inf", "1e999"])
def test_times_that_are_none_are_refused_with_their_line(time: str) -> None:
    text = "\n".join(TABLE).replace("50.25", time)
    with pytest.raises(SpecError, match=r"file:7: time: must be > 0 and finite \(got "):
        parse_nccl_tests(text, "file")
    half = {"out_of_place": {"time": time}}
    with pytest.raises(SpecError, match=r"file: results.0.time: must be > 0 and finite"):
        parse_nccl_tests(json.dumps(document(**half)), "file")


def test_rows_of_no_bytes_and_without_a_time_are_left_out() -> None:
    empty = "0 0 float sum -1 0.00 0.00 0.00 0 0.00 0.00 0.00 0"
    none = ROW.replace("50.25", "N/A")
    assert len(parse_nccl_tests("\n".join([empty, none, ROW]), "file")) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows of measured collectives; tried: nccl-tests"),
        ("size,time\n1,2\n", "tried: nccl-tests or rccl-tests .* nccom-test, hccl_test"),
        ('{"results": [', r"file:1: not valid JSON"),
        ('{"results": []}', "no rows of measured collectives"),
        ('{"results": [{"size": true}]}', r"results.0.size: must be a whole number of bytes"),
        ('{"a": 1} 7', "not an object or a list of rows"),
        ("[" * 100_000, "no rows of measured collectives"),
        ('{"a":' + "[" * 100_000, "not valid JSON"),
        (ROW.replace("4194304", "9" * 5000), "no rows of measured collectives"),
    ],
)
def test_what_is_none_names_what_was_tried(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_nccl_tests(text, "file")
    assert not is_benchmark(text) or "size" in text
