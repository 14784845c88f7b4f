"""What every Docker does with the names of images: the real one and the simulated one."""

from __future__ import annotations

import pytest
from tests.support.registry import untagged

from warmboot.docker.client import DockerClient
from warmboot.docker.tiny_image import image_archive
from warmboot.model.errors import WarmbootError

REPOSITORY = "warmboot-test/names"


async def check_names(docker: DockerClient) -> None:
    one = image_archive(f"{REPOSITORY}:one", {"one": b"1"}, {}, ["/one"])
    two = image_archive(f"{REPOSITORY}:two", {"two": b"2"}, {}, ["/two"])
    assert await docker.load_image(one) == [f"{REPOSITORY}:one"]
    assert await docker.load_image(two) == [f"{REPOSITORY}:two"]
    first = await docker.image_digest(f"{REPOSITORY}:one")
    second = await docker.image_digest(f"{REPOSITORY}:two")
    assert first != second

    # An archive's image without a name is told by its id, and keeps the names that it has here.
    assert await docker.load_image(untagged(one)) == [first]
    assert await docker.image_digest(f"{REPOSITORY}:one") == first

    # It may be named by its id or another name, and a name can be taken from another image,
    for image in (first, f"{REPOSITORY}:one"):
        await docker.tag(image, REPOSITORY, "also")
        assert await docker.image_digest(f"{REPOSITORY}:also") == first
        await docker.tag(image, REPOSITORY, "two")
        assert await docker.image_digest(f"{REPOSITORY}:two") == first
    # which is still there, under its id.
    assert await docker.image_digest(second) == second

    nobody = f"{REPOSITORY}:nobody"
    assert not await docker.has_image(nobody)
    for refused in ((nobody, REPOSITORY, "some"), (first, "Not/A/Name", "1")):
        with pytest.raises(WarmbootError):
            await docker.tag(*refused)
    assert not await docker.has_image(f"{REPOSITORY}:some")
