"""Generated requests to a manager that really works: its store, its idempotency, simulated VMs.

What stands in a path or a body for a thing of the manager's is mostly replaced by one that is
there, so that use cases come to their ends. Requests are well formed: what is not never gets as far
as a manager (``test_api_schema``). There is no Docker engine: what workers need of it is refused.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from tests.api.test_api_schema import CHECKS, HEADERS, OPERATIONS, TOKEN, Case, document
from tests.support.managers import FOREVER, IMAGE_NAME, TIMEOUT_S, eventually, image_folder, lab
from tests.support.ports import free_port
from tests.support.served import Served, served

from warmboot.hypervisors import process
from warmboot.manager.workers.recover_worker import BUSY
from warmboot.model.container import ContainerSpec
from warmboot.model.errors import WarmbootError
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.worker import Worker, WorkerSpec, WorkerState

pytestmark = [
    pytest.mark.slow,
    # The manager, in its thread, draws a version meanwhile.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

LONGEST_WAIT_S = 0.2
SLOW = frozenset({"POST /v1/workers/{ref}/pause", "POST /v1/workers/{ref}/checkpoints"})
"""Each answer takes seconds: an engine is asked several times that is not there."""
SLOW_EXAMPLES = 3
ANSWER_S = 60.0
TRUTHFUL = {503: "engine-unavailable"}
"""The only answers from 500 up that may be."""

schema = schemathesis.openapi.from_dict(document)
schema.config.generation.update(modes=[GenerationMode.POSITIVE])


@dataclass(frozen=True, slots=True)
class World:
    site: Served

    async def image(self) -> UUID:
        path = await image_folder()
        images = self.site.manager.services.images
        return (await images.register(name=IMAGE_NAME, path=path)).image.id

    async def snapshot(self) -> UUID:
        """One that is ready; if possible, nothing is done with it at the moment."""

        async def ready() -> UUID | None:
            known = await snapshots.list()
            busy = {operation.subject_id for operation in await store.operations.list()}
            busy |= {str(one.replaces) for one in known}
            found = [one.id for one in known if one.state is SnapshotState.READY]
            if not found:  # a rebuild may take its time
                await snapshots.create(await self.image(), None)
            return min(found, key=lambda id_: str(id_) in busy, default=None)

        store, snapshots = self.site.manager.store, self.site.manager.services.snapshots
        return await eventually(ready, "a snapshot is ready", TIMEOUT_S)

    async def container(self) -> UUID:
        containers = self.site.manager.services.containers
        for known in await containers.list(all_states=True):
            return known.id
        await self.image()
        spec = ContainerSpec(name="web", image="busybox", command=FOREVER)
        return await containers.create(spec)

    async def worker(self) -> UUID:
        """One that runs, as far as is known: there is no engine to ask."""
        workers = self.site.manager.store.workers
        for known in await workers.list({WorkerState.RUNNING}):
            return known.id
        spec = WorkerSpec(name=f"job-{uuid4().hex[:8]}", image="busybox")
        worker = Worker(uuid4(), spec, WorkerState.RUNNING, datetime.now(UTC), "c0ffee" * 10)
        await workers.add(worker)
        return worker.id

    async def keeps_waiting(self, path: str, ref: str) -> bool:
        """Whether it is about a worker at work, by the beginning of an id, say: there is no engine
        to ask, and such a worker is waited for longer than for an answer."""
        if not path.startswith("/v1/workers/{"):
            return False
        with contextlib.suppress(WarmbootError):
            return (await self.site.manager.store.workers.find(ref)).state in BUSY
        return False

    async def thing(self, path: str) -> UUID | None:
        """The id of what a path is about; it is made if need be."""
        makers = {
            "runtime-images": self.image,
            "runtime-snapshots": self.snapshot,
            "containers": self.container,
            "workers": self.worker,
        }
        for noun, make in makers.items():
            if path.startswith(f"/v1/{noun}/{{"):
                return await make()
        return None


@contextlib.asynccontextmanager
async def _world() -> AsyncIterator[World]:
    async with lab() as place:
        made = place.settings(
            port=free_port(),
            tokens=TOKEN,
            docker_host=f"unix://{place.root}/no-engine.sock",
            max_runtime_snapshots=5,
            pool_min_vms=0,
            pool_max_vms=0,
        )
        async with served(made) as site:
            yield World(site)


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[World, BlockingPortal]]:
    """In a thread of its own: the tests are synchronous. Rebuilds do not give way: beside real
    VMs they would get nothing for minutes."""
    with (
        pytest.MonkeyPatch.context() as patched,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_world()) as world,
    ):
        patched.setattr(process, "_give_way", lambda _: None)
        yield world, portal


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_breaks_a_manager(label: str, site: tuple[World, BlockingPortal]) -> None:
    world, portal = site

    @settings(
        max_examples=SLOW_EXAMPLES if label in SLOW else 8,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Case) -> None:
        portal.call(_aim, case, world)
        _bound(case)
        answer = case.call(base_url=world.site.url, headers=HEADERS, timeout=ANSWER_S)
        if answer.status_code >= 500:
            assert TRUTHFUL.get(answer.status_code) == answer.json()["code"], answer.text
        checks = [one for one in CHECKS if one is not not_a_server_error]
        case.validate_response(answer, checks=checks)

    operation = schema.find_operation_by_label(label)
    assert operation is not None
    config = HypothesisTestConfig(project=schema.config, modes=[HypothesisTestMode.FUZZING])
    create_test(operation=operation, test_func=check, config=config)()


async def _aim(case: Case, world: World) -> None:
    """Three of four requests are about what is there."""
    ref = str(case.path_parameters.get("ref", ""))
    at_random = zlib.crc32(repr((case.path_parameters, case.body)).encode()) % 4 == 0
    if at_random and not await world.keeps_waiting(case.path, ref):
        return
    thing = await world.thing(case.path)
    if thing is not None:
        aims = case.path_parameters.keys() & {"id", "ref"}
        case.path_parameters |= dict.fromkeys(aims, str(thing))
    known: dict[str, Callable[[], Awaitable[object]]]
    known = {"runtime_image_id": world.image, "path": image_folder}
    if isinstance(case.body, dict):
        aimed = {name: str(await known[name]()) for name in case.body.keys() & known.keys()}
        case.body = {**case.body, **aimed}


def _bound(case: Case) -> None:
    """No wait longer than the test, no stream without an end (see ``test_api_streams``)."""
    if case.path.endswith("/wait") or "timeout_s" in case.query:
        asked_s = float(case.query.get("timeout_s", LONGEST_WAIT_S))
        case.query["timeout_s"] = min(asked_s, LONGEST_WAIT_S)
    case.query.pop("follow", None)
