"""The digest by which a process is known whose code has been replaced on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from warmboot.model.conventions.engine_front import CODE
from warmboot.system.hashing import code_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_front_of_ours" / "inside"
    folder.mkdir(parents=True)
    for place in (folder.parent, folder):
        (place / "__init__.py").touch()
    (folder / "module.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.parent


def test_other_code_has_another_digest_and_what_python_makes_of_it_does_not_count(
    package: Path,
) -> None:
    digests = [code_digest([package.name])]

    def is_another() -> bool:
        digests.append(code_digest([package.name]))
        return digests[-1] not in digests[:-1]

    (package / "inside" / "module.pyc").write_bytes(b"compiled")
    assert not is_another()
    (package / "inside" / "module.py").write_text("ANSWER = 43\n")
    assert is_another()
    (package / "inside" / "module.py").rename(package / "inside" / "renamed.py")
    assert is_another()
    (package / "inside" / "renamed.py").unlink()
    assert is_another()


def test_a_package_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ImportError, match="no_such_package"):
        code_digest(["no_such_package"])


def test_all_that_the_front_runs_of_ours_is_in_its_digest() -> None:
    script = "import sys, warmboot.engine_socket.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in loaded if name.startswith(("warmboot.", "h11"))}
    beside = {name for name in ours if not any(f"{name}.".startswith(f"{p}.") for p in CODE)}
    assert beside == {"warmboot.host"}, "an empty package"
