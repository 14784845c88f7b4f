"""The process that serves folders to a VM: whose rights it has, what it shows, when it ends."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from tests.folders.conftest import OWNER_UID, Make, Site, own
from tests.support.nfs_client import NfsError

from warmboot.host.vm.leftovers import users_of
from warmboot.model.errors import HostError
from warmboot.model.tenants.host_folder import HostFolder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
]

NOENT, ACCES, EXIST, INVAL, ROFS, STALE, PERM = 2, 13, 17, 22, 30, 70, 1
DEVICE, SOCKET, PIPE = 4, 6, 7


def status(raised: pytest.ExceptionInfo[NfsError]) -> int:
    return raised.value.status


def test_what_one_side_writes_the_other_reads(site: Site) -> None:
    client, root = site.mounted()
    (site.folder / "from host").write_text("hello")
    assert client.read(client.lookup(root, "from host")) == b"hello"
    made = client.make_folder(root, "sub")
    file = client.create(made, "from guest", 0o640)
    client.write(file, b"good", stable=0)
    client.write(file, b"bye", offset=4)
    client.commit(file)
    assert (site.folder / "sub" / "from guest").read_bytes() == b"goodbye"
    found = (site.folder / "sub" / "from guest").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (OWNER_UID, 0o640)
    with (site.folder / "from host").open("a") as appended:
        appended.write(" again")
    assert client.read(client.lookup(root, "from host")) == b"hello again"
    client.rename(made, "from guest", root, "moved")
    assert client.read(file) == b"goodbye"
    client.set(file, size=4)
    assert (site.folder / "moved").read_bytes() == b"good"
    client.remove(root, "moved")
    assert not (site.folder / "moved").exists()
    with pytest.raises(NfsError) as raised:
        client.attributes(file)
    assert status(raised) == STALE


def test_it_has_the_owners_rights_and_no_more(site: Site) -> None:
    client, root = site.mounted()
    (site.folder / "secret").write_text("of root")
    (site.folder / "secret").chmod(0o600)
    secret = client.lookup(root, "secret")
    assert client.access(secret) == 0
    with pytest.raises(NfsError) as raised:
        client.read(secret)
    assert status(raised) == ACCES
    (site.folder / "mine").write_text("1")
    os.chown(site.folder / "mine", OWNER_UID, OWNER_UID)
    mine = client.lookup(root, "mine")
    assert client.access(mine) == 1 | 4 | 8
    site.folder.chmod(0o500)  # a right that is lost while it serves
    with pytest.raises(NfsError) as raised:
        client.create(root, "another")
    assert status(raised) == ACCES


def test_a_change_of_owner_succeeds_and_changes_nothing(site: Site) -> None:
    client, root = site.mounted()
    file = client.create(root, "file")
    client.set(file, uid=0, mode=0o4755)
    found = (site.folder / "file").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (OWNER_UID, 0o755)
    assert client.attributes(file).uid == OWNER_UID


def test_nothing_leads_out(site: Site, tmp_path: Path) -> None:
    client, root = site.mounted()
    (tmp_path / "outside").write_text("secret")
    client.link_to(root, "out", str(tmp_path))
    client.link_to(root, "up", "..")
    for name in ("out", "up"):
        link = client.lookup(root, name)
        assert client.attributes(link).kind == 5
        with pytest.raises(NfsError):
            client.lookup(link, "outside")
        with pytest.raises(NfsError):
            client.read(link)
    assert client.lookup(root, "..") == root
    for name in ("../outside", "", "a/b", "out/outside"):
        with pytest.raises(NfsError) as raised:
            client.lookup(root, name)
        assert status(raised) == INVAL
    # A folder that is exchanged for a link while somebody has it.
    held = client.make_folder(root, "held")
    (site.folder / "held").rename(site.folder / "was")
    (site.folder / "held").symlink_to(tmp_path)
    with pytest.raises(NfsError):
        client.lookup(held, "outside")
    client.create(held, "planted")
    assert (site.folder / "was" / "planted").exists(), "it is where the folder is by now"
    assert not (tmp_path / "planted").exists()


def test_devices_and_sockets_are_refused(site: Site) -> None:
    client, root = site.mounted()
    for kind in (3, DEVICE, SOCKET):
        with pytest.raises(NfsError) as raised:
            client.make_node(root, "node", kind)
        assert status(raised) == PERM
    os.mknod(site.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site.folder / "docker.sock"))
        for name in ("null", "docker.sock"):
            file = client.lookup(root, name)
            with pytest.raises(NfsError) as raised:
                client.read(file)
            assert status(raised) == INVAL
            with pytest.raises(NfsError) as raised:
                client.write(file, b"x")
            assert status(raised) == INVAL
    client.make_node(root, "pipe", PIPE)
    assert stat.S_ISFIFO((site.folder / "pipe").stat().st_mode)


def test_a_read_only_folder_can_only_be_read(make: Make, tmp_path: Path) -> None:
    first, second = own(tmp_path, "first"), own(tmp_path, "second")
    (first / "file").write_text("kept")
    os.chown(first / "file", OWNER_UID, OWNER_UID)
    site = make(HostFolder(str(first), read_only=True), HostFolder(str(second)))
    site.start()
    client, root = site.mounted()
    file = client.lookup(root, "file")
    assert client.read(file) == b"kept"
    assert client.access(file) == 1
    for change in (
        lambda: client.create(root, "new"),
        lambda: client.write(file, b"x"),
        lambda: client.remove(root, "file"),
        lambda: client.set(file, mode=0o600),
    ):
        with pytest.raises(NfsError) as raised:
            change()
        assert status(raised) == ROFS
    other = client.mount(site.serving.folders[1].id)
    client.create(other, "new")
    assert (second / "new").exists()
    with pytest.raises(NfsError) as raised:
        client.mount("../..")
    assert status(raised) == NOENT


def test_a_folder_that_its_owner_may_not_enter_is_named(make: Make, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "inner").mkdir(parents=True)
    private.chmod(0o700)
    for path in (private / "inner", tmp_path / "missing"):
        site = make(HostFolder(str(path)))
        with pytest.raises(HostError, match=f"{path} cannot be given to a VM"):
            site.start()
        site.serving.folder.joinpath("folders.log").unlink()
        site.serving.folder.rmdir()


def test_handles_are_good_after_a_restart(site: Site) -> None:
    client, root = site.mounted()
    folder = root
    for depth in range(12):
        folder = client.make_folder(folder, f"level{depth}")
    file = client.create(folder, "file")
    client.write(file, b"there")
    client.rename(folder, "file", folder, "renamed")
    gone = client.create(root, "gone")
    site.kill()
    assert client.ended()
    (site.folder / "gone").unlink()
    site.start()
    again = site.client()
    assert again.read(file) == b"there"
    again.write(file, b"T")
    assert again.lookup(folder, "renamed") == file
    with pytest.raises(NfsError) as raised:
        again.attributes(gone)
    assert status(raised) == STALE


def test_a_folder_that_is_gone_at_a_restart_is_stale_until_it_is_back_and_others_are_served(
    make: Make, tmp_path: Path
) -> None:
    gone, stays = (own(tmp_path, name) for name in ("gone", "stays"))
    site = make(HostFolder(str(gone)), HostFolder(str(stays)))
    site.start()
    (_, of_gone), (_, of_stays) = site.mounted(0), site.mounted(1)
    away = gone.rename(tmp_path / "away")
    site.kill()
    site.start(all_of_them=False)
    client = site.client()
    client.create(of_stays, "file")
    assert (stays / "file").exists()
    with pytest.raises(NfsError) as raised:
        client.attributes(of_gone)
    assert status(raised) == STALE
    away.rename(gone)
    site.kill()
    site.start()
    site.client().create(of_gone, "file")
    assert (gone / "file").exists(), "it was put back"


def test_it_has_a_limit_of_memory_and_ends_before_its_vm(site: Site) -> None:
    (pid,) = users_of(site.serving.folder)
    limits = Path(f"/proc/{pid}/limits").read_text()
    (most,) = [line.split()[3:5] for line in limits.splitlines() if "Max data size" in line]
    assert most == [str(512 << 20)] * 2
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


def test_a_file_that_is_made_twice_is_made_once(site: Site) -> None:
    client, root = site.mounted()
    made = client.create_once(root, "lock", b"12345678")
    assert client.create_once(root, "lock", b"12345678") == made, "its answer was lost"
    with pytest.raises(NfsError) as raised:
        client.create_once(root, "lock", b"87654321")
    assert status(raised) == EXIST
    unwritable = client.create(root, "object", 0o444)
    client.write(unwritable, b"git does so")
    assert (site.folder / "object").read_bytes() == b"git does so"


def test_all_of_many_files_are_listed_while_some_come_and_go(site: Site) -> None:
    client, root = site.mounted()
    names = {f"file {number}" for number in range(500)}
    for name in names:
        (site.folder / name).touch()
    assert sorted(client.list(root)) == sorted([".", "..", *names])
    for name in sorted(names)[:250]:
        client.remove(root, name)
    assert len(client.list(root, 1 << 17)) == 252


def test_it_ends_with_its_vm(site: Site) -> None:
    site.mounted()
    site.vmm.kill()
    assert site.has_ended()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\n\r\n" + bytes(64),
        b"\xff\xff\xff\xff" + bytes(64),
        b"\x80\x00\x00\x04" + bytes(4),
    ],
)
def test_nonsense_ends_a_connection_and_no_other(site: Site, nonsense: bytes) -> None:
    client, root = site.mounted()
    other = site.client()
    other.send(nonsense)
    assert other.ended()
    for handle in (b"", b"x", bytes(64), root[:8] + b"\xff" * 40):
        with pytest.raises(NfsError):
            client.attributes(handle)
    with pytest.raises(AssertionError, match="refused"):
        client.call(100003, 99)
    with pytest.raises(AssertionError, match="refused"):
        client.call(100003, 3, b"\0\0\0\1")
    assert client.attributes(root).kind == 2
