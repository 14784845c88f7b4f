"""Docs that lie fail: what they name exists, and what exists they name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute

import warmboot
from warmboot.api.app import ROUTERS
from warmboot.api.problems import status_of
from warmboot.cli.main import program
from warmboot.client.problems import ManagerUnreachable
from warmboot.model.container import ContainerState
from warmboot.model.errors import WarmbootError
from warmboot.model.tenants.boot import FallbackReason
from warmboot.model.tenants.engine import EngineState
from warmboot.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
)
WORKERS = DOCS / "how-to" / "workers.md"
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"(?:^|[|;&(]) *warmboot ((?:--?)?[a-z][a-z-]*[^|;)`]*)")
_VARIABLE = re.compile(r"\b(?:MANAGER|CONTAINER_RUNTIME|WARMBOOT)_[A-Z_]*[A-Z]\b")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \|", re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands between backticks, a line break in it being a space."""
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))]


def typed(text: str) -> Iterator[str]:
    """What a reader is told to type: inline code, shell blocks, lines behind a ``$``."""
    yield from spans(text)
    for language, block in _FENCE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        for line in lines:
            if language in ("sh", "bash"):
                yield line.partition("  #")[0]
            elif line.startswith("$ "):
                yield line[2:]


@cache
def commands() -> dict[str, click.Command]:
    """``runtime build`` and the like → the command."""
    found: dict[str, click.Command] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*path, name))
        if not hasattr(command, "commands"):
            found[" ".join(path)] = command

    walk(program(), ())
    return found


def options_of(command: Any) -> set[str]:
    return {
        opt
        for parameter in command.params
        if parameter.param_type_name == "option"
        for opt in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "-h"}


