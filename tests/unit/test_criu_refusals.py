"""What CRIU refuses is a conflict, told in our words first; what failed is a failure."""

from __future__ import annotations

import pytest

from warmboot.api.problems import status_of
from warmboot.criu.refusals import dump_failure, restore_failure
from warmboot.model.errors import CheckpointError, CheckpointRefused, DiskFull

ENGINE = CheckpointError("the checkpoint failed", details="criu failed: type NOTIFY errno 0")


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        (
            "Error (criu/sk-unix.c:874): External socket is used. Consider using --ext-unix-sk",
            "a connection (Unix socket) to a program outside",
            "close the connection",
        ),
        (
            "Error (criu/sk-inet.c:191): Connected TCP socket, consider using --tcp-established",
            "it has TCP connections",
            "tcp-established",
        ),
        (
            "Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can",
            "holds a file lock",
            "release the lock",
        ),
        (
            "Error (criu/files-reg.c:1): Can't dump ghost file /x of 99 size, increase limit",
            "a large file open that was deleted",
            "ghost-limit",
        ),
        (
            "Error (criu/tty.c:1830): Found dangling tty with sid 7 pgid 7 (pts) on peer fd 0.",
            "uses a terminal that is not the worker's own",
            "docker exec -t",
        ),
        (
            "Error (criu/files-ext.c:98): Can't dump file 9 of that type [600] (anon io_uring)",
            "the kernel hands to nobody, as io_uring's",
            "switch io_uring off",
        ),
        (
            "Error (criu/parasite-syscall.c:298): Can't retrieve FDs from socket",
            "the kernel hands to nobody, as io_uring's",
            "switch io_uring off",
        ),
        (
            "Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted",
            "processes that are not root's",
            "other-users",
        ),
        (
            "Error (criu/fsnotify.c:227): fsnotify: \tCan't dump that handle",
            "watches files (inotify, fanotify)",
            "polling",
        ),
        (
            "Error (criu/fsnotify.c:312): fsnotify: Can't find suitable path for handle (75:0x9)",
            "watches files (inotify, fanotify)",
            "polling",
        ),
        (
            "Error (criu/files-ext.c:98): Can't dump file 9 of that type [20600] (chr 195:0)",
            "a kind of file or socket that cannot be put into a checkpoint",
            "close it in the program",
        ),
        (
            "Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 70475f",
            "has not accepted that connection yet",
            "unless it is overloaded",
        ),
        (
            "Error (criu/cr-dump.c:663): Can't handle non-regular mapping on 7's map 7f0000000000",
            "memory of a device mapped",
            "close the device",
        ),
    ],
)
def test_a_dump_that_criu_refuses_is_a_conflict_in_our_words(
    line: str, reason: str, remedy: str
) -> None:
    error = dump_failure("app", "it keeps running", (line,), ENGINE)
    assert isinstance(error, CheckpointRefused)
    assert status_of(error) == 409
    assert error.brief == "app could not be paused; it keeps running"
    first, *rest = error.details.splitlines()
    assert reason in first
    assert rest == [line, ENGINE.details]
    assert remedy in error.resolution


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Error (criu/sk-inet.c:9): inet: Can't bind inet socket (id 5)", "a port of the worker's"),
        ("Error (criu/mount.c:9): mnt: No mapping for 7:/data mountpoint", "mounts are not those"),
        ("Error (criu/files-reg.c:9): File app.log has bad size 7 (expect 9)", "has changed"),
    ],
)
def test_a_restore_that_criu_refuses_is_a_conflict_in_our_words(line: str, reason: str) -> None:
    error = restore_failure("app", "cp", (line,), ENGINE)
    assert isinstance(error, CheckpointRefused)
    assert reason in error.details.splitlines()[0]
    assert error.brief == "app could not be restored from cp; the checkpoint is kept"


def test_a_file_of_another_size_is_named_with_both_sizes() -> None:
    line = "Error (criu/files-reg.c:1903): File var/a log has bad size 300 (expect 12)"
    error = restore_failure("app", "cp", (line,), ENGINE)
    assert isinstance(error, CheckpointRefused)
    assert "/var/a log has 300 bytes; at the checkpoint it had 12" in error.details.splitlines()
    assert "without --keep-files" in error.resolution


def test_what_failed_without_a_reason_of_the_worker_s_stays_a_failure() -> None:
    lines = ("Error (criu/cr-dump.c:1): Dumping FAILED.",)
    for error in (
        dump_failure("a", "it runs", lines, ENGINE),
        restore_failure("a", "c", lines, ENGINE),
    ):
        assert type(error) is CheckpointError
        assert status_of(error) == 500
        assert error.resolution


def test_a_full_disk_is_called_that() -> None:
    lines = ("Error (criu/image.c:1): Can't write: No space left on device",)
    assert isinstance(dump_failure("a", "it runs", lines, ENGINE), DiskFull)


def test_a_missing_criu_is_no_refusal() -> None:
    missing = CheckpointError("failed", details='exec: "criu": executable file not found in $PATH')
    error = dump_failure("a", "it runs", (), missing)
    assert type(error) is CheckpointError
    assert "warmboot doctor --fix" in error.resolution
