"""A container's life as a user types it."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from tests.e2e.test_e2e_boot import fetch
from tests.support.images import busybox
from tests.support.terminals import Terminal
from tests.support.vms import TINY, VM_TIMEOUT_S, Ran, Site, eventually

from warmboot.docker.tiny_image import image_archive
from warmboot.model.conventions.program_start import MAX_BYTES, check_size
from warmboot.model.errors import InvalidRequest


async def test_run_in_the_foreground_gives_output_and_exit_code(site: Site) -> None:
    script = "echo $GREETING; echo aside >&2; exit 7"
    words = ("--rm", "--name", "brief", "-e", "GREETING=hej", TINY, "sh", "-c", script)
    ran = await site.cli("run", *words, code=7)
    assert (ran.out, ran.err) == ("hej\n", "aside\n")
    assert "brief" not in (await site.cli("ps", "-a")).out


async def test_run_passes_on_standard_input(site: Site) -> None:
    ran = await site.cli("run", "-i", "--rm", TINY, "cat", stdin=b"in and out\n")
    assert ran.out == "in and out\n"


async def test_run_and_exec_on_a_terminal(site: Site) -> None:
    async with Terminal(site, "run", "-it", "--rm", "--name", "desk", TINY, "sh") as outer:
        await outer.shows("# ")
        outer.type("busybox stty size; exec 2>&1; echo $((6 * 7))-is-it\n")
        assert "31 97" in await outer.shows("42-is-it")
        async with Terminal(site, "exec", "-it", "desk", "sh") as inner:
            await inner.shows("# ")
            inner.type("busybox ps | busybox wc -l; exit 4\n")
            assert await inner.ends() == 4
        outer.type("exit 3\n")
        assert await outer.ends() == 3
    assert "desk" not in (await site.cli("ps", "-a")).out


async def test_a_containers_life(site: Site) -> None:
    script = "echo up; trap 'echo down; exit 9' TERM; while true; do sleep 0.2; done"
    found = await site.run("life", TINY, "sh", "-c", script)
    listed = json.loads((await site.cli("ps", "--json")).out)
    assert [(one["name"], one["state"]) for one in listed] == [("life", "running")]
    table = (await site.cli("ps")).out
    assert found["id"][:8] in table
    assert "Up " in table
    follower = await site.begin("logs", "-f", "life")
    assert follower.stdout is not None
    async with asyncio.timeout(VM_TIMEOUT_S):
        assert await follower.stdout.readline() == b"up\n"

    assert (await site.cli("exec", "life", "echo", "inside")).out == "inside\n"
    await site.cli("exec", "life", "sh", "-c", "exit 6", code=6)
    assert "life is running" in (await site.cli("rm", "life", code=1)).err

    assert (await site.cli("stop", "life")).out == "life\n"
    out, _ = await asyncio.wait_for(follower.communicate(), VM_TIMEOUT_S)
    assert out == b"down\n", "the follower saw the end, and ended"
    stopped = await site.inspect("life")
    assert (stopped["state"], stopped["exit_code"]) == ("exited", 9)
    assert "Exited (9)" in (await site.cli("ps", "-a")).out
    assert json.loads((await site.cli("ps", "--json")).out) == []

    await site.cli("start", "life")
    again = await site.inspect("life")
    assert (again["state"], again["exit_code"]) == ("running", None)
    assert again["vm_id"] == found["vm_id"], "its VM was there all the time"

    async def up_again() -> bool:
        return (await site.cli("logs", "life")).out == "up\ndown\nup\n"

    await eventually(up_again, "the second start's output")
    await site.cli("restart", "life")
    assert (await site.inspect("life"))["state"] == "running"
    assert (await site.cli("logs", "life")).out.startswith("up\ndown\nup\ndown\n")

    assert (await site.cli("rm", "-f", "life")).out == "life\n"
    assert "no container" in (await site.cli("inspect", "life", code=1)).err
    assert site.vmms() == []


async def test_an_exit_is_seen_with_its_code(site: Site) -> None:
    await site.run("ends", TINY, "sh", "-c", "sleep 1; exit 23")
    assert (await site.cli("wait", "ends")).out == "23\n"
    found = await site.inspect("ends")
    assert (found["state"], found["exit_code"]) == ("exited", 23)


async def test_a_name_can_be_had_once(site: Site) -> None:
    await site.run("only", TINY, "sleep", "1000")
    ran = await site.cli("run", "-d", "--name", "only", TINY, "true", code=125)
    assert "only" in ran.err
    assert len(site.vmms()) == 1


async def test_four_at_once_are_independent(site: Site) -> None:
    names = [f"vm{number}" for number in range(4)]
    serve = "mkdir /w; echo $ME >/w/index.html; exec httpd -f -p 8080 -h /w"
    serve = serve.replace("mkdir", "busybox mkdir")
    found = await asyncio.gather(
        *(
            site.run(name, "-e", f"ME={name}", "-p", "8080", TINY, "sh", "-c", serve)
            for name in names
        )
    )
    assert {one["boot_method"] for one in found} == {"warm"}
    assert len({one["vm_id"] for one in found}) == 4
    for name, one in zip(names, found, strict=True):
        assert await fetch(one["ports"][0]["host_port"]) == f"{name}\n".encode()
    await asyncio.gather(*(site.cli("rm", "-f", name) for name in names[:2]))
    assert (await site.exec("vm3", "echo $ME")) == "vm3\n"
    running = json.loads((await site.cli("ps", "--json")).out)
    assert sorted(one["name"] for one in running) == ["vm2", "vm3"]
    assert len(site.vmms()) == 2


# -- as docker -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "code"),  # test_e2e_streams has a path that is not there
    [("nosuch", 127), ("/etc/hosts", 126), ("/etc", 126)],
)
async def test_a_command_that_cannot_be_executed(site: Site, program: str, code: int) -> None:
    ran = await site.cli("run", "--name", "never", TINY, program, code=code)
    assert program in ran.err
    assert "never" not in (await site.cli("ps", "-a")).out
    assert site.vmms() == []


async def test_what_the_kernel_does_not_execute_is_told_in_a_sentence(
    site: Site, tmp_path: Path
) -> None:
    foreign = bytearray(busybox().read_bytes())
    foreign[18:20] = (0xF3).to_bytes(2, "little")  # e_machine: RISC-V
    files = {
        "bin/busybox": busybox().read_bytes(),
        "bad/script": b"#!/no/such/perl\n",
        "bad/foreign": bytes(foreign),
    }
    image = "warmboot-e2e/not-executed:1"
    archive = tmp_path / "not-executed.tar"
    archive.write_bytes(image_archive(image, files, {"bin/sleep": "busybox"}, ["sleep", "1000"]))
    words = ("--archive", str(archive), image)
    codes = {"/bad/script": 127, "/bad/foreign": 126}
    for program, code in codes.items():
        ran = await site.cli("run", "--rm", *words, program, code=code)
        assert f"{program!r} cannot be executed" in ran.err
        assert "msg" not in ran.out + ran.err
    await site.run("ended", *words, "/bad/script")
    await site.cli("wait", "ended")
    ended = await site.inspect("ended")
    assert (ended["exit_code"], ended["error"]["code"]) == (127, "command-not-found")
    await site.run("host", *words)
    for program, code in {**codes, "nosuch": 127, "/bad": 126}.items():
        ran = await site.cli("exec", "host", program, code=code)
        assert program in ran.err
        assert ran.out == ""


async def test_more_than_the_kernel_takes_is_126_and_one_sentence(
    site: Site, tmp_path: Path
) -> None:
    """As much as the manager lets through: what the image's own variables take comes on top."""
    full = tmp_path / "full.env"
    command = ["/bin/true"]
    full.write_text("".join(f"{one}\n" for one in _as_much_as_linux_takes(command)))
    words = ("--env-file", str(full))
    _is_one_sentence(await site.cli("run", "--rm", *words, TINY, *command, code=126))
    await site.run("c", TINY, "sleep", "1000")
    _is_one_sentence(await site.cli("exec", *words, "c", *command, code=126))
    assert (await site.cli("exec", "c", "echo", "still here")).out == "still here\n"


