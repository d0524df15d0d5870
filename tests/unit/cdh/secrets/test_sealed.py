"""The sealed secret's form: vectors, strictness, round trips."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.secrets.sealed import (
    MAX_LENGTH,
    EnvelopeSecret,
    SignedSecret,
    VaultSecret,
    check_verification_key,
    decode_payload,
    decode_unsigned,
    encode_signed,
    signing_input,
)
from guest.errors import DecodeError
from support.sealed_world import load_vectors

V = load_vectors()
VAULT = VaultSecret(name="kbs:///default/sealed-secret/test", provider="kbs")


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_header(header: object) -> bytes:
    parts = V["vault_sealed"].split(".")
    text = header if isinstance(header, str) else json.dumps(header)
    return ".".join(["sealed", b64url(text.encode()), *parts[2:]]).encode()


def refusal(text: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        SignedSecret.decode(text)
    return str(caught.value)


def test_the_published_vault_is_taken_apart_and_put_together_the_same() -> None:
    signed = SignedSecret.decode(V["vault_sealed"].encode())
    assert signed.kid == V["vault_kid"]
    assert signed.unverified == V["vault_payload"].encode()
    assert decode_payload(signed.unverified) == VAULT
    assert VAULT.encode() == signed.unverified
    again = signing_input(signed.kid, VAULT.encode())
    signature = base64.urlsafe_b64decode(V["vault_sealed"].split(".")[3] + "==")
    assert encode_signed(again, signature) == V["vault_sealed"].encode()


def test_the_published_envelope_is_taken_apart_and_put_together_the_same() -> None:
    signed = SignedSecret.decode(V["envelope_sealed"].encode())
    assert signed.kid == V["envelope_kid"]
    payload = decode_payload(signed.unverified)
    assert isinstance(payload, EnvelopeSecret)
    assert payload.encrypted_key == b"wrapped-dek-blob"
    assert payload.iv == bytes(range(0x10, 0x1C))
    assert payload.annotations == {"iv": "ICEiIyQlJicoKSor"}
    assert payload.encode() == V["envelope_payload"].encode()


@pytest.mark.parametrize("ending", ["\n", "\r\n", " \t\n", "\v\f"])
def test_white_space_around_it_is_dropped(ending: str) -> None:
    text = f"{ending}{V['vault_sealed']}{ending}".encode()
    assert SignedSecret.decode(text) == SignedSecret.decode(V["vault_sealed"].encode())
    assert decode_unsigned(text) == V["vault_payload"].encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sealed.",
        "sealed...",
        V["vault_sealed"].removeprefix("sealed."),
        f"sealed.{V['vault_sealed']}",
        f"SEALED{V['vault_sealed'][6:]}",
        f"{V['vault_sealed']}.x",
        f"{V['vault_sealed']}=",
        V["vault_sealed"].replace(".", ". ", 2),
        V["vault_sealed"][:-1],
        V["vault_unsigned"],
        f"\N{NO-BREAK SPACE}{V['vault_sealed']}",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    assert refusal(text.encode()).startswith("Failed to parse JWS")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"alg": "ES256"}, "Could not find kid"),
        ({"alg": "ES256", "kid": None}, "Could not find kid"),
        ({"kid": "k"}, "Could not get algorithm"),
        ({"kid": "k", "alg": "none"}, "JWS algorithm must be ES256"),
        ({"kid": "k", "alg": "es256"}, "JWS algorithm must be ES256"),
        ({"kid": "k", "alg": ["ES256"]}, "JWS algorithm must be ES256"),
        ({"kid": 1, "alg": "ES256"}, "Failed to parse JWS"),
        ({"kid": "k", "alg": "ES256", "crit": ["b64"], "b64": True}, "Failed to parse JWS"),
        ({"kid": "k", "alg": "ES256", "crit": []}, "Failed to parse JWS"),
        ({"kid": "k", "alg": "ES256", "b64": False}, "Failed to parse JWS"),
        ({"kid": "k", "alg": "ES256", "b64": 1}, "Failed to parse JWS"),
        ([], "Failed to parse JWS"),
        ('{"kid":"k","alg":"none","alg":"ES256"}', "Failed to parse JWS"),
        ("{", "Failed to parse JWS"),
    ],
)
def test_a_header_that_is_not_plain_es256_with_a_kid_is_refused(header: object, text: str) -> None:
    assert refusal(with_header(header)).startswith(text)


def test_other_members_of_the_header_are_skipped() -> None:
    header = {"kid": "k", "alg": "ES256", "typ": "JOSE", "x": {"y": [1]}}
    assert SignedSecret.decode(with_header(header)).kid == "k"


def test_an_oversized_text_is_refused_before_it_is_read() -> None:
    assert "at most" in refusal(b"sealed." + bytes(MAX_LENGTH))


def vault_json(**changes: object) -> bytes:
    members = json.loads(V["vault_payload"]) | changes
    return json.dumps({k: v for k, v in members.items() if v is not ...}).encode()


def test_settings_and_annotations_may_be_missing_and_unknown_members_are_skipped() -> None:
    data = vault_json(provider_settings=..., annotations=..., more=[1])
    assert decode_payload(data) == VAULT


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.2.0"},
        {"version": ...},
        {"type": "Vault"},
        {"type": "other"},
        {"type": ...},
        {"type": "envelope"},
        {"name": ...},
        {"name": 1},
        {"provider": ...},
        {"annotations": None},
        {"annotations": "x"},
    ],
)
def test_a_payload_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DecodeError, match="malformed input sealed secret format"):
        decode_payload(vault_json(**changes))


def test_an_empty_payload_and_a_wrong_version_have_their_texts() -> None:
    with pytest.raises(DecodeError, match="Could not find JWS Payload"):
        decode_payload(b"")
    with pytest.raises(DecodeError) as caught:
        decode_payload(vault_json(version="0.2.0"))
    assert "version not supported, only 0.1.0 supported" in caught.value.causes()


def test_members_twice_are_refused_whichever_comes_last() -> None:
    data = V["vault_payload"].replace('"name"', '"name":"kbs:///a/b/c","name"').encode()
    with pytest.raises(DecodeError):
        decode_payload(data)


@pytest.mark.parametrize("name", ["encrypted_key", "encrypted_data", "iv"])
@pytest.mark.parametrize("value", ["AA", "AA==\n", "__8=", "AB=="])
def test_an_envelope_s_base64_is_strict(name: str, value: str) -> None:
    members = json.loads(V["envelope_payload"]) | {name: value}
    with pytest.raises(DecodeError):
        decode_payload(json.dumps(members).encode())


@pytest.mark.parametrize("text", ["a.b.c", "a.b.e30.d.e", "a.b.e30=.d", "a.b.+++.d", ""])
def test_the_unsigned_form_has_four_parts_and_a_strict_third(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_unsigned(text.encode())


def test_every_truncation_of_the_published_secrets_is_refused() -> None:
    for name in ("vault_sealed", "envelope_sealed"):
        text = V[name].encode()
        for end in range(len(text)):
            with pytest.raises(DecodeError):
                SignedSecret.decode(text[:end])


def test_a_public_key_with_or_without_its_private_part_is_taken() -> None:
    check_verification_key(V["signing_jwk"].encode())
    check_verification_key(V["kata_jwk"].encode())


def key_json(**changes: object) -> bytes:
    members = json.loads(V["kata_jwk"]) | changes
    return json.dumps({k: v for k, v in members.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"keys":[' + V["kata_jwk"].encode() + b"]}",
        key_json(kty="RSA"),
        key_json(crv="P-384"),
        key_json(crv=...),
        key_json(x=...),
        key_json(y=1),
        key_json(x="AA" + json.loads(V["kata_jwk"])["x"]),
        key_json(x=json.loads(V["kata_jwk"])["x"] + "="),
        key_json(x=json.loads(V["kata_jwk"])["y"]),
        key_json(use="other"),
        b"\xff",
    ],
)
def test_what_is_no_single_p256_key_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        check_verification_key(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
SETTINGS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)
VAULTS = st.builds(
    VaultSecret,
    name=st.text(max_size=40),
    provider=st.text(max_size=10),
    provider_settings=SETTINGS,
    annotations=SETTINGS,
)
ENVELOPES = st.builds(
    EnvelopeSecret,
    key_id=st.text(max_size=20),
    encrypted_key=st.binary(max_size=40),
    encrypted_data=st.binary(max_size=40),
    wrap_type=st.sampled_from(["A256GCM", "A256CTR", "x"]),
    iv=st.binary(max_size=16),
    provider=st.text(max_size=10),
    provider_settings=SETTINGS,
    annotations=SETTINGS,
)


@given(VAULTS | ENVELOPES, st.text(max_size=50), st.binary(min_size=64, max_size=64))
def test_what_was_sealed_comes_apart_again(
    payload: VaultSecret | EnvelopeSecret, kid: str, signature: bytes
) -> None:
    text = encode_signed(signing_input(kid, payload.encode()), signature)
    signed = SignedSecret.decode(text)
    assert signed.kid == kid
    assert decode_payload(signed.unverified) == payload
    assert decode_unsigned(text) == signed.unverified


@given(st.binary(max_size=400))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    for decode in (SignedSecret.decode, decode_unsigned, decode_payload, check_verification_key):
        with suppress(DecodeError):
            decode(data)
