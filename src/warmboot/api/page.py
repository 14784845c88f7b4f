"""``/`` and ``/page/…``: the web page's files, for everybody who is let near the port.

They hold nothing of this machine. What they show they ask of the API, which answers a browser as it
answers anybody. The policy lets the page run and load what is of this server, and nothing that is
written into the document itself, so that no name with markup in it ever becomes a script.
"""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from warmboot.api.routing import check_parameters
from warmboot.page import PageFile, page_files

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}


# The document is asked for again each time, and names the version of all the others.
_CACHED = {True: "no-cache", False: "public, max-age=31536000, immutable"}


def install_page(app: FastAPI) -> None:
    """Serve the page's files, each under its own path."""

    @app.api_route(
        "/",
        methods=["GET", "HEAD"],
        include_in_schema=False,
        dependencies=[Depends(check_parameters)],
    )
    @app.api_route(
        "/page/{name:path}",
        methods=["GET", "HEAD"],
        include_in_schema=False,
        dependencies=[Depends(check_parameters)],
    )
    async def show_page(request: Request) -> Response:
        file = page_files().get(request.scope["path"])
        if file is None:
            raise HTTPException(404, "Not Found")
        return _answer(file, request)


def _answer(file: PageFile, request: Request) -> Response:
    cached = _CACHED[request.scope["path"] == "/"]
    headers = HEADERS | {"ETag": file.etag, "Cache-Control": cached}
    known = request.headers.get("if-none-match", "")
    if file.etag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    content = file.content
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        content, headers = file.compressed, headers | {"Content-Encoding": "gzip"}
    return Response(content, media_type=file.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    parts = (one.replace(" ", "").lower().split(";") for one in accepted.split(","))
    return any(part[0] == "gzip" and part[1:] not in (["q=0"], ["q=0.0"]) for part in parts)
