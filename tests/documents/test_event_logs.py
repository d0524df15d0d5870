"""Firmware's logs of four machines: where they end, what they replay to, whose entries they hold.

Built ones have the published sizes, counts and, of two logs and all own entries, the published
digests, so that they replay to the published registers.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.replay import assemble, find_mismatch, replay
from attestation_agent.eventlog.tcg2 import parse_log
from guest.crypto.digest import HashAlgorithm
from guest_simulator.tdx.ccel import SHA1, SHA384, FirmwareEvent, area_of, log_of
from support import trustee_log
from support.documents import Documents

SM3: Final = (0x12, "sm3")
ALIBABA: Final = "CCEL_AAEL_alibabacloud"
CSV: Final = "CCEL_data_csv"
NAMES: Final = ("CCEL_data_ovmf", "CCEL_data", ALIBABA, CSV)


@pytest.fixture
def published(vectors: Path) -> Any:
    return json.loads((vectors / "eventlog" / "ccel.json").read_text())["logs"]


def build(name: str, facts: Any) -> bytes:
    """A log with the layout, counts and length of the published one."""
    area = facts["area"]
    if "built" in facts:
        log = log_of(()) + b"".join(_published_event(event) for event in facts["built"])
        return area_of(log, size=area)
    if name == CSV:
        events = [FirmwareEvent(1 + n % 3, 0x80000001, bytes([n]) * n) for n in range(82)]
        return area_of(log_of(events, (SM3,)))
    own = b"".join(
        Entry(register=4, algorithm=HashAlgorithm.SHA384, text=text.encode()).encode()
        for text in facts["aael"]
    )
    count = facts["events"] - len(facts["aael"])
    room = facts["end"] - len(own) - len(log_of(())) - count * 66
    sizes = [room // count] * (count - 1)
    sizes.append(room - sum(sizes))
    events = [FirmwareEvent(1 + n % 3, 0x80000001, bytes(size)) for n, size in enumerate(sizes)]
    return area_of(log_of(events) + own, size=area)


def _published_event(event: Any) -> bytes:
    head = struct.pack("<IIIH", event["register"], int(event["kind"], 16), 1, 0x0C)
    size = event["bytes"]
    return head + bytes.fromhex(event["digest"]) + struct.pack("<I", size) + bytes(size)


def algorithm_of(name: str) -> tuple[HashAlgorithm, int]:
    """The registers' algorithm: as the product and as the log name it."""
    if name == CSV:
        return HashAlgorithm.SM3, trustee_log.SM3
    return HashAlgorithm.SHA384, trustee_log.SHA384


@pytest.mark.spec("attesters", 18, built=True)
@pytest.mark.parametrize("name", NAMES)
def test_a_log_is_cut_where_it_ends_with_and_without_a_marker(
    name: str, documents: Documents, published: Any
) -> None:
    facts = published[name]
    content = documents.get(name, lambda: build(name, facts))
    parsed = parse_log(content)
    assert len(parsed.events) == facts["events"]
    if facts["end"] is not None:
        assert parsed.length == facts["end"]
        assert len(content) == facts["area"]
    for shorter in (content[: parsed.length], content[: parsed.length + 3]):
        again = parse_log(shorter)
        assert (again.length, again.events) == (parsed.length, parsed.events)
    assert assemble(content[: parsed.length], None) == content[: parsed.length] + b"\xff" * 8


@pytest.mark.spec("attesters", 18)
def test_digests_of_sha1_are_tolerated_because_the_header_announces_them() -> None:
    events = [FirmwareEvent(1, 4, bytes(4)), FirmwareEvent(2, 6, b"data")]
    log = log_of(events, (SHA1, SHA384))
    parsed = parse_log(area_of(log))
    assert parsed.length == len(log)
    assert [sorted(dict(event.digests)) for event in parsed.events] == [[4, 0x0C]] * 2
    assert replay(parsed.events, HashAlgorithm.SHA384) == trustee_log.replay(
        trustee_log.parse(area_of(log)), trustee_log.SHA384
    )


@pytest.mark.spec("attesters", 19, built=True)
@pytest.mark.parametrize("name", NAMES)
def test_a_log_replays_to_the_registers_of_its_machine(
    name: str, documents: Documents, published: Any
) -> None:
    facts = published[name]
    content = documents.get(name, lambda: build(name, facts))
    algorithm, number = algorithm_of(name)
    parsed = parse_log(content)
    values = replay(parsed.events, algorithm)
    assert values == trustee_log.replay(trustee_log.parse(content + b"\xff" * 8), number)
    known = [1, 2, 3, 4] if documents.are_real or "built" in facts else [4]
    shown = {int(index): value for index, value in facts["registers"].items()}
    for index in set(known) & set(shown):
        assert values[index].hex()[:16] == shown[index]
    registers = [values.get(index, bytes(algorithm.length)) for index in (1, 2, 3, 4)]
    log = assemble(content[: parsed.length], None)
    assert log is not None
    assert find_mismatch(log, registers, algorithm) is None
    registers[1] = hashlib.sha384(registers[1]).digest()[: algorithm.length]
    assert find_mismatch(log, registers, algorithm) == 2


@pytest.mark.spec("attesters", 20, built=True)
def test_own_entries_have_the_digest_of_their_whole_data_as_the_verifier_wants(
    documents: Documents, published: Any
) -> None:
    facts = published[ALIBABA]
    events = trustee_log.parse(documents.get(ALIBABA, lambda: build(ALIBABA, facts)))
    own = [event for event in events if event.aael is not None]
    assert [event.register for event in own] == [4, 4]
    assert [" ".join(event.aael or ()) for event in own] == facts["aael"]
    assert all(event.digest_matches_event for event in own)
    for event, text in zip(own, facts["aael"], strict=True):
        entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=text.encode())
        (mine,) = trustee_log.parse(log_of(()) + entry.encode() + b"\xff" * 8)
        assert mine == event


@pytest.mark.spec("attestation-agent", 38, built=True)
def test_the_verifiers_rules_read_our_header_and_entries_and_reach_the_published_register(
    documents: Documents, published: Any, vectors: Path
) -> None:
    aael = json.loads((vectors / "eventlog" / "aael.json").read_text())
    own = b""
    for index, expected in ((0, aael["registers"][0]), (4, aael["registers"][1])):
        text = aael["entries"][index]["text"].encode()
        own += Entry(register=4, algorithm=HashAlgorithm.SHA384, text=text).encode()
        log = assemble(None, own)
        assert log is not None
        events = trustee_log.parse(log)
        assert trustee_log.replay(events, trustee_log.SHA384)[4].hex() == expected
        assert all(event.digest_matches_event for event in events)
    facts = published[ALIBABA]
    content = documents.get(ALIBABA, lambda: build(ALIBABA, facts))
    machine = [event for event in trustee_log.parse(content) if event.aael is not None]
    entries = [
        Entry(register=4, algorithm=HashAlgorithm.SHA384, text=" ".join(event.aael or ()).encode())
        for event in machine
    ]
    log = assemble(None, b"".join(entry.encode() for entry in entries))
    assert log is not None
    reached = trustee_log.replay(trustee_log.parse(log), trustee_log.SHA384)[4]
    assert reached.hex()[:16] == facts["registers"]["4"]
