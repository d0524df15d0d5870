"""Secrets that a KMS instance gives to evidence, against one that verifies it."""

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.agent import AgentClient
from cdh.kms.aliyun import recipient
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.recipient import Challenge, RuntimeData
from cdh.kms.aliyun.settings import AttestationSettings, SecretVersion, parse_settings
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnsupportedError,
)
from guest.protos import aa_pb2
from guest.protos.methods import GET_EVIDENCE
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Routes
from guest.secret import Secret
from guest.wire import encode_base64
from guest_simulator.faults import Fault
from guest_simulator.kms.aliyun.trustee import parse_recipient
from support.aliyun_world import INSTANCE, ROLE, VECTORS, AliyunWorld, aliyun_world

SETTINGS: dict[str, object] = {"client_type": "attestation", "kms_instance_id": INSTANCE}
BY_ROLE = SETTINGS | {"ecs_ram_role_name": ROLE}
EXPECTED = "the secret ✓".encode()
HOST = f"{INSTANCE}.cryptoservice.kms.aliyuncs.com:443"
NOW = VECTORS["sts_token"]["now"]


def make_agent(asked: list[bytes] | None = None, bound: bytes | None = None) -> AgentClient:
    """An agent with the sample TEE's evidence."""

    async def get_evidence(
        request: aa_pb2.GetEvidenceRequest, context: CallContext
    ) -> aa_pb2.GetEvidenceResponse:
        del context
        if asked is not None:
            asked.append(request.RuntimeData)
        report_data = encode_base64(bound or request.RuntimeData)
        text = json.dumps({"svn": "1", "report_data": report_data})
        return aa_pb2.GetEvidenceResponse(Evidence=text.encode())

    routes = Routes()
    routes.bind(GET_EVIDENCE, get_evidence)
    return AgentClient(InProcessChannel(routes))


def given_key(world: AliyunWorld, **changes: object) -> dict[str, object]:
    key = world.cloud.store.issue()
    return SETTINGS | {"sts_token": f"{key.key_id}:{key.secret}:{key.token}"} | changes


async def test_a_secret_comes_to_the_evidence_of_the_guest(tmp_path: Path) -> None:
    asked: list[bytes] = []
    async with aliyun_world(tmp_path, make_agent(asked)) as world:
        assert await world.get(world.kms(**BY_ROLE)) == EXPECTED
        assert await world.get(world.kms(**given_key(world))) == EXPECTED
        previous = await world.get(world.kms(**BY_ROLE), version_stage="ACSPrevious")
        assert previous == b"the older value"
        assert set(world.cloud.targets) == {HOST}
        assert [len(data) for data in asked] == [48, 48, 48]
        assert len(set(asked)) == 3, "each secret has a challenge and a key of its own"
        assert world.cloud.store.issued == 2, "the role's key is kept"
        with pytest.raises(NotFoundError, match=r"^Aliyun KMS error: .*ResourceNotFound"):
            await world.get(world.kms(**BY_ROLE), "another")


async def test_the_instances_ca_may_stand_in_the_settings(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path, make_agent(), extra_root_certificates=[]) as world:
        (world.credentials / f"PrivateKmsCA_{INSTANCE}.pem").unlink()
        with pytest.raises(NotFoundError, match="PrivateKmsCA"):
            await world.get(world.kms(**BY_ROLE))
        given = BY_ROLE | {"kms_ca_cert": world.cloud.ca.decode()}
        assert await world.get(world.kms(**given)) == EXPECTED


async def test_evidence_that_binds_something_else_or_another_tee_gets_nothing(
    tmp_path: Path,
) -> None:
    async with aliyun_world(tmp_path, make_agent(bound=bytes(48))) as world:
        with pytest.raises(DeniedError, match=r"Forbidden\.Attestation"):
            await world.get(world.kms(**BY_ROLE))
    async with aliyun_world(tmp_path / "b", make_agent()) as world:
        with pytest.raises(DeniedError, match=r"Forbidden\.Attestation"):
            await world.get(world.kms(**BY_ROLE | {"tee": "sample"}))
        world.cloud.trustee.tee = "sample"
        assert await world.get(world.kms(**BY_ROLE | {"tee": "sample"})) == EXPECTED


async def test_without_an_agent_and_for_keys_it_serves_nothing(tmp_path: Path) -> None:
    async with aliyun_world(tmp_path) as world:
        with pytest.raises(UnsupportedError, match="needs an attestation agent"):
            await world.get(world.kms(**given_key(world)))
        with pytest.raises(UnsupportedError, match="cannot decrypt"):
            await world.kms(**BY_ROLE).decrypt(b"x", "k", {}, Deadline.after(5))
        assert not world.cloud.targets


