"""Ports of what is parked are held, and who connects wakes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from pathlib import Path

import pytest

from warmboot.host.network import NetworkConfig
from warmboot.host.network.ports import ports
from warmboot.host.network.ports import publishing as publishing_module
from warmboot.host.network.ports.kept_ports import KeptPorts
from warmboot.host.network.ports.publishing import Publishing
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import HostError, NetworkError
from warmboot.system.concurrency import end
from warmboot.system.on_demand import socket_activation


async def test_a_port_that_comes_back_from_a_failed_wake_wakes_again() -> None:
    kept, wakes = KeptPorts(), asyncio.Queue[None]()

    async def wake() -> None:
        wakes.put_nowait(None)
        raise HostError("it does not come up")

    held, mapping = ports.reserve(PortMapping(80, 0, "127.0.0.1"))
    kept.keep("web", [mapping], wake, {mapping: held})
    kept.give_to(1, "web")
    # One port was published for the new slot; then something failed, and the slot goes.
    published = kept.take(1, mapping)
    assert published is held
    kept.forget(1)
    kept.keep("web", [mapping], wake, {mapping: published})
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(mapping.host_ip, mapping.host_port)
        await wakes.get()
        with contextlib.suppress(ConnectionError):  # cut off, as it did not wake
            assert await reader.read() == b""
        writer.close()
    kept.let_go("web")
    await kept.stop()


async def test_a_stream_of_datagrams_does_not_have_a_wake_that_fails_tried_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket_activation, "WAKE_AGAIN_S", 0.2)
    kept, failed, loop = KeptPorts(), asyncio.Queue[float](), asyncio.get_running_loop()

    async def wake() -> None:
        failed.put_nowait(loop.time())
        raise HostError("it does not come up")

    held, mapping = ports.reserve(PortMapping(53, 0, "127.0.0.1", "udp"))
    kept.keep("names", [mapping], wake, {mapping: held})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

        async def sending() -> None:
            while True:
                sender.sendto(b"?", (mapping.host_ip, mapping.host_port))
                await asyncio.sleep(0.01)  # a stream, and no flood

        stream = asyncio.create_task(sending())
        async with asyncio.timeout(60):
            at_s = [await failed.get() for _ in range(3)]
        await end(stream)
    assert at_s[1] - at_s[0] >= 0.2
    assert at_s[2] - at_s[1] >= 0.4
    kept.let_go("names")
    await kept.stop()


CONFIG = NetworkConfig(Path("/nowhere"), subnet="127.100.0.0/18")
"""On loopback, as its name server's address is where ports are kept for engines' own addresses."""

FORMER, WOKEN = CONFIG.slot(1), CONFIG.slot(2)
OWN = PortMapping(80, 80, "127.100.9.9")
KEY = "127.100.9.9 . tcp . 80"


class Rules:
    """What the host leads where. As nftables does, it refuses another way of what is led."""

    def __init__(self) -> None:
        self.led: dict[str, str] = {}
        self.fails = False

    async def apply(self, script: str, namespace: Path | None = None) -> None:
        if self.fails:
            raise NetworkError("it takes too long")
        led = dict(self.led)
        for verb, key, way in _ELEMENT.findall(script if namespace is None else ""):
            if verb == "delete":
                del led[key]
            elif led.setdefault(key, way) != way:
                raise NetworkError("File exists")
        self.led = led


_ELEMENT = re.compile(r"^(add|delete) element ip wb_net published { (.+) : (.+) }$", re.MULTILINE)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Rules:
    rules = Rules()
    monkeypatch.setattr(nft, "apply", rules.apply)
    return rules


async def nobody() -> None:
    raise AssertionError("nobody has connected")


async def test_a_port_that_another_manager_had_led_to_a_vm_is_kept(rules: Rules) -> None:
    publishing = Publishing(CONFIG)
    rules.led[KEY] = f"{FORMER.ns_ip} . 80"
    await publishing.hold("ci", [OWN], nobody, FORMER)
    assert rules.led[KEY].startswith(f"{CONFIG.dns_ip} . ")
    await publishing.let_go("ci")
    assert rules.led == {}


async def test_a_port_that_could_not_be_led_to_us_is_led_the_next_time(rules: Rules) -> None:
    publishing = Publishing(CONFIG)
    rules.fails = True
    await publishing.hold("ci", [OWN], nobody, FORMER)
    rules.fails = False
    await publishing.hold("ci", [OWN], nobody, None)
    assert rules.led[KEY].startswith(f"{CONFIG.dns_ip} . ")
    await publishing.let_go("ci")


async def test_a_port_that_is_kept_is_led_again_when_the_rules_are_put_back(rules: Rules) -> None:
    publishing = Publishing(CONFIG)
    await publishing.hold("ci", [OWN], nobody, None)
    led = dict(rules.led)
    address, _, port = rules.led[KEY].partition(" . ")
    wanted, _ = publishing.elements([])
    assert [json.loads(one) for one in wanted] == [
        [{"concat": [OWN.host_ip, "tcp", 80]}, {"concat": [address, int(port)]}]
    ]
    rules.led.clear()  # a firewall was started again
    await rules.apply(publishing.scripts([])[0])
    assert rules.led == led
    await publishing.let_go("ci")
    assert publishing.elements([]) == (set(), set())


async def test_who_has_woken_an_engine_by_a_datagram_is_led_to_it(
    rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[PortMapping] = []
    monkeypatch.setattr(publishing_module, "_forget_strays", forgotten.append)
    publishing, names = Publishing(CONFIG), PortMapping(53, 53, OWN.host_ip, "udp")
    await publishing.hold("ci", [names], nobody, None)
    publishing.kept.give_to(WOKEN.index, "ci")
    await publishing.lead_own(WOKEN, OWN.host_ip, {("udp", 53)})
    assert forgotten == [names]
    await publishing.let_go("ci")
    assert rules.led == {f"{OWN.host_ip} . udp . 53": f"{WOKEN.ns_ip} . 53"}
    publishing.forget_held()


async def test_a_port_that_could_not_be_led_to_the_woken_one_is_kept_and_led_the_next_time(
    rules: Rules,
) -> None:
    publishing = Publishing(CONFIG)
    await publishing.hold("ci", [OWN], nobody, None)
    led = dict(rules.led)
    publishing.kept.give_to(WOKEN.index, "ci")
    rules.fails = True
    with pytest.raises(NetworkError):
        await publishing.lead_own(WOKEN, OWN.host_ip, {("tcp", 80)})
    rules.fails = False
    assert list(publishing.kept.of("ci")) == [OWN]
    assert rules.led == led
    await publishing.lead_own(WOKEN, OWN.host_ip, {("tcp", 80)})
    await publishing.let_go("ci")
    assert rules.led == {KEY: f"{WOKEN.ns_ip} . 80"}
    publishing.forget_held()
