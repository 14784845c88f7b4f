"""An engine's certificates, as Docker's clients look for them in ``DOCKER_CERT_PATH``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from warmboot.model.conventions.engine_certificates import (
    AUTHORITY,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
)
from warmboot.model.errors import WarmbootError

_FILES = {"ca": AUTHORITY, "cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}


def write_certificates(folder: Path, found: Mapping[str, str]) -> None:
    """``ca``, ``cert`` and ``key``, for nobody else to read; those that are there are replaced."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for what, name in _FILES.items():
            new = folder / f".{name}.new"
            new.unlink(missing_ok=True)
            made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(made, "w") as file:
                file.write(found[what])
            new.rename(folder / name)
    except OSError as error:
        raise WarmbootError(
            f"the certificates cannot be written to {folder}",
            details=str(error),
            resolution="name a folder that is yours",
        ) from error
