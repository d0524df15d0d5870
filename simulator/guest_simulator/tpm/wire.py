"""TPM 2.0 commands as bytes, for provisioning and for what the simulator answers itself. Sans-I/O.

Written from the TPM 2.0 Library, Part 3, and shares nothing with the product.

Source: docs/spec/attesters.md 5.2.
"""

import struct
from dataclasses import dataclass
from typing import Final

OWNER: Final = 0x4000_0001
ENDORSEMENT: Final = 0x4000_000B
PASSWORD: Final = struct.pack(">IIHBH", 9, 0x4000_0009, 0, 0, 0)
NO_SESSION: Final = 0x8001
SESSIONS: Final = 0x8002

EVICT_CONTROL: Final = 0x120
UNDEFINE_SPACE: Final = 0x122
DEFINE_SPACE: Final = 0x12A
CREATE_PRIMARY: Final = 0x131
NV_WRITE: Final = 0x137
NV_READ: Final = 0x14E
QUOTE: Final = 0x158
FLUSH_CONTEXT: Final = 0x165
NV_READ_PUBLIC: Final = 0x169
READ_PUBLIC: Final = 0x173
PCR_READ: Final = 0x17E
PCR_EXTEND: Final = 0x182

RSA: Final = 0x0001
ECC: Final = 0x0023
SIGNING_KEY: Final = 0x0005_0472
"""Fixed to this TPM and parent, made by it, used by authorisation, restricted, signs."""

AUTHORISED: Final = bytes.fromhex("0000010000")
"""What a response says of a password session."""


class TpmError(Exception):
    """A TPM answered with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"TPM response code {code:#x}")
        self.code = code


def command(code: int, body: bytes, *, sessions: bool = True) -> bytes:
    """A command around handles, authorisation and parameters."""
    tag = SESSIONS if sessions else NO_SESSION
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def response(body: bytes = b"", *, code: int = 0, sessions: bool = False) -> bytes:
    """A response; with sessions the body is the parameters alone."""
    if sessions:
        body = struct.pack(">I", len(body)) + body + AUTHORISED
    tag = SESSIONS if sessions else NO_SESSION
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def body_of(answer: bytes) -> bytes:
    """What follows the header of a response.

    Raises:
        TpmError: it has another code than success.
    """
    code = struct.unpack_from(">I", answer, 6)[0]
    if code != 0:
        raise TpmError(code)
    return answer[10:]


def code_of(request: bytes) -> int:
    """The command code."""
    code: int = struct.unpack_from(">I", request, 6)[0]
    return code


def sized(data: bytes) -> bytes:
    """Length and bytes."""
    return struct.pack(">H", len(data)) + data


def unsized(data: bytes) -> bytes:
    """The bytes that a length announces."""
    return data[2 : 2 + struct.unpack_from(">H", data)[0]]


def create_key(kind: int) -> bytes:
    """A primary key below the owner that signs quotes: RSA 2048 (RSASSA) or P-256 (ECDSA)."""
    if kind == RSA:
        parameters = struct.pack(">HHHHI", 0x10, 0x14, 0x0B, 2048, 0) + sized(b"")
    else:
        parameters = struct.pack(">HHHHH", 0x10, 0x18, 0x0B, 3, 0x10) + sized(b"") * 2
    public = struct.pack(">HHI", kind, 0x0B, SIGNING_KEY) + sized(b"") + parameters
    sensitive = sized(sized(b"") * 2)
    tail = sensitive + sized(public) + sized(b"") + struct.pack(">I", 0)
    return command(CREATE_PRIMARY, struct.pack(">I", OWNER) + PASSWORD + tail)


def make_persistent(transient: int, handle: int) -> bytes:
    """Give a key a handle that lasts."""
    handles = struct.pack(">II", OWNER, transient)
    return command(EVICT_CONTROL, handles + PASSWORD + struct.pack(">I", handle))


def flush(handle: int) -> bytes:
    """Forget a transient key."""
    return command(FLUSH_CONTEXT, struct.pack(">I", handle), sessions=False)


def extend(register: int, digest: bytes) -> bytes:
    """Extend a register of the SHA-256 bank."""
    head = struct.pack(">I", register) + PASSWORD
    return command(PCR_EXTEND, head + struct.pack(">IH", 1, 0x0B) + digest)


def read_public(handle: int) -> bytes:
    """The public area of a key."""
    return command(READ_PUBLIC, struct.pack(">I", handle), sessions=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaKey:
    """Numbers of a public key."""

    modulus: int
    exponent: int


def rsa_key_of(answer: bytes) -> RsaKey:
    """The key that a `read_public` of an RSA key gave."""
    public = unsized(body_of(answer))
    at = 8 + 2 + struct.unpack_from(">H", public, 8)[0]
    exponent = struct.unpack_from(">I", public, at + 8)[0]
    modulus = int.from_bytes(unsized(public[at + 12 :]), "big")
    return RsaKey(modulus=modulus, exponent=exponent or 65537)