def split(words: list[str]) -> tuple[str, list[str]] | None:
    """The command's name, and the words behind it."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in commands():
            return name, words[length:]
    return None


def groups() -> set[str]:
    return {name.split()[0] for name in commands() if " " in name}


# -- commands --------------------------------------------------------------------------------------


@every_page
def test_commands_in_the_docs_exist(page: Path) -> None:
    for code in typed(page.read_text()):
        for found in _COMMAND.findall(code):
            words = found.split()
            if words[0].startswith("-"):
                top = options_of(program()) | {"--help", "-h"}
                assert words[0] in top, code
                continue
            if len(words) == 1 and words[0] in groups():
                continue
            known = split(words)
            assert known is not None, f"there is no `warmboot {found}`"
            name, rest = known
            options = options_of(commands()[name])
            for word in rest:
                if word == "--":  # what follows is another program's
                    break
                if name in ("run", "exec") and not word.startswith("-") and word.isalpha():
                    continue
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, f"`warmboot {name}` has no {word}"


def test_every_command_and_option_is_documented() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    text += WORKERS.read_text() if WORKERS.exists() else ""
    code = " ".join(spans(text) + list(typed(text)))
    for name, command in commands().items():
        assert f"warmboot {name}" in code, f"`warmboot {name}` is not in the reference"
        negations = {o for p in command.params for o in p.secondary_opts}
        for option in options_of(command) - negations - {"--help", "-h"}:
            pattern = rf"(?<![\w-]){re.escape(option)}(?![\w-])"
            assert re.search(pattern, code), f"{option} of `warmboot {name}` is not documented"


@every_page
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in typed(page.read_text()):
        for target in re.findall(r"^make (?:[A-Z]+=\S+ )?([a-z-]+)", code):
            assert target in targets, f"there is no `make {target}`"


def test_make_help_describes_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert targets is not None
    described = re.findall(r'^\t@echo "make ([a-z-]+) ', makefile, re.MULTILINE)
    assert sorted(described) == sorted(targets[1].split())


def test_every_folder_of_tests_is_in_the_table_of_contributing() -> None:
    folders = {path.parent for path in (ROOT / "tests").glob("*/*.py")}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `tests/"))
    assert set(re.findall(r"`tests/(\w+)`", rows)) == {folder.name for folder in folders}


# -- settings --------------------------------------------------------------------------------------


def variables() -> dict[str, Any]:
    """Every variable of ``Settings`` → its default."""
    return {
        field.alias or f"MANAGER_{name.upper()}": field.default
        for name, field in Settings.model_fields.items()
    }


def shown(default: object) -> str:
    match default:
        case None:
            return "none"
        case "" | frozenset():
            return "empty"
        case float():
            return f"`{default:g}`"
        case _:
            return f"`{default}`"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(_ROW.findall((DOCS / "reference" / "settings.md").read_text()))
    for name, default in variables().items():
        assert rows.get(name) == shown(default), name


@cache
def known_variables() -> set[str]:
    """Those of ``Settings``, and those that the code, the tests and the scripts read."""
    known = set(variables())
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    sources += [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "scripts" / "setup"]
    for source in sources:
        if source != Path(__file__):
            known |= set(re.findall(r"\bWARMBOOT_[A-Z_]*[A-Z]\b", source.read_text()))
    return known


@every_page
def test_variables_in_the_docs_exist(page: Path) -> None:
    known = known_variables()
    for name in _VARIABLE.findall(page.read_text()):
        assert name in known, f"nothing reads {name}"


# -- the API ---------------------------------------------------------------------------------------


@cache
def routes() -> set[str]:
    """``GET /v1/containers/{ref}`` and the like; a WebSocket is ``WS``."""
    found = {"GET /openapi.json", "GET /docs"}
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIWebSocketRoute):
                found.add(f"WS {route.path}")
            elif isinstance(route, APIRoute):
                found |= {f"{method} {route.path}" for method in route.methods or ()}
    return found


def test_the_reference_lists_the_routes_that_are() -> None:
    rows = dict(_ROW.findall((DOCS / "reference" / "api.md").read_text()))
    listed = {row for row in rows if re.match(r"[A-Z]+ /", row)}
    assert listed == routes()


@every_page
def test_paths_in_the_docs_exist(page: Path) -> None:
    patterns = [
        re.compile(re.sub(r"\{\w+\}", "[^/]+", route.partition(" ")[2])) for route in routes()
    ]
    for path in re.findall(r"(?<![\w])(/v1/[^\s`\"'?)…|]*)", page.read_text()):
        path = path.rstrip("/.,;:")
        assert any(pattern.fullmatch(path) for pattern in patterns), f"there is no {path}"


def errors() -> Iterator[type[WarmbootError]]:
    """Every error class of the package."""
    for module in pkgutil.walk_packages(warmboot.__path__, "warmboot."):
        if not re.search(r"__main__|\.migrations|^warmboot\.guest", module.name):
            importlib.import_module(module.name)
    waiting: list[type[WarmbootError]] = [WarmbootError]
    while waiting:
        found = waiting.pop()
        if found.__module__.startswith("warmboot."):
            yield found
            waiting += found.__subclasses__()


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = dict(_ROW.findall((DOCS / "reference" / "api.md").read_text()))
    for error in errors():
        status = "" if error is ManagerUnreachable else str(status_of(error("")))
        assert rows.get(error.code) == status, error.code


def test_every_fallback_reason_is_documented() -> None:
    rows = dict(_ROW.findall((DOCS / "reference" / "api.md").read_text()))
    assert {reason.value for reason in FallbackReason} <= rows.keys()


# -- events ----------------------------------------------------------------------------------------


def emitted() -> set[str]:
    """The kinds that the manager emits, where they are written out."""
    kinds = set()
    for path in (ROOT / "src" / "warmboot" / "manager").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            if called == "emit" and isinstance(node.args[0], ast.Constant):
                kinds.add(str(node.args[0].value))
            if called == "emit" and isinstance(node.args[0], ast.JoinedStr):  # f"{kind}.booted"
                rest = node.args[0].values[-1]
                if isinstance(rest, ast.Constant) and str(rest.value).startswith("."):
                    kinds |= {f"{tenant}{rest.value!s}" for tenant in ("container", "engine")}
            if called == "store_state":  # which tells it as <noun>.<state>
                words = [ast.unparse(argument) for argument in node.args]
                for noun, states in (("container", ContainerState), ("engine", EngineState)):
                    kinds |= {
                        f"{noun}.{states[word.partition('.')[2]]}"
                        for word in words
                        if word.startswith(f"{states.__name__}.")
                    }
    return kinds


def test_every_event_is_documented_and_every_documented_one_is_emitted() -> None:
    text = (DOCS / "reference" / "events.md").read_text()
    nouns = r"(?:runtime-image|runtime-snapshot|host|network|container|engine|worker|garbage)"
    listed = set()
    for line in text.splitlines():
        if line.startswith("| `"):
            listed |= set(re.findall(rf"`({nouns}\.[a-z-]+)`", line.split("|")[1]))
    kinds = emitted()
    assert kinds <= listed
    # A worker's states are told as worker.<state>.
    assert {kind for kind in listed - kinds if not kind.startswith("worker.")} == set()


# -- links -----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}: there is no such heading"


def test_every_page_is_linked_from_another() -> None:
    linked = set()
    for page in PAGES:
        for link in _LINK.findall(page.read_text()):
            linked.add((page.parent / link.partition("#")[0]).resolve())
    # A link to a folder shows all its pages.
    lonely = {page for page in PAGES if page not in linked and page.parent not in linked}
    assert lonely <= {ROOT / "README.md"}
