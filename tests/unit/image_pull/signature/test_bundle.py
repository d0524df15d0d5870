"""Bundles, statements and lists of referrers."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.signature.bundle import (
    BUNDLE,
    IN_TOTO,
    SIGNATURE,
    STATEMENT,
    parse_bundle,
    parse_referrers,
    parse_statement,
)

HEX = "ab" * 32


def bundle(**changes: object) -> bytes:
    envelope = {
        "payload": base64.b64encode(b"hello").decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": "AAAA", "keyid": ""}],
    }
    outer = {"mediaType": BUNDLE, "verificationMaterial": {}, "dsseEnvelope": envelope}
    for key in set(changes) & set(envelope):
        envelope[key] = changes.pop(key)  # type: ignore[assignment]  # any value on purpose
    return json.dumps(outer | changes).encode()


def statement(**changes: object) -> bytes:
    body = {"_type": STATEMENT, "predicateType": SIGNATURE, "predicate": {}}
    return json.dumps(body | {"subject": [{"digest": {"sha256": HEX}}]} | changes).encode()


def test_what_is_signed_is_type_and_payload_with_their_lengths() -> None:
    envelope = parse_bundle(bundle())
    assert envelope.signed == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"
    assert envelope.payload == b"hello"
    assert envelope.signature == b"\0\0\0"


BAD_BUNDLES = [
    b"",
    b"{}",
    bundle(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    bundle(payloadType="text/plain"),
    bundle(payload="_w=="),
    bundle(signatures=[]),
    bundle(signatures=[{"sig": "AAAA"}, {"sig": "AAAA"}]),
    bundle(dsseEnvelope=None, messageSignature={}),
    bundle() + b"x",
]


@pytest.mark.parametrize("data", BAD_BUNDLES)
def test_a_bundle_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_bundle(data)


def test_a_statement_signs_off_its_sha256_digests() -> None:
    assert [str(each) for each in parse_statement(statement())] == [f"sha256:{HEX}"]
    assert parse_statement(statement(subject=[{"digest": {"sha512": "x"}}])) == ()


BAD_STATEMENTS = [
    b"",
    statement(_type="https://in-toto.io/Statement/v0.1"),
    statement(predicateType="https://slsa.dev/provenance/v1"),
    statement(predicateType="https://sigstore.dev/cosign/sign/v2"),
    statement(subject={}),
    statement(subject=[{"digest": {"sha256": "x"}}]),
    statement(subject=[{"digest": {"sha256": HEX}}] * 129),
    statement().replace(b'"predicate"', b'"predicateType"'),
]


@pytest.mark.parametrize("data", BAD_STATEMENTS)
def test_a_statement_about_something_else_is_no_signature(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_statement(data)


def referrer(**changes: object) -> dict[str, object]:
    media_type = "application/vnd.oci.image.manifest.v1+json"
    return {"mediaType": media_type, "digest": f"sha256:{HEX}", "size": 3} | changes


def test_only_referrers_that_may_hold_bundles_are_kept_and_not_without_end() -> None:
    listed = [referrer(artifactType=BUNDLE), referrer(), referrer(artifactType="sbom")]
    listed += [referrer(mediaType="application/vnd.oci.image.index.v1+json")]
    assert len(parse_referrers(json.dumps({"manifests": listed}).encode())) == 2
    assert len(parse_referrers(json.dumps({"manifests": [referrer()] * 200}).encode())) == 128
    with pytest.raises(DecodeError):
        parse_referrers(b'{"manifests": [{"digest": "x"}]}')


@given(st.binary(max_size=80))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    for parse in (parse_bundle, parse_statement, parse_referrers):
        with suppress(DecodeError):
            parse(data)
