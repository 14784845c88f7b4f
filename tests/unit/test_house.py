"""The house: no folder of modules and no module is larger than a newcomer can look over."""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "warmboot"
FOLDERS = sorted({path.parent for path in SOURCE.rglob("*.py")})
MOST_MODULES, MOST_LINES = 15, 400


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(SOURCE.parent)))
def test_a_folder_has_few_modules(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES, "divide it by noun"


def test_a_module_is_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    long = {str(path.relative_to(SOURCE)): n for path, n in lines.items() if n > MOST_LINES}
    assert not long, "take out what has a name of its own"
