"""What a boot of the image leaves in the vTPM and in TDX's registers, from the files. Sans-I/O.

Source: docs/spec/podvm-image.md 14.5, 18.5; TCG PC Client Platform Firmware Profile;
systemd-stub(7), "TPM PCR Notes".
"""

import hashlib
import stat
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from podvm import gpt, pe

STUB_SECTIONS: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids",
)  # fmt: skip
"""The order in which systemd-stub measures what a unified kernel image has."""

ACTION: Final = b"Calling EFI Application from Boot Option"
RETURNING: Final = b"Exit Boot Services Invocation"
RETURNED: Final = b"Exit Boot Services Returned with Success"
SEPARATOR: Final = bytes(4)


def extended(digests: Iterable[bytes], algorithm: str = "sha256") -> bytes:
    """The value of a register after extensions from zero."""
    value = bytes(hashlib.new(algorithm).digest_size)
    for digest in digests:
        value = hashlib.new(algorithm, value + digest).digest()
    return value


def stub_events(sections: Mapping[str, bytes], algorithm: str = "sha256") -> list[bytes]:
    """What systemd-stub extends for the sections of its image: name with NUL, then content."""
    digests = []
    for name in STUB_SECTIONS:
        if name in sections:
            for data in (name.encode() + b"\0", sections[name]):
                digests.append(hashlib.new(algorithm, data).digest())
    return digests


def pcr11(sections: Mapping[str, bytes], algorithm: str = "sha256") -> bytes:
    """PCR 11 when nothing but the stub extends it."""
    return extended(stub_events(sections, algorithm), algorithm)


def boot_events(uki: bytes, algorithm: str = "sha256") -> list[bytes]:
    """PCR 4: the firmware calls the boot option, loads the image, and the stub its kernel."""
    kernel = pe.sections(uki)[".linux"]
    return [
        hashlib.new(algorithm, ACTION).digest(),
        hashlib.new(algorithm, SEPARATOR).digest(),
        pe.authenticode(uki, algorithm),
        pe.authenticode(kernel, algorithm),
    ]


def partition_event(table: bytes) -> bytes:
    """What the firmware measures of the partition table, from the first sectors of the disk."""
    header = table[gpt.SECTOR : gpt.SECTOR + 92]
    entries = [
        table[offset : offset + 128]
        for offset in range(2 * gpt.SECTOR, 34 * gpt.SECTOR, 128)
        if any(table[offset : offset + 16])
    ]
    return header + struct.pack("<Q", len(entries)) + b"".join(entries)


def kernel_events(uki: bytes, algorithm: str = "sha256") -> list[bytes]:
    """PCR 9: the kernel's EFI stub measures its options and the initrd that it was handed."""
    sections = pe.sections(uki)
    options = sections[".cmdline"].decode("utf-8").encode("utf-16-le") + b"\0\0"
    data = (options, handed_initrd(sections))
    return [hashlib.new(algorithm, part).digest() for part in data]


def handed_initrd(sections: Mapping[str, bytes]) -> bytes:
    """The section `.initrd`, padded, and the archive with `os-release` that stub 257 appends."""
    initrd = sections[".initrd"]
    extra = (
        _record(1, stat.S_IFDIR | 0o555, b".extra")
        + _record(2, stat.S_IFREG | 0o444, b".extra/os-release", sections[".osrel"])
        + _record(0, 0, b"TRAILER!!!").replace(b"0b00000000T", b"0B00000000T")
    )
    return initrd + bytes(-len(initrd) % 4) + extra


def _record(inode: int, mode: int, name: bytes, data: bytes = b"") -> bytes:
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def rtmr1_events(uki: bytes, table: bytes) -> list[bytes]:
    """RTMR 1: what PCR 4 and 5 get, in the order in which a TDX firmware reports it."""
    called, separator, *images = boot_events(uki, "sha384")
    parts = hashlib.sha384(partition_event(table)).digest()
    left = [hashlib.sha384(text).digest() for text in (RETURNING, RETURNED)]
    return [called, separator, parts, *images, *left]


def predict(uki: bytes, table: bytes) -> dict[str, dict[str, str]]:
    """All registers by kind: PCRs in the sha256 bank, RTMRs with sha384.

    Args:
        uki: the unified kernel image.
        table: the first 34 sectors of the disk.
    """
    sections = pe.sections(uki)
    pcrs = {
        "4": extended(boot_events(uki)),
        "8": bytes(32),
        "9": extended(kernel_events(uki)),
        "11": pcr11(sections),
    }
    rtmr1 = extended(rtmr1_events(uki, table), "sha384")
    rtmr2 = extended([*stub_events(sections, "sha384"), *kernel_events(uki, "sha384")], "sha384")
    return {
        "pcr_sha256": {name: value.hex() for name, value in pcrs.items()},
        "rtmr_sha384": {"1": rtmr1.hex(), "2": rtmr2.hex()},
    }
