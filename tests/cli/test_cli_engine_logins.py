"""``--registry-auth``: what ``docker login`` has left is found as docker finds it, and sent on."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli, Served

from warmboot.model.conventions.registry_logins import MOST_BYTES, RegistryLogin

HUB = "https://index.docker.io/v1/"
SECRET = "pa:ss"


def auth(user: str, password: str = SECRET) -> str:
    return b64encode(f"{user}:{password}".encode()).decode()


class Docker:
    """A user's folder ``.docker``, and helpers in the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()

    def configured(self, **config: Any) -> dict[str, str]:
        """The environment with it."""
        (self.folder / "config.json").write_text(json.dumps(config))
        return self.environment

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_CONFIG": str(self.folder), "PATH": f"{self.folder}/bin:/usr/bin:/bin"}

    def helper(self, name: str, logins: dict[str, tuple[str, str]], fails: str = "") -> None:
        """It knows these users and secrets by their addresses; or it ``fails`` with these words."""
        script = self.folder / "bin" / f"docker-credential-{name}"
        listed = json.dumps({address: user for address, (user, _) in logins.items()})
        cases = "".join(
            f"get:{address}) echo '{json.dumps({'Username': user, 'Secret': secret})}';;\n"
            for address, (user, secret) in logins.items()
        )
        script.write_text(
            f"#!/bin/sh\n{f'echo {fails}; exit 1' if fails else ''}\n"
            f"case \"$1:$(cat)\" in\nlist:) echo '{listed}';;\n{cases}"
            "*) echo credentials not found in native keychain; exit 1;;\nesac\n"
        )
        script.chmod(0o755)


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def sent(served: Served, name: str = "ci") -> dict[str, RegistryLogin]:
    return {login.registry: login for login in served.fakes.engines.logins.get(name, ())}


def test_an_engine_gets_no_login_that_it_was_not_given(
    cli: Cli, served: Served, docker: Docker
) -> None:
    env = docker.configured(auths={HUB: {"auth": auth("me")}})
    assert cli("engine", "create", "ci", **env).returncode == 0
    assert served.fakes.engines.logins == {}


def test_it_gets_all_logins_or_those_that_are_named(
    cli: Cli, served: Served, docker: Docker
) -> None:
    env = docker.configured(
        auths={
            HUB: {"auth": auth("me")},
            "https://old.example/v2/": {"auth": auth("old")},
            "tokens.example:5000": {"auth": auth("0", "0"), "identitytoken": "t"},
            "logged-out.example": {},
        }
    )
    made = cli("engine", "create", "ci", "--registry-auth", **env)
    assert made.returncode == 0, made.stderr
    assert sent(served) == {
        "docker.io": RegistryLogin("docker.io", "me", SECRET),
        "old.example": RegistryLogin("old.example", "old", SECRET),
        "tokens.example:5000": RegistryLogin("tokens.example:5000", "0", "0", "t"),
    }
    words = ("--registry-auth=docker.io", "--registry-auth=old.example")
    assert cli("engine", "create", "two", *words, "-d", **env).returncode == 0
    assert set(sent(served, "two")) == {"docker.io", "old.example"}


def test_the_helpers_of_the_configuration_are_asked(
    cli: Cli, served: Served, docker: Docker
) -> None:
    docker.helper("all", {HUB: ("me", SECRET), "b.example": ("<token>", "t")})
    docker.helper("one", {"c.example": ("c", "from one")})
    docker.helper("ill", {}, fails="no network")
    env = docker.configured(
        auths={HUB: {}, "plain.example": {"auth": auth("unseen")}},
        credsStore="all",
        credHelpers={"c.example": "one", "d.example": "ill"},
    )
    made = cli("engine", "create", "ci", "--registry-auth", **env)
    assert made.returncode == 0, made.stderr
    assert sent(served) == {
        "docker.io": RegistryLogin("docker.io", "me", SECRET),
        "b.example": RegistryLogin("b.example", identity_token="t"),
        "c.example": RegistryLogin("c.example", "c", "from one"),
    }
    told = " ".join(made.stderr.split())
    assert "without the login at d.example" in told
    assert "no network" in told
    named = cli("engine", "create", "two", "--registry-auth=d.example", **env)
    assert (named.returncode, "no network" in named.stderr) == (1, True)


def test_logins_can_be_given_again(cli: Cli, served: Served, docker: Docker) -> None:
    cli("engine", "create", "ci")
    env = docker.configured(auths={"a.example": {"auth": auth("a")}, HUB: {"auth": auth("me")}})
    assert cli("engine", "login", "ci", **env).stdout == "a.example\ndocker.io\n"
    assert cli("engine", "login", "ci", "a.example", **env).stdout == "a.example\n"
    assert list(sent(served)) == ["a.example"]
    assert cli("engine", "login", "other", **env).returncode == 1


def test_a_command_runs_with_them(cli: Cli, served: Served, docker: Docker) -> None:
    env = docker.configured(auths={"a.example": {"auth": auth("a")}})
    ran = cli("engine", "run", "--registry-auth", "--", "true", **env)
    assert ran.returncode == 0, ran.stderr
    ((_, logins),) = served.fakes.engines.logins.items()
    assert [login.registry for login in logins] == ["a.example"]


def test_no_engine_is_made_without_the_logins_that_it_is_to_have(
    cli: Cli, served: Served, docker: Docker
) -> None:
    create = ("engine", "create", "ci")
    every, one = "--registry-auth", "--registry-auth=a.example"
    assert "docker login" in cli(*create, every, **docker.environment).stderr
    configs: list[tuple[dict[str, Any], str, str]] = [
        ({}, every, "docker login"),
        ({"auths": {HUB: {"auth": auth("me")}}}, one, "docker login a.example"),
        ({"credsStore": "gone"}, every, "docker-credential-gone"),
        ({"auths": {HUB: {"auth": "!"}}}, every, "docker login"),
        ({"auths": {HUB: {"auth": SECRET}}}, every, "docker login"),
    ]
    for config, word, told in configs:
        made = cli(*create, word, **docker.configured(**config))
        assert (made.returncode, told in made.stderr) == (1, True), made.stderr
        assert SECRET not in made.stderr
    (docker.folder / "config.json").write_text(SECRET)
    assert "cannot be read" in cli(*create, "--registry-auth", **docker.environment).stderr
    assert cli("engine", "run", "--registry-auth=b.example", "--", "true").returncode == 125
    assert served.fakes.engines.asked == []


def test_an_engine_that_cannot_have_them_is_removed(
    cli: Cli, served: Served, docker: Docker
) -> None:
    env = docker.configured(auths={"a.example": {"auth": auth("a", "x" * MOST_BYTES)}})
    for more in ([], ["-d"]):
        made = cli("engine", "create", "ci", "--registry-auth", *more, **env)
        assert (made.returncode, "xxx" in made.stderr) == (1, False), made.stderr
    assert served.fakes.engines.removed == ["ci", "ci"]