def _as_much_as_linux_takes(command: list[str]) -> list[str]:
    """An environment for ``command`` to which nothing can be added."""
    environment = [f"V{number:02}={'x' * 100_000}" for number in range(20)] + ["W="]
    used_bytes = sum(len(word) + 1 + 8 for word in (*command, *environment))
    environment[-1] += "x" * (MAX_BYTES - used_bytes)
    check_size(command, environment)
    with pytest.raises(InvalidRequest):
        check_size([*command, ""], environment)
    return environment


def _is_one_sentence(ran: Ran) -> None:
    assert ran.out == ""
    told = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    too_large = "its arguments and environment are too large"
    assert told == [f"error: '/bin/true' cannot be executed: {too_large}"]
    assert "msg" not in ran.err


async def test_open_files_are_limited_as_for_an_engine_that_systemd_started(site: Site) -> None:
    ask = ("sh", "-c", "ulimit -Sn; ulimit -Hn")
    await site.run("c", TINY, "sh", "-c", "ulimit -Sn; ulimit -Hn; exec sleep 1000")

    async def logged() -> str | None:
        said = (await site.cli("logs", "c")).out
        return said if said.count("\n") == 2 else None

    for said in ((await site.cli("exec", "c", *ask)).out, await eventually(logged, "both limits")):
        soft, hard = (int(line) for line in said.splitlines())
        assert soft >= 1024
        assert hard >= 524_288


