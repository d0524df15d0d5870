"""RcarClient against a KBS that lies, fails, is slow or is gone."""

import asyncio
import socket

import pytest

from guest.crypto import kmac
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.deadline import Deadline, boot_seconds
from guest.errors import (
    DeadlineError,
    GuestError,
    IntegrityError,
    LimitError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
)
from guest.kbs import client as client_module
from guest.kbs.client import RcarClient
from guest.resource_uri import ResourceUri
from guest.retry import Backoff
from guest_simulator.faults import Fault, Lie
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs
from support.kbs_world import SampleEvidence, http_client, rcar_client, soon
from support.raw_http import raw_server, saying

URI = ResourceUri.parse("kbs:///default/key/1")
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


async def test_evidence_the_kbs_refuses_is_offered_twice_and_no_more() -> None:
    async with _kbs(verifiers={}) as kbs, rcar_client(kbs.url) as client:
        with pytest.raises(UnauthenticatedError, match="RCAR handshake Attest failed"):
            await client.attest(soon())
        assert kbs.handshakes == 2


async def test_an_attester_that_fails_is_asked_once_and_keeps_its_class() -> None:
    evidence = SampleEvidence()
    for kind in (PlatformError, UnavailableError, DeadlineError):
        evidence.error = kind("no quote")
        evidence.asked.clear()
        async with _kbs() as kbs, rcar_client(kbs.url, evidence=evidence) as client:
            with pytest.raises(kind, match="get evidence failed: no quote"):
                await client.attest(soon())
        assert len(evidence.asked) == 2


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (Lie.WRONG_NONCE, UnauthenticatedError),
        (Lie.NO_COOKIE, PeerError),
        (Lie.GARBAGE_TOKEN, PeerError),
    ],
)
async def test_a_lie_in_the_handshake_is_an_error_with_its_cause(
    lie: Lie, error: type[GuestError]
) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(lie=lie))
        with pytest.raises(error) as caught:
            await client.attest(soon())
    assert "RCAR handshake failed" in str(caught.value)
    assert len(caught.value.causes()) >= 2


async def test_an_answer_for_another_key_is_an_integrity_error() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path="/resource/", lie=Lie.FOREIGN_KEY))
        with pytest.raises(IntegrityError, match="decrypt KBS response body failed"):
            await client.fetch_resource(URI, soon())
        assert kbs.handshakes == 1


@pytest.mark.parametrize("flip", [5, 200, -5])
async def test_an_answer_that_was_changed_is_refused(flip: int) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path="/resource/", flip=flip))
        with pytest.raises((IntegrityError, PeerError)):
            await client.fetch_resource(URI, soon())


@pytest.mark.spec("kbs-protocol", 22)
async def test_each_failure_has_its_error_within_the_deadline() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path="/resource/a", status=404, body=b"nothing here"))
        with pytest.raises(NotFoundError, match=r"KBS resource not found: status 404$"):
            await client.fetch_resource(ResourceUri.parse("kbs:///a/b/c"), soon())
        kbs.faults.add(Fault(path="/resource/d", status=500, body=b"it broke"))
        with pytest.raises(UnavailableError, match=r"status 500$"):
            await client.fetch_resource(ResourceUri.parse("kbs:///d/b/c"), soon())
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with rcar_client(f"http://127.0.0.1:{held.getsockname()[1]}") as client:
            begun = boot_seconds()
            with pytest.raises(UnreachableError):
                await client.fetch_resource(URI, soon(20))
            assert boot_seconds() - begun < 20


@pytest.mark.parametrize("path", ["/auth", "/attest", "/resource/"])
async def test_a_kbs_that_is_slow_costs_the_deadline_and_says_what_was_waited_for(
    path: str,
) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path=path, delay=100))
        begun = boot_seconds()
        with pytest.raises(DeadlineError, match="no time left for"):
            await client.fetch_resource(URI, Deadline.after(0.5))
        assert boot_seconds() - begun < 10


@pytest.mark.parametrize("path", ["/auth", "/attest", "/resource/"])
@pytest.mark.parametrize("fault", [{"drop": True}, {"cut_after": 5}])
async def test_a_cut_is_survived_once_and_reported_if_it_stays(
    path: str, fault: dict[str, object]
) -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        kbs.faults.add(Fault(path=path, times=1, **fault))  # type: ignore[arg-type]  # as given
        assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
        kbs.faults.add(Fault(path="/resource/", **fault))  # type: ignore[arg-type]  # as given
        with pytest.raises(UnavailableError):
            await client.fetch_resource(URI, soon())


async def test_an_endless_answer_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 7000000000\r\n\r\n"
    async with raw_server(saying(head, stay_open=True)) as address:
        async with rcar_client(f"http://{address}") as client:
            with pytest.raises(LimitError):
                await client.attest(soon())


async def test_a_larger_resource_is_opened_beside_the_loop() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        large = bytes(range(256)) * 4096
        kbs.put_resource("default/key/1", large)
        assert (await client.fetch_resource(URI, soon())).reveal() == large


async def test_each_attestation_has_a_key_and_a_token_of_its_own() -> None:
    async with _kbs() as kbs, rcar_client(kbs.url) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.attest(soon())) for _ in range(3)]
        pairs = [task.result() for task in tasks]
        assert kbs.attestations == 3
    assert len({pair.key.jwk()["x"] for pair in pairs}) == 3
    assert len({pair.token.reveal() for pair in pairs}) == 3
    assert all(pair.expires_in == 300 for pair in pairs)


@pytest.mark.spec("kbs-protocol", 29)
async def test_ml_kem_without_its_libraries_is_refused_before_any_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise UnsupportedError("not installed")

    monkeypatch.setattr(kmac, "verify_available", missing)
    async with _kbs() as kbs, http_client() as http:
        with pytest.raises(UnsupportedError):
            RcarClient((kbs.url,), http, SampleEvidence(), key_algorithm=TeeKeyAlgorithm.ML_KEM_768)
        assert len(kbs.requests) == 0


async def test_another_address_takes_over_and_the_one_that_answers_is_kept() -> None:
    async with _kbs() as kbs:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{held.getsockname()[1]}"
            async with rcar_client(dead, kbs.url) as client:
                assert (await client.fetch_resource(URI, soon())).reveal() == b"the secret"
                assert client._endpoints._preferred == kbs.url
                assert kbs.handshakes == 1


async def test_an_address_that_hangs_does_not_use_up_the_time_of_the_next() -> None:
    async with raw_server(saying(b"", stay_open=True)) as address, _kbs() as kbs:
        async with rcar_client(f"http://{address}", kbs.url) as client:
            await client.attest(soon(6))
            assert kbs.attestations == 1
