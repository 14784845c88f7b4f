"""What is written on a command line, and what Docker says of a command that it cannot execute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from warmboot.cli.parsing import parse_moment, parse_ports
from warmboot.docker.errors import command_error
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import CommandNotExecutable, CommandNotFound

NOW = datetime(2026, 1, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("TERM", "SIGTERM"),
        ("sigusr1", "SIGUSR1"),
        ("15", "15"),
        ("RTMIN+3", "SIGRTMIN+3"),
        ("rtmax-1", "SIGRTMAX-1"),
        ("RTMIN", "SIGRTMIN"),
        ("RTMIN+15", "SIGRTMIN+15"),
        ("RTMAX-14", "SIGRTMAX-14"),
    ],
)
def test_signals_are_named_as_docker_takes_them(text: str, name: str) -> None:
    assert signal_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NONE",
        "0",
        "65",
        "-9",
        "TERM+1",
        "SIG",
        "RTMIN+99",
        "RTMIN+16",
        "RTMIN+0",
        "RTMAX-15",
        "\u0661",
    ],
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        signal_name(text)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1.5s", timedelta(seconds=1.5)),
        ("250ms", timedelta(milliseconds=250)),
    ],
)
def test_so_long_ago(text: str, ago: timedelta) -> None:
    assert parse_moment(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    "text", ["2026-01-24T12:00:00Z", "2026-01-24T13:00:00.000000000+01:00", "1769256000"]
)
def test_a_time_of_its_own(text: str) -> None:
    assert parse_moment(text) == NOW


def test_a_time_without_a_zone_is_ours() -> None:
    assert parse_moment("2026-01-24T12:00:00") == datetime(2026, 1, 24, 12).astimezone()


@pytest.mark.parametrize("text", ["", "m", "10", "yesterday", "1e99", "9" * 30, "1d"])
def test_what_is_no_time_is_refused_or_seconds(text: str) -> None:
    if text == "10":
        assert parse_moment(text) == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)
        return
    with pytest.raises(ValueError, match="is not a time"):
        parse_moment(text)


@pytest.mark.parametrize("text", ["[::1]:8080:80", "[::]:80", "::1:8080:80", "fe80::1:80:80"])
def test_ports_are_published_on_ipv4_only(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4"):
        parse_ports(text)


@pytest.mark.parametrize("text", ["127.0.0.1::80", "::80", ":80", "80"])
def test_a_port_without_a_number_here_is_any_free_one(text: str) -> None:
    (port,) = parse_ports(text)
    assert (port["container_port"], port["host_port"]) == (80, 0)
    assert port.get("host_ip") == ("127.0.0.1" if "." in text else None)


def test_an_address_without_the_hosts_port_is_told_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"write 127\.0\.0\.1::80 for any free one"):
        parse_ports("127.0.0.1:80")


def test_more_parts_than_a_port_has_are_no_address() -> None:
    with pytest.raises(ValueError, match="is not a port"):
        parse_ports("80:80:80:80")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("80", [(0, 80)]),
        ("8000-8002:80-82", [(8000, 80), (8001, 81), (8002, 82)]),
        ("80-81", [(0, 80), (0, 81)]),
        ("127.0.0.1:9000-9001:53-54/udp", [(9000, 53), (9001, 54)]),
    ],
)
def test_a_range_is_published_one_by_one(text: str, pairs: list[tuple[int, int]]) -> None:
    ports = parse_ports(text)
    assert [(port["host_port"], port["container_port"]) for port in ports] == pairs
    assert not any("host_port_last" in port for port in ports)


def test_one_port_for_a_range_of_the_hosts_is_any_free_one_of_them() -> None:
    (port,) = parse_ports("8000-8010:80")
    assert (port["host_port"], port["host_port_last"], port["container_port"]) == (8000, 8010, 80)


@pytest.mark.parametrize("text", ["8000-8002:80-81", "8000:80-81"])
def test_ranges_of_different_lengths_are_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(ValueError, match="invalid ranges specified for container and host Ports"):
        parse_ports(text)


@pytest.mark.parametrize("text", ["9-8", "0", "80-", "x-80", "70000", "80:", "1-70000"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a port"):
        parse_ports(text)


SAID = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            'unable to start container process: exec: "nosuch": executable file not found in $PATH',
            CommandNotFound,
        ),
        (
            "unable to start container process: error during container init: "
            'exec: "/no/such": stat /no/such: no such file or directory: unknown',
            CommandNotFound,
        ),
        (
            "executable file `nosuch` not found in $PATH: No such file or directory: unknown",
            CommandNotFound,
        ),
        (
            "the path `/etc/hosts` exists but it is not executable: Operation not permitted",
            CommandNotExecutable,
        ),
        ("the path `/etc` is not a regular file: Operation not permitted", CommandNotExecutable),
        ('exec: "/etc/hosts": permission denied: unknown', CommandNotExecutable),
        ('exec: "/etc": is a directory: unknown', CommandNotExecutable),
        ('exec: "a \\"b\\"": executable file not found in $PATH: unknown', CommandNotFound),
        ("executable file `` not found in $PATH: No such file or directory", CommandNotFound),
        ('exec: "": executable file not found in $PATH: unknown', CommandNotFound),
        ("lstat /proc/7/ns/net: no such file or directory", None),
        ("unable to find user nobody7: no matching entries in passwd file", None),
    ],
)
def test_whose_fault_a_failed_start_is(said: str, error: type[Exception] | None) -> None:
    found = command_error(SAID + said)
    assert type(found) is (error or type(None))
