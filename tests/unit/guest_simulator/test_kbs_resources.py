"""Resources: credentials, policy, names, answers, limits."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap

from guest_simulator.clock import Clock
from guest_simulator.faults import Fault, Lie
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.jws import parse_jws
from guest_simulator.kbs.policy import (
    affirming,
    allow_all,
    allow_repositories,
    deny_all,
    trustee_default,
)
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.store import DirectoryStore
from guest_simulator.kbs.token import SAMPLE_REFERENCES, issue_token

KEY = "default/key/1"


@pytest.mark.spec("kbs-protocol", 37)
async def test_an_attested_session_goes_before_a_bearer_token(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = guest_class(kbs.url)
        answer = await guest.get(KEY, bearer=False)
        assert (answer.status, answer.kind) == (401, "TokenNotFound")
        assert answer.json["detail"] == "Attestation Token not found"
        await guest.auth()
        answer = await guest.get(KEY, cookie=True, bearer=False)
        assert (answer.status, answer.kind) == (401, "TokenNotFound")
        await guest.attest()
        guest.token = "garbage"
        answer = await guest.get(KEY, cookie=True)
        assert answer.status == 200
        assert guest.open(answer) == b"secret"
        answer = await guest.get(KEY)
        assert (answer.status, answer.kind) == (401, "TokenVerifierError")


@pytest.mark.spec("kbs-protocol", 38)
async def test_missing_resources_and_bad_names_are_the_plugins_trouble(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource("a/b/c", b"")
        guest = await guest_class(kbs.url).attested()
        for name in ("a/b/missing", ".a/b/c", "a/b", "a/b/c/d", "a/b/c%2Fd", "/a/b/c", "a//c"):
            answer = await guest.get(name)
            assert (answer.status, answer.kind) == (401, "PluginInternalError")
            assert answer.json["detail"] == "Plugin internal error"
        for path in ("unknown/a/b/c", "auth", "", "attestation-policy"):
            answer = await guest.call("GET", f"/kbs/v0/{path}")
            assert (answer.status, answer.kind) == (404, "PluginNotFound")
            assert answer.json["detail"] == f"Plugin {path.split('/')[0]} not found"
        put = await guest.call(
            "PUT", "/kbs/v0/resource/a/b/c", b"x", Authorization=f"Bearer {guest.token}"
        )
        assert (put.status, put.kind) == (401, "PluginInternalError")
        assert guest.open(await guest.get("a/b/c")) == b""


@pytest.mark.spec("kbs-protocol", 39)
async def test_errors_are_error_information_without_a_content_type(guest_class: Any) -> None:
    async with Kbs(behaviour=Behaviour(policy=deny_all)) as kbs:
        guest = await guest_class(kbs.url).attested()
        answers = [
            await guest.get(KEY),
            await guest.get(KEY, bearer=False),
            await guest.auth(version="1.0.0"),
            await guest.attest({}, cookie=""),
            await guest.call("GET", "/kbs/v0/nothing"),
            await guest.call("POST", "/kbs/v0/resource-policy", b"{}"),
        ]
    for answer in answers:
        assert set(answer.json) == {"type", "detail"}
        prefix = "https://github.com/confidential-containers/kbs/errors/"
        assert answer.json["type"].startswith(prefix)
        assert "Content-Type" not in answer.headers
        assert answer.status in (401, 404)


@pytest.mark.spec("kbs-protocol", 42)
async def test_limits_methods_and_health(guest_class: Any) -> None:
    async with Kbs(behaviour=Behaviour(payload_limit=1000)) as kbs:
        guest = guest_class(kbs.url)
        for path in ("auth", "attest", "resource/a/b/c", "resource-policy"):
            answer = await guest.call("POST", f"/kbs/v0/{path}", bytes(1001))
            assert answer.status == 413
            assert answer.headers["Content-Type"].startswith("text/plain")
        assert (await guest.call("POST", "/kbs/v0/resource/a/b/c", bytes(1000))).status == 200
        for method in ("PATCH", "HEAD", "OPTIONS"):
            assert (await guest.call(method, "/kbs/v0/resource/a/b/c")).status == 405
        health = await guest.call("GET", "/healthz")
        assert (health.status, health.body) == (200, b"")
        assert (await guest.call("GET", "/metrics")).status == 200
        assert (await guest.call("POST", "/metrics")).status == 405
        root = await guest.call("GET", "/kbs/v0")
        assert (root.status, root.body) == (404, b"")


async def test_an_answer_is_flattened_jwe_in_json(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        answer = await guest.get(KEY)
        assert answer.headers["Content-Type"] == "application/json"
        assert "Set-Cookie" not in answer.headers
        assert list(answer.json) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
        other = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises((InvalidTag, InvalidUnwrap)):
            guest_class(kbs.url, other).open(answer)


async def test_a_token_is_taken_until_a_minute_after_its_end(guest_class: Any) -> None:
    clock = Clock(source=lambda: 1_800_000_000.0)
    async with Kbs(behaviour=Behaviour(clock=clock, token_seconds=10)) as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        clock.offset = 70
        assert (await guest.get(KEY)).status == 200
        clock.offset = 71
        assert (await guest.get(KEY)).kind == "TokenVerifierError"
        assert (await guest.get(KEY, cookie=True)).kind == "TokenVerifierError"


async def test_only_trusted_signers_tokens_are_taken(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        claims = parse_jws(guest.token).claims
        stranger = ec.generate_private_key(ec.SECP256R1())
        guest.token = issue_token(claims, stranger)
        assert (await guest.get(KEY)).kind == "TokenVerifierError"
        kbs.behaviour.trust_header_jwk = True
        assert (await guest.get(KEY)).status == 200
        kbs.behaviour.trust_header_jwk = False
        kbs.trust(stranger.public_key())
        assert (await guest.get(KEY)).status == 200
        head, payload, signature = guest.token.split(".")
        flipped = "A" if signature[0] != "A" else "B"
        guest.token = f"{head}.{payload}.{flipped}{signature[1:]}"
        assert (await guest.get(KEY)).kind == "TokenVerifierError"
        guest.token = issue_token({"exp": 4_102_444_800}, kbs.signer)
        assert (await guest.get(KEY)).kind == "TokenVerifierError"
        guest.token = issue_token({k: v for k, v in claims.items() if k != "exp"}, kbs.signer)
        assert (await guest.get(KEY)).kind == "TokenVerifierError"


async def test_the_policy_decides_before_the_resource_is_looked_for(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        for policy, status in (
            (deny_all, 401),
            (trustee_default, 401),
            (affirming, 401),
            (allow_repositories("other"), 401),
            (allow_repositories("default"), 200),
            (allow_all, 200),
        ):
            kbs.behaviour.policy = policy
            answer = await guest.get(KEY)
            assert answer.status == status
            if status == 401:
                assert answer.json["detail"] == "Access denied by policy"
                assert (await guest.get("default/no/such")).kind == "PolicyDeny"
        kbs.behaviour.policy = affirming
        kbs.behaviour.references |= SAMPLE_REFERENCES
        await guest.attested()
        assert (await guest.get(KEY)).status == 200


async def test_the_resource_lies_are_told(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        kbs.faults.add(Fault(path="/resource/", lie=Lie.FOREIGN_KEY, times=1))
        with pytest.raises(InvalidUnwrap):
            guest.open(await guest.get(KEY))
        kbs.faults.add(Fault(path="/resource/", lie=Lie.DENIAL, times=1))
        assert (await guest.get(KEY)).kind == "PolicyDeny"
        assert guest.open(await guest.get(KEY)) == b"secret"


async def test_prepared_answers_repeat_until_something_changes(guest_class: Any) -> None:
    clock = Clock(source=lambda: 1_800_000_000.0)
    async with Kbs(behaviour=Behaviour(prepare_answers=True, clock=clock)) as kbs:
        kbs.put_resource(KEY, b"one")
        guest = await guest_class(kbs.url).attested()
        first = await guest.get(KEY)
        assert (await guest.get(KEY)).body == first.body
        kbs.put_resource(KEY, b"two")
        second = await guest.get(KEY)
        assert guest.open(second) == b"two"
        other = await guest_class(kbs.url).attested()
        assert other.open(await other.get(KEY)) == b"two"
        assert (await guest.get(KEY, bearer=False)).kind == "TokenNotFound"
        clock.offset = 10_000
        assert (await guest.get(KEY)).kind == "TokenVerifierError"
        clock.offset = 0
        kbs.behaviour.policy = deny_all
        assert (await guest.get(KEY)).kind == "PolicyDeny"


async def test_a_key_that_nothing_can_be_encrypted_for_is_a_jwe_error(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = guest_class(kbs.url)
        guest.jwk["alg"] = "ECDH-ES"
        await guest.attested()
        answer = await guest.get(KEY)
        assert (answer.kind, answer.json["detail"]) == ("JweError", "JWE failed")


async def test_plugins_answer_beside_resources(guest_class: Any) -> None:
    seen: list[object] = []

    def plugin(method: str, path: Any, query: Any, body: bytes) -> bytes | None:
        seen.append((method, path, query, body))
        return None if path == ("nothing",) else b"plugin's"

    async with Kbs(behaviour=Behaviour(plugins={"pkcs11": plugin})) as kbs:
        guest = await guest_class(kbs.url).attested()
        bearer = {"Authorization": f"Bearer {guest.token}"}
        answer = await guest.call("GET", "/kbs/v0/pkcs11/a/b?x=1&x=2&y", **bearer)
        assert guest.open(answer) == b"plugin's"
        assert seen == [("GET", ("a", "b"), {"x": "2", "y": ""}, b"")]
        answer = await guest.call("GET", "/kbs/v0/pkcs11/nothing", **bearer)
        assert answer.kind == "PluginInternalError"
        answer = await guest.call("POST", "/kbs/v0/pkcs11/wrap", b"body")
        assert (answer.status, answer.body) == (200, b"plugin's")


async def test_resources_lie_in_files_as_trustee_keeps_them(
    guest_class: Any, tmp_path: Path
) -> None:
    async with Kbs(resources=tmp_path / "repository") as kbs:
        kbs.put_resource(KEY, b"one")
        assert (tmp_path / "repository" / "default\\x2Fkey\\x2F1").read_bytes() == b"one"
        (tmp_path / "repository" / "default\\x2Fkey\\x2F2").write_bytes(b"two")
        guest = await guest_class(kbs.url).attested()
        assert guest.open(await guest.get("default/key/2")) == b"two"
        assert kbs.delete_resource(KEY)
        assert not kbs.delete_resource(KEY)
    assert DirectoryStore(tmp_path / "repository").keys() == ["default/key/2"]
    with pytest.raises(ValueError, match="repository/type/tag"):
        kbs.put_resource("default/key", b"")


async def test_a_token_of_a_hundred_kilobytes_still_arrives(guest_class: Any) -> None:
    async with Kbs() as kbs:
        kbs.put_resource(KEY, b"secret")
        guest = await guest_class(kbs.url).attested()
        claims = {**parse_jws(guest.token).claims, "evidence": "x" * 70_000}
        guest.token = issue_token(claims, kbs.signer)
        assert guest.open(await guest.get(KEY)) == b"secret"


async def test_lost_sessions_are_not_found(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = await guest_class(kbs.url).attested()
        kbs.forget_sessions()
        answer = await guest.get(KEY, cookie=True, bearer=False)
        assert answer.kind == "TokenNotFound"
        assert json.loads(answer.body)["detail"] == "Attestation Token not found"
