"""Which of the folders that an engine hides in a container a dump leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmboot.criu.runtime.dump import masked_in

PID = 7
HIDDEN = "147 137 0:49 / /proc/acpi ro,relatime - tmpfs tmpfs ro"
OURS = "147 137 0:24 /warmboot/empty/proc-acpi /proc/acpi ro,relatime master:5 - tmpfs tmpfs rw"
OURS_ON_DISK = "147 137 8:1 /run/warmboot/empty/proc-acpi /proc/acpi ro - ext4 /dev/sda1 rw"


def process(tmp_path: Path, *lines: str, content: str = "") -> Path:
    (tmp_path / str(PID) / "root/proc/acpi").mkdir(parents=True)
    if content:
        (tmp_path / str(PID) / "root/proc/acpi" / content).touch()
    (tmp_path / str(PID) / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("line", [HIDDEN, OURS, OURS_ON_DISK])
def test_what_is_hidden_by_emptiness_is_left_out(tmp_path: Path, line: str) -> None:
    root = "1 0 0:40 / / rw,relatime - overlay overlay rw,lowerdir=/a"
    assert masked_in(PID, process(tmp_path, root, line)) == ["/proc/acpi"]


@pytest.mark.parametrize(
    "lines",
    [
        (HIDDEN.replace("ro,relatime", "rw,relatime"),),
        ("147 137 8:1 /srv/acpi /proc/acpi ro,relatime - ext4 /dev/sda1 rw",),
        (HIDDEN, HIDDEN),
        (HIDDEN.replace("/proc/acpi", "/proc/acpi2"),),
        (),
    ],
    ids=["can be written to", "a folder of the user's", "one over the other", "elsewhere", "none"],
)
def test_everything_else_is_saved(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert masked_in(PID, process(tmp_path, *lines)) == []


def test_what_is_not_empty_is_saved(tmp_path: Path) -> None:
    assert masked_in(PID, process(tmp_path, HIDDEN, content="event")) == []


def test_a_process_that_is_gone_hides_nothing(tmp_path: Path) -> None:
    assert masked_in(PID, tmp_path) == []
