"""A program of some hundred bytes, for x86-64: sends every datagram to UDP port 80 back.

A static busybox has no UDP server. It is its container's first process, so only SIGKILL ends it.
"""

from __future__ import annotations

import struct

from warmboot.docker.tiny_image import image_archive

PORT = 80
_ADDRESS, _HEADERS = 0x40_0000, 64 + 56
_CODE = bytes.fromhex(
    "6a2958 6a025f 6a025e 31d2 0f05"  # rax = socket(AF_INET, SOCK_DGRAM, 0)
    "89c3"  # mov ebx, eax
    "52 6802000050"  # push 0 and 0.0.0.0:80 as a sockaddr_in
    "89df 4889e6 6a105a 6a3158 0f05"  # bind(ebx, rsp, 16)
    "4881ec00100000"  # sub rsp, 4096: again:
    "4c8d8c2400080000 41c70110000000"  # r9 = rsp + 2048: 16, the length of
    "4c8d842410080000"  # r8 = rsp + 2064: the sender's address
    "4531d2 badc050000 4889e6 89df 6a2d58 0f05"  # rax = recvfrom(ebx, rsp, 1500, 0, r8, r9)
    "6a104159 4889c2 6a2c58 0f05"  # sendto(ebx, rsp, rax, 0, r8, 16)
    "ebc9"  # jmp again
)


def udp_echo_image(name: str) -> bytes:
    return image_archive(name, {"echo": _elf()}, {}, ["/echo"])


def _elf() -> bytes:
    size = _HEADERS + len(_CODE)
    entry = _ADDRESS + _HEADERS
    identity = b"\x7fELF\x02\x01\x01"
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 4096)
    return header + load + _CODE
