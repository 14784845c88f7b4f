"""A setting that is not valid is refused with its name, its value and what is valid."""

from __future__ import annotations

import pytest

from warmboot.model.errors import InvalidRequest
from warmboot.settings import Settings, read_settings

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
