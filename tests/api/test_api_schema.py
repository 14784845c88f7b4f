"""Generated requests: no 5xx on any input, every answer is as the document says, and what fits it
is accepted."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.manager.protocols import Services

Case = schemathesis.Case[Any]
pytestmark = pytest.mark.slow

TOKEN = "schema-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def what_fits_is_accepted(
    context: CheckContext, response: schemathesis.Response, case: Case
) -> bool | None:
    """What is refused for another reason (there is no such file, …) names no field. Whether an
    image's name fits is not told (``_quick``)."""
    problem = "problem+json" in str(response.headers.get("content-type"))
    fields = [error["field"] for error in response.json().get("errors", ())] if problem else []
    if not fields or "body.image" in fields:
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


def _services() -> Services:
    fakes = FakeServices()
    fakes.events.endless = False
    fakes.containers.longest_wait_s = 1.0
    return fakes.services


def _app() -> FastAPI:
    return create_app(_services(), tokens=frozenset({TOKEN}))


LOOKS_AHEAD = re.compile(r"\(\?[=!](?:[^()]|\([^()]*\))*\)")


def _quick(part: Any) -> Any:
    """Patterns do not look ahead, and have no lengths beside them: Hypothesis makes a string of
    what else stands in one, and throws it away if it does not fit, which takes minutes."""
    if isinstance(part, list):
        return [_quick(one) for one in part]
    if not isinstance(part, dict):
        return part
    pattern = part.get("pattern")
    if isinstance(pattern, str) and LOOKS_AHEAD.search(pattern):
        part = {**part, "pattern": LOOKS_AHEAD.sub("", pattern)}
        part.pop("minLength", None)
        part.pop("maxLength", None)
    return {name: _quick(one) for name, one in part.items()}


APP = _app()
document = _quick(APP.openapi())
OPERATIONS = [
    f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
]
schema = schemathesis.openapi.from_dict(document)
schema.app = APP


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def _check(case: Case) -> None:
    case.call_and_validate(headers=HEADERS, checks=CHECKS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_input_breaks_the_api(label: str) -> None:
    """What is asked is generated here: ``schema.parametrize`` does that when tests are collected,
    which takes minutes, in every process of a run and where these tests are left out, too. There
    is nothing yet that another test made: the log of a container that runs would never end."""
    APP.state.services = _services()
    operation = schema.find_operation_by_label(label)
    assert operation is not None
    config = HypothesisTestConfig(project=schema.config, modes=list(HypothesisTestMode))
    create_test(operation=operation, test_func=_check, config=config)()
