"""What holds for all tests.

With ``WARMBOOT_NO_SKIPS`` set, as in CI, a skipped test fails the run: what a machine can run, it
must run. Only tests marked ``kvm`` may be skipped, where the driver's own probe finds KVM unusable.

Several processes may share a run (``-n 2``): what shares this machine's networks or one manager's
VMs stays in one of them, what uses a Docker engine in one, and each other module in one.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from random_order.config import Config as RandomOrder
from xdist.scheduler import LoadScopeScheduling

_LANES = {
    "e2e": "vms",
    "conformance": "hypervisors",
    "host": "vms",
    "criu": "docker",
    "workers": "docker",
}
"""Folders of tests that share something of the machine, and so run one after the other."""

_APART = tuple(f"tests/e2e/test_e2e_{name}.py" for name in ("renewal", "upgrade", "stalled"))
"""Of those folders, but with a manager and a network of their own: any process may run them."""

_FIRST = (
    "vms",
    "docker",
    *_APART,
    "tests/packaging/test_debian_package.py",
    "tests/api/test_api_schema_real.py",
)
"""What takes longest begins first, so that no process has it left at the end. Not when the order is
random (``--random-order``): then modules are shuffled, and the tests in each."""

_SLOW = ("manager", "faults", "deploy")
"""Folders that take minutes as a whole, though few of their tests do. They come next: what is left
for the end is quick, and so no process waits long for another one."""

hypothesis.settings.register_profile(
    "warmboot",
    deadline=None,
    derandomize="WARMBOOT_NO_SKIPS" in os.environ,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("warmboot")
"""How long an example takes is up to what else the machine does, and how large the first ones are
to chance. A fixture that is made once for all examples is so on purpose. CI tries the same examples
every time: what a change breaks is then the change's; who tests at his desk tries others each time.
"""

hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("warmboot"), max_examples=30
)
"""For ``make test-quick``, which is run often, with other examples each time."""

_skipped: list[str] = []


def pytest_configure() -> None:
    # A shell starts what it puts in the background with interrupts ignored, nohup with hang-ups,
    # and so would be what the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class _Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one lane run in one process, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if path in _APART else _LANES.get(_folder(path), path)

    def _assign_work_unit(self, node: Any) -> None:
        if not _shuffled(self.config):
            self.workqueue.move_to_end(min(self.workqueue, key=_rank), last=False)
        super()._assign_work_unit(node)


def _rank(scope: str) -> int:
    """Of what is not begun, the least begins; of several such, that with the most tests."""
    if scope in _FIRST:
        return _FIRST.index(scope)
    slow = scope in _LANES.values() or _folder(scope) in _SLOW
    return len(_FIRST) + (0 if slow else 1)


def _folder(nodeid: str) -> str:
    return nodeid.removeprefix("tests/").partition("/")[0]


def _shuffled(config: pytest.Config) -> bool:
    return bool(RandomOrder(config).is_enabled)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    if _shuffled(config):
        config.option.loadscopereorder = False
    return _Lanes(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    counted = Counter(item.nodeid for item in items)
    twice = [nodeid for nodeid, number in counted.items() if number > 1]
    if twice:
        raise pytest.UsageError(f"tests with the same id, of which xdist runs one: {twice}")
    for item in items:
        if _folder(item.nodeid) in _SLOW:
            item.add_marker(pytest.mark.slow)
    before = random.getstate()
    yield
    random.setstate(before)  # the order has a seed, what the tests draw has none


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Failures(session.config))


class _Failures:
    """Names a test when it fails, not only at the end of a long run."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._terminal is not None:
            self._terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not _cannot_run_here(report):
        _skipped.append(report.nodeid)


def _cannot_run_here(report: pytest.TestReport) -> bool:
    no_kvm = not os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" in report.keywords or (no_kvm and "firecracker" in report.keywords)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _skipped and os.environ.get("WARMBOOT_NO_SKIPS") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("WARMBOOT_NO_SKIPS"):
        terminalreporter.section("skips are failures here")
        for nodeid in _skipped:
            terminalreporter.line(nodeid)
