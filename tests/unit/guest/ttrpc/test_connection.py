import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import LimitError
from guest.ttrpc.connection import (
    TRANSITIONS,
    Connection,
    DataReceived,
    Event,
    FramingLost,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    Role,
    Signal,
    StreamClosedError,
    StreamFailed,
    StreamKind,
    StreamState,
)
from guest.ttrpc.frame import MAX_DATA_LENGTH, Flags, FrameHeader, FrameType, encode_frame


def frame(stream_id: int, kind: int, data: bytes = b"", flags: int = 0) -> bytes:
    header = FrameHeader(length=len(data), stream_id=stream_id, kind=kind, flags=flags)
    return header.encode() + data


def drain(connection: Connection) -> list[Event]:
    events: list[Event] = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


def events_of(role: Role, pieces: Iterable[bytes], *, open_streams: int = 0) -> list[Event]:
    connection = Connection(role)
    for _ in range(open_streams):
        connection.open_stream(b"", kind=StreamKind.STREAMING)
    events: list[Event] = []
    for piece in pieces:
        connection.feed(piece)
        events += drain(connection)
    return events


def server_with(*frames: bytes) -> tuple[Connection, list[Event]]:
    connection = Connection(Role.SERVER)
    connection.feed(b"".join(frames))
    return connection, drain(connection)


FRAMES = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.sampled_from([0, 1, 2, 3, 5, 7, 0xFFFFFFFF]),
            st.sampled_from([0, 1, 2, 3, 9]),
            st.binary(max_size=40),
            st.integers(0, 255),
        ),
        st.binary(max_size=12),
        st.just(FrameHeader(length=MAX_DATA_LENGTH + 1, stream_id=3, kind=1, flags=0).encode()),
    ),
    max_size=8,
).map(b"".join)


@given(FRAMES, st.lists(st.integers(0, 400), max_size=8), st.sampled_from(Role))
def test_the_events_are_the_same_however_the_bytes_are_cut(
    data: bytes, cuts: list[int], role: Role
) -> None:
    points = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(points)]
    whole = events_of(role, [data], open_streams=3 if role is Role.CLIENT else 0)
    cut = events_of(role, pieces, open_streams=3 if role is Role.CLIENT else 0)
    single = [data[i : i + 1] for i in range(len(data))]
    bytewise = events_of(role, single, open_streams=3 if role is Role.CLIENT else 0)
    assert whole == cut == bytewise


@given(st.binary(max_size=400), st.sampled_from(Role))
def test_any_bytes_give_events_and_nothing_is_kept_beyond_them(data: bytes, role: Role) -> None:
    connection = Connection(role)
    connection.feed(data)
    events = drain(connection)
    if FramingLost() in events:
        assert events[-1] == FramingLost()
        connection.feed(b"\x00" * 100)
        assert connection.next_event() is None


def test_a_request_opens_a_stream_and_its_response_frees_the_id() -> None:
    connection, events = server_with(frame(1, 1, b"q", 7))
    assert events == [RequestReceived(1, 7, b"q")]
    assert connection.active == 1
    assert connection.send_response(1, b"r") == frame(1, 2, b"r")
    assert connection.active == 0
    connection.feed(frame(1, 1, b"again"))
    assert drain(connection) == [RequestReceived(1, 0, b"again")]


@pytest.mark.parametrize("stream_id", [0, 2, 10, 0xFFFFFFFE])
def test_an_even_id_is_refused_on_that_id(stream_id: int) -> None:
    _, events = server_with(frame(stream_id, 1, b"q"))
    assert events == [RequestRefused(stream_id, "stream id must be odd")]


def test_an_active_id_is_refused_and_the_first_call_stays() -> None:
    connection, events = server_with(frame(5, 1, b"a"), frame(5, 1, b"b"))
    assert events == [RequestReceived(5, 0, b"a"), RequestRefused(5, "stream id already in use")]
    connection.refuse(5, b"x")
    assert connection.send_response(5, b"r") == frame(5, 2, b"r")


