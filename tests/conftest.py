"""What holds for all tests.

With ``WARMBOOT_NO_SKIPS`` set, as in CI, a skipped test fails the run: what a machine can run, it
must run. Only tests marked ``kvm`` may be skipped, where the driver's own probe finds KVM unusable.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

_skipped: list[str] = []


def pytest_configure() -> None:
    # A shell starts what it puts in the background with interrupts ignored, and so would be what
    # the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not _cannot_run_here(item):
        _skipped.append(item.nodeid)
    return report


def _cannot_run_here(item: pytest.Item) -> bool:
    no_kvm = not os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" in item.keywords or (no_kvm and "firecracker" in item.keywords)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _skipped and os.environ.get("WARMBOOT_NO_SKIPS") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("WARMBOOT_NO_SKIPS"):
        terminalreporter.section("skips are failures here")
        for nodeid in _skipped:
            terminalreporter.line(nodeid)
