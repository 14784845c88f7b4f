"""Every command of the how-tos, as it stands there and in order, each page in a fresh folder.

What cannot run in this test is named below, with the reason. A command that is neither run nor
named, and a name that no page has any more, fails.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.managers import Lab, Manager, image_folder, lab
from tests.support.ports import free_port
from tests.support.served import served
from tests.support.tours import clean_environment, commands, walk

from warmboot.docker.tiny_image import image_archive
from warmboot.guest import AGENT_VERSION
from warmboot.images.files import describe, write_manifest

pytestmark = pytest.mark.slow

HOW_TOS = Path(__file__).parents[2] / "docs/how-to"
PAGES = sorted(page.name for page in HOW_TOS.glob("*.md"))
SERVE_THEMSELVES = {"install-on-debian.md": "storage", "try-without-root.md": "pretend"}
"""Their storage; any other page is for a manager that runs."""

TOKEN = "a-token-of-the-how-tos-0123456789abcdef"

INSTALLS = "changes this machine's packages"
SYSTEMD = "no systemd runs here; tests/packaging starts the service"
ETC = "the machine's own /etc"
FIRECRACKER = "fetches Firecracker, which `make setup` has done; tests/conformance runs it"
BUILDS = "builds a real image in minutes; the tests of tests/e2e run on one"
CONFIGURED = "a manager of its own; tests/manager/test_configured_image.py starts it"
ENGINES = "a simulated VM runs no Docker; tests/e2e/test_e2e_engines.py has a real one"
WORKERS = "needs a Docker engine with CRIU; tests/workers does each of these"

LOGINS = "needs a registry; tests/cli/test_cli_engine_logins.py gives logins"

FROZEN = "a simulated VM runs no Docker; tests/e2e/test_e2e_engines.py freezes and forks a real one"

ENGINE_PAGES = "a simulated VM runs no Docker; tests/e2e/test_e2e_engine_how_tos.py has real ones"

NOT_HERE: dict[str, dict[str, str]] = {
    "agents.md": {"warmboot": ENGINE_PAGES, "export": ENGINE_PAGES, "setpriv": ENGINE_PAGES}
    | {"docker": ENGINE_PAGES},
    "ci-jobs.md": {"warmboot": ENGINE_PAGES, "eval": ENGINE_PAGES, "docker": ENGINE_PAGES},
    "container-images.md": {"docker save": "needs a Docker engine; its output is made otherwise"},
    "database-for-every-test.md": {
        "warmboot": FROZEN,
        "eval": FROZEN,
        "docker": FROZEN,
        "echo": FROZEN,
    },
    "engines.md": {
        "warmboot engine run": ENGINES,
        "warmboot engine create tests --host-port": "a simulated VM has no network",
        "warmboot engine create code --folder": "a simulated VM has no network",
        "docker login": LOGINS,
        "warmboot engine create private": LOGINS,
        "warmboot engine login private": LOGINS,
        "DOCKER_CERT_PATH=": "a simulated VM's Docker; tests/unit/test_engine_tls.py does it",
        "export DOCKER_HOST=": "no user is named; tests/manager/test_default_engines.py names one",
        "docker run": ENGINES,
        "curl http://127.0.0.1:8080/": ENGINES,
        "curl http://$TESTCONTAINERS_HOST_OVERRIDE:8080/": ENGINES,
    },
    "housekeeping.md": {"chgrp kvm /dev/userfaultfd": "changes a device of this machine"},
    "install-on-debian.md": {
        "git clone": "REPOSITORY is the reader's own",
        "cd /opt/warmboot": "so is that folder",
        "make setup": INSTALLS,
        'export PATH="$PWD/.venv/bin:$PATH"': "the warmboot under test comes first",
        "warmboot runtime build": BUILDS,
        "groupadd": "changes this machine's users",
        "usermod": "changes this machine's users",
        "make deb": "tests/packaging builds and installs it",
        "apt-get install": INSTALLS,
        "systemctl": SYSTEMD,
        ".venv/bin/python scripts/fetch_firecracker.py": FIRECRACKER,
        "export MANAGER_HYPERVISOR=firecracker": FIRECRACKER,
    },
    "monitoring.md": {
        "apt-get install": INSTALLS,
        "cp deploy/prometheus/alerts.yml": ETC,
        "install -m 640": ETC,
        'echo -n "$WARMBOOT_TOKEN"': ETC,
        "promtool check": "tests/deploy checks this configuration with a real Prometheus",
        "systemctl": SYSTEMD,
    },
    "other-machines.md": {
        "umask": ETC,
        'echo "MANAGER_TOKENS': ETC,
        'echo "MANAGER_HOST': ETC,
        "systemctl": SYSTEMD,
        "ssh": "no ssh server runs here",
        "WARMBOOT_URL=unix://": "comes through the tunnel of ssh",
    },
    "own-kernel.md": {
        "export CONTAINER_RUNTIME_KERNEL": CONFIGURED,
        "export CONTAINER_RUNTIME_ROOTFS": CONFIGURED,
        "warmboot serve": CONFIGURED,
    },
    "postgresql.md": {
        "sudo -u postgres": "no PostgreSQL server runs here; tests/store starts its own",
        "export MANAGER_DATABASE_URL": "the same",
        "warmboot serve": "the same",
        ": > /srv/fc/store-id": "the same",
    },
    "testcontainers.md": {
        "pip install": INSTALLS,
        "warmboot": ENGINE_PAGES,
        "eval": ENGINE_PAGES,
        "python -m pytest": ENGINE_PAGES,
    },
    "troubleshooting.md": {
        "journalctl": SYSTEMD,
        "cp --sparse=always": "BACKUP is the reader's own",
    },
    "try-without-root.md": {
        "python3 -m venv": "downloads what this environment has",
        'export PATH="$PWD/.venv/bin:$PATH"': "the warmboot under test comes first",
    },
    "upgrade-and-backup.md": {
        "systemctl": SYSTEMD,
        "cd /opt/warmboot": "that folder is the reader's own",
        "make setup": INSTALLS,
        "warmboot runtime build": BUILDS,
    },
    "workers.md": {
        "warmboot doctor --fix": "changes this machine's Docker engine; tests/criu does it",
        "warmboot worker": WORKERS,
        "api=": WORKERS,
        "auth=": WORKERS,
        "curl": WORKERS,
    },
}
"""By page: how the command begins, and why it is not run."""

PLACEHOLDERS: dict[str, dict[str, str]] = {
    "container-images.md": {
        # Simulated VMs have no network.
        " -p 6379": "",
        " -p 8080": "",
        ', "ports": [{"container_port": 8080}]': "",
        "ID FROM ABOVE": "'$(sha256sum app.tar | cut -c -64)'",
    },
    "housekeeping.md": {"3f2a": "$(version 1)"},
    "install-on-debian.md": {
        "/srv/images/debian": "image",
        "warmboot doctor ": "env -u WARMBOOT_URL warmboot doctor ",  # no manager runs yet
    },
    "other-machines.md": {
        "http://manager.example.net:18080": "$WARMBOOT_URL",
        "WARMBOOT_TOKEN=…": f"WARMBOOT_TOKEN={TOKEN}",
    },
    "own-kernel.md": {
        "/srv/images/vmlinux": "image/kernel",
        "/srv/images/vmlinuz": "image/kernel",
        "/srv/images/initrd.img": "initrd.img",
        "/srv/images/rootfs.ext4": "image/rootfs.ext4",
    },
    "snapshot-versions.md": {"3f2a": "$(version 1)", "81cc": "$(version 2)"},
    "troubleshooting.md": {
        "snapshot rm SNAPSHOT": "snapshot rm $(version 3)",
        "SNAPSHOT": "$(version 1)",
        "-X DELETE http://127.0.0.1:18080/v1/runtime-snapshots/{id}": "-X DELETE $(url_of 4)",
        "{id}": "$(version 2)",
        "ID OF THE RUNTIME IMAGE": "'$(image_id)'",
        "IMAGE DIR": "debian image",
    },
    "upgrade-and-backup.md": {
        "/srv/images/debian-2": "image-2",
        "OLD": "$(version 1)",
        "SNAPSHOT": "$(version 2)",
    },
}
"""By page: what the reader has to fill in, and where the pages' manager and its image are here."""

