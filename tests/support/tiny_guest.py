"""A guest of some hundred bytes: counts in its memory and prints each number on the serial port.

The same code runs in 32-bit protected mode and in 64-bit long mode, as it uses only instructions
that both encode alike. So one ELF file boots everywhere: Firecracker enters it in long mode, and
with ``pvh=True`` QEMU's ``-kernel`` (and Firecracker too) enters it in protected mode.

The counter lives in RAM, not in a register: a restored guest that goes on from the right number has
its memory back.
"""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

LOAD_ADDRESS = 0x100_0000
TOUCHED_FROM = 0x200_0000
PAGE = 4096
MAX_TOUCH_MIB = 960  # long mode starts with the first GiB mapped
TICK_TSC = 50_000_000
"""About 20 ms between two numbers."""

_ELF_HEADER, _PROGRAM_HEADER = 64, 56
_COM1, _LINE_STATUS, _TRANSMITTER_EMPTY = 0x3F8, 0x3FD, 0x20
_XEN_PHYS32_ENTRY = 18


def write(path: Path, *, touch_mib: int = 0, pvh: bool = False, tick_tsc: int = TICK_TSC) -> Path:
    """Write the guest as an ELF kernel that first writes to ``touch_mib`` MiB of memory."""
    if not 0 <= touch_mib <= MAX_TOUCH_MIB:
        raise ValueError(f"touch_mib is 0 to {MAX_TOUCH_MIB}")
    path.write_bytes(_elf(_code(touch_mib, tick_tsc), pvh))
    return path


def last_number(log: Path) -> int:
    """The last complete number in a serial log; 0 if there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            found = numbers(file.read())
    except FileNotFoundError:
        return 0
    return found[-1] if found else 0


def numbers(printed: bytes) -> list[int]:
    """All complete numbers among what a guest printed, in order."""
    return [int(line) for line in printed.split(b"\n")[:-1] if line.strip().isdigit()]


async def counts_past(
    log: Path, number: int, timeout_s: float = 30.0, every_s: float = 0.01
) -> int:
    """Wait until a greater number stands in the serial log."""
    deadline = time.monotonic() + timeout_s
    while (now := last_number(log)) <= number:
        assert time.monotonic() < deadline, f"{log} stands at {now}"
        await asyncio.sleep(every_s)
    return now


class _Assembler:
    """Bytes with labels; jumps are one byte long."""

    def __init__(self) -> None:
        self.code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def put(self, text: str, *words: int) -> None:
        """Bytes in hex, then 32-bit words."""
        self.code += bytes.fromhex(text)
        for word in words:
            self.code += struct.pack("<I", word)

    def label(self, name: str) -> None:
        self._labels[name] = len(self.code)

    def jump(self, opcode: str, name: str) -> None:
        self.put(opcode + "00")
        self._jumps.append((len(self.code) - 1, name))

    def finish(self) -> bytes:
        for at, name in self._jumps:
            struct.pack_into("b", self.code, at, self._labels[name] - (at + 1))
        return bytes(self.code)


def _code(touch_mib: int, tick_tsc: int) -> bytes:
    """The program, followed by its counter and the buffer that numbers are written into."""
    size = 256
    counter = LOAD_ADDRESS + _ELF_HEADER + 2 * _PROGRAM_HEADER + 32 + size
    buffer_end = counter + 32
    a = _Assembler()
    a.put("bb", counter)  # mov ebx, counter
    a.put("b9", touch_mib * (1024 * 1024 // PAGE))  # mov ecx, pages
    a.put("85c9")  # test ecx, ecx
    a.jump("74", "touched")  # jz
    a.put("bf", TOUCHED_FROM)  # mov edi, TOUCHED_FROM
    a.label("touch")
    a.put("890f")  # mov [edi], ecx
    a.put("81c7", PAGE)  # add edi, PAGE
    a.put("83e901")  # sub ecx, 1
    a.jump("75", "touch")  # jnz
    a.label("touched")
    # A newline first: a firmware may have printed on the line before.
    a.put("bf", buffer_end - 1)  # mov edi, the buffer's last byte
    a.put("c6070a")  # mov byte [edi], newline
    a.jump("eb", "print")  # jmp
    a.label("next")
    a.put("8b03 83c001 8903")  # mov eax, [ebx]; add eax, 1; mov [ebx], eax
    a.put("bf", buffer_end - 1)  # mov edi, the buffer's last byte
    a.put("c6070a")  # mov byte [edi], newline
    a.put("b9", 10)  # mov ecx, 10
    a.label("digit")
    a.put("31d2 f7f1")  # xor edx, edx; div ecx
    a.put("80c230 83ef01 8817")  # add dl, '0'; sub edi, 1; mov [edi], dl
    a.put("85c0")  # test eax, eax
    a.jump("75", "digit")  # jnz
    a.label("print")
    a.put("ba", _LINE_STATUS)  # mov edx, line status
    a.label("wait")
    a.put("ec a8")  # in al, dx; test al,
    a.code.append(_TRANSMITTER_EMPTY)
    a.jump("74", "wait")  # jz
    a.put("ba", _COM1)  # mov edx, COM1
    a.put("8a07 ee 83c701")  # mov al, [edi]; out dx, al; add edi, 1
    a.put("81ff", buffer_end)  # cmp edi, buffer_end
    a.jump("75", "print")  # jne
    a.put("0f31 89c6")  # rdtsc; mov esi, eax
    a.label("delay")
    a.put("0f31 29f0")  # rdtsc; sub eax, esi
    a.put("3d", tick_tsc)  # cmp eax, tick_tsc
    a.jump("72", "delay")  # jb
    a.jump("eb", "next")  # jmp
    code = a.finish()
    assert len(code) <= size
    return code.ljust(size, b"\x90") + bytes(32)


def _elf(code: bytes, pvh: bool) -> bytes:
    """ELF header, two program headers, a note of 32 bytes, the code: loaded as one piece."""
    note_offset = _ELF_HEADER + 2 * _PROGRAM_HEADER
    entry = LOAD_ADDRESS + note_offset + 32
    size = note_offset + 32 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,  # an executable
        62,  # for x86-64
        1,
        entry,
        _ELF_HEADER,
        0,
        0,
        _ELF_HEADER,
        _PROGRAM_HEADER,
        2 if pvh else 1,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 7, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, PAGE)
    at = LOAD_ADDRESS + note_offset
    notes = struct.pack("<IIQQQQQQ", 4, 4, note_offset, at, at, 24, 24, 4)
    note = struct.pack("<III4sQ", 4, 8, _XEN_PHYS32_ENTRY, b"Xen\0", entry)
    return header + load + notes + note.ljust(32, b"\0") + code
