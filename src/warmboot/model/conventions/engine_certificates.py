"""The files of an engine's certificates, in a folder of the engine's own."""

from __future__ import annotations

AUTHORITY = "ca.pem"
CLIENT_CERTIFICATE = "cert.pem"
CLIENT_KEY = "key.pem"
"""These three as Docker's clients look for them in ``DOCKER_CERT_PATH``."""

SERVER_CERTIFICATE = "server-cert.pem"
SERVER_KEY = "server-key.pem"
