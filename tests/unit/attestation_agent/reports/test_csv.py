"""CSV reports: the request, the repair, the JSON of certificates, on documents built by field."""

import os
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.csv import (
    CsvReport,
    certificate_evidence,
    chain_evidence,
    encode_request,
    hmac_sm3,
    hsk_evidence,
)
from guest.errors import DecodeError
from guest_simulator.hygon.csv import CsvGuest, certificate_of, hidden, sm3
from support.hygon_world import encode_certificate, encode_hsk, parse_csv

DATA = bytes(range(64))
NONCE = bytes(range(200, 216))


def answer_of(guest: CsvGuest, *, is_extended: bool) -> bytes:
    return guest.report(encode_request(DATA, NONCE, is_extended=is_extended))


@pytest.mark.parametrize("is_extended", [False, True])
def test_a_request_is_data_nonce_and_their_sm3_and_says_if_it_is_extended(
    is_extended: bool,
) -> None:
    request = encode_request(DATA, NONCE, is_extended=is_extended)
    tail = b"ATTESTATION_EXT\0\1\0\0\0" if is_extended else b""
    expected = DATA + NONCE + sm3(DATA + NONCE) + tail
    assert request == expected + bytes(4096 - len(expected))


@pytest.mark.spec("attesters", 43)
@pytest.mark.parametrize("is_extended", [False, True])
def test_the_anonce_is_undone_and_the_mac_of_the_signer_is_checked(is_extended: bool) -> None:
    guest = CsvGuest(anonce=0xA1B2C3D4)
    answer = answer_of(guest, is_extended=is_extended)
    report = CsvReport.repair(answer, NONCE, is_extended=is_extended)
    assert (report.certificate, report.serial_number) == (guest.pek, guest.serial_number)
    assert report.report_data == DATA
    at = 0x490 if is_extended else 0x150
    anonce = 0 if is_extended else guest.anonce
    assert report.content[:at] == answer[:at]
    assert report.content[at : at + 2084] == hidden(answer[at : at + 2084], anonce) == guest.pek
    assert report.content[at + 2084 : at + 2148] == guest.serial_number
    assert report.content[at + 2148 : at + 2180] == bytes(32)
    assert report.content[at + 2180 :] == answer[at + 2180 :]
    assert (len(report.content), report.serial_text) == (4096, "TEST2026CHIP0042")
    # One bit in anonce or nonce, certificate, number, reserved or MAC is noticed.
    places = [0x80, 0x8F, at, at + 2083, at + 2084, at + 2147, at + 2148, at + 2179, at + 2211]
    for place in [*places, *([] if is_extended else [0xBC, 0xBF])]:
        changed = bytearray(answer)
        changed[place] ^= 1
        with pytest.raises(DecodeError, match="CSV report"):
            CsvReport.repair(bytes(changed), NONCE, is_extended=is_extended)
    with pytest.raises(DecodeError, match="answers another nonce"):
        CsvReport.repair(answer, bytes(16), is_extended=is_extended)


def test_registers_are_read_in_extended_reports_only() -> None:
    guest = CsvGuest()
    for number in range(5):
        guest.extend(number, bytes((number,)) * 32)
    extended = CsvReport.repair(answer_of(guest, is_extended=True), NONCE, is_extended=True)
    assert extended.registers == tuple(guest.registers)
    assert len(set(extended.registers)) == 5
    legacy = CsvReport.repair(answer_of(guest, is_extended=False), NONCE, is_extended=False)
    assert legacy.registers == ()


@pytest.mark.parametrize("is_extended", [False, True])
def test_evidence_says_its_form(is_extended: bool) -> None:
    guest = CsvGuest()
    answer = answer_of(guest, is_extended=is_extended)
    report = CsvReport.repair(answer, NONCE, is_extended=is_extended)
    parsed = parse_csv({"attestation_report": report.evidence()})
    assert parsed.is_extended == is_extended
    assert (parsed.report_data, parsed.measure) == (DATA, guest.measure)


def test_a_certificate_goes_to_json_and_back_to_the_byte() -> None:
    pek = certificate_of(9)
    value = certificate_evidence(pek)
    assert encode_certificate(value) == pek
    assert value["body"]["data"]["pubkey"]["key"]["y"] == [0x12] * 72  # type: ignore[index] # JSON
    hsk = os.urandom(832)
    assert encode_hsk(hsk_evidence(hsk)) == hsk
    chain = chain_evidence(hsk + pek)
    assert chain == {"hsk": hsk_evidence(hsk), "cek": value}
    for wrong in (pek[:-1], pek + b"\0", b""):
        with pytest.raises(DecodeError, match="CSV certificate"):
            certificate_evidence(wrong)
    for wrong in (hsk[:-1], hsk + b"\0", b""):
        with pytest.raises(DecodeError, match="HSK certificate"):
            hsk_evidence(wrong)
    with pytest.raises(DecodeError):
        chain_evidence(hsk + pek + b"\0")


@pytest.mark.parametrize("serial", [b"", b"\0ABC", b"a b", b"\xff\xfe", b"a\nb"])
def test_a_serial_number_that_is_none_is_not_sent_anywhere(serial: bytes) -> None:
    guest = CsvGuest(serial_number=serial.ljust(64, b"\0"))
    answer = answer_of(guest, is_extended=True)
    report = CsvReport.repair(answer, NONCE, is_extended=True)
    with pytest.raises(DecodeError, match="serial number"):
        _ = report.serial_text


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_hmac_sm3_is_that_of_openssl(key: bytes, data: bytes) -> None:
    if not key:
        key = b"k"
    mac = HMAC(key, hashes.SM3())
    mac.update(data)
    assert hmac_sm3(key, data) == mac.finalize()


@given(st.binary(max_size=300), st.integers(0, 4096), st.booleans())
def test_any_bytes_give_a_report_or_a_decode_error(
    noise: bytes, at: int, is_extended: bool
) -> None:
    answer = answer_of(CsvGuest(), is_extended=is_extended)
    for candidate in (noise, (answer[:at] + noise + answer[at + len(noise) :])[:4096]):
        with suppress(DecodeError):
            report = CsvReport.repair(candidate, NONCE, is_extended=is_extended)
            assert len(report.content) == 4096
            certificate_evidence(report.certificate)
