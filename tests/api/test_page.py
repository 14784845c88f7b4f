"""The web page's files: who gets them, with which headers, and that they are whole."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from tests.api.conftest import Peers, http_to
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.api.middleware.auth import check_forwarded
from warmboot.api.problems import ForeignOrigin
from warmboot.page import page_files
from warmboot.page.files import STATIC

MOST_LINES = 400
MOST_SCRIPT_KIB = 250
FILES = page_files()
(MAIN,) = (path for path in FILES if path.endswith("/app/main.js"))
FOLDER = MAIN.removesuffix("app/main.js")
OURS = [
    path.removeprefix(FOLDER) for path in FILES if "vendor" not in path and path.endswith(".js")
]
_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?["']([^"']+)["']""")


@pytest.fixture
async def stranger(fakes: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fakes.services, tokens=frozenset({"t"}), peers=Peers("not root"))
    async with http_to(app) as client:
        yield client


async def test_everybody_gets_the_page_and_nobody_its_data(stranger: httpx.AsyncClient) -> None:
    for path, file in FILES.items():
        answer = await stranger.get(path)
        assert (answer.status_code, answer.content) == (200, file.content), path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "charset" in answer.headers["content-type"] or path.endswith(".svg")
    for path in ("/v1/containers", "/v1/events", "/metrics", "/page", "/page/", "/page/nothing.js"):
        assert (await stranger.get(path)).status_code == 401, path
    assert (await stranger.request("GET", "/", content=b"x")).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["/page/files.py", "/page/../files.py", "/page/%2e%2e/files.py", "/page/app", "/page/app/",
     "/page/index.html", FOLDER + "package.json", FOLDER + "/style.css", FOLDER + "../files.py",
     FOLDER, "/page/0000/style.css", "/page/%00"],
)  # fmt: skip
async def test_nothing_beside_its_files_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404


async def test_a_link_on_another_site_leads_to_the_page_and_to_nothing_else(
    http: httpx.AsyncClient,
) -> None:
    linked = {"Host": "127.0.0.1:18080", "Sec-Fetch-Site": "cross-site"}
    for path in FILES:
        assert (await http.get(path, headers=linked)).status_code == 200, path
    for path in ("/v1/containers", "/metrics", "/docs", "/page/nothing.js"):
        assert (await http.get(path, headers=linked)).status_code == 403, path
    assert (await http.post("/", headers=linked)).status_code == 403
    assert (await http.get("/", headers=linked | {"Host": "evil.example"})).status_code == 403


async def test_only_reading_is_possible(http: httpx.AsyncClient) -> None:
    answer = await http.post("/")
    assert answer.status_code == 405
    head = await http.head("/")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_browser_that_has_it_is_told_so(http: httpx.AsyncClient) -> None:
    first = await http.get(MAIN, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert first.headers["content-encoding"] == "gzip"
    again = await http.get(MAIN, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "immutable" in again.headers["cache-control"]  # its path names its version
    assert (await http.get("/")).headers["cache-control"] == "no-cache"
    other = await http.get(MAIN, headers={"If-None-Match": '"of-an-older-one"'})
    assert other.status_code == 200
    plain = await http.get(MAIN, headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers


def test_what_is_in_its_folder_is_served() -> None:
    there = {path for path in STATIC.rglob("*") if path.is_file()} - {STATIC / "package.json"}
    assert len(there) == len(FILES)
    for file in FILES.values():
        assert gzip.decompress(file.compressed) == file.content


def test_all_that_it_loads_is_its_own_and_nothing_stands_in_the_document() -> None:
    document = FILES["/"].content.decode()
    loaded = set(re.findall(r'(?:src|href)="(/[^"]*)"', document))
    assert loaded - {"/docs"} <= FILES.keys()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", document)
    for path, file in FILES.items():
        text = file.content.decode()
        if path.endswith(".js"):
            for name in _IMPORT.findall(text):
                target = httpx.URL("http://x" + path).join(name).path
                assert name.startswith(".") and target in FILES, f"{path} imports {name}"
        if path.endswith(".css"):
            assert "url(" not in text and "@import" not in text


@pytest.mark.parametrize("path", OURS)
def test_its_modules_are_short_and_put_no_text_into_markup(path: str) -> None:
    text = FILES[FOLDER + path].content.decode()
    assert len(text.splitlines()) <= MOST_LINES
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", text
    )


def test_its_scripts_are_small() -> None:
    compressed = sum(len(file.compressed) for path, file in FILES.items() if path.endswith(".js"))
    assert compressed / 1024 <= MOST_SCRIPT_KIB


def test_libraries_come_with_their_licences() -> None:
    licences = (STATIC / "vendor" / "LICENSES.txt").read_text()
    for name in ("preact", "htm", "@preact/signals"):
        assert re.search(rf"^{name} \d+\.\d+\.\d+ \((MIT|Apache-2.0)\)$", licences, re.MULTILINE)


@pytest.mark.parametrize(
    "host",
    ["localhost:9000", "127.0.0.1", "[::1]:9000", "warmboot", "d", "",
     "/run/warmboot/18080.sock", "%2Frun%2Fwarmboot%2F18080.sock"],
)  # fmt: skip
def test_by_the_socket_programs_name_what_they_like(host: str) -> None:
    check_forwarded(headers(host=host))


@pytest.mark.parametrize(
    "given",
    [
        {"host": "evil.example"},
        {"host": "evil.example:9000"},
        {"host": "10.0.0.7:9000"},
        {"host": "a_b.evil.example:9000"},
        {"host": "a!b.evil.example"},
        {"host": "evil.example.:9000"},
        {"host": "localhost:9000", "origin": "http://evil.example"},
        {"host": "localhost:9000", "origin": "http://localhost:8080"},
        {"host": "localhost:9000", "origin": "null"},
        {"host": "localhost:9000", "sec-fetch-site": "cross-site"},
        {"host": "localhost:9000", "sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_origin_does_not_come_in_by_a_forwarded_socket(
    given: dict[str, str],
) -> None:
    with pytest.raises(ForeignOrigin) as refused:
        check_forwarded(headers(**given))
    assert refused.value.resolution


async def test_metrics_are_not_told_to_it_either(fakes: FakeServices) -> None:
    app = create_app(fakes.services)

    async def by_socket(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "server": ("/run/warmboot/18080.sock", None)}, receive, send)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(by_socket), base_url="http://localhost"
    ) as client:
        for path in ("/metrics", "/v1/info"):
            assert (await client.get(path)).status_code == 200, path
            answer = await client.get(path, headers={"Host": "evil.example"})
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin"), path
        assert (await client.get("/healthz", headers={"Host": "evil.example"})).status_code == 200


def headers(**given: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in given.items()})
