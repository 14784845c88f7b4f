"""Many at once: they queue, each has its turn, and the manager answers meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
from tests.support.managers import FOREVER, IMAGE_NAME, Lab, image_folder
from tests.support.ports import free_port
from tests.support.served import served

BURST = 100


async def test_of_a_hundred_creates_at_once_all_run(place: Lab) -> None:
    settings = place.settings(port=free_port())
    async with served(settings) as site, httpx.AsyncClient(base_url=site.url, timeout=300) as http:
        await site.manager.services.images.register(name=IMAGE_NAME, path=await image_folder())
        answered = asyncio.Event()

        async def create(number: int) -> str:
            body = {"name": f"c{number}", "image": "busybox", "command": list(FOREVER)}
            headers = {"Idempotency-Key": f"burst-{number}"}
            answer = await http.post("/v1/containers", json=body, headers=headers)
            if answer.status_code != 201:
                return f"{answer.status_code} {answer.text}"
            waiting: dict[str, str | int] = {"until": "running", "timeout_s": 240}
            url = f"/v1/containers/{answer.json()['id']}/wait"
            answer = await http.get(url, params=waiting)
            if answer.status_code != 200:
                return f"{answer.status_code} {answer.text}"
            item = answer.json()["item"]
            return str(item["state"] if item["error"] is None else item["error"])

        async def look() -> int:
            looks = 0
            while not answered.is_set():
                assert (await http.get("/healthz")).status_code == 200
                assert (await http.get("/v1/containers?all=true")).status_code == 200
                looks += 1
            return looks

        looking = asyncio.create_task(look())
        try:
            answers = await asyncio.gather(*(create(number) for number in range(BURST)))
        finally:
            answered.set()
        assert Counter(answers) == {"running": BURST}
        assert await looking > 3
        items = (await http.get("/v1/containers")).json()["items"]
        await asyncio.gather(
            *(http.delete(f"/v1/containers/{item['id']}?force=true") for item in items)
        )
