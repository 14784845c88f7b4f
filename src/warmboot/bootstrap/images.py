"""The wiring of runtime images: their checks, and the use cases of the API."""

from __future__ import annotations

from dataclasses import dataclass

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.garbage import GarbageParts
from warmboot.manager.images.check_image import CheckImage, PrepareImage
from warmboot.manager.images.configured_image import ConfiguredFiles, ConfiguredImage
from warmboot.manager.images.renew_agent import RenewAgent
from warmboot.manager.images.runtime_images import RuntimeImages
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.settings import Settings


@dataclass(frozen=True, slots=True)
class ImageChecks:
    """What is done to an image before something is made of it: ``prepare`` does all of it."""

    check: CheckImage
    renew: RenewAgent
    prepare: PrepareImage


def wire_image_checks(core: Core, garbage: GarbageParts) -> ImageChecks:
    renew = RenewAgent(
        core.store,
        core.host,
        core.events,
        garbage.collect,
        garbage.image_folders,
    )
    check = CheckImage(core.store, core.host, core.events, core.attention.set)
    return ImageChecks(check, renew, PrepareImage(check, renew))


@dataclass(frozen=True, slots=True)
class ImageParts:
    images: RuntimeImages
    configured: ConfiguredImage


def wire_images(
    core: Core, garbage: GarbageParts, checks: ImageChecks, snapshots: RuntimeSnapshots
) -> ImageParts:
    images = RuntimeImages(
        core.store,
        core.host,
        core.events,
        garbage.collect,
        garbage.image_folders,
        snapshots,
        checks.check,
        auto_snapshot=core.settings.auto_snapshot,
    )
    files = _configured_files(core.settings)
    return ImageParts(images, ConfiguredImage(core.store, images, core.events, files))


def _configured_files(settings: Settings) -> ConfiguredFiles | None:
    kernel, rootfs = settings.container_runtime_kernel, settings.container_runtime_rootfs
    if kernel is None or rootfs is None:
        return None
    return ConfiguredFiles(kernel, rootfs, settings.container_runtime_initrd)
