"""RcarClient against a KBS that really checks."""

import asyncio
import json

import pytest

from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeniedError,
    GuestError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.kbs import client as client_module
from guest.kbs.client import RcarClient
from guest.resource_uri import ResourceUri
from guest.retry import Backoff
from guest_simulator.faults import Fault, kbs_error
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.policy import allow_repositories, deny_all
from guest_simulator.kbs.server import Kbs
from support.kbs_world import SampleEvidence, http_client, rcar_client, soon

URI = ResourceUri.parse("kbs:///default/key/1")
INIT_DATA = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"a.toml" = "x = 1"\n'
REAL_BACKOFF = client_module.HANDSHAKE_BACKOFF
QUICK = Backoff(first=0.01, most=0.02, attempts=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between attempts; that the real waits are a second or more has its own test."""
    from guest.kbs import endpoints

    monkeypatch.setattr(client_module, "HANDSHAKE_BACKOFF", QUICK)
    monkeypatch.setattr(endpoints, "RESOURCE_BACKOFF", QUICK)


def _kbs(**behaviour: object) -> Kbs:
    kbs = Kbs(behaviour=Behaviour(**behaviour))  # type: ignore[arg-type]  # as given
    kbs.put_resource("default/key/1", b"the secret")
    return kbs


@pytest.mark.blocks_loop
@pytest.mark.parametrize("algorithm", list(TeeKeyAlgorithm))
@pytest.mark.parametrize("devices", [False, True])
async def test_a_resource_is_fetched_with_each_kind_of_key(
    algorithm: TeeKeyAlgorithm, devices: bool
) -> None:
    evidence = SampleEvidence(devices=devices)
    async with (
        _kbs() as kbs,
        rcar_client(
            kbs.url, evidence=evidence, key_algorithm=algorithm, init_data=INIT_DATA
        ) as client,
    ):
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert kbs.attestations == 1
    assert [kind for kind, _ in evidence.asked] == ["devices", "primary"]


@pytest.mark.spec("kbs-protocol", 7)
async def test_devices_are_asked_first_and_the_primary_for_what_covers_them() -> None:
    evidence = SampleEvidence(devices=True)
    async with _kbs(nonce="not base64") as kbs, rcar_client(kbs.url, evidence=evidence) as client:
        await client.attest(soon())
    (first, device_data), (second, primary_data) = evidence.asked
    assert (first, second) == ("devices", "primary")
    assert device_data != primary_data
    # The KBS recomputes both digests, P over the devices' text, and refuses any other.
    assert (len(device_data), len(primary_data)) == (48, 48)


@pytest.mark.spec("kbs-protocol", 2)
@pytest.mark.parametrize("nonce", ["", 'not base64: é"\\', "====", '{"a": 1}'])
async def test_a_nonce_is_echoed_and_hashed_as_text(nonce: str) -> None:
    async with _kbs(nonce=nonce) as kbs, rcar_client(kbs.url) as client:
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert kbs.attestations == 1


@pytest.mark.spec("kbs-protocol", 6)
@pytest.mark.parametrize("devices", [False, True])
async def test_additional_evidence_is_always_a_string_and_hashed_as_sent(devices: bool) -> None:
    bodies: list[bytes] = []
    evidence = SampleEvidence(devices=devices)
    async with _kbs() as kbs, http_client() as http:
        plain = http.request

        async def spy(method: str, url: str, **arguments: object) -> object:
            body = arguments.get("body")
            bodies.extend([body] if isinstance(body, bytes) else [])
            return await plain(method, url, **arguments)  # type: ignore[arg-type]  # passed on

        http.request = spy  # type: ignore[method-assign, assignment]  # a spy on our own client
        await RcarClient((kbs.url,), http, evidence).attest(soon())
        assert kbs.attestations == 1
    sent = json.loads(bodies[1])["tee-evidence"]["additional_evidence"]
    assert isinstance(sent, str)
    assert (sent == "") is not devices


@pytest.mark.parametrize("name", ["SHA512", "sha256", "sha384", "sm3"])
async def test_the_selected_hash_is_used(name: str) -> None:
    evidence = SampleEvidence()
    async with _kbs(selected_hash_algorithm=name.lower()) as kbs:
        async with rcar_client(kbs.url, evidence=evidence) as client:
            await client.attest(soon())
    assert len(evidence.asked[0][1]) == {"sha512": 64, "sha384": 48}.get(name.lower(), 32)


@pytest.mark.parametrize("selected", ["", "foo", 1, [], True])
async def test_a_hash_that_does_not_exist_fails_the_handshake_at_once(selected: object) -> None:
    async with _kbs(challenge_extra_params={"selected-hash-algorithm": selected}) as kbs:
        async with rcar_client(kbs.url) as client:
            with pytest.raises(PeerError, match=r"invalid hash|unexpected JSON data type"):
                await client.attest(soon())
        assert kbs.handshakes == 1


@pytest.mark.spec("kbs-protocol", 10)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("base_path", ["", "/trustee"])
async def test_the_cookie_goes_back_to_its_host_and_to_no_other(host: str, base_path: str) -> None:
    kbs, other = Kbs(base_path=base_path), Kbs()
    kbs.put_resource("default/key/1", b"the secret")
    async with kbs, other:
        url = kbs.url.replace("127.0.0.1", host)
        async with rcar_client(url, other.url) as client:
            assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
            (attest,) = kbs.requests.matching(path="/attest")
            (resource,) = kbs.requests.matching(path="/resource/")
            cookie = attest.headers["cookie"]
            assert cookie.startswith("kbs-session-id=")
            assert resource.headers["cookie"] == cookie
            kbs.faults.add(Fault(drop=True))
            with pytest.raises(GuestError):
                await client.fetch_resource(URI, soon())
            assert other.requests.count("GET", "/resource/") > 0
            assert cookie not in {record.headers.get("cookie") for record in other.requests}


@pytest.mark.spec("kbs-protocol", 11)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_anywhere(status: int) -> None:
    async with _kbs() as kbs, Kbs() as other, rcar_client(kbs.url) as client:
        headers = {"Location": f"{other.url}/kbs/v0/auth"}
        for path in ("/auth", "/attest", "/resource/"):
            kbs.faults.add(Fault(path=path, status=status, headers=headers, times=1))
            with pytest.raises(PeerError, match=str(status)):
                await client.fetch_resource(URI, soon())
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert len(other.requests) == 0


@pytest.mark.spec("kbs-protocol", 12)
async def test_every_request_names_the_user_agent() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        await client.fetch_resource(URI, soon())
        agents = {record.headers.get("user-agent") for record in kbs.requests}
    assert agents == {"attestation-agent-kbs-client/0.1.0"}


@pytest.mark.spec("kbs-protocol", 13)
@pytest.mark.parametrize("slashes", ["", "/", "///"])
async def test_trailing_slashes_of_the_base_url_vanish(slashes: str) -> None:
    kbs = Kbs(base_path="/trustee")
    kbs.put_resource("default/key/1", b"the secret")
    async with kbs, rcar_client(kbs.url + slashes) as client:
        await client.fetch_resource(URI, soon())
        assert all("//" not in record.path for record in kbs.requests)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ftp://h", "http://", "http://h?q", "http://h x", "http://h:0"]
)
async def test_a_url_that_could_never_work_is_a_configuration_error(url: str) -> None:
    async with http_client() as http:
        with pytest.raises(ConfigError):
            RcarClient((url,), http, SampleEvidence())
        with pytest.raises(ConfigError):
            RcarClient((), http, SampleEvidence())


@pytest.mark.spec("kbs-protocol", 20)
async def test_a_hundred_first_requests_share_one_handshake() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.fetch_resource(URI, soon())) for _ in range(100)]
        assert {task.result().reveal() for task in tasks} == {b"the secret"}
        assert (kbs.handshakes, kbs.attestations) == (1, 1)
        kbs.faults.add(
            kbs_error("TokenNotFound", "Attestation Token not found", path="/resource/", times=1)
        )
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert kbs.handshakes == 2


async def test_a_session_the_kbs_forgot_costs_one_handshake() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        await client.fetch_resource(URI, soon())
        kbs.forget_sessions()
        kbs.faults.add(
            kbs_error("TokenVerifierError", "Token Verifier error", path="/resource/", times=1)
        )
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert kbs.handshakes == 2


@pytest.mark.parametrize("kind", ["TokenNotFound", "TokenVerifierError", "AttestationError"])
async def test_a_token_that_is_never_taken_costs_two_handshakes(
    kind: str,
) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(kbs_error(kind, "a reason", path="/resource/"))
        with pytest.raises(UnauthenticatedError, match=f"{kind}: a reason"):
            await client.fetch_resource(URI, soon())
        assert kbs.handshakes == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("PolicyDeny", DeniedError),
        ("PluginInternalError", PeerError),
        ("JweError", PeerError),
        ("AdminAuthInitialization", DeniedError),
    ],
)
async def test_a_final_refusal_causes_no_new_attestation(
    kind: str, error: type[GuestError]
) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(kbs_error(kind, "a reason", path="/resource/"))
        with pytest.raises(error, match=f"{kind}: a reason"):
            await client.fetch_resource(URI, soon())
        assert kbs.handshakes == 1
        assert kbs.requests.count("GET", "/resource/") == 1


async def test_a_policy_that_denies_is_final() -> None:
    async with _kbs(policy=deny_all) as kbs, rcar_client(kbs.url) as client:
        with pytest.raises(DeniedError, match="PolicyDeny: Access denied by policy"):
            await client.fetch_resource(URI, soon())
        kbs.behaviour.policy = allow_repositories("default")
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        assert kbs.handshakes == 1


@pytest.mark.spec("kbs-protocol", 23)
async def test_a_version_mismatch_is_told_and_not_retried() -> None:
    text = "RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.5.0"
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(kbs_error("AttestationError", text, path="/auth"))
        with pytest.raises(UnsupportedError, match="KBS Client Protocol Version Mismatch"):
            await client.attest(soon())
        assert kbs.requests.count("POST", "/auth") == 1


@pytest.mark.spec("kbs-protocol", 24)
async def test_a_handshake_is_tried_five_times_with_waits_and_ends_at_once_when_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert REAL_BACKOFF.attempts == 5
    assert all(REAL_BACKOFF.delay(attempt) >= 0.7 for attempt in range(1, 5))
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path="/auth", status=503, body=b"busy"))
        with pytest.raises(UnavailableError, match=r"retried 5 times\. .*status 503: busy"):
            await client.attest(soon())
        assert kbs.requests.count("POST", "/auth") == 5
        monkeypatch.setattr(client_module, "HANDSHAKE_BACKOFF", Backoff(first=1000, most=1000))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.attest(Deadline.after(10_000)))
            while kbs.requests.count("POST", "/auth") < 6:
                await asyncio.sleep(0.01)
            task.cancel()
        assert task.cancelled()
