"""Entries of our log, and the record written ahead, byte for byte."""

import hashlib
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.eventlog.entry import (
    Entry,
    WriteAhead,
    domain_of,
    event_text,
    read_entries,
)
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.wire import Cursor

ALGORITHMS = st.sampled_from(HashAlgorithm)
TEXTS = st.text(max_size=50).map(str.encode)
ENTRIES = st.builds(Entry, register=st.integers(0, 2**32 - 1), algorithm=ALGORITHMS, text=TEXTS)


@pytest.fixture
def published(vectors: Path) -> Any:
    return json.loads((vectors / "eventlog" / "aael.json").read_text())


def entry_of(vector: Any) -> Entry:
    domain, operation, content = vector["text"].split(" ", 2)
    return Entry(
        register=vector["register"],
        algorithm=HashAlgorithm(vector["algorithm"]),
        text=event_text(domain, operation, content),
    )


@pytest.mark.spec("attestation-agent", 31)
def test_entries_are_those_that_are_published(published: Any) -> None:
    for vector in published["entries"]:
        entry = entry_of(vector)
        assert entry.digest.hex() == vector["digest"]
        if vector["encoded"] is not None:
            assert entry.encode().hex() == vector["encoded"]
            assert list(read_entries(entry.encode())) == [entry]
    assert len(entry_of(published["entries"][4]).encode()) == 246


def test_the_digest_covers_the_whole_event_data() -> None:
    entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"a b c")
    data = struct.pack("<II", 0x4141454C, 5) + b"a b c"
    assert entry.digest == hashlib.sha384(data).digest()
    assert entry.encode().endswith(struct.pack("<I", len(data)) + data)


def test_the_record_is_the_published_one(published: Any) -> None:
    record = WriteAhead(
        offset=0,
        expected=bytes.fromhex(published["registers"][0]),
        text=b"domain operation content",
    )
    assert record.encode().hex() == published["record"]
    assert WriteAhead.decode(record.encode(), HashAlgorithm.SHA384) == record


@pytest.mark.parametrize("length", [0, 7, 8, 55])
def test_a_record_that_is_cut_short_is_none(length: int) -> None:
    with pytest.raises(DecodeError, match=r"^Failed to read wal cache\."):
        WriteAhead.decode(bytes(length), HashAlgorithm.SHA384)


@given(st.integers(0, 2**64 - 1), st.binary(min_size=48, max_size=48), TEXTS)
def test_a_record_reads_back(offset: int, expected: bytes, text: bytes) -> None:
    record = WriteAhead(offset=offset, expected=expected, text=text)
    assert WriteAhead.decode(record.encode(), HashAlgorithm.SHA384) == record


@given(st.lists(ENTRIES, max_size=4))
def test_a_log_reads_back(entries: list[Entry]) -> None:
    assert list(read_entries(b"".join(entry.encode() for entry in entries))) == entries


@given(ENTRIES)
def test_every_truncation_of_an_entry_is_an_error(entry: Entry) -> None:
    data = entry.encode()
    for length in range(1, len(data)):
        with pytest.raises(DecodeError):
            list(read_entries(data[:length]))


@given(ENTRIES, st.data())
def test_no_changed_byte_passes_but_that_of_the_register(entry: Entry, data: st.DataObject) -> None:
    encoded = bytearray(entry.encode())
    at = data.draw(st.integers(4, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecodeError):
        list(read_entries(bytes(encoded)))


@given(st.binary(max_size=200))
def test_any_bytes_give_entries_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert Entry.read(Cursor(data)).encode() == data
    with suppress(DecodeError):
        assert WriteAhead.decode(data, HashAlgorithm.SM3).encode() == data


def test_the_domain_is_what_stands_before_the_first_space() -> None:
    assert domain_of(b"a b c") == b"a"
    assert domain_of(b"a") == b"a"
