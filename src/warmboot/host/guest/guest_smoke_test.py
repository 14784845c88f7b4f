"""Runs a throw-away container in a guest, to verify that containers can be run there.

The image is the guest agent's own, which its warm-up has left in the guest.
"""

from __future__ import annotations

import asyncio

from warmboot.host.guest import guest_containers
from warmboot.host.guest.guest_link import GuestLink
from warmboot.images.warm_up_image import WARM_UP_TAG
from warmboot.model.container import ContainerSpec
from warmboot.model.errors import ContainerError, GuestError

SMOKE_TEST = ContainerSpec(name="probe", image=WARM_UP_TAG, command=("/bin/true",))


async def run_smoke_test(link: GuestLink, timeout_s: float) -> None:
    """Return when the container has ended with 0.

    ``ContainerError`` if Docker refuses it or it ends otherwise, ``GuestError`` if there is no
    answer, or not within ``timeout_s`` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if not await link.docker.has_image(SMOKE_TEST.image):
                await link.warm_up()  # a guest that forgets the image: its agent has the archive
            created = await guest_containers.ensure_created(link, SMOKE_TEST)
            await link.docker.start(created.docker_id)
            exit_code = await link.docker.wait_stopped(created.docker_id)
    except TimeoutError as error:
        raise GuestError(
            f"a container in {link.vm_id} did not end",
            details=f"{SMOKE_TEST.image} ran for {timeout_s:g} s",
            resolution="see the VM's console.log",
        ) from error
    if exit_code != 0:
        raise ContainerError(
            f"a container in {link.vm_id} ended with {exit_code}",
            details=f"{SMOKE_TEST.image} should end with 0",
        )
