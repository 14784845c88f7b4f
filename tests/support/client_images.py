"""Images that clients of Docker ask for: of Debian's packages, and what Ryuk does, in Python.

``docker pull`` has nowhere to go in a test, so they have the names that their users know.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.images import busybox, libraries_of

from warmboot.docker.tiny_image import image_archive

REDIS = "redis:7"
RYUK = "warmboot-e2e/ryuk:1"
REGISTRY = "warmboot-e2e/registry:1"
REGISTRY_HOST = "127.0.0.1:5000"
"""Where it listens, on its host's network; without TLS, which Docker allows there."""

USER, PASSWORD = "me", "let-me-in"
"""Whom it lets in."""

_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuu3Jd./u/rH1RxB6auX5v7gLP6uWhKCgG\n"
_REGISTRY_SETTINGS = f"""
version: 0.1
storage: {{filesystem: {{rootdirectory: /images}}}}
http: {{addr: '{REGISTRY_HOST}'}}
auth: {{htpasswd: {{realm: tests, path: /htpasswd}}}}
"""

_RYUK_MODULES = "json, os, re, socket, time, urllib.parse"
_RYUK = '''
"""Ryuk's protocol: filters a line, an ACK each; when the last client is gone, all of it goes."""
import json, os, re, socket, time, urllib.parse

seconds = float(re.match("[0-9.]*", os.environ["RYUK_RECONNECTION_TIMEOUT"])[0])


def docker(method, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/var/run/docker.sock")
        sock.sendall(f"{method} {path} HTTP/1.0\\r\\nHost: docker\\r\\n\\r\\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    body = answer.partition(b"\\r\\n\\r\\n")[2]
    return json.loads(body) if body[:1] in (b"[", b"{") else None


listener = socket.create_server(("0.0.0.0", 8080))
print(time.strftime("%Y/%m/%d %H:%M:%S"), "Started!", flush=True)
filters, listening = [], True
while listening:
    client, _ = listener.accept()
    try:
        with client, client.makefile("rw") as lines:
            for line in lines:
                pairs = urllib.parse.parse_qsl(line.strip())
                filters += [{name: [value]} for name, value in pairs]
                lines.write("ACK\\n")
                lines.flush()
    except ConnectionError:
        pass  # it was killed, and had not read all
    listener.settimeout(seconds)
    try:
        listener.accept()[0].close()
    except TimeoutError:
        listening = False
for one in filters:
    wanted = urllib.parse.quote(json.dumps(one))
    for found in docker("GET", f"/containers/json?all=1&filters={wanted}"):
        print("removing", found["Names"], flush=True)
        docker("DELETE", f"/containers/{found['Id']}?force=1&v=1")
'''


def redis_image(name: str = REDIS) -> bytes:
    """With its command line, and a shell."""
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    assert server is not None, "apt-get install redis-server"
    assert client is not None, "apt-get install redis-tools"
    files = {
        "usr/bin/redis-server": Path(server).read_bytes(),
        "usr/bin/redis-cli": Path(client).read_bytes(),
        "bin/busybox": busybox().read_bytes(),
    }
    files |= _with_libraries([Path(server), Path(client)])
    command = ["redis-server", "--protected-mode", "no", "--dir", "/data"]
    return image_archive(name, files | {"data/.keep": b""}, {"bin/sh": "busybox"}, command)


def registry_image(name: str = REGISTRY) -> bytes:
    """Whoever is not ``USER`` is refused."""
    found = shutil.which("docker-registry")
    assert found is not None, "scripts/setup installs docker-registry"
    files = {
        "usr/bin/docker-registry": Path(found).read_bytes(),
        "registry.yml": _REGISTRY_SETTINGS.encode(),
        "htpasswd": _HTPASSWD.encode(),
        "images/.keep": b"",
    }
    command = ["docker-registry", "serve", "/registry.yml"]
    return image_archive(name, files | _with_libraries([Path(found)]), {}, command)


def ryuk_image(name: str = RYUK) -> bytes:
    """Of the interpreter that runs the tests, with no more of it than is used."""
    interpreter = Path(sys.executable).resolve()
    told = subprocess.run(
        [
            str(interpreter),
            *("-I", "-S", "-c"),
            f"import encodings.idna, {_RYUK_MODULES}, sys\n"
            "for one in list(sys.modules.values()):\n"
            "    print(getattr(one, '__file__', None) or '')",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    modules = [Path(one) for one in told if one.endswith((".py", ".so"))]
    files = {str(path).lstrip("/"): path.read_bytes() for path in [interpreter, *modules]}
    files |= _with_libraries([interpreter, *(path for path in modules if path.suffix == ".so")])
    files["ryuk.py"] = _RYUK.encode()
    command = [str(interpreter), "-I", "-S", "/ryuk.py"]
    return image_archive(name, files, {}, command, ["PYTHONDONTWRITEBYTECODE=1"])


def _with_libraries(binaries: list[Path]) -> dict[str, bytes]:
    return {str(path).lstrip("/"): path.read_bytes() for path in libraries_of(binaries)}
