"""The OpenAPI document: FastAPI's, plus what every operation has in common."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema

from warmboot.api.middleware.auth import OPEN_PATHS
from warmboot.api.problems import MEDIA_TYPE
from warmboot.api.routing import check_parameters
from warmboot.api.schemas.descriptions import described
from warmboot.api.schemas.responses import Problem
from warmboot.model.shapes import Shape

_REF = "#/components/schemas/{model}"
_KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "same key and request: the same answer; kept for 24 h",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "true when this is the kept answer of an earlier request",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_COMMON = {
    "400": "Not understood",
    "401": "No valid token",
    "403": "From a foreign host or origin, or by a token that is not for this",
    "413": "The body is too large",
    "422": "Does not fit the schema, or can never succeed",
    "500": "Something on the machine failed",
    "503": "Something that is needed, a guest included, does not answer",
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "seconds after which it is worth another try",
        "schema": {"type": "integer"},
    }
}
_OF_POST = {
    "408": "The body came too slowly",
    "415": "Not JSON",
    "507": "The disk is full",
}


def _problem(description: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {"description": description, "content": content}


def _complete(path: str, method: str, operation: dict[str, Any], *, tokens: bool) -> None:
    responses = operation["responses"]
    described = dict(_COMMON)
    if "{" in path or method == "post":
        described["404"] = "No such thing"
        described["409"] = "Not now: in use, taken, ambiguous, or not in this state"
    if method in ("post", "patch", "delete"):
        described |= _OF_POST
    for status, description in described.items():
        responses[status] = _problem(description)
    responses["503"]["headers"] = _RETRY_AFTER
    if method == "post":
        operation.setdefault("parameters", []).append(_KEY_PARAMETER)
        for status, response in responses.items():
            if status.startswith("2"):
                response["headers"] = _REPLAYED
    if tokens and path not in OPEN_PATHS:
        operation["security"] = [{"bearer": []}]


def _limit(shape: dict[str, Any], largest: Shape) -> None:
    """What passes the schema is accepted: no VM is larger than the machine."""
    shape["properties"]["vcpus"]["maximum"] = largest.vcpus
    shape["properties"]["memory_mib"]["maximum"] = largest.memory_mib


def install_openapi(app: FastAPI, *, tokens: bool, largest: Shape | None) -> None:
    """Serve the document, and let it tell of problems, idempotency keys and tokens."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            components = schema.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            _, ours = models_json_schema([(Problem, "serialization")], ref_template=_REF)
            schemas |= ours["$defs"]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for name, model in schemas.items():
                described(name, model)
            if largest is not None:
                _limit(schemas["ShapeIn"], largest)
            if tokens:
                components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path, methods in schema["paths"].items():
                for method, operation in methods.items():
                    _complete(path, method, operation, tokens=tokens)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]

    @app.api_route(
        "/openapi.json",
        methods=["GET", "HEAD"],
        include_in_schema=False,
        dependencies=[Depends(check_parameters)],
    )
    async def show_document() -> JSONResponse:
        return JSONResponse(document())
