"""The house: what a newcomer can look over, and nothing questionable without its reason."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "warmboot"
FOLDERS = sorted({path.parent for path in SOURCE.rglob("*.py")})
MOST_MODULES, MOST_LINES = 15, 400


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(SOURCE.parent)))
def test_a_folder_has_few_modules(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES, "divide it by noun"


def test_a_module_is_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    long = {str(path.relative_to(SOURCE)): n for path, n in lines.items() if n > MOST_LINES}
    assert not long, "take out what has a name of its own"


MUTUAL = {"warmboot.model", "warmboot.host.network", "warmboot.store.migrations"}
"""Packages whose modules and folders know each other: no layers divide them."""


def test_a_folder_has_its_layer_in_a_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    placed = {
        f"{package}.{name}"
        for contract in settings["tool"]["importlinter"]["contracts"]
        for package in contract.get("containers", ())
        for layer in contract["layers"]
        for name in re.findall(r"\w+", layer)
    }
    packages = (path.parent.relative_to(SOURCE.parent) for path in SOURCE.rglob("__init__.py"))
    names = {".".join(package.parts) for package in packages} - {"warmboot"}
    assert {name for name in names - placed if name.rpartition(".")[0] not in MUTUAL} == set()


def python_files() -> Iterator[tuple[Path, ast.Module, list[str]]]:
    """Those in which there may be a pause or a catch-all."""
    for folder in ("src", "tests", "testbed", "bench", "demo", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            if re.search(r"sleep\(|Exception|except:", text):  # to parse all takes seconds
                yield path.relative_to(ROOT), ast.parse(text), text.splitlines()


def says_why(lines: list[str], number: int) -> bool:
    """Whether a comment ends the line, or is above it, that is more than the code of a rule."""
    above, line = lines[number - 2].strip(), lines[number - 1]
    comment = line.partition("#")[2] + above * above.startswith("#")
    return bool(re.search(r"[a-z]{2}", re.sub(r"noqa: [A-Z0-9]+", "", comment)))


def catches_all(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    names = {name.id for name in ast.walk(node.type or node) if isinstance(name, ast.Name)}
    return node.type is None or bool(names & {"Exception", "BaseException"})


def pauses_for_so_long(node: ast.AST) -> bool:
    """A pause of a length that has no name."""
    return (
        isinstance(node, ast.Call)
        and any(isinstance(one, ast.Constant) and one.value for one in node.args[:1])
        and ast.unparse(node.func) in ("asyncio.sleep", "anyio.sleep", "time.sleep")
    )


def test_a_catch_all_and_a_pause_for_a_number_of_seconds_say_why() -> None:
    silent = [
        f"{path}:{node.lineno}"
        for path, tree, lines in python_files()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Call, ast.ExceptHandler))
        if (catches_all(node) or pauses_for_so_long(node)) and not says_why(lines, node.lineno)
    ]
    assert silent == []