def test_lower_and_highest_odd_ids_are_taken() -> None:
    _, events = server_with(frame(0xFFFFFFFF, 1), frame(9, 1), frame(3, 1))
    assert [event.stream_id for event in events if isinstance(event, RequestReceived)] == [
        0xFFFFFFFF,
        9,
        3,
    ]


def test_data_for_no_stream_or_a_unary_one_is_refused() -> None:
    _, events = server_with(frame(7, 3, b"d"), frame(1, 1), frame(1, 3, b"d"))
    assert events == [
        RequestRefused(7, "Stream is no longer active"),
        RequestReceived(1, 0, b""),
        RequestRefused(1, "Stream is no longer active"),
    ]


def test_responses_and_unknown_types_mean_nothing_to_a_server() -> None:
    _, events = server_with(frame(1, 2, b"r", 255), frame(1, 9), frame(3, 0), frame(1, 1))
    assert events == [RequestReceived(1, 0, b"")]


@pytest.mark.parametrize("role", Role)
def test_a_first_byte_that_is_not_zero_loses_the_framing_at_once(role: Role) -> None:
    connection = Connection(role)
    connection.feed(b"\xff")
    assert drain(connection) == [FramingLost()]
    assert connection.next_event() is None


def test_an_oversize_frame_is_skipped_without_being_kept() -> None:
    connection = Connection(Role.SERVER)
    size = MAX_DATA_LENGTH + 1
    connection.feed(FrameHeader(length=size, stream_id=37, kind=1, flags=0).encode())
    assert connection.frame_length == 0
    for _ in range(64):
        connection.feed(bytes(65536))
        assert drain(connection) == []
        assert connection.frame_length is None
    connection.feed(b"\x00" + frame(1, 1, b"q"))
    text = "message length 4194305 exceed maximum message size of 4194304"
    assert drain(connection) == [RequestRefused(37, text), RequestReceived(1, 0, b"q")]


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    connection = Connection(Role.SERVER)
    connection.feed(frame(1, 1, bytes(MAX_DATA_LENGTH)))
    assert connection.frame_length == MAX_DATA_LENGTH
    [event] = drain(connection)
    assert isinstance(event, RequestReceived)
    assert len(event.data) == MAX_DATA_LENGTH


def test_a_client_takes_odd_ids_in_order_until_none_is_left() -> None:
    connection = Connection(Role.CLIENT)
    assert [connection.open_stream(b"")[0] for _ in range(4)] == [1, 3, 5, 7]
    connection._next_id = 0xFFFFFFFF
    assert connection.open_stream(b"q") == (0xFFFFFFFF, frame(0xFFFFFFFF, 1, b"q"))
    assert connection.is_exhausted
    with pytest.raises(LimitError):
        connection.open_stream(b"")


def test_a_request_that_is_too_long_takes_no_id() -> None:
    connection = Connection(Role.CLIENT)
    with pytest.raises(LimitError):
        connection.open_stream(bytes(MAX_DATA_LENGTH + 1))
    assert connection.open_stream(b"")[0] == 1


def test_replies_of_all_kinds_at_a_client() -> None:
    connection = Connection(Role.CLIENT)
    for _ in range(6):
        connection.open_stream(b"")
    connection.forget(11)
    pieces = [
        frame(3, 2, b"r", 0xFF),
        frame(3, 2, b"second"),
        frame(99, 2, b"unknown"),
        frame(11, 2, b"late"),
        frame(1, 3),
        frame(5, 9, b"x"),
        frame(7, 2),
        FrameHeader(length=MAX_DATA_LENGTH + 1, stream_id=9, kind=2, flags=0).encode(),
        bytes(MAX_DATA_LENGTH + 1),
    ]
    connection.feed(b"".join(pieces))
    text = "message length 4194305 exceed maximum message size of 4194304"
    assert drain(connection) == [
        ResponseReceived(3, b"r"),
        StreamFailed(1, "protocol error: unexpected frame of type 3 received", False),
        StreamFailed(5, "protocol error: unexpected frame of type 9 received", False),
        ResponseReceived(7, b""),
        StreamFailed(9, text, True),
    ]
    assert connection.active == 0


