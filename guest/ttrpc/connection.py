"""One ttRPC connection, either role: bytes to events, calls to bytes. Sans-I/O.

The caller feeds what it read and takes events one at a time, so that it can stop between two
frames. Nothing here waits, and of a frame that is too long nothing is kept.

Source: docs/spec/ttrpc.md 2, 6, 8.
"""

from enum import Enum
from typing import Final

import msgspec

from guest.errors import GuestError, LimitError
from guest.ttrpc.frame import (
    FRAMING_LOST_LENGTH,
    HEADER_LENGTH,
    MAX_DATA_LENGTH,
    MAX_STREAM_ID,
    Flags,
    FrameHeader,
    FrameType,
    encode_frame,
    oversize_text,
)

TEXT_EVEN_ID: Final = "stream id must be odd"
TEXT_ID_IN_USE: Final = "stream id already in use"
TEXT_NOT_ACTIVE: Final = "Stream is no longer active"
TEXT_CLOSE_WITH_DATA: Final = "data close message cannot include data"
TEXT_AFTER_CLOSE: Final = "data message after close"
TEXT_UNEXPECTED: Final = "protocol error: unexpected frame of type {kind} received"


class Role(Enum):
    """Which end this is."""

    CLIENT = "client"
    SERVER = "server"


class StreamKind(Enum):
    """What the method of a stream says about it; flags do not decide it."""

    UNARY = "unary"
    STREAMING = "streaming"


class StreamState(Enum):
    """Which direction of a stream still carries messages."""

    __hash__ = object.__hash__  # a member is equal to itself alone; Enum's own is slow

    OPEN = "open"
    REMOTE_CLOSED = "remote-closed"
    """The peer sends no more; we may."""
    LOCAL_CLOSED = "local-closed"
    """We send no more; the peer may."""
    CLOSED = "closed"
    """Over; the id is free."""


class Signal(Enum):
    """What moves a stream from one state to the next."""

    __hash__ = object.__hash__  # as above

    REMOTE_CLOSE = "remote-close"
    LOCAL_CLOSE = "local-close"
    RESPONSE = "response"


TRANSITIONS: Final = {
    (StreamState.OPEN, Signal.REMOTE_CLOSE): StreamState.REMOTE_CLOSED,
    (StreamState.OPEN, Signal.LOCAL_CLOSE): StreamState.LOCAL_CLOSED,
    (StreamState.OPEN, Signal.RESPONSE): StreamState.CLOSED,
    (StreamState.REMOTE_CLOSED, Signal.LOCAL_CLOSE): StreamState.CLOSED,
    (StreamState.REMOTE_CLOSED, Signal.RESPONSE): StreamState.CLOSED,
    (StreamState.LOCAL_CLOSED, Signal.REMOTE_CLOSE): StreamState.CLOSED,
    (StreamState.LOCAL_CLOSED, Signal.RESPONSE): StreamState.CLOSED,
}
"""Every move there is; what is not here is an error of the side that tries it."""


class StreamClosedError(GuestError):
    """We tried to send on a stream, or in a direction, that is closed."""

    code = "stream-closed"


class RequestReceived(msgspec.Struct, frozen=True):
    """A client opened a stream; `data` is the encoded Request."""

    stream_id: int
    flags: int
    data: bytes


class ResponseReceived(msgspec.Struct, frozen=True):
    """A server ended a stream; `data` is the encoded Response."""

    stream_id: int
    data: bytes


class DataReceived(msgspec.Struct, frozen=True):
    """A message of a streaming call (None: no message), perhaps the peer's last."""

    stream_id: int
    data: bytes | None
    is_end: bool


class RequestRefused(msgspec.Struct, frozen=True):
    """Server: answer INVALID_ARGUMENT and `message` on this id; a call active there goes on."""

    stream_id: int
    message: str


class StreamFailed(msgspec.Struct, frozen=True):
    """Client: this call failed and is over.

    Attributes:
        is_oversize: the reply was too long; otherwise the server broke the protocol.
    """

    stream_id: int
    message: str
    is_oversize: bool


class FramingLost(msgspec.Struct, frozen=True):
    """What arrives are no frames: close without a word. There are no more events."""


