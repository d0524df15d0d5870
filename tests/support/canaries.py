"""How a secret may look once it was written somewhere, and which part of it is looked for."""

import base64
import re
from collections.abc import Iterable
from typing import Final

SHORTEST: Final = 12
"""Bytes of the shortest secret that is looked for: a shorter one is in texts by chance."""

LONGEST: Final = 48
"""Bytes that are looked for, from the middle of a longer one."""

_DIGEST: Final = re.compile(rb"sha256:[0-9a-f]{64}")


def part_of(value: bytes | bytearray | memoryview) -> bytes:
    """What is looked for of a secret; empty where it would be found by chance.

    A layer's private options hold the digest of its content, which the image publishes: what is
    looked for is the longest part beside such a digest.
    """
    value = max(_DIGEST.split(value), key=len)
    length = len(value)
    start = max(0, (length - LONGEST) // 2)
    part = bytes(value[start : start + LONGEST])
    return part if length >= SHORTEST and len(set(part)) > 3 else b""  # not zeros, not "aaaa..."


def forms(secret: bytes) -> set[bytes]:
    """How a secret may look: plain, hex, as Python or JSON shows bytes, base64 at any offset."""
    found = {secret, secret.hex().encode(), repr(secret)[2:-1].encode()}
    found |= {between.join(map(str, secret)).encode() for between in (", ", ",")}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            encoded = encode(b"\0" * offset + secret).rstrip(b"=")
            found.add(encoded[(4 if offset else 0) : -1])
    return found


def find_secret(secrets: Iterable[bytes], contents: Iterable[tuple[str, bytes]]) -> list[str]:
    """Names of the contents that hold one of the secrets, in whatever form."""
    contents = [(name, content) for name, content in contents if content]
    if not contents:
        return []
    looks = [form for secret in secrets for form in forms(secret)]
    return [name for name, content in contents if any(look in content for look in looks)]
