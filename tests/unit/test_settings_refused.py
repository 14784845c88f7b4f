"""A setting that is not valid is refused with its name, its value and what is valid."""

from __future__ import annotations

import pytest

from warmboot.model.errors import InvalidRequest
from warmboot.settings import Settings, earlier_names, read_settings

VALIDATORS_WORDS = ("Input", "String should", "Value error", "pydantic", "parse", "pattern", "^")


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> InvalidRequest:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as raised:
        read_settings()
    told = str(raised.value)
    assert not [word for word in VALIDATORS_WORDS if word in told]
    return raised.value


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "abc", "a whole number from 0 to 65535"),
        ("PORT", "", "a whole number from 0 to 65535"),
        ("PORT", "70000", "a whole number from 0 to 65535"),
        (
            "NETWORK_PREFIX",
            "UPPER",
            "a lower-case letter, then at most 7 such letters or digits",
        ),
        ("STANDBY_VMS", "many", "'auto' or a whole number from 0 to 64"),
        ("STANDBY_VMS", "65", "'auto' or a whole number from 0 to 64"),
        ("POOL_MIN_VMS", "-1", "'auto' or a whole number from 0 to 64"),
        ("POOL_MAX_VMS", "most", "'auto' or a whole number from 0 to 64"),
        ("POOL_MEMORY_PERCENT", "100", "a whole number from 1 to 90"),
        ("AUTO_SNAPSHOT", "maybe", "true or false"),
        ("GC_EVERY_H", "-1", "a number of 0 or more"),
        ("GC_EVERY_H", "inf", "a number of 0 or more"),
        ("COLD_BOOT_TIMEOUT_S", "0", "a number of more than 0"),
        ("SNAPSHOT_UNUSED_DAYS", "40000", "a number from 0 to 36500"),
        ("HYPERVISOR", "xen", "'auto', 'qemu', 'firecracker' or 'simulated'"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARN, WARNING, ERROR or CRITICAL"),
        ("PUBLISH_ADDRESS", "here", "an IPv4 address"),
    ],
)
def test_it_names_the_setting_the_value_and_what_is_valid(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    error = refused(monkeypatch, f"MANAGER_{name}", value)
    assert error.brief == f"MANAGER_{name} is {value!r}; it must be {allowed}"


def test_an_engine_elsewhere_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, "MANAGER_DOCKER_HOST", "tcp://x")
    assert error.brief == (
        "MANAGER_DOCKER_HOST is 'tcp://x'; it must be a Unix socket of this machine, as "
        "unix:///path/to/docker.sock: checkpoints lie in that engine's own folders"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"POOL_MIN_VMS": "5", "POOL_MAX_VMS": "4"}, "MANAGER_POOL_MIN_VMS is 5, and MANAGER_POOL"),
        ({"POOL_MIN_VMS": "1", "POOL_MAX_VMS": "0"}, "MANAGER_POOL_MAX_VMS is 0"),
        ({"STANDBY_VMS": "1", "POOL_MAX_VMS": "4"}, "cannot be set beside them"),
        ({"STANDBY_VMS": "1", "POOL_MIN_VMS": "1"}, "cannot be set beside them"),
    ],
)
def test_bounds_of_the_pool_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"MANAGER_{name}", value)
    with pytest.raises(InvalidRequest) as raised:
        read_settings()
    assert told in raised.value.brief
    assert raised.value.resolution


def test_the_earlier_name_of_the_pool_is_both_bounds_and_says_what_replaces_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_settings().pool_bounds == ("auto", "auto")
    monkeypatch.setenv("MANAGER_STANDBY_VMS", "auto")
    monkeypatch.setenv("MANAGER_POOL_MAX_VMS", "3")
    assert read_settings().pool_bounds == ("auto", 3)
    monkeypatch.delenv("MANAGER_POOL_MAX_VMS")
    monkeypatch.setenv("MANAGER_STANDBY_VMS", "4")
    assert read_settings().pool_bounds == (4, 4)
    (told,) = earlier_names({"MANAGER_STANDBY_VMS": "4", "MANAGER_PORT": "1"})
    assert "set MANAGER_POOL_MIN_VMS and MANAGER_POOL_MAX_VMS instead" in told


@pytest.mark.parametrize("tokens", ["a b", "good,s\u00e9cret", "good,a\tb"])
def test_a_token_that_no_client_can_send_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    error = refused(monkeypatch, "MANAGER_TOKENS", tokens)
    number = len(tokens.split(","))
    assert error.brief == (
        f"token {number} in MANAGER_TOKENS cannot be sent by a client; tokens are separated by "
        "commas, and have printable ASCII characters and no blanks"
    )
    assert tokens not in str(error)


def test_a_long_value_is_not_repeated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(refused(monkeypatch, "MANAGER_PORT", "9" * 5000).brief) < 200


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_takes_its_value_or_refuses_it_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(Settings.model_fields[name].alias or f"MANAGER_{name}".upper(), "\u00a7 -1")
    try:
        read_settings()
    except InvalidRequest as error:
        told = str(error)
        assert name.upper() in told
        assert not [word for word in VALIDATORS_WORDS if word in told]
