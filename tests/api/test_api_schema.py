"""Generated requests: no 5xx on any input, every answer is as the document says, and what fits it
is accepted."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.support.fake_services import FakeServices

from warmboot.api import create_app

Case = schemathesis.Case[Any]
pytestmark = pytest.mark.slow

TOKEN = "schema-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def what_fits_is_accepted(
    context: CheckContext, response: schemathesis.Response, case: Case
) -> bool | None:
    """What is refused for another reason (there is no such file, …) names no field."""
    problem = "problem+json" in str(response.headers.get("content-type"))
    if not problem or not response.json().get("errors"):
        return None
    return positive_data_acceptance(context, response, case)


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    what_fits_is_accepted,
]


def _app() -> FastAPI:
    fakes = FakeServices()
    fakes.events.endless = False
    fakes.containers.longest_wait_s = 1.0
    return create_app(fakes.services, tokens=frozenset({TOKEN}))


schema = schemathesis.openapi.from_asgi("/openapi.json", _app(), headers=HEADERS)


@schema.parametrize()
@pytest.mark.parametrize("over", ["fakes"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_input_breaks_the_api(case: Case, over: str) -> None:
    """With ``over`` the operation is a part of its id, which xdist tells tests apart by."""
    case.call_and_validate(headers=HEADERS, checks=CHECKS)
