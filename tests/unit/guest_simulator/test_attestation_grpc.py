"""The attestation service's gRPC form, asked in bytes written from the specification."""

import base64
import hashlib
import json
from typing import Any

import grpc
import pytest

from guest_simulator.attestation_grpc import AttestationGrpc
from guest_simulator.attestation_service import AttestationService

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"a" = "b"\n'


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def field(number: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    length, left = b"", len(raw)
    while left > 0x7F:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + raw


def evidence(report_data: bytes) -> str:
    document = {"svn": "1", "report_data": base64.b64encode(report_data).decode()}
    return b64url(json.dumps(document).encode())


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


async def ask(front: AttestationGrpc, method: str, payload: bytes) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
        call: Any = channel.unary_unary(f"/attestation.AttestationService/{method}")
        answer: bytes = await call(payload, timeout=20)
        return answer


async def refusal(front: AttestationGrpc, method: str, payload: bytes) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(front, method, payload)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    return caught.value.details() or ""


def text_of(answer: bytes) -> str:
    """The text of field 1, which is all there is."""
    assert answer[0] == 1 << 3 | 2
    at = next(n for n in range(1, 6) if answer[n] < 0x80) + 1
    text = answer[at:].decode()
    assert field(1, text) == answer
    return text


@pytest.mark.spec("protos", 18)
async def test_both_forms_judge_the_same_members_alike() -> None:
    structured = b'{"a":1,"nonce":"x"}'
    digest = hashlib.sha512(structured).digest()
    asked = [
        field(1, "sample") + field(3, evidence(digest)) + field(5, structured)
        + field(7, DOCUMENT) + field(8, "sha512"),
        field(1, "sampledevice") + field(3, evidence(b"raw")) + field(4, b64url(b"raw"))
        + field(6, b64url(hashlib.sha256(DOCUMENT.encode()).digest())),
    ]  # fmt: skip
    async with AttestationService() as service, AttestationGrpc(service) as front:
        await ask(front, "SetAttestationPolicy", field(1, "mine") + field(2, b64url(b"package p")))
        assert front.policies == {"mine": "package p"}
        payload = b"".join(field(1, each) for each in asked) + field(2, "mine")
        own = claims_of(text_of(await ask(front, "AttestationEvaluate", payload)))
        rest = service.evaluate(
            {
                "verification_requests": [
                    {
                        "tee": "sample",
                        "evidence": evidence(digest),
                        "runtime_data": {"structured": json.loads(structured)},
                        "init_data": {"init_data_toml": DOCUMENT},
                        "runtime_data_hash_algorithm": "sha512",
                    },
                    {
                        "tee": "sampledevice",
                        "evidence": evidence(b"raw"),
                        "runtime_data": {"raw": b64url(b"raw")},
                        "init_data": {
                            "init_data_digest": b64url(hashlib.sha256(DOCUMENT.encode()).digest())
                        },
                    },
                ],
                "policy_ids": ["mine"],
            }
        )
    assert own["submods"] == claims_of(rest)["submods"]
    assert own["submods"]["cpu0"]["ear.appraisal-policy-id"] == "mine"


async def test_a_challenge_needs_a_tee_that_is_known_and_its_parameters() -> None:
    tee = field(1, field(1, "tee") + field(2, "tdx"))
    params = field(1, field(1, "tee_params") + field(2, "{}"))
    async with AttestationGrpc(AttestationService()) as front:
        nonce = text_of(await ask(front, "GetAttestationChallenge", tee + params))
        assert len(base64.b64decode(nonce)) == 32
        assert "tee_params" in await refusal(front, "GetAttestationChallenge", tee)
        unknown = field(1, field(1, "tee") + field(2, "none"))
        assert "none" in await refusal(front, "GetAttestationChallenge", unknown + params)


async def test_every_refusal_is_aborted_and_says_why() -> None:
    wrong = field(1, "sample") + field(3, evidence(b"y")) + field(4, b64url(b"x"))
    good = field(1, "sample") + field(3, evidence(b"x")) + field(4, b64url(b"x"))
    async with AttestationGrpc(AttestationService()) as front:
        text = await refusal(front, "AttestationEvaluate", field(1, wrong))
        assert "report data does not match" in text
        assert "tee" in await refusal(front, "AttestationEvaluate", field(1, field(3, "e30")))
        nothing = await refusal(front, "AttestationEvaluate", b"")
        assert "verification_requests" in nothing
        policy = await refusal(front, "AttestationEvaluate", field(1, good) + field(2, "none"))
        assert "policy is not found" in policy
        for bad in ("not base64!", b64url(b"\xff")):
            await refusal(front, "SetAttestationPolicy", field(1, "p") + field(2, bad))
    assert front.policies == {}
