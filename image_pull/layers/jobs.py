"""What puller, unpack server and workers say to each other. Sans-I/O.

Puller to server, over a packet socket: a `Job` with two descriptors (the worker's data socket,
the layer's root), or a `Kill`, as words. Server to puller: one `Hello`, then an `Exit` for every
job. Over the data socket the worker reads the blob's plaintext to its end and answers with
frames: any number of `PROGRESS`, then one `REPORT` or `FAILURE`. What server and workers say is
MessagePack.

Source: docs/ARCHITECTURE.md, decisions 6 and 6a.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from guest.errors import DecodeError
from image_pull.layers.pack import pack
from image_pull.layers.record import MAX_RECORD, Jail

MAX_MESSAGE: Final = 4096
"""Most bytes of one message between puller and server."""

MAX_TEXT: Final = 1000
"""Most characters of a failure's text."""

MAX_DIGITS: Final = 20
"""Most digits of a number in a request."""

FRAME: Final = struct.Struct(">BI")


class Job(NamedTuple):
    """One layer to unpack.

    Attributes:
        number: names the job on this server.
        compression: a value of `Compression`.
        algorithm: of the diff_id: `sha256` or `sha512`.
        max_bytes: most bytes of the uncompressed tar.
        privileged: owners are set on disk.
    """

    number: int
    compression: str
    algorithm: str
    max_bytes: int
    privileged: bool


class Kill(NamedTuple):
    """End a job's worker."""

    number: int


class Hello(NamedTuple):
    """The server is ready.

    Attributes:
        jail: the best that its workers can have here.
        why: what stood in the way of the full one.
        namespaces: those it has of its own.
    """

    jail: Jail
    why: str = ""
    namespaces: tuple[str, ...] = ()


class Exit(NamedTuple):
    """A job's worker has ended.

    Attributes:
        status: exit status, or the negative number of the signal.
        why: why no worker could be started, if so.
    """

    number: int
    status: int
    why: str = ""


Request = Job | Kill
Notice = Hello | Exit
_NOTICES: Final[Mapping[str, type[Notice]]] = MappingProxyType({"Hello": Hello, "Exit": Exit})


class FrameKind(IntEnum):
    """What a worker's frame holds."""

    PROGRESS = 1
    """Nothing: work goes on."""
    REPORT = 2
    """A `LayerRecord`."""
    FAILURE = 3
    """A `Failure`."""


class FailureKind(StrEnum):
    """Whose fault it was."""

    INPUT = "input"
    LIMIT = "limit"
    LENGTH = "length"
    """More than `Job.max_bytes`; whether that was a rule or the store's room, the puller knows."""
    SPACE = "space"
    SYSTEM = "system"


class Failure(NamedTuple):
    """Why a layer was not unpacked."""

    kind: FailureKind
    text: str


def encode(message: Request | Notice | Failure) -> bytes:
    """A message as the other side reads it."""
    match message:
        case Job():
            words = (message.number, message.compression, message.algorithm, message.max_bytes)
            return " ".join(map(str, ("job", *words, int(message.privileged)))).encode()
        case Kill(number=number):
            return f"kill {number}".encode()
        case Failure():
            return pack(message)
    return pack((type(message).__name__, message))


def decode_request(data: bytes) -> Request:
    """Parse what the puller sends; the server has no `msgspec`.

    Raises:
        DecodeError: it is none of that.
    """
    match data.split(b" "):
        case [b"job", number, compression, algorithm, most, (b"0" | b"1") as privileged]:
            return Job(
                number=_digits(number),
                compression=_word(compression),
                algorithm=_word(algorithm),
                max_bytes=_digits(most),
                privileged=privileged == b"1",
            )
        case [b"kill", number]:
            return Kill(number=_digits(number))
    raise DecodeError("not a request to the unpack server")


def _digits(word: bytes) -> int:
    if not word.isdigit() or len(word) > MAX_DIGITS:
        raise DecodeError("not a number of a request to the unpack server")
    return int(word)


def _word(word: bytes) -> str:
    if not word.isalnum():
        raise DecodeError("not a word of a request to the unpack server")
    return word.decode("ascii")


def decode_notice(data: bytes) -> Notice:
    """Parse what the server sends.

    Raises:
        DecodeError: it is none of that.
    """
    import msgspec

    from guest.prepared import prepared

    try:
        name, body = msgspec.msgpack.decode(data, type=prepared(tuple[str, msgspec.Raw]))
        notice: Notice = msgspec.msgpack.decode(body, type=prepared(_NOTICES[name]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise DecodeError("not a notice of the unpack server") from error
    return notice


def decode_failure(data: bytes) -> Failure:
    """Parse a worker's failure; it may have been taken over, so nothing in it is believed.

    Raises:
        DecodeError: it is none, or too long.
    """
    import msgspec

    from guest.prepared import prepared

    try:
        failure = msgspec.msgpack.decode(data, type=prepared(Failure))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError("not a failure of an unpack worker") from error
    if len(failure.text) > MAX_TEXT or not failure.text.isprintable():
        raise DecodeError("failure of an unpack worker has no printable text")
    return failure


class FrameReader:
    """Takes a worker's bytes apart into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[FrameKind, bytes]]:
        """The frames that `data` completes.

        Raises:
            DecodeError: an unknown kind, or longer than a record may be.
        """
        self._held += data
        frames = []
        while len(self._held) >= FRAME.size:
            number, length = FRAME.unpack_from(self._held)
            try:
                kind = FrameKind(number)
            except ValueError as error:
                raise DecodeError(f"unknown frame {number} of an unpack worker") from error
            if length > (MAX_RECORD if kind is FrameKind.REPORT else MAX_MESSAGE):
                raise DecodeError(f"frame of {length} bytes of an unpack worker")
            if len(self._held) < FRAME.size + length:
                break
            frames.append((kind, bytes(self._held[FRAME.size : FRAME.size + length])))
            del self._held[: FRAME.size + length]
        return frames
