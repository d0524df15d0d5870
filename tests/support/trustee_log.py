"""An event log as the verifier reads it, strictly; written from its rules alone.

It shares nothing with the product, and refuses what the verifier refuses.

Source: docs/spec/attesters.md 2.1 and 2.2.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

SIZES: Final = {0x04: 20, 0x0B: 32, 0x0C: 48, 0x0D: 64, 0x12: 32}
NAMES: Final = {0x04: "sha1", 0x0B: "sha256", 0x0C: "sha384", 0x0D: "sha512", 0x12: "sm3"}
KINDS: Final = {
    *range(0x13), *range(0x80000000, 0x8000000D), 0x80000010, 0x800000E0, 0x800000E1, 0x800000E2,
}  # fmt: skip
EVENT_TAG: Final = 6
AAEL: Final = b"LEAA"
SHA384: Final = 0x0C
SM3: Final = 0x12


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """One event of a log."""

    register: int
    kind: int
    digests: dict[int, bytes]
    data: bytes

    @property
    def aael(self) -> tuple[str, str, str] | None:
        """Domain, operation and content; None for events of others."""
        if self.kind != EVENT_TAG or self.data[:4] != AAEL:
            return None
        (length,) = struct.unpack_from("<I", self.data, 4)
        domain, operation, content = self.data[8 : 8 + length].decode("utf-8").split(" ", 2)
        return domain, operation, content

    @property
    def digest_matches_event(self) -> bool:
        """Whether every digest is that of the whole event data."""
        return all(
            hashlib.new(NAMES[number], self.data).digest() == digest
            for number, digest in self.digests.items()
        )


def parse(log: bytes) -> tuple[SeenEvent, ...]:
    """All events after the header, which must be there; fails as the verifier does."""
    register, kind, size = struct.unpack_from("<II20xI", log)
    assert (kind, log[8:28]) == (3, bytes(20)), "no Spec ID event"
    spec, at = log[32 : 32 + size], 32 + size
    (count,) = struct.unpack_from("<I", spec, 24)
    announced = dict(struct.unpack_from("<HH", spec, 28 + 4 * i) for i in range(count))
    consumed = 28 + 4 * count + 1 + spec[28 + 4 * count]
    assert consumed == size, "Unexpected data size consumed for detecting digests"
    assert all(SIZES[number] == length for number, length in announced.items())
    events: list[SeenEvent] = []
    while True:
        assert len(log) - at >= 8, "no end marker"
        if log[at : at + 8] in (b"\xff" * 8, bytes(8)):
            return tuple(events)
        register, kind, digests = struct.unpack_from("<III", log, at)
        assert kind in KINDS, f"Unknown event type detected: {kind:#x}"
        at += 12
        found: dict[int, bytes] = {}
        for _ in range(digests):
            (number,) = struct.unpack_from("<H", log, at)
            assert number in announced, f"Missing digest size for algorithm: {number:#x}"
            found[number] = log[at + 2 : at + 2 + announced[number]]
            at += 2 + announced[number]
        (length,) = struct.unpack_from("<I", log, at)
        data = log[at + 4 : at + 4 + length]
        assert len(data) == length, "event data is cut short"
        events.append(SeenEvent(register, kind, found, data))
        at += 4 + length


def replay(events: tuple[SeenEvent, ...], algorithm: int) -> dict[int, bytes]:
    """Register to its value after all events, from zeros."""
    values: dict[int, bytes] = {}
    for event in events:
        digest = event.digests.get(algorithm)
        if digest is not None:
            before = values.get(event.register, bytes(SIZES[algorithm]))
            values[event.register] = hashlib.new(NAMES[algorithm], before + digest).digest()
    return values
