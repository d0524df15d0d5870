"""TokenClient: one pair for everybody, replaced in time, and answers opened with its own key."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline, boot_seconds
from guest.errors import (
    DeadlineError,
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.kbs import client as client_module
from guest.kbs import endpoints, lease
from guest.kbs.client import TokenClient, TokenPair
from guest.resource_uri import ResourceUri
from guest.retry import Backoff
from guest.secret import Secret
from guest.wire import encode_base64url
from guest_simulator.faults import Fault, Lie, kbs_error
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.policy import deny_all
from guest_simulator.kbs.server import Kbs
from support.kbs_world import AttestingSource, http_client, rcar_client, soon

URI = ResourceUri.parse("kbs:///default/key/1")
QUICK = Backoff(first=0.01, most=0.02, attempts=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HANDSHAKE_BACKOFF", QUICK)
    monkeypatch.setattr(client_module, "REFRESH_BACKOFF", QUICK)
    monkeypatch.setattr(endpoints, "RESOURCE_BACKOFF", QUICK)


@asynccontextmanager
async def world(
    algorithm: TeeKeyAlgorithm = TeeKeyAlgorithm.EC_P256, **behaviour: object
) -> AsyncIterator[tuple[Kbs, AttestingSource, TokenClient]]:
    """A KBS, an AA of sorts, and the client between them."""
    kbs = Kbs(behaviour=Behaviour(**behaviour))  # type: ignore[arg-type]  # as given
    kbs.put_resource("default/key/1", b"the secret")
    async with kbs, http_client() as http, rcar_client(kbs.url, key_algorithm=algorithm) as rcar:
        source = AttestingSource(rcar)
        yield kbs, source, TokenClient((kbs.url,), http, source)


async def read(client: TokenClient, seconds: float = 30) -> bytes:
    return (await client.fetch_resource(URI, Deadline.after(seconds))).reveal()


def made_pair(payload: bytes) -> TokenPair:
    """A pair whose token no KBS takes, with these claims."""
    token = Secret(f"e30.{encode_base64url(payload)}.c2ln".encode())
    return TokenPair.of(token, TeeKey.generate(TeeKeyAlgorithm.EC_P256))


@pytest.mark.blocks_loop
@pytest.mark.spec("kbs-protocol", 28)
@pytest.mark.parametrize("algorithm", list(TeeKeyAlgorithm))
async def test_what_aa_answers_opens_what_the_kbs_sends(algorithm: TeeKeyAlgorithm) -> None:
    async with world(algorithm) as (kbs, source, client):
        assert await read(client) == b"the secret"
        encoded = (await source.client.attest(soon())).encode().reveal()
        label = b"RSA PRIVATE KEY" if algorithm is TeeKeyAlgorithm.RSA else b"PRIVATE KEY"
        assert encoded.startswith(b'{"token":"ey')
        assert b'","tee_keypair":"-----BEGIN ' + label + b"-----\\n" in encoded
        (record,) = kbs.requests.matching(path="/resource/")
        assert record.headers["authorization"].startswith("Bearer ey")
        assert "cookie" not in record.headers


async def test_a_thousand_cold_reads_cost_one_token() -> None:
    async with world(prepare_answers=True) as (kbs, source, client):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(client, 60)) for _ in range(1000)]
        assert {task.result() for task in tasks} == {b"the secret"}
        assert (source.calls, kbs.attestations) == (1, 1)


async def test_the_pair_is_replaced_in_the_background_and_no_read_fails() -> None:
    async with world(token_seconds=1) as (kbs, source, client):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run(stop))
            ends = time.monotonic() + 4
            reads = 0
            while time.monotonic() < ends:
                assert await read(client) == b"the secret"
                reads += 1
            stop.set()
        assert reads > 20
        assert 3 <= source.calls <= 12
        assert kbs.requests.count("GET", "/resource/") <= reads + 2


async def test_an_idle_client_without_a_pair_asks_for_none() -> None:
    async with world() as (_, source, client):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.run(stop))
            await asyncio.sleep(0.05)
            stop.set()
        assert task.done()
        assert source.calls == 0


async def test_a_refresh_that_fails_is_tried_again_while_the_old_pair_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(token_seconds=4) as (_, source, client):
        assert await read(client) == b"the secret"
        source.error = UnavailableError("AA is away")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run(stop))
            while source.calls < 3:
                assert await read(client) == b"the secret"
                await asyncio.sleep(0.01)
            source.error = None
            stop.set()
        assert await read(client) == b"the secret"
    assert "token refresh failed" in caplog.text


async def test_a_request_opens_its_answer_with_the_pair_it_sent_across_a_refresh() -> None:
    async with world() as (kbs, source, client):
        assert await read(client) == b"the secret"
        kbs.faults.add(Fault(path="/resource/", delay=0.5, times=1))
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(read(client))
            while kbs.requests.count("GET", "/resource/") < 2 and not slow.done():
                await asyncio.sleep(0.01)
                if kbs.faults and source.calls == 1:
                    old = client._lease
                    await client._renew(old, soon())
                    assert client._lease is not old
        assert slow.result() == b"the secret"
        assert source.calls == 2


@pytest.mark.spec("kbs-protocol", 19)
async def test_a_token_out_of_its_time_is_refetched_once_and_one_without_end_is_used() -> None:
    now = int(time.time())
    for claims in (
        b'{"exp":%d}' % (now - 3600),
        b'{"exp":%d,"iat":%d}' % (now - 3600, now - 7200),
        b'{"exp":%d,"nbf":%d,"iat":%d}' % (now + 7200, now + 3600, now),
    ):
        async with world() as (_, source, client):
            source.next = [made_pair(claims)]
            assert await read(client) == b"the secret"
            assert source.calls == 2
            assert await read(client) == b"the secret"
            assert source.calls == 2
    async with world() as (_, source, client):
        pair = await source.client.attest(soon())
        source.next = [TokenPair(token=pair.token, key=pair.key, expires_in=None)]
        for _ in range(3):
            assert await read(client) == b"the secret"
        assert source.calls == 1
    with pytest.raises(DecodeError):
        made_pair(b"not json")
    async with world() as (kbs, source, client):
        kbs.faults.add(Fault(lie=Lie.GARBAGE_TOKEN))
        with pytest.raises(PeerError, match="get token failed: RCAR handshake failed"):
            await read(client)


async def test_a_doubted_token_that_the_kbs_takes_is_replaced_once_not_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "wall_seconds", lambda: time.time() + 100_000)
    async with world() as (kbs, source, client):
        for _ in range(10):
            assert await read(client) == b"the secret"
        assert source.calls == 2
        assert kbs.attestations == 2


@pytest.mark.spec("kbs-protocol", 25)
@pytest.mark.parametrize("offset", [-60, 60])
@pytest.mark.parametrize("include_iat", [True, False])
async def test_a_clock_that_differs_by_a_minute_costs_no_loop(
    offset: int, include_iat: bool
) -> None:
    async with world(include_iat=include_iat) as (kbs, source, client):
        kbs.behaviour.clock.offset = offset
        for _ in range(10):
            assert await read(client) == b"the secret"
        assert source.calls <= 2


async def test_a_token_whose_end_is_past_without_iat_costs_one_token_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "wall_seconds", lambda: time.time() + 100_000)
    monkeypatch.setattr(lease, "wall_seconds", lambda: time.time() + 100_000)
    async with world(include_iat=False) as (_, source, client):
        for count in range(1, 5):
            assert await read(client) == b"the secret"
            assert source.calls == count


@pytest.mark.parametrize("kind", ["TokenNotFound", "TokenVerifierError", "AttestationError"])
async def test_a_refused_token_is_replaced_once(kind: str) -> None:
    async with world() as (kbs, source, client):
        assert await read(client) == b"the secret"
        kbs.faults.add(kbs_error(kind, "a reason", path="/resource/", times=1))
        assert await read(client) == b"the secret"
        assert source.calls == 2
        kbs.faults.add(kbs_error(kind, "a reason", path="/resource/"))
        with pytest.raises(UnauthenticatedError, match=f"{kind}: a reason"):
            await read(client)
        assert source.calls == 3


async def test_many_reads_with_a_refused_token_share_its_replacement() -> None:
    async with world() as (kbs, source, client):
        assert await read(client) == b"the secret"
        kbs.faults.add(kbs_error("TokenVerifierError", "x", path="/resource/", times=50))
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(read(client))
        assert source.calls == 2


@pytest.mark.spec("kbs-protocol", 21)
@pytest.mark.parametrize(
    ("kind", "error"), [("PolicyDeny", DeniedError), ("PluginInternalError", PeerError)]
)
async def test_a_final_refusal_fetches_no_other_token_and_says_why(
    kind: str, error: type[GuestError]
) -> None:
    async with world() as (kbs, source, client):
        kbs.faults.add(kbs_error(kind, "a reason", path="/resource/"))
        with pytest.raises(error, match=f"{kind}: a reason"):
            await read(client)
        assert (source.calls, kbs.attestations) == (1, 1)
        assert kbs.requests.count("GET", "/resource/") == 1


async def test_a_real_policy_and_a_missing_resource_are_final_too() -> None:
    async with world() as (kbs, source, client):
        with pytest.raises(PeerError, match="PluginInternalError"):
            await client.fetch_resource(ResourceUri.parse("kbs:///default/key/none"), soon())
        kbs.behaviour.policy = deny_all
        with pytest.raises(DeniedError, match="Access denied by policy"):
            await read(client)
        assert source.calls == 1


async def test_without_a_token_nothing_is_asked_of_the_kbs() -> None:
    async with world() as (kbs, source, client):
        for kind in (UnavailableError, UnauthenticatedError, DeniedError, PeerError):
            source.error = kind("AA says no")
            with pytest.raises(kind, match="get token failed: AA says no"):
                await read(client)
        source.error = None
        key = TeeKey.generate(TeeKeyAlgorithm.EC_P256)
        source.next = [TokenPair(token=Secret(b""), key=key)]
        with pytest.raises(UnauthenticatedError, match="no token"):
            await read(client)
        assert len(kbs.requests) == 0


async def test_a_caller_whose_time_runs_out_does_not_end_the_others_wait() -> None:
    async with world() as (kbs, source, client):
        kbs.faults.add(Fault(path="/auth", delay=0.6, times=1))

        async def hurried() -> None:
            with pytest.raises(DeadlineError, match="a KBS token"):
                await read(client, 0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(hurried())
            patient = group.create_task(read(client))
        assert patient.result() == b"the secret"
        assert source.calls == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(path="/resource/", lie=Lie.FOREIGN_KEY), IntegrityError),
        (Fault(path="/resource/", status=200, body=b"not a JWE"), PeerError),
        (Fault(path="/resource/", drop=True), UnavailableError),
        (Fault(path="/resource/", cut_after=40), UnavailableError),
        (Fault(path="/resource/", status=503), UnavailableError),
        (Fault(path="/resource/", stall_after=40), DeadlineError),
        (Fault(path="/resource/", delay=100), DeadlineError),
        (Fault(path="/resource/", lie=Lie.DENIAL), DeniedError),
    ],
    ids=["foreign key", "no jwe", "drop", "cut", "503", "stall", "slow", "denial"],
)
async def test_each_fault_of_the_kbs_is_an_error_with_its_cause_in_time(
    fault: Fault, error: type[GuestError]
) -> None:
    async with world() as (kbs, source, client):
        assert await read(client) == b"the secret"
        kbs.faults.add(fault)
        begun = boot_seconds()
        with pytest.raises(error) as caught:
            await read(client, 1)
        assert boot_seconds() - begun < 10
        assert all(caught.value.causes())
        assert source.calls == 1


async def test_a_forgotten_pair_is_fetched_anew() -> None:
    async with world() as (_, source, client):
        await read(client)
        await client.close()
        await read(client)
        assert source.calls == 2
