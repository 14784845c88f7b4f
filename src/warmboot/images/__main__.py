"""``python -m warmboot.images build [--output DIR] [--force]``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from warmboot.images.build import build_runtime_image, recipe
from warmboot.images.files import check_sizes, load_manifest
from warmboot.model.errors import ImageDamaged, WarmbootError
from warmboot.model.runtime_image import RuntimeImageManifest

DEFAULT_OUTPUT = Path(".state/runtime-image")


def good_image(folder: Path) -> RuntimeImageManifest | None:
    """The manifest of an image that is there, complete, and made as one would be made now."""
    try:
        manifest = load_manifest(folder)
        check_sizes(folder, manifest)
    except ImageDamaged:
        return None
    return manifest if manifest.labels.get("recipe") == recipe() else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m warmboot.images", description=__doc__)
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build a runtime image from Debian packages")
    build.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the image's folder")
    build.add_argument("--force", action="store_true", help="build even if a good one is there")
    options = parser.parse_args(arguments)

    output: Path = options.output
    if not options.force and (found := good_image(output)):
        print(f"{output} is there: {found.digest}")
        return 0
    try:
        manifest = asyncio.run(build_runtime_image(output, _print_progress))
    except WarmbootError as error:
        _print_error(error)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    print(f"{output}: {manifest.digest}")
    return 0


def _print_error(error: WarmbootError) -> None:
    """As the command line shows errors, which this does not know."""
    told = (("error:", error.brief), ("  why:", error.details), (" next:", error.resolution))
    print("\n".join(f"{label} {text}" for label, text in told if text), file=sys.stderr)


def _print_progress(what: str, part: float) -> None:
    print(f"[{part:4.0%}] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
