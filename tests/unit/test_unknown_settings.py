"""A setting that is mistyped is not silently left out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from warmboot.settings import Settings, not_settings


def test_a_mistyped_setting_is_named_with_what_it_may_have_meant() -> None:
    assert list(not_settings({"MANAGER_STORAGE_ROT": "/srv", "PATH": "/bin"})) == [
        "MANAGER_STORAGE_ROT is no setting, and has no effect: is it MANAGER_STORAGE_ROOT?"
    ]
    assert list(not_settings({"MANAGER_XYZZY": "1"})) == [
        "MANAGER_XYZZY is no setting, and has no effect"
    ]


def test_settings_are_known_in_any_case() -> None:
    known = {"MANAGER_PORT": "1", "manager_host": "::1", "CONTAINER_RUNTIME_KERNEL": "/boot/linux"}
    assert list(not_settings(known)) == []


def test_a_level_of_the_log_is_known_in_any_case_or_refused() -> None:
    assert Settings(log_level="debug").log_level == "debug"
    with pytest.raises(ValidationError, match="DEBUG, INFO, WARN"):
        Settings(log_level="loud")
