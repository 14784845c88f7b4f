"""``warmboot create``: a container that ``warmboot start`` boots and starts."""

from __future__ import annotations

from warmboot.cli.commands.container.docker_options import DockerOptions
from warmboot.cli.commands.container.run import Asked, Image, RunCommand, Words
from warmboot.cli.docker.spread import spread
from warmboot.cli.drive import drive

__all__ = ["RunCommand", "create"]


@spread
def create(image: Image, asked: Asked, options: DockerOptions, command: Words = None) -> None:
    """Create a container without starting it, and print its id.

    It is booted, and its image is pulled, when it is started: warmboot start.
    """
    work = asked.work(image, command, options)
    print(drive(work.created()))
