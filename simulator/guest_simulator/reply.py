"""An answer, and what faults make of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from guest_simulator.faults import Fault

CHUNK: Final = 256 * 1024
"""Bytes written at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A piece of a file, as a body."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer before faults.

    Attributes:
        headers: as sent; without `Content-Type` the answer has none.
        body: bytes, or a part of a file that is read while it is sent.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart = b""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.body.length if isinstance(self.body, FilePart) else len(self.body)


def apply_faults(reply: Reply, faults: tuple[Fault, ...]) -> Reply:
    """The answer after all faults that change status, headers or bytes."""
    for fault in faults:
        if fault.changes_answer:
            body = fault.body if fault.body is not None else b""
            status = fault.status if fault.status is not None else reply.status
            reply = replace(reply, status=status, body=body)
        if fault.changes_body:
            reply = replace(reply, body=_damage(bytes_of(reply.body), fault))
        if fault.headers:
            merged = {**reply.headers, **fault.headers}
            reply = replace(reply, headers={k: v for k, v in merged.items() if v})
    return reply


def bytes_of(body: bytes | FilePart) -> bytes:
    """The whole body."""
    if isinstance(body, bytes):
        return body
    with body.path.open("rb") as file:
        file.seek(body.start)
        return file.read(body.length)


def _damage(body: bytes, fault: Fault) -> bytes:
    changed = bytearray(body)
    if fault.flip is not None and -len(changed) <= fault.flip < len(changed):
        changed[fault.flip] ^= 1
    if fault.resize < 0:
        del changed[max(0, len(changed) + fault.resize) :]
    return bytes(changed + bytes(max(0, fault.resize)))


def pieces(body: bytes | FilePart) -> Iterator[memoryview | bytes]:
    """The body in pieces of at most `CHUNK` bytes; a file is read as they are taken."""
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]
        return
    left = body.length
    with body.path.open("rb") as file:
        file.seek(body.start)
        while left > 0 and (piece := file.read(min(CHUNK, left))):
            left -= len(piece)
            yield piece
