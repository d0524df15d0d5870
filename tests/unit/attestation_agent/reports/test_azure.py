"""What Azure's metadata service is asked, and what it answers."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.azure import (
    decode_certification,
    decode_quote_answer,
    encode_quote_request,
)
from guest.errors import DecodeError
from guest_simulator.tpm.chip import Chip


def test_a_report_is_sent_in_either_alphabet() -> None:
    report = b"\xfb\xff\xfe" + bytes(2)
    assert encode_quote_request(report) == b'{"report":"+//+AAA="}'
    assert encode_quote_request(report, url_alphabet=True) == b'{"report":"-__-AAA"}'


@given(st.binary(max_size=100))
def test_a_quote_is_read_from_either_alphabet_with_or_without_padding(quote: bytes) -> None:
    standard = base64.b64encode(quote).decode()
    for text in (standard, standard.translate(str.maketrans("+/", "-_"))):
        for variant in (text, text.rstrip("="), text + "\n"):
            assert decode_quote_answer(json.dumps({"quote": variant}).encode()) == quote


def test_a_certificate_is_read_and_nothing_else() -> None:
    chip = Chip.generate()
    pem = chip.pem.decode()
    body = json.dumps({"vcekCert": pem, "certificateChain": "x"}).encode()
    decoded = decode_certification(body)
    assert base64.encodebytes(decoded).replace(b"\n", b"") in chip.pem.replace(b"\n", b"")
    for bad in (
        pem.replace("CERTIFICATE", "PUBLIC KEY"),
        pem + pem,
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        pem.replace("\n-----END", "AA==\n-----END"),
        "",
    ):
        with pytest.raises(DecodeError):
            decode_certification(json.dumps({"vcekCert": bad}).encode())


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_an_answer_or_a_decode_error(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    bodies = (
        data,
        json.dumps({"quote": data.decode("latin-1")}).encode(),
        json.dumps({"vcekCert": f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"})
        .encode(),
    )  # fmt: skip
    for body in bodies:
        for decode in (decode_quote_answer, decode_certification):
            try:
                decode(body)
            except DecodeError:
                pass