async def test_user_folder_and_host_name_are_as_asked_for(site: Site) -> None:
    script = "busybox id -u; busybox id -g; busybox pwd; busybox hostname; echo $HOSTNAME"
    script += "; busybox grep -c box /etc/hosts"
    words = ("--rm", "-u", "1234:5678", "-w", "/some/where", "-h", "box", TINY, "sh", "-c", script)
    assert (await site.cli("run", *words)).out == "1234\n5678\n/some/where\nbox\nbox\n1\n"


@pytest.mark.parametrize(
    ("way", "number"),
    [
        *(([], number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        (["-i"], signal.SIGTERM),
    ],
    ids=["INT", "TERM", "HUP", "input-TERM"],
)
async def test_a_signal_is_the_containers(
    site: Site, way: list[str], number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 9' {name}; echo up; while true; do sleep 0.2; done"
    ran = await site.begin("run", *way, "--rm", "--name", "told", TINY, "sh", "-c", script)
    assert ran.stdout is not None
    assert await asyncio.wait_for(ran.stdout.readline(), VM_TIMEOUT_S) == b"up\n"
    ran.send_signal(number)
    out, _ = await asyncio.wait_for(ran.communicate(), VM_TIMEOUT_S)
    assert (out, ran.returncode) == (f"got {name}\n".encode(), 9)
    assert "told" not in (await site.cli("ps", "-a")).out
    assert site.vmms() == []


async def test_what_ignores_a_signal_is_killed(site: Site) -> None:
    words = ("--rm", "--stop-timeout", "1", "--name", "deaf", TINY)
    ran = await site.begin("run", *words, "sh", "-c", "trap '' TERM; echo up; sleep 1000")
    assert ran.stdout is not None
    assert await asyncio.wait_for(ran.stdout.readline(), VM_TIMEOUT_S) == b"up\n"
    ran.send_signal(signal.SIGTERM)
    await asyncio.wait_for(ran.communicate(), VM_TIMEOUT_S)
    assert ran.returncode == 137
    assert site.vmms() == []


async def test_a_killed_command_line_leaves_rm_to_the_manager(site: Site) -> None:
    ran = await site.begin("run", "--rm", "--name", "left", TINY, "sh", "-c", "echo up; sleep 5")
    assert ran.stdout is not None
    assert await asyncio.wait_for(ran.stdout.readline(), VM_TIMEOUT_S) == b"up\n"
    ran.kill()
    await ran.wait()

    async def gone() -> bool:
        return "left" not in (await site.cli("ps", "-a")).out

    await eventually(gone, "it has ended and is removed")
    assert site.vmms() == []


async def detached_commands_go_on_or_are_refused(site: Site) -> None:
    await site.exec(
        "timed", r"printf '#!/no/such\n' >/tmp/script; chmod +x /tmp/script; >/tmp/begun"
    )
    for program, code in (("nosuch", 127), ("/tmp/begun", 126), ("/tmp/script", 127)):
        refused = await site.cli("exec", "-d", "timed", program, code=code)
        assert f"'{program}'" in refused.err
    script = "while echo begun | tee -a /tmp/begun; do sleep 0.2; done"
    await site.cli("exec", "-d", "timed", "sh", "-c", script)

    async def goes_on() -> bool:
        return (await site.exec("timed", "cat /tmp/begun")).count("begun") > 10

    await eventually(goes_on, "the detached command goes on")


async def test_stop_signals_kill_and_logs_by_time(site: Site) -> None:
    script = "trap 'echo usr1; exit 3' USR1; echo one; sleep 2; echo two; "
    script += "while true; do sleep 0.2; done"
    await site.run("timed", "--stop-signal", "USR1", TINY, "sh", "-c", script)

    async def both() -> list[str] | None:
        lines = (await site.cli("logs", "-t", "timed")).out.splitlines()
        return lines if len(lines) == 2 else None

    first, second = (line.split()[0] for line in await eventually(both, "both lines"))
    assert (await site.cli("logs", "--since", second, "timed")).out == "two\n"
    assert (await site.cli("logs", "--until", first, "timed")).out == "one\n"
    await site.cli("exec", "timed", "nosuch", code=127)
    await detached_commands_go_on_or_are_refused(site)
    await site.cli("stop", "timed")
    assert (await site.inspect("timed"))["exit_code"] == 3
    await site.cli("start", "timed")
    await site.cli("kill", "timed")
    assert (await site.inspect("timed"))["exit_code"] == 137
