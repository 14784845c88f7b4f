"""``doctor``: of the manager that it was told of, or of this machine."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Cli

from warmboot.bootstrap import workers
from warmboot.criu.setup.findings import Change
from warmboot.criu.setup.verification import Verified
from warmboot.model.errors import InUse


def test_doctor_asks_the_manager_and_tells_why(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "note kvm" in done.stdout
    assert "why: the CPU flags show neither vmx nor svm" in done.stdout
    assert done.stdout.endswith("Ready: the manager runs.\n")
    assert len(json.loads(cli("doctor", "--json").stdout)) == 3


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json")])
def test_doctor_looks_at_no_other_machine_than_the_one_it_was_told_of(
    cli: Cli, words: tuple[str, ...]
) -> None:
    done = cli(*words, WARMBOOT_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no manager answers at http://127.0.0.1:1\n")


def test_doctor_mends_this_machine_though_the_manager_that_it_was_told_of_does_not_answer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fix(settings: object, *, restart_engine: bool) -> list[Change]:
        return [Change("the runtime of workers was installed")]

    async def verify(settings: object) -> Verified:
        return Verified(0.1, 0.2, 3, 4)

    monkeypatch.setattr(workers, "fix_workers", fix)
    monkeypatch.setattr(workers, "verify_workers", verify)
    nobody = "http://127.0.0.1:1"
    done = cli("doctor", "--fix", WARMBOOT_URL=nobody)
    assert done.returncode == 1
    assert done.stdout.startswith("done: the runtime of workers was installed\nverified: ")
    brief = f"nothing but workers was seen to on this machine: no manager answers at {nobody}"
    assert done.stderr.splitlines()[0] == f"error: {brief}"
    assert done.stderr.endswith("; unset WARMBOOT_URL to check this machine\n")
    done = cli("doctor", "--fix", "--json", WARMBOOT_URL=nobody)
    told = json.loads(done.stdout)
    assert (told["changes"][0]["ok"], told["verified"]["count_after"]) == (True, 4)
    assert (told["checks"], done.returncode) == (None, 1)
    assert done.stderr.startswith(f"error: {brief}\n")


def test_the_runtime_is_removed_or_it_is_said_who_needs_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(settings: object) -> list[Change]:
        raise InUse("the runtime is in use", details="crawler", resolution="remove it first")

    async def remove(settings: object) -> list[Change]:
        return [Change("removed /opt/warmboot/runtime/warmboot-runtime")]

    async def nothing(settings: object) -> list[Change]:
        return []

    monkeypatch.setattr(workers, "remove_runtime", refuse)
    done = cli("doctor", "--remove-runtime")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == "error: the runtime is in use"
    assert "why: crawler" in done.stderr
    assert "next: remove it first" in done.stderr
    monkeypatch.setattr(workers, "remove_runtime", remove)
    done = cli("doctor", "--remove-runtime")
    assert done.stdout == "done: removed /opt/warmboot/runtime/warmboot-runtime\n"
    assert json.loads(cli("doctor", "--remove-runtime", "--json").stdout) == {
        "changes": [{"what": "removed /opt/warmboot/runtime/warmboot-runtime"}]
    }
    monkeypatch.setattr(workers, "remove_runtime", nothing)
    assert cli("doctor", "--remove-runtime").stdout == "the runtime of workers is not installed\n"
    assert cli("doctor", "--remove-runtime", "--fix").returncode == 2
