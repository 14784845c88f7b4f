"""What is told when the host's Docker engine does not answer."""

from __future__ import annotations

from aiodocker import DockerError

from warmboot.docker.errors import NO_CONNECTION, translated
from warmboot.model.errors import EngineUnavailable


def told(message: str) -> str:
    try:
        with translated("the worker"):
            raise DockerError(NO_CONNECTION, message)
    except EngineUnavailable as error:
        return error.details
    raise AssertionError("it was no engine that does not answer")


def test_a_socket_that_is_not_there_is_told_without_the_library_s_words() -> None:
    assert told(
        "Cannot connect to Docker Engine via unix://localhost [Cannot connect to unix socket "
        "/var/run/docker.sock ssl:default [No such file or directory]]"
    ) == ("No such file or directory: /var/run/docker.sock")


def test_what_has_another_form_is_told_as_it_is() -> None:
    assert told("Server disconnected") == "Server disconnected"
