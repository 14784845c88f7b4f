"""A container's life as a user types it."""

from __future__ import annotations

import asyncio
import json

from tests.support.terminals import Terminal
from tests.support.vms import PROBE, Site, eventually


async def test_run_in_the_foreground_gives_output_and_exit_code(site: Site) -> None:
    script = "echo $GREETING; echo aside >&2; exit 7"
    words = ("--rm", "--name", "brief", "-e", "GREETING=hej", PROBE, "sh", "-c", script)
    ran = await site.cli("run", *words, code=7)
    assert (ran.out, ran.err) == ("hej\n", "aside\n")
    assert "brief" not in (await site.cli("ps", "-a")).out


async def test_run_passes_on_standard_input(site: Site) -> None:
    ran = await site.cli("run", "-i", "--rm", PROBE, "cat", stdin=b"in and out\n")
    assert ran.out == "in and out\n"


async def test_run_and_exec_on_a_terminal(site: Site) -> None:
    async with Terminal(site, "run", "-it", "--rm", "--name", "desk", PROBE, "sh") as outer:
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
    found = await site.run("life", PROBE, "sh", "-c", script)
    listed = json.loads((await site.cli("ps", "--json")).out)
    assert [(one["name"], one["state"]) for one in listed] == [("life", "running")]
    table = (await site.cli("ps")).out
    assert found["id"][:8] in table
    assert "Up " in table
    follower = await site.begin("logs", "-f", "life")
    assert follower.stdout is not None
    async with asyncio.timeout(30):
        assert await follower.stdout.readline() == b"up\n"

    assert (await site.cli("exec", "life", "echo", "inside")).out == "inside\n"
    await site.cli("exec", "life", "sh", "-c", "exit 6", code=6)
    assert "life is running" in (await site.cli("rm", "life", code=1)).err

    assert (await site.cli("stop", "life")).out == "life\n"
    out, _ = await asyncio.wait_for(follower.communicate(), 30)
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
    await site.run("ends", PROBE, "sh", "-c", "sleep 1; exit 23")
    assert (await site.cli("wait", "ends")).out == "23\n"
    found = await site.inspect("ends")
    assert (found["state"], found["exit_code"]) == ("exited", 23)


async def test_a_name_can_be_had_once(site: Site) -> None:
    await site.run("only", PROBE, "sleep", "1000")
    ran = await site.cli("run", "-d", "--name", "only", PROBE, "true", code=125)
    assert "only" in ran.err
    assert len(site.vmms()) == 1


async def test_four_at_once_are_independent(site: Site) -> None:
    names = [f"vm{number}" for number in range(4)]
    serve = "mkdir /w; echo $ME >/w/index.html; exec httpd -f -p 8080 -h /w"
    serve = serve.replace("mkdir", "busybox mkdir")
    found = await asyncio.gather(
        *(
            site.run(name, "-e", f"ME={name}", "-p", "8080", PROBE, "sh", "-c", serve)
            for name in names
        )
    )
    assert {one["boot_method"] for one in found} == {"warm"}
    assert len({one["vm_id"] for one in found}) == 4
    for name, one in zip(names, found, strict=True):
        port = one["ports"][0]["host_port"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.endswith(f"{name}\n".encode())
    await asyncio.gather(*(site.cli("rm", "-f", name) for name in names[:2]))
    assert (await site.exec("vm3", "echo $ME")) == "vm3\n"
    running = json.loads((await site.cli("ps", "--json")).out)
    assert sorted(one["name"] for one in running) == ["vm2", "vm3"]
    assert len(site.vmms()) == 2
