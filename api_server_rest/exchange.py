"""One request and its answer, as HTTP server and handler hand them over. Sans-I/O."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from guest.errors import GuestError


class BodyError(GuestError):
    """A request's body could not be read to its end; its connection is of no more use."""

    code = "body"


class BodyTooLongError(BodyError):
    """A request's body is longer than what was asked for."""

    code = "limit"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked.

    Attributes:
        method: in upper case.
        target: of the request line, as it was sent.
        peer: the peer's numeric address.
        has_origin: whether a browser sent it for a page.
        read_body: gives the body, at most so many bytes; raises `BodyError`.
    """

    method: str
    target: str
    peer: str
    has_origin: bool
    read_body: Callable[[int], Awaitable[bytes]]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent back.

    Attributes:
        status: of HTTP.
        body: of any length.
        headers: besides date and length.
        close: end the connection afterwards.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    close: bool = False