VERSIONS = {"troubleshooting.md": 4, "upgrade-and-backup.md": 2}
"""How many a page tells of; any other has one."""

ASKED = """
curl() { command curl --fail-with-body --silent --show-error "$@"; }
version() {
    curl "$WARMBOOT_URL/v1/runtime-snapshots" | pick "one['id']" "one['version'] == $1"
}
url_of() { echo "$WARMBOOT_URL/v1/runtime-snapshots/$(version "$1")"; }
image_id() { curl "$WARMBOOT_URL/v1/runtime-images" | pick "one['id']" True; }
pick() {
    python3 -c "import json; print(*[$1 for one in json.loads(input())['items'] if $2][:1])"
}
"""
"""So that an answer of the API that tells an error ends the walk."""


def to_run(page: str) -> list[str]:
    """What is not named in ``NOT_HERE``, with what the reader has to fill in."""
    found = []
    for command in commands((HOW_TOS / page).read_text()):
        if not any(command.startswith(begin) for begin in NOT_HERE.get(page, {})):
            for words, instead in PLACEHOLDERS.get(page, {}).items():
                command = command.replace(words, instead)
            found.append(command)
    return found


def test_every_exception_is_of_a_command_that_is_there() -> None:
    for page, reasons in NOT_HERE.items():
        known = commands((HOW_TOS / page).read_text())
        unused = [one for one in reasons if not any(c.startswith(one) for c in known)]
        assert not unused, page
    for page, words in PLACEHOLDERS.items():
        text = "\n".join(commands((HOW_TOS / page).read_text()))
        assert [one for one in words if one not in text] == [], page


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
async def test_the_commands_of_a_how_to_do_what_it_says(page: str) -> None:
    async with lab() as place:
        folder, port = place.root, free_port()
        url = f"http://127.0.0.1:{port}"
        (folder / "image").symlink_to(await image_folder())
        await another_image(folder / "image-2")
        (folder / "initrd.img").write_bytes(b"070701" + bytes(104))
        (folder / "app.tar").write_bytes(image_archive("app:1", {}, {}, ["httpd"]))
        script = ASKED + "\n".join(to_run(page)).replace("http://127.0.0.1:18080", url)
        environment = clean_environment(WARMBOOT_URL=url)
        if page in SERVE_THEMSELVES:
            place.storage = folder / SERVE_THEMSELVES[page]
            await walk(script, folder, environment | simulated(place, port))
            return
        tokens = (TOKEN,) if page == "other-machines.md" else ()
        async with served(place.settings(port=port, tokens=tokens)) as running:
            manager = Manager(place, running.manager)
            await running.manager.services.images.register(name="debian", path=folder / "image")
            for _ in range(VERSIONS.get(page, 1)):
                await manager.snapshot()
            await walk(script, folder, environment)


async def another_image(folder: Path) -> None:
    shutil.copytree(await image_folder(), folder)
    with (folder / "kernel").open("ab") as kernel:
        kernel.write(bytes(4096))
    write_manifest(folder, await describe(folder, "quiet", AGENT_VERSION, {}))


def simulated(place: Lab, port: int) -> dict[str, str]:
    """What makes a manager that a page starts one of this test's own."""
    return {
        "MANAGER_PORT": str(port),
        "MANAGER_SOCKET": str(place.root / "sock"),
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_SIMULATION": str(place.simulation),
        "MANAGER_STORAGE_ROOT": str(place.storage),
        "MANAGER_DISK_FLOOR_MIB": "0",
    }
