"""``warmboot create`` and ``warmboot start``, which may stay with what it starts."""

from __future__ import annotations

from tests.cli.conftest import Cli, Served

from warmboot.model.container import ContainerState


def test_create_prints_the_id_and_starts_nothing(cli: Cli, served: Served) -> None:
    done = cli("create", "--name", "c", "--init", "--rm", "-p", "80", "busybox", "echo", "hi")
    (container,) = served.fakes.containers.rows.values()
    assert (done.stdout, done.stderr, done.returncode) == (f"{container.id}\n", "", 0)
    assert container.state is ContainerState.CREATED
    assert (container.spec.options.init, container.spec.auto_remove) == (True, True)
    assert cli("ps", "-q").stdout == ""
    assert cli("ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout == "c Created\n"
    assert cli("ps", "-f", "status=created", "-q").stdout == f"{container.id}\n"
    assert cli("inspect", "-f", "{{.State}}", "c").stdout == "created\n"
    assert cli("rm", "c").returncode == 0


def test_create_refuses_in_dockers_way(cli: Cli) -> None:
    cli("create", "--name", "c", "busybox")
    taken = cli("create", "--name", "c", "busybox")
    assert (taken.returncode, taken.stdout) == (1, "")
    assert "there is a container" in taken.stderr
    assert cli("create", "-p", "none", "busybox").returncode == 125


def test_what_was_created_is_started(cli: Cli) -> None:
    cli("create", "--name", "c", "busybox")
    assert cli("start", "c").stdout == "c\n"
    assert cli("ps", "--format", "{{.Names}} {{.State}}").stdout == "c running\n"


def test_start_a_shows_the_output_and_exits_with_the_containers_code(cli: Cli) -> None:
    cli("create", "--name", "c", "busybox", "exit", "7")
    assert cli("start", "-a", "c").returncode == 7
    assert cli("start", "-a", "c").returncode == 7, "one that has ended, too"
    cli("create", "--name", "says", "busybox", "echo", "hi")
    for _ in range(2):
        done = cli("start", "--attach", "says")
        assert (done.stdout, done.stderr, done.returncode) == ("hi\n", "", 0)


def test_start_i_passes_the_input_on(cli: Cli) -> None:
    cli("create", "-i", "--name", "c", "busybox", "cat")
    assert cli("start", "-i", "c", stdin="in\n").stdout == "in\n"


def test_a_start_that_fails_says_why(cli: Cli) -> None:
    cli("create", "--name", "c", "missing")
    for words in (("start", "-a", "c"), ("start", "c")):
        done = cli(*words)
        assert done.returncode == 1
        assert "the image missing does not exist" in done.stderr


def test_one_stays_with_one_only(cli: Cli) -> None:
    done = cli("start", "-a", "c", "d", COLUMNS="200")
    assert done.returncode == 2
    assert "you cannot start and attach multiple containers at once" in done.stderr
