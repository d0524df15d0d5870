"""`sigstoreSigned` with `fulcio`: whom the policy names, and every check that others fail."""

import json
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from guest.errors import DecodeError
from image_pull.signature.policy import Policy
from support.keyless import (
    NAME,
    SECOND,
    WHO,
    D,
    b64,
    by_authority,
    check,
    manifest_of,
    signature_image,
    why_not,
)
from support.signing import SIMPLE_SIGNING, cosign_payload, descriptor
from support.sigstore_world import (
    EMAIL,
    ISSUED_AT,
    LIFE,
    SIGNED_AT,
    Authority,
    Signer,
    SigstoreWorld,
    certificate_pem,
    new_key,
    public_pem,
    sign,
)


@pytest.fixture(scope="module")
def world() -> SigstoreWorld:
    return SigstoreWorld()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that decides here may connect to anything."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("something connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


async def test_a_signature_of_whom_the_policy_names_is_good_years_after_its_certificate(
    world: SigstoreWorld,
) -> None:
    signer = world.issue()
    repository = signature_image(world, signer)
    await check(repository, by_authority(world))
    identity = {"type": "matchRepository"}
    await check(repository, by_authority(world, signedIdentity=identity))
    text = by_authority(world, rekorPublicKeyData=public_pem(world.log_key))
    text["fulcio"] = {"caData": world.authorities_pem, **WHO}
    await check(repository, text)
    several = by_authority(world, rekorPublicKeyData=None)
    several["rekorPublicKeyDatas"] = [b64(public_pem(new_key())), b64(public_pem(world.log_key))]
    await check(repository, several)
    held = {
        "kbs:///a/b/ca": world.authorities_pem.encode(),
        "kbs:///a/b/log": public_pem(world.log_key).encode(),
    }
    requirement = {
        "type": "sigstoreSigned",
        "fulcio": {"caPath": "kbs:///a/b/ca", **WHO},
        "rekorPublicKeyPath": "kbs:///a/b/log",
    }
    await check(repository, requirement, held)


async def test_the_root_alone_is_enough_where_the_chain_comes_along(world: SigstoreWorld) -> None:
    fulcio = {"caData": b64(certificate_pem(world.root.certificate)), **WHO}
    requirement = by_authority(world, fulcio=fulcio)
    await check(signature_image(world, world.issue()), requirement)
    without = signature_image(world, world.issue(), chain=None)
    assert "certificate is not good at" in await why_not(without, requirement)
    fulcio["caData"] = b64(certificate_pem(world.between.certificate))
    await check(without, by_authority(world, fulcio=fulcio))


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ({"email": "other@example.com"}, "is not for 'dev@example.com'"),
        ({"email": None, "uri": EMAIL}, "is not for 'dev@example.com'"),
        ({"email": EMAIL.upper()}, "is not for 'dev@example.com'"),
        ({"issuer": "https://other.example"}, "is by the issuer"),
        ({"issuer_v2": "https://other.example"}, "is by the issuer"),
        ({"issuer": None, "issuer_v2": "https://other.example"}, "is by the issuer"),
        ({"issuer": None, "issuer_v2": None}, "is by the issuer none"),
        ({"issued": SIGNED_AT - LIFE - SECOND}, "not good at 2024-05-01T12:05:00Z"),
        ({"issued": SIGNED_AT + SECOND}, "not good at 2024-05-01T12:05:00Z"),
        ({"purpose": ExtendedKeyUsageOID.CLIENT_AUTH}, "not for signing code"),
        ({"purpose": None}, "does not say what it is for"),
        ({"signs": False}, "not for signing code"),
        ({"by": Authority.create("test intermediate")}, "not good at"),
    ],
)
async def test_a_certificate_that_is_another_is_refused(
    world: SigstoreWorld, certificate: dict[str, Any], reason: str
) -> None:
    repository = signature_image(world, world.issue(**certificate))
    assert reason in await why_not(repository, by_authority(world))


@pytest.mark.parametrize(
    "certificate",
    [
        {"issuer": None},
        {"issuer_v2": None},
        {"issued": SIGNED_AT - LIFE},
        {"issued": SIGNED_AT},
        {"uri": "https://ci.example/run"},
        {"scts": 0},
    ],
)
async def test_a_certificate_at_the_edge_is_good(
    world: SigstoreWorld, certificate: dict[str, Any]
) -> None:
    await check(signature_image(world, world.issue(**certificate)), by_authority(world))


Lie = Callable[[SigstoreWorld, Signer, bytes, bytes], dict[str, str | None]]

LIES: dict[str, tuple[Lie, str]] = {
    "no certificate": (lambda w, s, sig, p: {"certificate": None}, "no annotation"),
    "two certificates": (lambda w, s, sig, p: {"certificate": s.pem * 2}, "2 certificates"),
    "certificate": (lambda w, s, sig, p: {"certificate": "x"}, "certificates in PEM"),
    "other certificate": (
        lambda w, s, sig, p: {"certificate": w.issue().pem},
        "about another signer",
    ),
    "no promise": (lambda w, s, sig, p: {"bundle": None}, "no annotation"),
    "promise": (lambda w, s, sig, p: {"bundle": "{}"}, "SignedEntryTimestamp"),
    "another log": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p, key=new_key())},
        "not promised by a log",
    ),
    "another signature": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sign(s.key, p), p)},
        "about another signature",
    ),
    "another payload": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p + b" ")},
        "about another signature",
    ),
    "another signer": (
        lambda w, s, sig, p: {"bundle": w.promise(w.issue().pem, sig, p)},
        "about another signer",
    ),
    "logged too late": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p, at=ISSUED_AT + LIFE + SECOND)},
        "not good at 2024-05-01T12:10:01Z",
    ),
    "logged before": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p, at=ISSUED_AT - SECOND)},
        "not good at 2024-05-01T11:59:59Z",
    ),
    "another type": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p, kind="dsse")},
        "of the type dsse",
    ),
    "another version": (
        lambda w, s, sig, p: {"bundle": w.promise(s.pem, sig, p, apiVersion="0.0.2")},
        "hashedrekord 0.0.2",
    ),
    "time": (
        lambda w, s, sig, p: {
            "bundle": w.promise(s.pem, sig, p).replace('"integratedTime": 1', '"integratedTime": 2')
        },
        "not promised by a log",
    ),
    "member": (
        lambda w, s, sig, p: {
            "bundle": w.promise(s.pem, sig, p).replace('"logIndex"', '"more": 1, "logIndex"')
        },
        "more",
    ),
}


