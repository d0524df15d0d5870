"""The simulated attestation service judges as the real one, seen by a client of the test's own."""

import base64
import hashlib
import io
import json
from typing import Any

import aiohttp
import pytest

from guest_simulator.attestation_service import AttestationService
from guest_simulator.faults import Fault, Lie

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"a" = "b"\n'


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def individual(report_data: bytes = b"", tee: str = "sample", **more: object) -> dict[str, object]:
    bound = base64.b64encode(report_data).decode()
    evidence = json.dumps({"svn": "1", "report_data": bound}).encode()
    return {"tee": tee, "evidence": b64url(evidence)} | more


async def post(service: AttestationService, path: str, body: object) -> tuple[int, str]:
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with aiohttp.ClientSession() as session:
        async with session.post(service.url + path, data=data) as answer:
            return answer.status, await answer.text()


async def attest(
    service: AttestationService, *individuals: object, policy_ids: object = ()
) -> tuple[int, str]:
    body = {"verification_requests": individuals, "policy_ids": policy_ids}
    return await post(service, "/attestation", body)


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


async def test_evidence_that_nobody_expects_anything_of_gets_a_token() -> None:
    async with AttestationService(base_path="/as") as service:
        for data in (b"", b"anything"):
            status, token = await attest(service, individual(data))
            assert status == 200
            claims = claims_of(token)
            assert claims["exp"] - claims["iat"] == 300
            appraisal = claims["submods"]["cpu0"]
            assert appraisal["ear.appraisal-policy-id"] == "default"
        assert service.tokens[-1] == token


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512", None])
async def test_structured_runtime_data_is_expected_by_its_digest(algorithm: str | None) -> None:
    digest = hashlib.new(algorithm or "sha384", b'{"a":1,"nonce":"x"}').digest()
    more = {} if algorithm is None else {"runtime_data_hash_algorithm": algorithm}
    data = {"structured": {"nonce": "x", "a": 1}}
    async with AttestationService() as service:
        good = await attest(service, individual(digest, runtime_data=data, **more))
        bad = await attest(service, individual(digest[1:], runtime_data=data, **more))
    assert good[0] == 200
    evidence = claims_of(good[1])["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    assert evidence["runtime_data_claims"] == {"nonce": "x", "a": 1}
    assert bad[0] == 500
    assert bad[1].startswith("An internal error occured: \n")
    assert "report data does not match" in bad[1]


async def test_raw_runtime_data_and_init_data_are_taken_as_they_are() -> None:
    raw = {"raw": b64url(b"raw data")}
    async with AttestationService() as service:
        document = {"init_data_toml": DOCUMENT}
        status, token = await attest(
            service, individual(b"raw data", runtime_data=raw, init_data=document)
        )
        assert (status, '"a": "b"' in json.dumps(claims_of(token))) == (200, True)
        digest = {"init_data_digest": b64url(bytes(48))}
        assert (await attest(service, individual(init_data=digest)))[0] == 200
        wrong = {"init_data_toml": "no = 1"}
        assert (await attest(service, individual(init_data=wrong)))[0] == 500


async def test_devices_and_policies_are_in_the_token() -> None:
    async with AttestationService() as service:
        service.policies.add("p")
        status, token = await attest(
            service, individual(), individual(tee="sampledevice"), policy_ids=["p"]
        )
        submods = claims_of(token)["submods"]
        assert (status, sorted(submods)) == (200, ["cpu0", "gpu0"])
        assert {s["ear.appraisal-policy-id"] for s in submods.values()} == {"p"}
        assert (await attest(service, individual(), policy_ids=["absent"]))[0] == 500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no JSON", 400),
        ({"verification_requests": [individual()]}, 400),
        ({"verification_requests": [], "policy_ids": []}, 400),
        ({"verification_requests": [1], "policy_ids": []}, 400),
        ({"verification_requests": [{"tee": "sample"}], "policy_ids": []}, 400),
        ({"verification_requests": [individual(tee="tpm")], "policy_ids": []}, 500),
        ({"verification_requests": [individual(tee="snp")], "policy_ids": []}, 500),
        ({"verification_requests": [individual(evidence="a=")], "policy_ids": []}, 500),
        (bytes(3 * 1024 * 1024), 413),
    ],
    ids=["text", "no ids", "none", "number", "no evidence", "tpm", "snp", "padded", "too long"],
)
async def test_a_request_that_is_no_good_gets_no_token(body: object, status: int) -> None:
    async with AttestationService() as service:
        assert (await post(service, "/attestation", body))[0] == status
        assert service.tokens == []


async def test_a_challenge_is_a_nonce_of_its_own_as_plain_text() -> None:
    wanted = {"tee": "sample", "tee_params": ""}
    async with AttestationService() as service:
        answers = [await post(service, "/challenge", wanted) for _ in range(2)]
        assert [text for _, text in answers] == service.nonces
        assert all(len(base64.b64decode(nonce)) == 32 for nonce in service.nonces)
        assert len(set(service.nonces)) == 2
        assert (await post(service, "/challenge", {"tee": "no", "tee_params": ""}))[0] == 500
        assert (await post(service, "/challenge", {"tee": "sample"}))[0] == 400
        service.faults.add(Fault(lie=Lie.WRONG_NONCE))
        assert (await post(service, "/challenge", wanted))[1] not in service.nonces


async def test_other_paths_and_methods_are_not_served() -> None:
    async with AttestationService() as service:
        assert (await post(service, "/other", {}))[0] == 404
        async with aiohttp.ClientSession() as session:
            async with session.get(service.url + "/attestation") as answer:
                assert answer.status == 405


async def test_it_lies_about_tokens_when_told_to() -> None:
    async with AttestationService() as service:
        armed = service.faults.add(Fault(lie=Lie.EXPIRED_TOKEN))
        claims = claims_of((await attest(service, individual()))[1])
        assert claims["exp"] < service.clock.now() - 3000
        service.faults.remove(armed)
        service.faults.add(Fault(lie=Lie.GARBAGE_TOKEN))
        assert (await attest(service, individual()))[1] == "this is no token"
