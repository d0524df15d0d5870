"""What goes into evidence, and what the registers must hold then."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.replay import assemble, find_mismatch, replay
from attestation_agent.eventlog.tcg2 import parse_log
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest_simulator.tdx.ccel import BOOT, log_of
from support.tdx_world import replay_log

SHA384 = HashAlgorithm.SHA384


@pytest.fixture
def published(vectors: Path) -> Any:
    return json.loads((vectors / "eventlog" / "aael.json").read_text())


@pytest.mark.spec("attestation-agent", 37)
def test_a_log_without_firmwares_has_the_published_bytes(published: Any) -> None:
    first = bytes.fromhex(published["entries"][0]["encoded"])
    for own, name in ((first, "cc_eventlog"), (b"", "cc_eventlog_empty")):
        log = assemble(None, own)
        assert log is not None
        assert base64.b64encode(log).decode() == published[name]
    assert assemble(None, None) is None
    assert assemble(b"firmware", None) == b"firmware" + b"\xff" * 8


def test_the_log_replays_to_the_published_register(published: Any) -> None:
    own = b""
    for index, expected in ((0, published["registers"][0]), (4, published["registers"][1])):
        vector = published["entries"][index]
        own += Entry(register=4, algorithm=SHA384, text=vector["text"].encode()).encode()
        log = assemble(None, own)
        assert log is not None
        assert replay(parse_log(log).events, SHA384)[4].hex() == expected
        assert replay_log(log)[4].hex() == expected


def test_every_register_must_replay() -> None:
    log = assemble(log_of(BOOT), None)
    assert log is not None
    values = replay(parse_log(log).events, SHA384)
    registers = [values[1], values[2], values[3], bytes(48)]
    assert find_mismatch(log, registers, SHA384) is None
    for index in range(4):
        wrong = list(registers)
        wrong[index] = b"\1" * 48
        assert find_mismatch(log, wrong, SHA384) == index + 1


def test_digests_of_other_algorithms_extend_nothing() -> None:
    own = Entry(register=4, algorithm=HashAlgorithm.SM3, text=b"a b c").encode()
    log = assemble(None, own)
    assert log is not None
    assert replay(parse_log(log).events, SHA384) == {}
    assert set(replay(parse_log(log).events, HashAlgorithm.SM3)) == {4}


def test_a_log_that_cannot_be_parsed_is_an_error() -> None:
    with pytest.raises(DecodeError):
        find_mismatch(b"\1" * 9, [], SHA384)
