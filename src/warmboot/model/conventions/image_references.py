"""Names of images, as Docker takes them: ``[REGISTRY/]NAME[:TAG][@DIGEST]``."""

from __future__ import annotations

import re

_NO_ID = r"(?![0-9a-f]{64}$)"
_AT_MOST_255 = r"(?=[^@]{1,255}(:[^:/@]*)?(@.*)?$)"
_REGISTRY = r"([a-zA-Z0-9]+([.-]+[a-zA-Z0-9]+)*(:[0-9]{1,5})?/)?"
_REPOSITORY = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
IMAGE_PATTERN = (
    rf"^{_NO_ID}{_AT_MOST_255}{_REGISTRY}{_REPOSITORY}(/{_REPOSITORY})*"
    r"(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
"""64 digits would be an id. Registry and name have 255 characters at most."""

MAX_LENGTH = 255 + len(":") + 128 + len("@sha256:") + 64
_IMAGE = re.compile(IMAGE_PATTERN)


def is_reference(text: str) -> bool:
    """Whether it can name an image."""
    return "\n" not in text and _IMAGE.match(text) is not None
