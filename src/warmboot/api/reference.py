"""``/docs``: the OpenAPI document as one page of HTML. It needs no script and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from warmboot.api.routing import check_parameters

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
code { font: 0.92em ui-monospace, monospace; overflow-wrap: anywhere; }
details { border: 1px solid #8886; border-radius: 6px; margin: 0.4rem 0; padding: 0.4rem 0.8rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.6rem 0.25rem 0;
         border-bottom: 1px solid #8883; }
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_OF_TYPE = ("pattern", "minimum", "maximum", "minLength", "maxLength", "maxItems", "multipleOf")


def install_reference(app: FastAPI) -> None:
    """Serve the page; it is made of the document once."""

    @app.get("/docs", include_in_schema=False, dependencies=[Depends(check_parameters)])
    async def show_reference(request: Request) -> HTMLResponse:
        if not hasattr(app.state, "reference"):
            app.state.reference = page(app.openapi())
        return HTMLResponse(app.state.reference, headers=_HEADERS)


def page(document: Mapping[str, Any]) -> str:
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1><p>{escape(info['description'])} For programs, the same is in "
            '<a href="openapi.json">openapi.json</a>.</p>',
            *_operations(document["paths"]),
            "<h2>Models</h2>",
            *_models(document["components"]["schemas"]),
            "</body></html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            told = "".join(_operation(path, method, operation))
            by_tag.setdefault(operation["tags"][0], []).append(told)
    for tag, operations in by_tag.items():
        yield f"<h2>{escape(tag.capitalize())}</h2>"
        yield from operations


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    name = escape(operation["operationId"])
    yield f'<details id="{name}"><summary><code>{method.upper()} {escape(path)}</code> '
    yield f"{escape(operation.get('summary', ''))}</summary><p><code>{name}</code></p>"
    if text := operation.get("description"):
        yield f"<p>{escape(text)}</p>"
    if parameters := operation.get("parameters"):
        rows = [
            (one["name"], f"{one['in']}, {_type(one['schema'])}", _about(one)) for one in parameters
        ]
        yield _table("parameter", rows)
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"<code>{escape(k)}</code>{_as(v)}" for k, v in body["content"].items())
        yield f"<p>Body: {kinds}</p>"
    rows = [
        (status, ", ".join(_type(v.get("schema", {})) for v in _content(one)), _about(one))
        for status, one in sorted(operation["responses"].items())
    ]
    yield _table("status", rows) + "</details>"


def _content(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(response.get("content", {}).values())


def _as(content: Mapping[str, Any]) -> str:
    return f": {_type(content['schema'])}" if content.get("schema") else ""


def _models(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f'<details id="model-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        if text := schema.get("description"):
            yield f"<p>{escape(text)}</p>"
        if "enum" in schema:
            yield f"<p>{_type(schema)}</p>"
        required = schema.get("required", ())
        rows = [
            (field + ("" if field in required else " (optional)"), _type(told), _about(told))
            for field, told in schema.get("properties", {}).items()
        ]
        yield (_table("field", rows) if rows else "") + "</details>"


def _table(head: str, rows: list[tuple[str, str, str]]) -> str:
    """The first cell is text; the others are HTML already."""
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{about}</td></tr>"
        for name, kind, about in rows
    )
    return f"<table><tr><th>{head}</th><th>type</th><th></th></tr>{lines}</table>"


def _about(thing: Mapping[str, Any]) -> str:
    text = escape(str(thing.get("description", "")))
    schema = thing.get("schema", thing)
    if schema.get("default") not in (None, "", [], {}):
        text += f" Default: <code>{escape(str(schema['default']))}</code>."
    return text


def _type(schema: Mapping[str, Any]) -> str:
    """HTML: a type with its limits; a model is a link."""
    if ref := schema.get("$ref"):
        name = escape(ref.rpartition("/")[2])
        return f'<a href="#model-{name}">{name}</a>'
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(one) for one in several)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return ", ".join(f"<code>{escape(str(one))}</code>" for one in values)
    kind = escape(str(schema.get("format") or schema.get("type") or "anything"))
    if "items" in schema:
        kind = f"list of {_type(schema['items'])}"
    limits = [
        f"{name} <code>{escape(str(schema[name]))}</code>" for name in _OF_TYPE if name in schema
    ]
    return ", ".join([kind, *limits])
