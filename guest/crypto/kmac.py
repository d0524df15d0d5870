"""KMAC256: the door to pycryptodome, which is loaded with its first use. Sans-I/O.

Neither `hashlib` nor `cryptography` has cSHAKE, which KMAC is made of.

Source: NIST SP 800-185 section 4; docs/spec/kbs-protocol.md section 6.
"""

from typing import Protocol, cast

from guest.errors import UnsupportedError
from guest.secret import Secret


class _Mac(Protocol):
    def update(self, data: bytes) -> object: ...

    def digest(self) -> bytes: ...


class _Library(Protocol):
    def new(self, *, key: bytes, mac_len: int, custom: bytes) -> _Mac: ...


def verify_available() -> None:
    """Insist that `kmac256` can be used here.

    Raises:
        UnsupportedError: pycryptodome is not installed.
    """
    _load()


def kmac256(key: Secret, data: bytes, length: int) -> Secret:
    """The code of `data` under `key`, without customisation.

    Args:
        key: at least 32 bytes, the algorithm's strength.
        data: any bytes.
        length: bytes wanted, at least 8; other lengths give unrelated codes.

    Raises:
        UnsupportedError: pycryptodome is not installed.
    """
    mac = _load().new(key=key.reveal(), mac_len=length, custom=b"")
    mac.update(data)
    return Secret(mac.digest())


def _load() -> _Library:
    try:
        from Crypto.Hash import KMAC256
    except ImportError as error:
        raise UnsupportedError("KMAC256 needs pycryptodome, which is not installed") from error
    return cast(_Library, KMAC256)
