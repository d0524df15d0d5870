"""LUKS2 headers for tests: those that cryptsetup made, and edited ones with a good checksum."""

import base64
import copy
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Final

VECTORS: Final = Path(__file__).resolve().parent.parent / "vectors" / "cdh" / "luks2.json"
BINARY: Final = 4096


def vector(name: str) -> bytes:
    """Both copies of a header that cryptsetup made."""
    document = json.loads(VECTORS.read_text())
    found = next(each for each in document["headers"] if each["name"] == name)
    return zlib.decompress(base64.b64decode(found["data"]))


def dump(name: str) -> dict[str, Any]:
    """What cryptsetup says is in it."""
    document = json.loads(VECTORS.read_text())
    found: dict[str, Any] = next(e["dump"] for e in document["headers"] if e["name"] == name)
    return found


def with_checksums(data: bytes, copy_length: int = 16384) -> bytes:
    """The same with the checksums that go with it."""
    copies = []
    for start in (0, copy_length):
        part = bytearray(data[start : start + copy_length])
        part[448:512] = bytes(64)
        part[448:480] = hashlib.sha256(part).digest()
        copies.append(bytes(part))
    return b"".join(copies) + data[2 * copy_length :]


def with_text(data: bytes, text: bytes, copy_length: int = 16384) -> bytes:
    """The same with other JSON in both copies, and good checksums."""
    area = text.ljust(copy_length - BINARY, b"\0")
    first = data[:BINARY] + area
    second = data[copy_length : copy_length + BINARY] + area
    return with_checksums(first + second + data[2 * copy_length :], copy_length)


def edited(name: str, path: str, value: object) -> bytes:
    """A header in which one member of the JSON has another value.

    Args:
        name: of the vector.
        path: names joined by `/`.
        value: the new one; None removes it.
    """
    metadata = copy.deepcopy(dump(name))
    *parts, last = path.split("/")
    place = metadata
    for part in parts:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return with_text(vector(name), json.dumps(metadata).encode())


def with_integrity(name: str) -> bytes:
    """A header as cryptsetup makes it with `--integrity hmac-sha256`."""
    metadata = copy.deepcopy(dump(name))
    metadata["segments"]["0"]["integrity"] = {
        "type": "hmac(sha256)",
        "journal_encryption": "none",
        "journal_integrity": "none",
    }
    slot = metadata["keyslots"]["0"]
    slot["key_size"] = 96
    slot["area"]["size"] = str(96 * 4000)
    return with_text(vector(name), json.dumps(metadata).encode())
