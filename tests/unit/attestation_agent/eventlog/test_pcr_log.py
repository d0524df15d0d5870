"""Logs of PCRs: only one that explains what was quoted."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.pcr_log import PCR_HEADER, assemble_pcr_log, find_pcr_mismatch
from attestation_agent.eventlog.tcg2 import parse_log
from attestation_agent.reports.tpm import start_value
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError

START = tuple(start_value(number) for number in range(24))


def entry(register: int, text: bytes, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> Entry:
    return Entry(register=register, algorithm=algorithm, text=text)


def test_the_log_is_one_that_firmwares_parser_reads() -> None:
    own = entry(16, b"a b c").encode() + entry(9, b"a b d").encode()
    log = assemble_pcr_log(own)
    parsed = parse_log(log)
    assert [event.register for event in parsed.events] == [16, 9]
    assert parsed.length == len(log) - 8
    assert log.startswith(PCR_HEADER)
    assert PCR_HEADER[32:48] == b"Spec ID Event03\0"


@given(st.lists(st.tuples(st.integers(0, 23), st.text("abc", max_size=5)), max_size=8))
def test_a_log_explains_what_was_extended_by_it_and_nothing_else(
    events: list[tuple[int, str]],
) -> None:
    values = list(START)
    own = b""
    for register, text in events:
        made = entry(register, f"a b {text}".encode())
        own += made.encode()
        values[register] = hashlib.sha256(values[register] + made.digest).digest()
    assert find_pcr_mismatch(own, values) is None
    for register in {register for register, _ in events}:
        other = [*values[:register], bytes(32), *values[register + 1 :]]
        assert find_pcr_mismatch(own, other) == register


@pytest.mark.parametrize(
    "own",
    [b"x", entry(24, b"a b c").encode(), entry(4, b"a b c", HashAlgorithm.SHA384).encode()],
)
def test_a_log_of_something_else_is_none(own: bytes) -> None:
    with pytest.raises(DecodeError):
        find_pcr_mismatch(own, START)
