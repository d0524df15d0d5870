"""Opening sealed secrets: order of the checks, both kinds, the fixed text on the wire."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdh.agent import AgentClient
from cdh.hub import DataHub
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.rpc import DataHubEdge
from cdh.secrets.seal import seal
from cdh.secrets.sealed import PREFIX, EnvelopeSecret, Payload, VaultSecret, decode_payload
from cdh.secrets.unseal import SecretUnsealer
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import (
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    PeerError,
    UnsupportedError,
)
from guest.protos import cdh_pb2
from guest.resource_uri import ResourceUri
from guest.rpc.method import CallContext
from guest.rpc.status import Code, StatusError
from guest.secret import Secret
from support.hub_world import Agent, FakePuller, Resources
from support.sealed_world import HandingKms, load_vectors, make_unsealer

V = load_vectors()
KEY = Es256Key.from_jwk(Secret(V["signing_jwk"].encode()))
KID = V["vault_kid"]
TEXT = "[CDH] [ERROR]: Unseal Secret failed"


class CountingResources(Resources):
    """Notes what is fetched."""

    def __init__(self, resources: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self.resources = {
            "default/signing-key/sealed-secret": KEY.public_jwk("any"),
            "default/sealed-secret/test": b"the value\n",
        } | dict(resources or {})
        self.fetched: list[str] = []

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.fetched.append(uri.path)
        return await super().fetch(uri, deadline)


async def unseal(unsealer: SecretUnsealer, text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    with await unsealer.unseal(data, Deadline.after(20)) as plaintext:
        return plaintext.reveal()


def edge_of(unsealer: SecretUnsealer, resources: Resources) -> DataHubEdge:
    async def open_puller() -> FakePuller:
        return FakePuller()

    hub = DataHub(
        resources=resources,
        keys=LayerKeys(resources, open_decrypter),
        unsealer=unsealer,
        open_puller=open_puller,
        measurer=AgentClient(Agent().channel),
    )
    return DataHubEdge(hub)


@pytest.mark.spec("confidential-data-hub", 24)
async def test_the_published_secret_opens_and_one_flipped_character_gives_the_fixed_text() -> None:
    resources = CountingResources()
    edge = edge_of(make_unsealer(resources), resources)
    context = CallContext(deadline=Deadline.after(50))
    good = V["vault_sealed"].encode()
    answer = await edge.unseal_secret(cdh_pb2.UnsealSecretInput(secret=good), context)
    assert answer.plaintext == b"the value\n"
    for index in range(len(good)):
        flipped = bytes([good[index] ^ 1])
        request = cdh_pb2.UnsealSecretInput(secret=good[:index] + flipped + good[index + 1 :])
        with pytest.raises(StatusError) as caught:
            await edge.unseal_secret(request, context)
        assert (caught.value.status.code, caught.value.status.message) == (Code.INTERNAL, TEXT)


@pytest.mark.parametrize("name", ["kata_test", "kata_nim"])
async def test_the_secrets_that_kata_publishes_open_with_its_key(name: str) -> None:
    resources = CountingResources(
        {
            "default/signing-key/sealed-secret": V["kata_jwk"].encode(),
            "default/ngc-api-key/instruct": b"the value\n",
        }
    )
    assert await unseal(make_unsealer(resources), V[name]) == b"the value\n"
    with pytest.raises(IntegrityError, match="Signature Error"):
        await unseal(make_unsealer(CountingResources()), V[name])


@pytest.mark.spec("confidential-data-hub", 26)
@pytest.mark.parametrize("skip", [False, True])
async def test_a_newline_at_the_end_is_tolerated(skip: bool) -> None:
    unsealer = make_unsealer(CountingResources(), skip=skip)
    assert await unseal(unsealer, V["vault_sealed"] + "\n") == b"the value\n"


@pytest.mark.spec("confidential-data-hub", 27)
async def test_an_unsigned_secret_opens_only_where_verification_is_switched_off() -> None:
    resources = CountingResources()
    with pytest.raises(InvalidInputError, match="Failed to parse JWS"):
        await unseal(make_unsealer(resources), V["vault_unsigned"])
    assert resources.fetched == []
    assert await unseal(make_unsealer(resources, skip=True), V["vault_unsigned"]) == b"the value\n"
    assert resources.fetched == ["default/sealed-secret/test"]


@pytest.mark.spec("confidential-data-hub", 29)
@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES384", "", None])
async def test_another_algorithm_is_refused_before_any_key_is_fetched(
    algorithm: str | None,
) -> None:
    header = json.dumps({"alg": algorithm, "kid": KID}).encode()
    from guest.wire import encode_base64url

    parts = V["vault_sealed"].split(".")
    text = ".".join(["sealed", encode_base64url(header), *parts[2:]])
    resources = CountingResources()
    with pytest.raises(InvalidInputError, match="algorithm"):
        await unseal(make_unsealer(resources), text)
    assert resources.fetched == []


async def test_nothing_is_asked_of_a_provider_before_the_signature_is_good() -> None:
    other = Es256Key.generate()
    kms = HandingKms(bytes(32))
    resources = CountingResources()
    for payload in (vault(), envelope()):
        with pytest.raises(IntegrityError, match="Signature Error"):
            await unseal(make_unsealer(resources, opener=kms.open), seal(payload, KID, other))
    assert set(resources.fetched) == {"default/signing-key/sealed-secret"}
    assert kms.packets == []


@pytest.mark.parametrize("jwk", [b"", b"{}", b'{"kty":"RSA"}', b'{"keys":[]}'])
async def test_a_kid_that_leads_to_no_p256_key_is_a_peer_s_fault(jwk: bytes) -> None:
    resources = CountingResources({"default/signing-key/sealed-secret": jwk})
    with pytest.raises(PeerError, match="verification key"):
        await unseal(make_unsealer(resources), V["vault_sealed"])


async def test_a_key_in_a_file_verifies(tmp_path: Path) -> None:
    (tmp_path / "sealed-secret").mkdir()
    (tmp_path / "sealed-secret" / "sealed-signing").write_bytes(KEY.public_jwk("x"))
    kms = HandingKms(bytes.fromhex(V["envelope_dek_hex"]))
    unsealer = make_unsealer(CountingResources(), tmp_path, opener=kms.open)
    assert await unseal(unsealer, V["envelope_sealed"]) == V["envelope_plaintext"].encode()


@pytest.mark.spec("confidential-data-hub", 30)
async def test_the_published_envelope_opens_with_the_key_that_a_kms_hands_out() -> None:
    kms = HandingKms(bytes.fromhex(V["envelope_dek_hex"]))
    payload = decode_payload(V["envelope_payload"].encode())
    unsealer = make_unsealer(CountingResources(), opener=kms.open)
    assert await unseal(unsealer, seal(payload, KID, KEY)) == V["envelope_plaintext"].encode()
    assert kms.asked == [(b"wrapped-dek-blob", "alias/test_key_id", {"iv": "ICEiIyQlJicoKSor"})]
    assert kms.packets[0].provider_settings["kms_instance_id"] == "kst-test0001"


def vault(**changes: str) -> VaultSecret:
    members = {"name": "kbs:///default/sealed-secret/test", "provider": "kbs"} | changes
    return VaultSecret(**members)  # type: ignore[arg-type]  # only text members change


def envelope(**changes: object) -> Payload:
    members = json.loads(V["envelope_payload"]) | changes
    return decode_payload(json.dumps(members).encode())


@pytest.mark.spec("confidential-data-hub", 31)
@pytest.mark.parametrize("provider", ["kbs", "KBS"])
async def test_the_kbs_opens_no_envelopes(provider: str) -> None:
    sealed = seal(envelope(provider=provider), KID, KEY)
    with pytest.raises(UnsupportedError, match=f"Unsupported provider: {provider}"):
        await unseal(make_unsealer(CountingResources()), sealed)


@pytest.mark.parametrize("provider", ["ehsm", "vault", "", "kbs "])
async def test_an_unknown_vault_provider_has_its_text(provider: str) -> None:
    with pytest.raises(UnsupportedError, match=f"Unsupported provider: {provider}"):
        await unseal(make_unsealer(CountingResources()), seal(vault(provider=provider), KID, KEY))


async def test_the_provider_s_name_is_compared_in_any_case() -> None:
    sealed = seal(vault(provider="Kbs"), KID, KEY)
    assert await unseal(make_unsealer(CountingResources()), sealed) == b"the value\n"


@pytest.mark.spec("confidential-data-hub", 32)
async def test_a_payload_of_another_version_is_refused() -> None:
    data = vault().encode().replace(b'"0.1.0"', b'"0.2.0"')
    sealed = _seal_bytes(data)
    with pytest.raises(InvalidInputError) as caught:
        await unseal(make_unsealer(CountingResources()), sealed)
    assert "version not supported, only 0.1.0 supported" in caught.value.causes()


def _seal_bytes(payload: bytes) -> bytes:
    from cdh.secrets.sealed import encode_signed, signing_input

    signed = signing_input(KID, payload)
    return encode_signed(signed, KEY.sign(signed))


async def test_an_empty_payload_is_refused_although_it_is_signed() -> None:
    with pytest.raises(InvalidInputError, match="Could not find JWS Payload"):
        await unseal(make_unsealer(CountingResources()), _seal_bytes(b""))


async def test_ctr_opens_and_a_changed_envelope_does_not() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    iv, key = bytes(range(16)), bytes(range(32))
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    secret = EnvelopeSecret(
        key_id="k", encrypted_key=b"", encrypted_data=cipher.update(b"counted"),
        wrap_type="A256CTR", iv=iv, provider="aws",
    )  # fmt: skip
    unsealer = make_unsealer(CountingResources(), opener=HandingKms(key).open)
    assert await unseal(unsealer, seal(secret, KID, KEY)) == b"counted"
    data = "C" + json.loads(V["envelope_payload"])["encrypted_data"][1:]
    changed = data.replace("CZ", "CY", 1)
    with pytest.raises(IntegrityError):
        await unseal(unsealer, seal(envelope(encrypted_data=changed), KID, KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"wrap_type": "A128GCM"},
        {"iv": "AAAA"},
        {"iv": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"encrypted_data": "AAAA"},
        {"wrap_type": "A256CTR"},
    ],
)
async def test_an_impossible_envelope_is_refused_before_the_kms_is_asked(
    changes: dict[str, object],
) -> None:
    kms = HandingKms(bytes(32))
    unsealer = make_unsealer(CountingResources(), opener=kms.open)
    with pytest.raises(InvalidInputError):
        await unseal(unsealer, seal(envelope(**changes), KID, KEY))
    assert kms.packets == []


@pytest.mark.parametrize("length", [0, 16, 31, 33])
async def test_a_data_key_of_another_length_is_refused(length: int) -> None:
    unsealer = make_unsealer(CountingResources(), opener=HandingKms(bytes(length)).open)
    with pytest.raises(InvalidInputError, match="data key"):
        await unseal(unsealer, seal(envelope(), KID, KEY))


async def test_a_refused_resource_keeps_its_cause() -> None:
    resources = Resources(DeniedError("policy said no"))
    with pytest.raises(GuestError) as caught:
        await unseal(make_unsealer(resources), V["vault_sealed"])
    assert isinstance(caught.value, DeniedError)


async def test_wiping_what_came_out_leaves_the_source_s_copy(tmp_path: Path) -> None:
    """`offline_fs_kbc` hands out one object again and again."""
    from cdh.kms.offline_fs import OfflineFiles
    from guest.wire import encode_base64

    path = tmp_path / "resources.json"
    path.write_text(
        json.dumps(
            {
                "default/signing-key/sealed-secret": encode_base64(KEY.public_jwk("x")),
                "default/sealed-secret/test": encode_base64(b"the value\n"),
            }
        )
    )
    unsealer = make_unsealer(OfflineFiles((path,)))
    for _ in range(2):
        assert await unseal(unsealer, V["vault_sealed"]) == b"the value\n"


async def test_a_large_secret_and_a_long_kid_verify() -> None:
    """The library's own limits are 128,000 bytes and a header of 512."""
    kid = "kbs:///default/signing-key/sealed-secret?" + "q" * 2000
    kms = HandingKms(bytes(32))
    iv = bytes(12)
    from guest.crypto import aead

    plaintext = bytes(1_000_000)
    data, tag = aead.seal(Secret(bytes(32)), iv, plaintext)
    secret = EnvelopeSecret(
        key_id="k", encrypted_key=b"", encrypted_data=data + tag, wrap_type="A256GCM", iv=iv,
        provider="aws",
    )  # fmt: skip
    unsealer = make_unsealer(CountingResources(), opener=kms.open)
    assert await unseal(unsealer, seal(secret, kid, KEY)) == plaintext


async def test_no_error_shows_key_or_plaintext() -> None:
    resources = CountingResources({"default/signing-key/sealed-secret": b'{"d":"canary-key"}'})
    with pytest.raises(GuestError) as caught:
        await unseal(make_unsealer(resources), V["vault_sealed"])
    assert not [line for line in caught.value.causes() if "canary" in line]
    assert PREFIX.decode() not in str(caught.value)
