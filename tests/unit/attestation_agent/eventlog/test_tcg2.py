"""Firmware's log: where it ends, what is in it, and what is refused."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.eventlog.tcg2 import SYNTHETIC_HEADER, parse_log
from guest.errors import DecodeError
from guest_simulator.tdx.ccel import (
    BOOT,
    SHA1,
    SHA256,
    SHA384,
    FirmwareEvent,
    area_of,
    header_of,
    log_of,
)

EVENTS = st.lists(
    st.builds(FirmwareEvent, st.integers(0, 4), st.integers(1, 17), st.binary(max_size=40)),
    max_size=5,
)


@pytest.mark.parametrize("fill", [0xFF, 0x00])
@pytest.mark.parametrize("algorithms", [(SHA384,), (SHA1, SHA256, SHA384)])
def test_a_log_ends_at_its_marker_whatever_its_algorithms(
    fill: int, algorithms: tuple[tuple[int, str], ...]
) -> None:
    log = log_of(BOOT, algorithms)
    parsed = parse_log(area_of(log, fill=fill))
    assert parsed.length == len(log)
    assert [(event.register, event.kind, event.data) for event in parsed.events] == [
        (event.register, event.kind, event.data) for event in BOOT
    ]
    assert [number for number, _ in parsed.events[0].digests] == [n for n, _ in algorithms]


def test_a_log_without_a_marker_ends_at_its_end() -> None:
    log = log_of(BOOT)
    assert parse_log(log).length == len(log)
    assert parse_log(log + b"\xff" * 3).length == len(log)
    assert parse_log(b"").events == ()


def test_a_log_without_header_knows_the_usual_algorithms() -> None:
    log = log_of(BOOT)
    header = 32 + struct.unpack_from("<I", log, 28)[0]
    assert len(parse_log(log[header:]).events) == len(BOOT)


def test_our_own_header_announces_sha384_and_sm3() -> None:
    assert len(SYNTHETIC_HEADER) == 69
    assert SYNTHETIC_HEADER.hex().endswith("020000000c0030001200200000")
    with pytest.raises(DecodeError, match="Missing digest size for algorithm: 0xb"):
        parse_log(SYNTHETIC_HEADER + struct.pack("<IIIH", 1, 6, 1, 0x0B) + bytes(36))


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (struct.pack("<III", 1, 6, 17), "17 digests"),
        (struct.pack("<IIIH", 1, 6, 1, 0x99), "Missing digest size for algorithm: 0x99"),
        (struct.pack("<IIIH", 1, 6, 1, 0x0C) + bytes(47), "expected 48 more"),
        (struct.pack("<IIII", 1, 6, 0, 9) + bytes(8), "expected 9 more"),
        (b"\1\2\3", "expected 4 more"),
    ],
)
def test_an_event_that_is_none_is_an_error(tail: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        parse_log(log_of(BOOT) + tail)


def test_a_header_that_lies_about_sizes_is_an_error() -> None:
    log = bytearray(log_of(()))
    log[32 + 30] = 20
    with pytest.raises(DecodeError, match="gives algorithm 0xc 20 bytes"):
        parse_log(bytes(log))
    log = bytearray(log_of(()))
    log[32 + 24] = 17
    with pytest.raises(DecodeError, match="17 algorithms"):
        parse_log(bytes(log))


def test_a_log_longer_than_its_limit_is_an_error() -> None:
    with pytest.raises(DecodeError, match="at most"):
        parse_log(bytes(4 * 1024 * 1024 + 1))


def test_the_table_that_points_to_the_log_is_what_linux_reads() -> None:
    table = header_of(65536)
    assert (table[:4], table[36], len(table)) == (b"CCEL", 2, 56)
    assert struct.unpack_from("<Q", table, 40) == (65536,)


@given(EVENTS)
def test_built_logs_read_back_and_their_truncations_never_read_as_more(
    events: list[FirmwareEvent],
) -> None:
    log = log_of(events)
    parsed = parse_log(area_of(log, size=len(log) + 8))
    assert [event.data for event in parsed.events] == [event.data for event in events]
    for length in range(len(log)):
        with suppress(DecodeError):
            assert len(parse_log(log[:length]).events) < max(1, len(events))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_log_or_a_decode_error(data: bytes) -> None:
    for start in (b"", SYNTHETIC_HEADER):
        with suppress(DecodeError):
            parsed = parse_log(start + data)
            assert parsed.length <= len(start + data)