@pytest.mark.parametrize("name", LIES)
async def test_one_wrong_thing_beside_a_signature_and_it_is_refused(
    world: SigstoreWorld, name: str
) -> None:
    lie, reason = LIES[name]
    signer, payload = world.issue(), cosign_payload(NAME, D)
    signature = sign(signer.key, payload)
    good = {
        "signature": b64(signature),
        "certificate": signer.pem,
        "bundle": world.promise(signer.pem, signature, payload),
    }
    for annotations in (good, good | lie(world, signer, signature, payload)):
        repository = signature_image(world, signer, **annotations)
        tag = next(iter(repository.manifests))
        document = json.loads(repository.manifests[tag])
        kept = document["layers"][0]["annotations"]
        kept["dev.cosignproject.cosign/signature"] = b64(signature)
        repository.manifests[tag] = json.dumps(document).encode()
        if annotations == good:
            await check(repository, by_authority(world))
        else:
            assert reason in await why_not(repository, by_authority(world))


async def test_what_is_signed_must_be_this_image(world: SigstoreWorld) -> None:
    signer = world.issue()
    other = f"sha256:{'ab' * 32}"
    repository = signature_image(world, signer, payload=cosign_payload(NAME, other))
    assert f"signature is for {other}" in await why_not(repository, by_authority(world))
    forged = Signer(new_key(), signer.certificate)
    repository = signature_image(world, forged)
    assert "not by the policy's key" in await why_not(repository, by_authority(world))
    repository = signature_image(world, signer, payload=cosign_payload("elsewhere.io/x", D))
    requirement = by_authority(world, signedIdentity={"type": "matchRepository"})
    assert "Match reference failed." in await why_not(repository, requirement)


async def test_keys_with_a_log_need_its_promise(world: SigstoreWorld) -> None:
    signer = Signer(new_key(), world.issue().certificate)
    payload, pem = cosign_payload(NAME, D), public_pem(signer.key)
    signature = sign(signer.key, payload)
    requirement = {
        "type": "sigstoreSigned",
        "keyData": b64(pem),
        "rekorPublicKeyData": b64(public_pem(world.log_key)),
    }
    repository = signature_image(world, signer)
    tag, layer = next(iter(repository.manifests)), descriptor(SIMPLE_SIGNING, payload)

    def put(promise: str | None) -> None:
        annotations = {"dev.cosignproject.cosign/signature": b64(signature)}
        if promise is not None:
            annotations["dev.sigstore.cosign/bundle"] = promise
        repository.manifests[tag] = manifest_of(layer | {"annotations": annotations})

    put(world.promise(pem, signature, payload))
    await check(repository, requirement)
    put(None)
    assert "no annotation" in await why_not(repository, requirement)
    await check(repository, {"type": "sigstoreSigned", "keyData": b64(pem)})
    put(world.promise(public_pem(new_key()), signature, payload))
    assert "about another signer" in await why_not(repository, requirement)
    put(world.promise(pem, signature, payload, key=new_key()))
    assert "not promised by a log" in await why_not(repository, requirement)


GOOD = {"caData": "x", **WHO}

BAD = [
    {"fulcio": []},
    {"fulcio": {}},
    {"fulcio": WHO},
    {"fulcio": GOOD | {"caPath": "/x"}},
    {"fulcio": GOOD | {"trustedRootData": "x"}},
    {"fulcio": GOOD | {"oidcIssuer": ""}},
    {"fulcio": GOOD | {"subjectEmail": None}},
    {"fulcio": GOOD | {"subjectEmail": ["a"]}},
    {"fulcio": GOOD | {"subject": "a"}},
    {"fulcio": GOOD | {"caData": 1}},
    {"fulcio": GOOD, "rekorPublicKeyData": None},
    {"fulcio": GOOD, "rekorPublicKeyPath": "/x"},
    {"fulcio": GOOD, "rekorPublicKeyData": []},
    {"fulcio": GOOD, "keyData": "x"},
    {"fulcio": {"trustedRootData": "x", **WHO}},
    {"keyData": "x", "rekorPublicKeyPaths": ["x"]},
    {"type": "signedBy", "keyType": "GPGKeys", "fulcio": GOOD},
]


@pytest.mark.parametrize("members", BAD)
def test_a_policy_that_does_not_say_exactly_who_signs_is_refused(members: dict[str, Any]) -> None:
    requirement = {"type": "sigstoreSigned", "rekorPublicKeyData": "x"} | members
    with pytest.raises(DecodeError):
        Policy.parse(json.dumps({"default": [requirement]}).encode())
