"""Addresses of servers as peers write them: Unix, vsock and TCP. Sans-I/O.

Source: docs/spec/ttrpc.md 1.1.
"""

import ipaddress
import re
from typing import Final

import msgspec

from guest.errors import InvalidInputError

MAX_PATH_LENGTH: Final = 107
"""Most bytes of a Unix socket's path, or of an abstract name."""

ANY_CID: Final = 0xFFFF_FFFF
"""The vsock context id that a listener uses for all; spelled `-1`."""

_DECIMAL: Final = re.compile(r"[0-9]{1,10}\Z", re.ASCII)


class UnixAddress(msgspec.Struct, frozen=True):
    """A Unix stream socket.

    Attributes:
        path: of the file, perhaps relative; for an abstract socket its name without the zero.
        abstract: whether it is a name and no file.
    """

    path: str
    abstract: bool = False

    def __str__(self) -> str:
        return f"unix://{'@' if self.abstract else ''}{self.path}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A numeric IP address and a port; port 0 lets a listener choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{self.netloc}"

    @property
    def netloc(self) -> str:
        """`ip:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class VsockAddress(msgspec.Struct, frozen=True):
    """A context id and a port of the virtual machine's socket family."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock://{-1 if self.cid == ANY_CID else self.cid}:{self.port}"


Address = UnixAddress | TcpAddress | VsockAddress


def parse_address(text: str) -> Address:
    """Parse an address with its scheme; the prefix is case-sensitive and must be there.

    Raises:
        InvalidInputError: `Scheme of "<text>" is not supported`, or what is wrong behind it.
    """
    if text.startswith("unix://@"):
        return UnixAddress(_name(text, "unix://@"), abstract=True)
    if text.startswith("unix://"):
        return UnixAddress(_name(text, "unix://"))
    if text.startswith("vsock://"):
        return _parse_vsock(text)
    if text.startswith("tcp://"):
        return parse_tcp(text.removeprefix("tcp://"))
    raise InvalidInputError(f'Scheme of "{text}" is not supported')


def parse_tcp(text: str) -> TcpAddress:
    """Parse `ip:port`; IPv6 stands in brackets.

    Raises:
        InvalidInputError: no numeric address, or no port.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host, version = host[1:-1], 6
    else:
        version = 4
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is not <ip>:<port>") from error
    if not colon or address.version != version:
        raise InvalidInputError(f"{text!r} is not <ip>:<port>")
    return TcpAddress(host, _number(port, 0xFFFF, text))


def _name(text: str, prefix: str) -> str:
    name = text.removeprefix(prefix)
    if not name or "\0" in name:
        raise InvalidInputError(f"{text!r} names no socket")
    return name


def _parse_vsock(text: str) -> VsockAddress:
    parts = text.removeprefix("vsock://").split(":")
    if len(parts) != 2:
        raise InvalidInputError(f"{text!r} is not vsock://<cid>:<port>")
    cid = ANY_CID if parts[0] == "-1" else _number(parts[0], ANY_CID, text)
    return VsockAddress(cid, _number(parts[1], 0xFFFF_FFFF, text))


def _number(digits: str, limit: int, text: str) -> int:
    if _DECIMAL.match(digits) is None or int(digits) > limit:
        raise InvalidInputError(f"{digits!r} in {text!r} is no number up to {limit}")
    return int(digits)
