#!/usr/bin/env python3
"""Write the client's sync flavour, ``warmboot/client/sync``, from its async one.

    scripts/sync_client.py            write it
    scripts/sync_client.py --check    fail if what is there is another one

Each class of the client's resources gets one of the same name, whose methods have the same names,
parameters and docstrings, and do their work through the portal. There is no logic in them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "src" / "warmboot" / "client"
SYNC = CLIENT / "sync"
SOURCES = {
    "containers": CLIENT / "containers" / "containers.py",
    "nouns": CLIENT / "nouns.py",
    "engines": CLIENT / "engines" / "engines.py",
    "files": CLIENT / "files" / "container_files.py",
    "garbage": CLIENT / "garbage.py",
    "workers": CLIENT / "workers.py",
}
RESOURCE = CLIENT / "resource.py"
Function = ast.FunctionDef | ast.AsyncFunctionDef
_SYNC = {
    "AsyncIterator": "Iterator",
    "AsyncGenerator": "Iterator",
    "AbstractAsyncContextManager": "AbstractContextManager",
}


def main(check: bool) -> int:
    written = {SYNC / f"{name}.py": generated(path) for name, path in SOURCES.items()}
    if not check:
        for target, text in written.items():
            target.write_text(text)
        return 0
    old = [target for target, text in written.items() if target.read_text() != text]
    for target in old:
        print(f"{target.relative_to(ROOT)} is not what scripts/sync_client.py writes")
    return 1 if old else 0


def generated(source: Path) -> str:
    """The sync flavour of one module."""
    tree = ast.parse(source.read_text())
    module = ".".join(source.relative_to(ROOT / "src").with_suffix("").parts)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and is_noun(node)]
    lines = [
        f'"""``{module}`` without ``await``, by ``scripts/sync_client.py``."""',
        "from __future__ import annotations",
        *imports(tree),
        "from collections.abc import Iterable, Iterator, Sequence",
        "from contextlib import AbstractContextManager",
        f"from {module} import {', '.join(own_types(tree))} # keep" if own_types(tree) else "",
        f"from {module} import {', '.join(f'{one.name} as _{one.name}' for one in classes)}",
        "from warmboot.client.sync.portal import Portal, Session",
        *aliases(tree),
        *(text for one in classes for text in class_of(one)),
    ]
    return tidied("\n".join(lines))


def is_noun(node: ast.ClassDef) -> bool:
    """Whether it has methods that ask the manager."""
    return any(isinstance(one, ast.AsyncFunctionDef) for one in node.body)


def own_types(tree: ast.Module) -> list[str]:
    """Result types that the module itself has."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not is_noun(node) and not node.name.startswith("_")
    ]


def imports(tree: ast.Module) -> list[str]:
    """Those of the source; tidying takes away what is not needed."""
    left_out = ("__future__", "warmboot.client.sessions")
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and node.module not in left_out)
    ]


def aliases(tree: ast.Module) -> list[str]:
    """The names that its annotations have for longer ones."""
    return [ast.unparse(node) for node in tree.body if ast.unparse(node).startswith("Progress =")]


def class_of(node: ast.ClassDef) -> list[str]:
    methods = [one for one in node.body if isinstance(one, Function)]
    of = next((base for base in node.bases if isinstance(base, ast.Subscript)), None)
    inherited: list[Function] = []
    if of is not None:
        known = {method.name for method in methods}
        (resource,) = [
            one for one in ast.parse(RESOURCE.read_text()).body if isinstance(one, ast.ClassDef)
        ]
        inherited = [
            substituted(one, ast.unparse(of.slice))
            for one in resource.body
            if isinstance(one, Function) and one.name not in known
        ]
    doc = ast.get_docstring(node)
    return [
        f"class {node.name}:",
        *([indented(f'"""{doc}"""', 4)] if doc else []),
        f"    def __init__(self, portal: Portal, of: _{node.name}) -> None:",
        "        self._portal, self._of = portal, of",
        *(method_of(one) for one in (*methods, *inherited) if not one.name.startswith("_")),
    ]


def substituted(method: Function, name: str) -> Function:
    """A method of ``Resource[T]`` as a class has it whose ``T`` is called ``name``."""
    for node in ast.walk(method):
        if isinstance(node, ast.Name) and node.id == "T":
            node.id = name
    return method


def method_of(method: Function) -> str:
    given = method.args
    streamed = [one.arg for one in given.args if "AsyncIterator" in ann(one.annotation)]
    positional = [
        f"self._portal.fed({one.arg})" if one.arg in streamed else one.arg
        for one in given.args
        if one.arg != "self"
    ]
    words = [
        *positional,
        *(f"{one.arg}={one.arg}" for one in given.kwonlyargs),
        *([f"**{given.kwarg.arg}"] if given.kwarg else []),
    ]
    call = f"self._of.{method.name}"
    answer = ann(method.returns)
    for one in given.args:
        if one.arg in streamed:
            one.annotation = ast.parse("Iterable[bytes]", mode="eval").body
    sync = answer
    for name, other in _SYNC.items():
        sync = sync.replace(name, other)
    if answer.startswith("AsyncGenerator"):
        sync = sync.replace(", None]", "]")
    asked = ", ".join(words)
    managed = any("contextmanager" in ast.unparse(one) for one in method.decorator_list)
    if managed:
        sync = f"AbstractContextManager[{sync.removeprefix('Iterator[')}"
        value = "iterate" if "[Iterator" in sync else "value"
        work = f"self._portal.entered({call}({asked}), self._portal.{value})"
    elif "AbstractAsyncContextManager" in answer:
        work = f"self._portal.entered({call}({asked}), self._portal.session)"
    elif answer.startswith(("AsyncIterator", "AsyncGenerator")):
        work = f"self._portal.iterate({call}({asked}))"
    else:
        work = f"self._portal.run(lambda: {call}({asked}))"
    doc = ast.get_docstring(method)
    body = "" if answer == "None" else "return "
    return "\n".join(
        [
            f"    def {method.name}({ast.unparse(given)}) -> {sync}:",
            *(
                [indented(f'"""{doc}"""' if "\n" not in doc else f'"""{doc}\n"""', 8)]
                if doc
                else []
            ),
            f"        {body}{work}",
        ]
    )


def ann(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


def indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else line for line in text.splitlines())


def tidied(text: str) -> str:
    for words in (
        ["check", "--fix-only", "--select", "I,F401,UP", "-q"],
        ["format", "-q"],
    ):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(SYNC / "x.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return text


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
