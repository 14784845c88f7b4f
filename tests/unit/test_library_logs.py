"""What libraries log comes out in our form, one line a second of a kind."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from warmboot.bootstrap import logs


@pytest.fixture
def restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored")
def test_what_libraries_log_is_limited_by_its_template(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_limit", logs.OncePerSecond(lambda: 0.0))  # all in one second
    logs.configure_logging("console", "INFO")
    for n in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource\n%d", n)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines if "accept" in line] == [
        "ERROR socket.accept() out of system resource"
    ]