def test_an_oversize_reply_to_nobody_is_dropped() -> None:
    header = FrameHeader(length=MAX_DATA_LENGTH + 1, stream_id=9, kind=2, flags=0).encode()
    assert events_of(Role.CLIENT, [header, bytes(MAX_DATA_LENGTH + 1)]) == []


def test_a_client_stream_carries_messages_and_ends_with_a_response() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    stream_id, opening = client.open_stream(
        b"open", kind=StreamKind.STREAMING, flags=Flags.REMOTE_OPEN
    )
    server.feed(opening)
    assert drain(server) == [RequestReceived(1, 2, b"open")]
    server.accept_streaming(stream_id)
    server.feed(client.send_data(stream_id, b"m"))
    server.feed(client.send_data(stream_id, b""))
    closing = client.close_data(stream_id)
    assert closing == bytes.fromhex("00000000000000010305")
    server.feed(closing)
    assert drain(server) == [
        DataReceived(1, b"m", False),
        DataReceived(1, b"", False),
        DataReceived(1, None, True),
    ]
    with pytest.raises(StreamClosedError):
        client.send_data(stream_id, b"more")
    with pytest.raises(StreamClosedError):
        client.close_data(stream_id)
    client.feed(server.send_response(stream_id, b"done"))
    assert drain(client) == [ResponseReceived(1, b"done")]
    assert client.active == server.active == 0


def test_a_server_stream_ends_with_closing_data_in_both_forms() -> None:
    for last, event in (
        (encode_frame(1, FrameType.DATA, 1, b"z"), DataReceived(1, b"z", True)),
        (encode_frame(1, FrameType.DATA, 5, b""), DataReceived(1, None, True)),
        (encode_frame(1, FrameType.DATA, 1, b""), DataReceived(1, None, True)),
    ):
        client = Connection(Role.CLIENT)
        client.open_stream(b"q", kind=StreamKind.STREAMING, flags=Flags.REMOTE_CLOSED)
        client.feed(encode_frame(1, FrameType.DATA, 0, b"a") + last)
        assert drain(client) == [DataReceived(1, b"a", False), event]
        assert client.active == 0


def test_wrong_data_on_a_stream_is_refused_by_a_server() -> None:
    server, _ = server_with(frame(11, 1, b"o", 2))
    server.accept_streaming(11)
    server.feed(frame(11, 3, b"x", 1) + frame(11, 3, b"", 5) + frame(11, 3, b"late"))
    assert drain(server) == [
        RequestRefused(11, "data close message cannot include data"),
        DataReceived(11, None, True),
        RequestRefused(11, "data message after close"),
    ]
    server.feed(b"")
    assert server.send_data(11, b"ok") == frame(11, 3, b"ok")
    assert server.close_data(11) == frame(11, 3, b"", 5)
    with pytest.raises(StreamClosedError):
        server.send_response(11, b"")


def test_data_after_the_end_fails_the_stream_at_a_client() -> None:
    client = Connection(Role.CLIENT)
    client.open_stream(b"q", kind=StreamKind.STREAMING, flags=Flags.REMOTE_OPEN)
    client.feed(frame(1, 3, b"", 5) + frame(1, 3, b"more"))
    assert drain(client) == [
        DataReceived(1, None, True),
        StreamFailed(1, "data message after close", False),
    ]


def test_a_response_that_is_too_long_leaves_the_stream_open() -> None:
    server, _ = server_with(frame(1, 1))
    with pytest.raises(LimitError):
        server.send_response(1, bytes(MAX_DATA_LENGTH + 1))
    assert server.send_response(1, b"no") == frame(1, 2, b"no")


def test_no_move_leads_out_of_closed_and_every_state_can_end() -> None:
    assert all(state is not StreamState.CLOSED for state, _ in TRANSITIONS)
    for state in set(StreamState) - {StreamState.CLOSED}:
        assert TRANSITIONS[state, Signal.RESPONSE] is StreamState.CLOSED
