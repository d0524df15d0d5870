"""TDREPORT and TD quotes, on documents built field by field from Intel's layouts."""

import hashlib
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.tdx import TdQuote, TdReport
from guest.errors import DecodeError
from guest_simulator.tdx.domain import Domain
from support.tdx_world import parse_quote, platform

DATA = bytes(range(64))


def domain() -> Domain:
    built = Domain(config_id=b"\xcc" * 48)
    for number in range(4):
        built.registers.extend(number, bytes((number,)) * 48)
    return built


def quote(version: int = 4, body_type: int = 2) -> bytes:
    return platform().quote(domain().report(DATA), version=version, body_type=body_type)


def test_a_report_gives_its_registers_and_its_hashes_verify() -> None:
    built = domain()
    data = built.report(DATA)
    report = TdReport.decode(data)
    assert data[:4].hex() == "81000100"
    assert report.registers == built.registers.all()
    assert (report.report_data, report.mrtd) == (DATA, built.mrtd)
    assert report.config_id == b"\xcc" * 48
    assert report.hashes_match
    for at in (300, 600, 32, 80):
        changed = bytearray(data)
        changed[at] ^= 1
        assert not TdReport.decode(bytes(changed)).hashes_match


def test_a_report_of_another_length_or_type_is_none() -> None:
    data = domain().report(DATA)
    for wrong in (data[:-1], data + b"\0", b"", b"\0" + data[1:]):
        with pytest.raises(DecodeError, match="TDREPORT"):
            TdReport.decode(wrong)


@pytest.mark.spec("attesters", 12)
@pytest.mark.parametrize(("version", "body_type"), [(4, 2), (5, 2), (5, 3)])
def test_quotes_of_all_versions_are_read_with_zeros_behind_and_never_cut(
    version: int, body_type: int
) -> None:
    data = quote(version, body_type)
    for padding in (0, 1, 70):
        parsed = TdQuote.decode(data + bytes(padding))
        assert (parsed.version, parsed.padding) == (version, padding)
        assert parsed.report_data == DATA
        assert parsed.config_id == b"\xcc" * 48
        assert parsed.mrtd == domain().mrtd
        assert parsed.attributes == struct.pack("<Q", 1 << 28)
        assert parsed.registers == domain().registers.all()
        assert parsed.signature_data in data
    independent = parse_quote(data, platform().root)
    assert independent.version == version
    assert independent.report_data == DATA
    assert independent.registers == domain().registers.all()
    for length in range(len(data)):
        with pytest.raises(DecodeError, match="TD quote"):
            TdQuote.decode(data[:length])
    with pytest.raises(DecodeError, match="not all zero"):
        TdQuote.decode(data + b"\0\1")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((0, b"\3\0"), r"expected TDX quote \(v4/v5\), got SGX quote \(v3\)"),
        ((0, b"\6\0"), "version 6"),
        ((4, b"\0\0\0\0"), "TEE type 0x0"),
        ((632, b"\xff\xff\xff\xff"), "expected 4294967295 more"),
    ],
)
def test_what_is_no_td_quote_says_why(change: tuple[int, bytes], text: str) -> None:
    at, content = change
    data = quote()
    with pytest.raises(DecodeError, match=text):
        TdQuote.decode(data[:at] + content + data[at + len(content) :])


def test_a_version_5_body_has_the_length_of_its_type() -> None:
    data = bytearray(quote(5, 3))
    data[48] = 2
    with pytest.raises(DecodeError, match="body of type 2 has 648 bytes"):
        TdQuote.decode(bytes(data))


def test_a_quote_longer_than_its_limit_is_none() -> None:
    with pytest.raises(DecodeError, match="at most"):
        TdQuote.decode(quote() + bytes(1024 * 1024))


@given(st.binary(max_size=700), st.integers(0, 700))
def test_any_bytes_give_a_quote_or_a_decode_error(noise: bytes, at: int) -> None:
    data = quote()
    for candidate in (noise, data[:at] + noise + data[at + len(noise) :]):
        with suppress(DecodeError):
            TdQuote.decode(candidate)
        with suppress(DecodeError):
            TdReport.decode(candidate[:1024].ljust(1024, b"\0"))


def test_simulated_registers_extend_as_the_module_does() -> None:
    built = Domain()
    built.registers.extend(3, b"\1" * 48)
    assert built.registers.read(3) == hashlib.sha384(bytes(48) + b"\1" * 48).digest()