Event = (
    RequestReceived | ResponseReceived | DataReceived | RequestRefused | StreamFailed | FramingLost
)


class _Stream(msgspec.Struct):
    kind: StreamKind
    state: StreamState


class Connection:
    """The frames and streams of one connection; holds at most what was fed and one frame."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._skipping: FrameHeader | None = None
        self._to_skip = 0
        self._is_lost = False

    @property
    def active(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def is_exhausted(self) -> bool:
        """Client: whether all ids are used up and a new connection is needed."""
        return self._next_id > MAX_STREAM_ID

    @property
    def frame_length(self) -> int | None:
        """Bytes of data that the next frame keeps in memory; None until its header is here."""
        if self._skipping is not None or len(self._buffer) < HEADER_LENGTH:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        return length if length <= MAX_DATA_LENGTH else 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes that the peer sent."""
        if not self._is_lost:
            self._buffer += data

    def next_event(self) -> Event | None:
        """What the next complete frame means; None until more is fed."""
        while not self._is_lost:
            if self._skipping is not None:
                event = self._skip()
                if self._skipping is not None:
                    return None
            else:
                frame = self._take_frame()
                if frame is None:
                    return FramingLost() if self._is_lost else None
                event = self._judge(*frame) if self._skipping is None else None
            if event is not None:
                return event
        return None

    def _take_frame(self) -> tuple[FrameHeader, bytes] | None:
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0]:
            self._is_lost = True
            buffer.clear()
            return None
        if len(buffer) < HEADER_LENGTH:
            return None
        header = FrameHeader.decode(bytes(buffer[:HEADER_LENGTH]))
        assert header.length < FRAMING_LOST_LENGTH
        if header.length > MAX_DATA_LENGTH:
            del buffer[:HEADER_LENGTH]
            self._skipping, self._to_skip = header, header.length
            return header, b""
        end = HEADER_LENGTH + header.length
        if len(buffer) < end:
            return None
        data = bytes(memoryview(buffer)[HEADER_LENGTH:end])
        del buffer[:end]
        return header, data

    def _skip(self) -> Event | None:
        header = self._skipping
        assert header is not None
        count = min(self._to_skip, len(self._buffer))
        del self._buffer[:count]
        self._to_skip -= count
        if self._to_skip:
            return None
        self._skipping = None
        text = oversize_text(header.length)
        if self._role is Role.SERVER:
            return RequestRefused(header.stream_id, text)
        return self._fail(header.stream_id, text, is_oversize=True)

    def _judge(self, header: FrameHeader, data: bytes) -> Event | None:
        if self._role is Role.SERVER:
            return self._judge_as_server(header, data)
        return self._judge_as_client(header, data)

    def _judge_as_server(self, header: FrameHeader, data: bytes) -> Event | None:
        stream_id = header.stream_id
        if header.kind == FrameType.REQUEST:
            if stream_id % 2 == 0:
                return RequestRefused(stream_id, TEXT_EVEN_ID)
            if stream_id in self._streams:
                return RequestRefused(stream_id, TEXT_ID_IN_USE)
            self._streams[stream_id] = _Stream(StreamKind.UNARY, StreamState.OPEN)
            return RequestReceived(stream_id, header.flags, data)
        if header.kind == FrameType.DATA:
            stream = self._streams.get(stream_id)
            if stream is None or stream.kind is StreamKind.UNARY:
                return RequestRefused(stream_id, TEXT_NOT_ACTIVE)
            event = self._take_data(stream, header, data)
            return RequestRefused(stream_id, event) if isinstance(event, str) else event
        return None

    def _judge_as_client(self, header: FrameHeader, data: bytes) -> Event | None:
        stream = self._streams.get(header.stream_id)
        if stream is None:
            return None
        if header.kind == FrameType.RESPONSE:
            self._move(header.stream_id, Signal.RESPONSE)
            return ResponseReceived(header.stream_id, data)
        if header.kind == FrameType.DATA and stream.kind is StreamKind.STREAMING:
            event = self._take_data(stream, header, data)
            return self._fail(header.stream_id, event) if isinstance(event, str) else event
        return self._fail(header.stream_id, TEXT_UNEXPECTED.format(kind=header.kind))

    def _take_data(self, stream: _Stream, header: FrameHeader, data: bytes) -> DataReceived | str:
        """The message of a Data frame, or what is wrong with it."""
        is_end = bool(header.flags & Flags.REMOTE_CLOSED)
        if stream.state is StreamState.REMOTE_CLOSED:
            return TEXT_AFTER_CLOSE
        if is_end and data and self._role is Role.SERVER:
            return TEXT_CLOSE_WITH_DATA
        if is_end:
            self._move(header.stream_id, Signal.REMOTE_CLOSE)
        is_nothing = not data and bool(header.flags & (Flags.NO_DATA | Flags.REMOTE_CLOSED))
        return DataReceived(header.stream_id, None if is_nothing else data, is_end)

    def _fail(self, stream_id: int, text: str, *, is_oversize: bool = False) -> Event | None:
        if self._streams.pop(stream_id, None) is None:
            return None
        return StreamFailed(stream_id, text, is_oversize)

    def _move(self, stream_id: int, signal: Signal) -> None:
        stream = self._streams.get(stream_id)
        following = None if stream is None else TRANSITIONS.get((stream.state, signal))
        if stream is None or following is None:
            raise StreamClosedError(f"stream {stream_id} is closed for {signal.value}")
        stream.state = following
        if following is StreamState.CLOSED:
            del self._streams[stream_id]

    def open_stream(
        self, data: bytes, *, kind: StreamKind = StreamKind.UNARY, flags: Flags = Flags.NONE
    ) -> tuple[int, bytes]:
        """Client: the next id and the Request frame, to be written before any other.

        Args:
            data: the encoded Request.
            kind: what the method is.
            flags: REMOTE_OPEN when Data frames of ours follow, REMOTE_CLOSED when none do;
                nothing for a unary call.

        Raises:
            LimitError: the Request is too long, or the ids are used up (`is_exhausted`).
        """
        assert self._role is Role.CLIENT
        if self.is_exhausted:
            raise LimitError("no stream id is left on this connection")
        stream_id = self._next_id
        frame = encode_frame(stream_id, FrameType.REQUEST, flags, data)
        self._next_id += 2
        state = StreamState.LOCAL_CLOSED if flags & Flags.REMOTE_CLOSED else StreamState.OPEN
        self._streams[stream_id] = _Stream(kind, state)
        return stream_id, frame

    def accept_streaming(self, stream_id: int) -> None:
        """Server: the method that was just asked for streams; Data frames may arrive."""
        self._streams[stream_id].kind = StreamKind.STREAMING

    def send_data(self, stream_id: int, data: bytes) -> bytes:
        """The frame of one message of a streaming call.

        Raises:
            LimitError: the message is too long.
            StreamClosedError: we closed the stream, or it is over.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is StreamState.LOCAL_CLOSED:
            raise StreamClosedError(f"stream {stream_id} is closed for data")
        return encode_frame(stream_id, FrameType.DATA, Flags.NONE, data)

    def close_data(self, stream_id: int) -> bytes:
        """The frame after which we send no more on the stream.

        Raises:
            StreamClosedError: it is closed already.
        """
        self._move(stream_id, Signal.LOCAL_CLOSE)
        flags = Flags.REMOTE_CLOSED | Flags.NO_DATA
        return encode_frame(stream_id, FrameType.DATA, flags, b"")

    def send_response(self, stream_id: int, data: bytes) -> bytes:
        """Server: the frame that ends a stream; its id is free again.

        Raises:
            LimitError: the Response is too long; the stream stays open for another.
            StreamClosedError: there is no such stream.
        """
        frame = encode_frame(stream_id, FrameType.RESPONSE, Flags.NONE, data)
        self._move(stream_id, Signal.RESPONSE)
        return frame

    def refuse(self, stream_id: int, data: bytes) -> bytes:
        """Server: the answer to `RequestRefused`; no stream changes."""
        return encode_frame(stream_id, FrameType.RESPONSE, Flags.NONE, data)

    def forget(self, stream_id: int) -> None:
        """Give up a stream without a word; a late reply to it is ignored."""
        self._streams.pop(stream_id, None)
