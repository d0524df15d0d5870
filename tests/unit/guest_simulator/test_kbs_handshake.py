"""auth and attest: versions, cookies, sessions, nonces, evidence."""

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from guest_simulator.clock import Clock
from guest_simulator.faults import Fault, Lie
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.jws import parse_jws
from guest_simulator.kbs.server import Kbs

NOW = 1_800_000_000.0
MISMATCH = (
    "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: "
    "expect =0.4.0 while the request is "
)


def fixed_clock() -> Clock:
    return Clock(source=lambda: NOW)


@pytest.mark.spec("kbs-protocol", 33)
async def test_only_version_0_4_0_is_spoken_whatever_its_build_metadata(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        for version in ("0.4.0", "0.4.0+x", "0.4.0+build.7"):
            assert (await guest.auth(version=version)).status == 200
        for version in ("0.4.1", "0.4.0-rc1", "1.0.0", "0.3.0"):
            answer = await guest.auth(version=version)
            assert (answer.status, answer.kind) == (401, "AttestationError")
            assert answer.json["detail"] == MISMATCH + version
        for version in ("0.4", "", "v0.4.0", "0.4.0.0", "00.4.0"):
            answer = await guest.auth(version=version)
            assert (answer.status, answer.kind) == (401, "AttestationError")
            assert answer.json["detail"].endswith("Auth failed: failed to parse KBS version")


@pytest.mark.spec("kbs-protocol", 34)
async def test_auth_wants_extra_params_and_a_tee_that_exists(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        for changes in ({"extra-params": None}, {"tee": "azsnpvtpm"}, {"tee": "Sample"},
                        {"tee": None}, {"version": None}, {"version": 4}):  # fmt: skip
            answer = await guest.auth(**changes)
            assert (answer.status, answer.kind) == (401, "AttestationError")
            assert answer.json["detail"].endswith("Auth failed: deserialize Request")
        for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
            assert (await guest.call("POST", "/kbs/v0/auth", body)).status == 401
        for fine in ({"extra-params": {"a": [1]}}, {"tee": "tdx"}, {"unknown": 1}):
            assert (await guest.auth(**fine)).status == 200


@pytest.mark.spec("kbs-protocol", 35)
async def test_the_cookie_has_name_value_and_expiry_and_keeps_it(guest_class: Any) -> None:
    clock = fixed_clock()
    async with Kbs(behaviour=Behaviour(clock=clock, session_seconds=300)) as kbs:
        guest = guest_class(kbs.url)
        first = (await guest.auth()).headers.getall("Set-Cookie")
        clock.offset = 100
        second = (await guest.attest()).headers.getall("Set-Cookie")
    assert first == second
    expires = datetime.fromtimestamp(NOW + 300, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert re.fullmatch(rf"kbs-session-id=[0-9a-f]{{32}}; Expires={expires}", first[0])


@pytest.mark.spec("kbs-protocol", 36)
async def test_attest_needs_a_live_session_and_its_nonce(guest_class: Any) -> None:
    clock = fixed_clock()
    async with Kbs(behaviour=Behaviour(clock=clock)) as kbs:
        guest = guest_class(kbs.url)
        await guest.auth()
        body = guest.evidence()
        assert (await guest.attest(body, cookie="")).status == 401
        assert (await guest.attest(body, cookie="kbs-session-id=" + "0" * 32)).status == 401
        clock.offset = 301
        answer = await guest.attest(body)
        assert (answer.status, answer.kind) == (401, "AttestationError")
        assert answer.json["detail"] == "Attestation error: RCAR handshake Attest failed"
        clock.offset = 0
        await guest.auth()
        guest.nonce = "another"
        assert (await guest.attest()).status == 401
        await guest.auth()
        first = await guest.attest()
        assert first.status == 200
        again = await guest.attest({"nothing": "of it is looked at"})
        assert (again.status, again.json) == (200, first.json)
        assert (kbs.attestations, kbs.handshakes) == (1, 3)


@pytest.mark.spec("kbs-protocol", 43)
async def test_evidence_must_bind_exactly_the_digest(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        wrong = (lambda d: d[::-1], lambda d: d + bytes(16), lambda d: b"", lambda d: d[:-1])
        for report in wrong:
            await guest.auth()
            assert (await guest.attest(guest.evidence(report=report))).status == 401
        assert kbs.attestations == 0
        await guest.auth()
        with_device = guest.evidence(additional=guest.device_string())
        assert (await guest.attest(with_device)).status == 200
        claims: Any = parse_jws(guest.token).claims
        assert list(claims["submods"]) == ["cpu0", "gpu0"]
        evidence = claims["submods"]["gpu0"]["ear.veraison.annotated-evidence"]
        assert evidence["sampledevice"] == {"svn": "2"}


async def test_evidence_of_any_other_shape_is_refused(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        await guest.auth()
        good = guest.evidence()
        primary = good["tee-evidence"]["primary_evidence"]
        wrong: list[Any] = [
            {},
            {**good, "runtime-data": None},
            {**good, "tee-evidence": {"primary_evidence": primary}},
            {**good, "tee-evidence": {"additional_evidence": ""}},
            {**good, "tee-evidence": {"primary_evidence": "x", "additional_evidence": ""}},
            {**good, "init-data": {"format": "json", "body": "{}"}},
            guest.evidence(additional="{"),
            guest.evidence(additional='{"unheard-of":{}}'),
            guest.evidence(additional='{"nvidia":{}}'),
            guest.evidence(additional='{"sampledevice":{"svn":"2","report_data":""}}'),
        ]
        for body in wrong:
            assert (await guest.attest(body)).status == 401
        assert (await guest.attest(good)).status == 200


async def test_a_key_with_an_extra_member_does_not_match_its_digest(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        await guest.auth()
        guest.jwk["kid"] = "1"
        assert (await guest.attest()).status == 401


async def test_a_tee_without_a_verifier_gets_a_challenge_and_no_token(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        assert (await guest.auth(tee="tdx")).status == 200
        assert (await guest.attest()).status == 401


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_the_selected_algorithm_is_announced_and_verified_with(
    guest_class: Any, algorithm: str
) -> None:
    async with Kbs(behaviour=Behaviour(selected_hash_algorithm=algorithm)) as kbs:
        guest = guest_class(kbs.url)
        answer = await guest.auth()
        assert answer.json["extra-params"] == {"selected-hash-algorithm": algorithm}
        other = "sha256" if algorithm != "sha256" else "sha384"
        assert (await guest.attest(guest.evidence(other))).status == 401
        device = guest.device_string(algorithm)
        body = guest.evidence(algorithm, additional=device)
        assert (await guest.attest(body)).status == 200


async def test_any_extra_params_and_nonce_can_be_announced(guest_class: Any) -> None:
    behaviour = Behaviour(challenge_extra_params=[1, None], nonce="no base64 at all")
    async with Kbs(behaviour=behaviour) as kbs:
        guest = guest_class(kbs.url)
        answer = await guest.auth()
        assert answer.json == {"nonce": "no base64 at all", "extra-params": [1, None]}
        assert (await guest.attest()).status == 200


async def test_a_default_challenge_is_32_bytes_in_base64_and_no_selection(
    guest_class: Any,
) -> None:
    async with Kbs() as kbs:
        answer = await guest_class(kbs.url).auth()
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json["extra-params"] == ""
        assert len(base64.b64decode(answer.json["nonce"], validate=True)) == 32


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP521R1()), ""),
        (rsa.generate_private_key(65537, 2048), "RSA-OAEP-256"),
        (rsa.generate_private_key(65537, 3072), "RSA1_5"),
    ],
    ids=["P-521", "RSA-OAEP-256", "RSA1_5"],
)
async def test_every_kind_of_key_attests_and_opens_its_answer(
    guest_class: Any, key: Any, algorithm: str
) -> None:
    async with Kbs() as kbs:
        kbs.put_resource("a/b/c", b"x" * 100_000)
        guest = await guest_class(kbs.url, key, algorithm).attested()
        assert guest.open(await guest.get("a/b/c")) == b"x" * 100_000


async def test_init_data_is_copied_into_the_token(guest_class: Any) -> None:
    body = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"policy.rego" = "package a"\n'
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        await guest.auth()
        init_data = {"format": "toml", "body": body}
        assert (await guest.attest(guest.evidence(**{"init-data": init_data}))).status == 200
        claims: Any = parse_jws(guest.token).claims
        evidence = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
        assert evidence["init_data_claims"] == {"policy.rego": "package a"}
        assert list(evidence)[:2] == ["init_data", "init_data_claims"]


async def test_token_times_follow_the_knobs(guest_class: Any) -> None:
    behaviour = Behaviour(clock=fixed_clock(), token_seconds=7, not_before=5)
    async with Kbs(behaviour=behaviour) as kbs:
        claims = parse_jws((await guest_class(kbs.url).attested()).token).claims
        assert (claims["iat"], claims["nbf"], claims["exp"]) == (NOW, NOW + 5, NOW + 7)
        behaviour.include_iat = False
        behaviour.not_before = None
        claims = parse_jws((await guest_class(kbs.url).attested()).token).claims
        assert ("iat" in claims, "nbf" in claims, claims["exp"]) == (False, False, NOW + 7)


async def test_the_handshakes_lies_are_told(guest_class: Any) -> None:
    behaviour = Behaviour(clock=fixed_clock())
    async with Kbs(behaviour=behaviour) as kbs:
        guest = guest_class(kbs.url)
        kbs.faults.add(Fault(path="/auth", lie=Lie.WRONG_NONCE, times=1))
        await guest.auth()
        assert (await guest.attest()).status == 401
        kbs.faults.add(Fault(path="/auth", lie=Lie.NO_COOKIE, times=1))
        assert "Set-Cookie" not in (await guest.auth()).headers
        kbs.faults.add(Fault(path="/attest", lie=Lie.EXPIRED_TOKEN, times=1))
        assert parse_jws((await guest.attested()).token).claims["exp"] == NOW - 3600
        kbs.faults.add(Fault(path="/attest", lie=Lie.FUTURE_TOKEN, times=1))
        assert parse_jws((await guest.attested()).token).claims["nbf"] == NOW + 3600
        kbs.faults.add(Fault(path="/attest", lie=Lie.GARBAGE_TOKEN, times=1))
        assert "." not in (await guest.attested()).token
        assert (await guest.attested()).token.count(".") == 2


async def test_a_base_path_stands_before_everything(guest_class: Any) -> None:
    async with Kbs(base_path="/trustee/") as kbs:
        assert kbs.url.endswith("/trustee")
        assert (await guest_class(kbs.url).attested()).token
        root = guest_class(kbs.url.removesuffix("/trustee"))
        assert (await root.call("POST", "/kbs/v0/auth", json.dumps({}).encode())).status == 404