async def test_a_refused_key_of_a_role_is_renewed_once_and_a_given_one_never(
    tmp_path: Path,
) -> None:
    async with aliyun_world(tmp_path, make_agent()) as world:
        assert await world.get(world.kms(**BY_ROLE)) == EXPECTED
        world.cloud.store.access_keys.clear()
        assert await world.get(world.kms(**BY_ROLE)) == EXPECTED
        assert world.cloud.store.issued == 2
        wrong = SETTINGS | {"sts_token": "STS.1:canary:canary:more"}
        with pytest.raises(UnauthenticatedError) as caught:
            await world.get(world.kms(**wrong))
        assert "canary" not in " ".join(caught.value.causes())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(body=b"{}"), PeerError),
        (Fault(body=b'{"Nonce":"","ChallengeToken":"t"}'), PeerError),
        (Fault(body=b'{"Nonce":"\\ud800","ChallengeToken":"t"}'), PeerError),
        (Fault(status=500), PeerError),
    ],
)
async def test_a_challenge_that_is_none_ends_the_call(
    tmp_path: Path, fault: Fault, kind: type[GuestError]
) -> None:
    asked: list[bytes] = []
    async with aliyun_world(tmp_path, make_agent(asked)) as world:
        world.cloud.faults.add(fault)
        with pytest.raises(kind, match=r"^Aliyun KMS error: "):
            await world.get(world.kms(**given_key(world)))
    assert not asked


def test_the_report_data_is_the_published_one() -> None:
    public = {"alg": "RSA", "k-exp": "AQAB", "k-mod": "m"}
    data = RuntimeData(structured={"nonce": "n", "tee-pubkey": public, "challenge_token": "ct"})
    assert data.report_data().hex() == (
        "4605f5d2ae6c2eabc1dd9a2f0f9fcd596e3b3770de78f982b35575a1ee1bc827"
        "e7bf39908f1b6a9c9247c0c74b90fdb3"
    )


def test_a_recipient_says_what_the_instance_reads() -> None:
    key = recipient.generate_key()
    bound = RuntimeData.of(Challenge(nonce="n", token="ct"), key.public_key())
    text = bound.recipient("tdx", b"evidence")
    assert list(json.loads(text)) == ["type", "KeyEncryptionAlgorithm", "attestationDocument"]
    proof = parse_recipient(text)
    assert (proof.tee, proof.evidence, proof.structured) == ("tdx", b"evidence", bound.structured)
    with pytest.raises(IntegrityError, match="not encrypted for this guest"):
        recipient.decrypt_secret(bytes(256), key)


def test_a_form_has_no_region_and_no_signature_type() -> None:
    from datetime import datetime

    now = datetime.fromisoformat(NOW)
    key = AccessKey(key_id="STS.1", secret=Secret(b"s"), token=Secret(b"t+/="))
    asked = dict(parse_qsl(recipient.challenge_request(key, "n", now).decode()))
    assert sorted(asked) == [
        "AccessKeyId", "Action", "Format", "SecurityToken", "Signature", "SignatureMethod",
        "SignatureNonce", "SignatureVersion", "Timestamp", "Version",
    ]  # fmt: skip
    assert (asked["Format"], asked["Timestamp"]) == ("JSON", "2026-08-20T12:00:00Z")
    form = recipient.get_secret_request("n", SecretVersion(), "{}", key=key, nonce="n", now=now)
    fetched = dict(parse_qsl(form.decode(), keep_blank_values=True))
    assert fetched["VersionStage"] == fetched["VersionId"] == ""
    assert (fetched["FetchExtendedConfig"], fetched["Recipient"]) == ("true", "{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kms_instance_id": ""}, "kms_instance_id"),
        ({"kms_instance_id": "a/b"}, "kms_instance_id"),
        ({"ecs_ram_role_name": " "}, "exactly one"),
        ({"sts_token": "a:b:c"}, "exactly one"),
        ({"ecs_ram_role_name": "../x"}, "ecs_ram_role_name"),
        ({"ecs_ram_role_name": None, "sts_token": "é:b:c"}, "sts_token"),
        ({"ecs_ram_role_name": "", "sts_token": "canary:b"}, "sts_token has 2 parts"),
        ({"ecs_ram_role_name": "", "sts_token": "canary::c"}, "sts_token has a part"),
        ({"kms_ca_cert": "x"}, "kms_ca_cert"),
        ({"kms_ca_cert": 1}, "kms_ca_cert"),
        ({"tee": ""}, "tee"),
        ({"tee": None}, "tee"),
    ],
)
async def test_settings_that_are_wrong_are_refused_with_the_place(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    async with aliyun_world(tmp_path, make_agent()) as world:
        with pytest.raises(InvalidInputError, match=f"^Aliyun KMS error: .*{words}") as caught:
            world.kms(**BY_ROLE | change)
        assert "canary" not in " ".join(caught.value.causes())


def test_settings_have_defaults() -> None:
    found = parse_settings(BY_ROLE | {"unknown": 1})
    assert found == AttestationSettings(kms_instance_id=INSTANCE, ecs_ram_role_name=ROLE)
    assert isinstance(found, AttestationSettings)
    assert found.tee == "tdx"


@given(
    st.dictionaries(
        st.sampled_from(
            ["kms_instance_id", "ecs_ram_role_name", "sts_token", "kms_ca_cert", "tee"]
        ),
        st.none() | st.booleans() | st.text(max_size=20),
    )
)
def test_any_settings_give_a_value_or_a_decode_error(members: dict[str, object]) -> None:
    with suppress(DecodeError):
        parse_settings({"client_type": "attestation"} | members)


@given(status=st.sampled_from([200, 403, 500]), body=st.binary(max_size=60))
def test_any_answer_gives_a_value_or_an_error_of_ours(status: int, body: bytes) -> None:
    for decode in (recipient.decode_challenge, recipient.decode_secret):
        with suppress(GuestError):
            decode(status, body)
