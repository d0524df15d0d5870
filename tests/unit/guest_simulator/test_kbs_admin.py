"""Administration: who may, resources, policies, reference values."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from guest_simulator.clock import Clock
from guest_simulator.kbs.admin import AdminMode, AdminRules, admin_token
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.jws import sign_jws
from guest_simulator.kbs.server import Kbs

NOW = 1_800_000_000.0
PATH = "/kbs/v0/resource/default/key/1"


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def guarded(*keys: Any, **rules: Any) -> Behaviour:
    admin = AdminRules(mode=AdminMode.AUTHENTICATED, keys=keys, **rules)
    return Behaviour(admin=admin, clock=Clock(source=lambda: NOW))


@pytest.mark.spec("kbs-protocol", 40)
async def test_an_administrator_has_a_token_with_a_role(
    guest_class: Any, kbs_vectors: dict[str, str]
) -> None:
    seed = bytes.fromhex(kbs_vectors["admin_seed"])
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    async with Kbs(behaviour=guarded(key.public_key())) as kbs:
        guest = guest_class(kbs.url)
        refused = await guest.call("POST", PATH, b"secret")
        assert (refused.status, refused.kind) == (401, "AdminAuthInitialization")
        assert refused.json["detail"] == (
            "failed to initialize [admin] configuration: Failed to parse HTTP Auth Bearer header"
        )
        bearer = f"Bearer {kbs_vectors['admin_token']}"
        done = await guest.call("POST", PATH, b"secret", Authorization=bearer)
        assert (done.status, done.body) == (200, b"")
        assert done.headers["Content-Type"] == "text/xml"
        roleless = f"Bearer {admin_token(key, NOW, role='')}"
        refused = await guest.call("POST", PATH, b"x", Authorization=roleless)
        assert "Missing required `role` claim in JWT" in refused.json["detail"]
        kbs.behaviour.admin = AdminRules(
            mode=AdminMode.AUTHENTICATED,
            keys=(key.public_key(),),
            roles={"admin": "^/kbs/v0/resource/default/.+$"},
        )
        assert (await guest.call("POST", PATH, b"y", Authorization=bearer)).status == 200
        other = "/kbs/v0/resource/other/key/1"
        refused = await guest.call("POST", other, b"y", Authorization=bearer)
        assert f"Role admin not allowed for path {other}" in refused.json["detail"]


@pytest.mark.parametrize(
    "change",
    [{"exp": NOW - 61}, {"exp": None}, {"iss": "other"}, {"aud": "other"}, {"aud": ["x"]}],
    ids=str,
)
async def test_an_admin_token_must_be_current_and_meant(
    guest_class: Any, change: dict[str, object]
) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    good: dict[str, object] = {"role": "admin", "exp": NOW - 59, "iss": "me", "aud": ["x", "kbs"]}
    rules = guarded(key.public_key(), issuer="me", audience="kbs")
    async with Kbs(behaviour=rules) as kbs:
        guest = guest_class(kbs.url)
        for claims, status in ((good, 200), (good | change, 401)):
            claims = {name: value for name, value in claims.items() if value is not None}
            token = sign_jws({"alg": "EdDSA", "typ": "JWT"}, claims, key)
            answer = await guest.call("POST", PATH, b"", Authorization=f"Bearer {token}")
            assert answer.status == status


async def test_another_key_an_unsigned_token_and_garbage_are_refused(guest_class: Any) -> None:
    key, stranger = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    good = admin_token(key, NOW)
    head, payload, _ = good.split(".")
    none = encoded('{"alg":"none"}')
    async with Kbs(behaviour=guarded(key.public_key())) as kbs:
        guest = guest_class(kbs.url)
        unsigned = (f"{none}.{payload}.", f"{head}.{payload}.", "a.b.c", "x")
        p256 = ec.generate_private_key(ec.SECP256R1())
        for token in (admin_token(stranger, NOW), admin_token(p256, NOW), *unsigned):
            answer = await guest.call("POST", PATH, b"", Authorization=f"Bearer {token}")
            assert (answer.status, answer.kind) == (401, "AdminAuthInitialization")
        assert (await guest.call("POST", PATH, b"", Authorization=f"bearer {good}")).status == 200


async def test_denying_all_admins_denies_policies_too(guest_class: Any) -> None:
    async with Kbs(behaviour=Behaviour(admin=AdminRules(mode=AdminMode.DENY_ALL))) as kbs:
        guest = guest_class(kbs.url)
        for path in ("resource-policy", "attestation-policy", "reference-value"):
            answer = await guest.call("POST", f"/kbs/v0/{path}", b"{}")
            assert answer.kind == "AdminAuthAccess"
            expected = f"admin access denied for endpoint {path}: Admin access denied: "
            assert answer.json["detail"].startswith(expected)


async def test_open_administration_stores_and_deletes(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = await guest_class(kbs.url).attested()
        assert (await guest.call("POST", PATH, b"first")).status == 200
        assert guest.open(await guest.get("default/key/1")) == b"first"
        assert (await guest.call("POST", PATH, b"second")).status == 200
        assert guest.open(await guest.get("default/key/1")) == b"second"
        assert (await guest.call("DELETE", PATH)).status == 200
        assert (await guest.get("default/key/1")).kind == "PluginInternalError"
        assert (await guest.call("DELETE", PATH)).kind == "PluginInternalError"
        assert (await guest.call("POST", "/kbs/v0/resource/a/b", b"")).status == 401


@pytest.mark.spec("kbs-protocol", 41)
async def test_resource_policies_are_listed_by_id_and_judged_when_set(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = await guest_class(kbs.url).attested()
        kbs.put_resource("default/key/1", b"secret")
        listed = await guest.call("GET", "/kbs/v0/resource-policy")
        assert listed.json == ["resource-policy"]

        async def set_policy(policy: object) -> Any:
            body = json.dumps({"policy": policy}).encode()
            return await guest.call("POST", "/kbs/v0/resource-policy", body)

        good = "package policy\ndefault allow = false\n"
        for broken in (encoded(good) + "=", "ab+/", "a/b-", 7, None):
            answer = await set_policy(broken)
            assert (answer.status, answer.kind) == (401, "ParsePolicyError")
            assert answer.json["detail"].startswith("Failed to parse policy: ")
        for invalid in ("package policy\nallow if {", "package other\nallow = true", "nonsense"):
            answer = await set_policy(encoded(invalid))
            assert (answer.status, answer.kind) == (401, "PolicyEngineError")
            assert answer.json["detail"].startswith("Policy engine error: ")
        assert (await guest.get("default/key/1")).status == 200
        assert (await set_policy(encoded(good))).status == 200
        assert (await guest.get("default/key/1")).kind == "PolicyDeny"
        answer = await guest.call("POST", "/kbs/v0/resource-policy", b"not json")
        expected = "Failed to parse policy: Illegal SetPolicy Request Json"
        assert answer.json["detail"] == expected
        answer = await guest.call("POST", "/kbs/v0/resource-policy", b"{}")
        expected = "Failed to parse policy: No `policy` field inside SetPolicy Request Json"
        assert answer.json["detail"] == expected


async def test_reference_values_are_registered_and_read(guest_class: Any) -> None:
    payload = base64.b64encode(b'{"launch_digest":["abcde"],"a/b":[1]}').decode()
    body = json.dumps({"version": "0.1.0", "type": "sample", "payload": payload}).encode()
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        answer = await guest.call("POST", "/kbs/v0/reference-value", body)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        assert (await guest.call("GET", "/kbs/v0/reference-value/launch_digest")).json == ["abcde"]
        assert (await guest.call("GET", "/kbs/v0/reference-value/a/b")).json == [1]
        assert (await guest.call("GET", "/kbs/v0/reference-value/x")).json is None
        for wrong in (b"", b"{}", b'{"type":"sample","payload":"="}'):
            answer = await guest.call("POST", "/kbs/v0/reference-value", wrong)
            assert answer.kind == "RvpsError"


async def test_attestation_policies_are_stored(guest_class: Any) -> None:
    async with Kbs() as kbs:
        guest = guest_class(kbs.url)
        body = {"policy_id": "default_cpu", "policy": encoded("package policy"), "type": "rego"}
        path = "/kbs/v0/attestation-policy"
        assert (await guest.call("POST", path, json.dumps(body).encode())).status == 200
        answer = await guest.call("POST", path, b"{}")
        assert answer.json["detail"] == "Attestation error: Set Attestation Policy failed"


def test_an_endpoint_pattern_is_anchored() -> None:
    with pytest.raises(ValueError):
        AdminRules(roles={"admin": "/kbs/.*"})
