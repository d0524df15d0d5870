"""The signed JSON: read to the last member or not at all."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.signature.payload import MAX_PAYLOAD, PayloadType, SignedClaim
from support.signing import cosign_payload, simple_payload

D = "sha256:" + "ab" * 32


def test_the_specifications_payload_says_what_was_signed(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "signatures.json").read_text())
    claim = SignedClaim.parse(vector["cosign"]["payload"].encode(), PayloadType.COSIGN)
    assert claim.docker_reference == "127.0.0.1:5077/t/base"
    assert str(claim.manifest_digest) == vector["manifest_digest"]


@given(
    st.sampled_from(PayloadType),
    st.text(max_size=20),
    st.binary(min_size=32, max_size=32),
)
def test_what_a_signer_writes_is_what_is_read(kind: PayloadType, name: str, value: bytes) -> None:
    make = simple_payload if kind is PayloadType.SIMPLE else cosign_payload
    claim = SignedClaim.parse(make(name, f"sha256:{value.hex()}"), kind)
    assert claim.docker_reference == name
    assert claim.manifest_digest.value == value


def test_one_kind_of_signature_does_not_pass_for_the_other() -> None:
    with pytest.raises(DecodeError):
        SignedClaim.parse(simple_payload("a", D), PayloadType.COSIGN)
    with pytest.raises(DecodeError):
        SignedClaim.parse(cosign_payload("a", D), PayloadType.SIMPLE)


def changed(**outer: object) -> bytes:
    return json.dumps(json.loads(simple_payload("a", D)) | outer).encode()


BAD = [
    b"",
    b"[]",
    b"{}",
    simple_payload("a", D) + b" {}",
    simple_payload("a", D).replace(b'"optional"', b'"critical"'),
    simple_payload("a", D).replace(b'"type"', b'"Type"'),
    simple_payload("a", "sha256:AB" + "ab" * 31),
    simple_payload("a", "md5:ab"),
    simple_payload("a", D, more=1),
    simple_payload("a", D, image={"docker-manifest-digest": D, "x": 1}),
    simple_payload("a", D, image={}),
    simple_payload("a", D, identity={"docker-reference": None}),
    simple_payload("a", D, identity="a"),
    changed(more=1),
    changed(optional=None),
    changed(optional=[]),
    changed(optional={"timestamp": 1.5}),
    changed(optional={"timestamp": True}),
    changed(optional={"creator": 1}),
    b" " * (MAX_PAYLOAD + 1),
]


@pytest.mark.parametrize("data", BAD)
def test_a_payload_with_anything_more_or_less_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SignedClaim.parse(data, PayloadType.SIMPLE)


def test_cosigns_annotations_may_be_anything() -> None:
    body = json.loads(cosign_payload("a", D)) | {"optional": {"timestamp": "x", "git": [1]}}
    assert SignedClaim.parse(json.dumps(body).encode(), PayloadType.COSIGN).docker_reference == "a"


@given(st.binary(max_size=80), st.sampled_from(PayloadType))
def test_any_bytes_give_a_claim_or_a_decode_error(data: bytes, kind: PayloadType) -> None:
    with suppress(DecodeError):
        SignedClaim.parse(data, kind)
