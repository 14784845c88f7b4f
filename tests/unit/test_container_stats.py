"""What Docker counts of a container, and how it is shown: docker's own figures and units."""

from __future__ import annotations

from typing import Any

import pytest

from warmboot.cli.commands.container.stats import binary, decimal
from warmboot.docker.containers.inside import health_of
from warmboot.docker.containers.usage import stats_of
from warmboot.model.errors import Conflict, GuestError
from warmboot.model.tenants.container_options import Health

# As Docker 28 tells of a container, without what nobody reads.
TOLD: dict[str, Any] = {
    "read": "2026-01-24T12:00:01.5Z",
    "preread": "2026-01-24T12:00:00.5Z",
    "pids_stats": {"current": 3, "limit": 18446744073709551615},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 254, "minor": 0, "op": "read", "value": 4096},
            {"major": 254, "minor": 0, "op": "write", "value": 100},
            {"major": 254, "minor": 16, "op": "read", "value": 1},
        ],
        "io_serviced_recursive": None,
    },
    "cpu_stats": {
        "cpu_usage": {"total_usage": 1_600_000_000},
        "system_cpu_usage": 20_000_000_000,
        "online_cpus": 2,
    },
    "precpu_stats": {
        "cpu_usage": {"total_usage": 1_000_000_000},
        "system_cpu_usage": 18_000_000_000,
        "online_cpus": 2,
    },
    "memory_stats": {"usage": 3_000_000, "stats": {"inactive_file": 1_000_000}, "limit": 10**9},
    "networks": {
        "eth0": {"rx_bytes": 10, "tx_bytes": 20},
        "eth1": {"rx_bytes": 1, "tx_bytes": 2},
    },
}


def test_it_is_counted_as_docker_stats_counts() -> None:
    found = stats_of(TOLD)
    assert found.cpu_percent == 60.0, "0.6 s of 2 s of two CPUs: 60 % of one"
    assert (found.cpu_s, found.memory_bytes, found.memory_limit_bytes) == (1.6, 2_000_000, 10**9)
    assert (found.network_received_bytes, found.network_sent_bytes) == (11, 22)
    assert (found.block_read_bytes, found.block_written_bytes, found.processes) == (4097, 100, 3)
    assert found.at.microsecond == 500_000


def test_the_first_version_of_cgroups_has_another_name_for_what_is_cached() -> None:
    memory = {"usage": 10, "stats": {"total_inactive_file": 4, "inactive_file": 1}, "limit": 20}
    assert stats_of(TOLD | {"memory_stats": memory}).memory_bytes == 6


def test_what_is_missing_is_nothing() -> None:
    bare = {"read": TOLD["read"], "cpu_stats": {"cpu_usage": {"total_usage": 5}}}
    found = stats_of(bare | {"networks": None, "blkio_stats": {"io_service_bytes_recursive": None}})
    assert (found.cpu_percent, found.memory_bytes, found.network_sent_bytes) == (0.0, 0, 0)
    assert (found.block_read_bytes, found.processes) == (0, 0)


def test_of_one_that_does_not_run_docker_has_no_time() -> None:
    with pytest.raises(Conflict, match="not running"):
        stats_of({"name": "/x", "id": "1", "read": "0001-01-01T00:00:00Z"})
    with pytest.raises(Conflict, match="not running"):
        stats_of({"name": "/x", "id": "1"})


@pytest.mark.parametrize("broken", [{"cpu_stats": None}, {"read": "x"}, {"networks": {"e": {}}}])
def test_what_makes_no_sense_is_told(broken: dict[str, Any]) -> None:
    with pytest.raises(GuestError, match="not understood"):
        stats_of(TOLD | broken)


@pytest.mark.parametrize(
    ("size_bytes", "of_memory", "moved"),
    [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1572864, "1.5MiB", "1.57MB"),
        (1234567890, "1.15GiB", "1.23GB"),
        (5_000_000_000_000_000, "4547TiB", "5e+03TB"),
    ],
)
def test_sizes_are_written_as_docker_writes_them(
    size_bytes: int, of_memory: str, moved: str
) -> None:
    assert (binary(size_bytes), decimal(size_bytes)) == (of_memory, moved)


def test_a_health_check_is_told_with_its_last_runs() -> None:
    run = {
        "Start": "2026-01-24T12:00:01.123456789+01:00",
        "End": "2026-01-24T12:00:02Z",
        "ExitCode": 1,
        "Output": "no\n",
    }
    found = health_of({"Status": "unhealthy", "FailingStreak": 4, "Log": [run]})
    assert (found.status, found.failing_streak) == (Health.UNHEALTHY, 4)
    assert (found.probes[0].exit_code, found.probes[0].started_at.microsecond) == (1, 123_456)
    assert health_of({}) == health_of({"Status": "none", "Log": None})
    odd: list[dict[str, Any]] = [
        {"Status": "odd"},
        {"Log": [{}]},
        {"Log": [run | {"Start": "x"}]},
    ]
    for broken in odd:
        with pytest.raises(GuestError, match="not understood"):
            health_of(broken)
