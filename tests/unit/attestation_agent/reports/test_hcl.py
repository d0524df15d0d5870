"""The paravisor's report, built field by field."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.hcl import HashType, HclReport, ReportType
from guest.errors import DecodeError
from guest_simulator.tpm import wire
from guest_simulator.tpm.paravisor import SNP, TDX, document_of, hcl_report

KEY = wire.RsaKey(modulus=(1 << 2047) + 12345, exponent=65537)


def built(kind: int = TDX, user_data: bytes = b"abc", hash_type: int = 1) -> bytes:
    document = document_of(KEY, user_data)
    algorithm = {1: "sha256", 2: "sha384", 3: "sha512"}[hash_type]
    digest = hashlib.new(algorithm, document).digest().ljust(64, b"\0")
    start = {SNP: 80, TDX: 128}[kind]
    hardware = (bytes(start) + digest).ljust(1184, b"\0")
    return hcl_report(kind, hardware, document, hash_type=hash_type)


@pytest.mark.parametrize("kind", [SNP, TDX])
@pytest.mark.parametrize("hash_type", [1, 2, 3])
def test_a_report_gives_its_fields(kind: int, hash_type: int) -> None:
    report = HclReport.decode(built(kind, hash_type=hash_type))
    assert report.type is ReportType(kind)
    assert report.hash_type is HashType(hash_type)
    assert len(report.hardware) == {SNP: 1184, TDX: 1024}[kind]
    assert report.binds_document
    assert report.user_data == b"abc".ljust(64, b"\0")
    assert report.signing_key == (KEY.modulus, KEY.exponent)
    assert report.answers(b"abc")
    assert not report.answers(b"abd")


@pytest.mark.spec("attesters", 33, built=True)
@pytest.mark.parametrize("tee", ["az-tdx-vtpm", "az-snp-vtpm"])
def test_the_vectors_reports_bind_their_document_and_their_key_verifies_the_quote(
    vectors: Path, tee: str
) -> None:
    for vector in json.loads((vectors / "attesters" / f"{tee}.json").read_text())["vectors"]:
        evidence = vector["evidence"]
        report = HclReport.decode(base64.urlsafe_b64decode(evidence["hcl_report"]))
        assert report.report_data[:32] == hashlib.sha256(report.document).digest()
        assert report.answers(bytes.fromhex(vector["report_data"]))
        assert report.signing_key is not None
        modulus, exponent = report.signing_key
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        quote = evidence["tpm_quote"]
        signature, message = (bytes.fromhex(quote[name]) for name in ("signature", "message"))
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())


def test_zero_bytes_may_follow_and_nothing_else() -> None:
    assert HclReport.decode(built() + bytes(10)) == HclReport.decode(built())
    with pytest.raises(DecodeError, match="something behind it"):
        HclReport.decode(built() + b"x")


@pytest.mark.parametrize("length", [0, 3, 31, 1215, 1235, 1300])
def test_a_report_that_is_cut_is_none(length: int) -> None:
    with pytest.raises(DecodeError):
        HclReport.decode(built()[:length])


@pytest.mark.parametrize(
    ("at", "value"), [(0, b"X"), (1216, b"\0"), (1224, b"\3"), (1228, b"\0"), (1236, b"[")]
)
def test_a_field_that_cannot_be_is_refused(at: int, value: bytes) -> None:
    content = built()
    with pytest.raises(DecodeError):
        HclReport.decode(content[:at] + value + content[at + 1 :])


@pytest.mark.parametrize(
    "document",
    [
        b"{}x",
        b'{"user-data":"0"}',
        b'{"user-data":1}',
        b'{"user-data":"' + b"00" * 65 + b'"}',
        b'{"keys":1}',
        b'{"keys":[{"kid":"HCLAkPub","n":"+","e":"AQAB"}]}',
        b'{"keys":[],"keys":[]}',
    ],
)
def test_a_document_that_is_none_is_refused(document: bytes) -> None:
    with pytest.raises(DecodeError):
        HclReport.decode(hcl_report(TDX, b"", document))


def test_a_document_that_the_hardware_does_not_bind_answers_nothing() -> None:
    report = HclReport.decode(hcl_report(TDX, b"", document_of(KEY, b"abc")))
    assert not report.binds_document
    assert not report.answers(b"abc")


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_give_a_report_or_a_decode_error(data: bytes) -> None:
    for content in (data, b"HCLA" + data):
        try:
            HclReport.decode(content)
        except DecodeError:
            pass
