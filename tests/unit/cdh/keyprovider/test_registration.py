"""Uploading KEKs, against the simulator's KBS and its faults."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cdh.keyprovider.registration import AdminClaims, KekRegistrar
from guest.crypto.jose import SigningKey
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeadlineError,
    DeniedError,
    GuestError,
    NotFoundError,
    UnavailableError,
    UnreachableError,
)
from guest.http import HttpClient
from guest.resource_uri import ResourceUri
from guest.secret import Secret
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault
from guest_simulator.kbs.admin import AdminMode, AdminRules
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs

URI = ResourceUri.parse("kbs://elsewhere:1/default/key/1")
KEK = Secret(bytes(range(32)))


@pytest.fixture
def jwt(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "keyprovider" / "wrap.json").read_text())
    found: dict[str, Any] = loaded["jwt"]
    return found


def key(jwt: dict[str, Any]) -> SigningKey:
    return SigningKey.from_pem(Secret(jwt["pem"].encode()))


@asynccontextmanager
async def registrar(
    url: str, jwt: dict[str, Any], claims: AdminClaims | None = None, roots: tuple[str, ...] = ()
) -> AsyncIterator[KekRegistrar]:
    http = HttpClient(user_agent="test", extra_roots=roots)
    try:
        yield KekRegistrar(url, http, key(jwt), claims or AdminClaims(), lambda: jwt["now"])
    finally:
        await http.close()


def rules(jwt: dict[str, Any]) -> AdminRules:
    private = load_pem_private_key(jwt["pem"].encode(), password=None)
    return AdminRules(mode=AdminMode.AUTHENTICATED, keys=(private.public_key(),))  # type: ignore[arg-type]  # Ed25519


async def test_the_token_is_the_published_one(jwt: dict[str, Any]) -> None:
    async with registrar("http://127.0.0.1:1", jwt) as one:
        assert one.token().reveal().decode() == jwt["token"]


async def test_a_registration_has_path_headers_body_and_a_token_that_verifies(
    jwt: dict[str, Any],
) -> None:
    behaviour = Behaviour(admin=rules(jwt))
    behaviour.clock.offset = 0
    async with Kbs(behaviour=behaviour) as kbs:
        claims = AdminClaims(role="admin", issuer="me", audience="kbs")
        http = HttpClient(user_agent="test")
        import time

        one = KekRegistrar(f"{kbs.url}/any/path?x=1", http, key(jwt), claims, time.time)
        await one.register(URI, KEK, Deadline.after(10))
        (request,) = kbs.requests.matching("POST", r"/kbs/v0/resource/default/key/1")
        assert request.path == "/kbs/v0/resource/default/key/1"
        headers = {name.lower(): value for name, value in dict(request.headers).items()}
        assert headers["content-type"] == "application/octet-stream"
        assert headers["authorization"].startswith("Bearer ey")
        without_role = KekRegistrar(kbs.url, http, key(jwt), AdminClaims(), time.time)
        with pytest.raises(DeniedError, match="role"):
            await without_role.register(URI, KEK, Deadline.after(10))
        await http.close()
        for status, kind in (
            (401, DeniedError),
            (403, DeniedError),
            (404, NotFoundError),
            (500, UnavailableError),
        ):
            kbs.faults.add(Fault(path="/resource/", status=status, body=b"<p>", times=1))
            async with registrar(kbs.url, jwt, claims) as other:
                with pytest.raises(kind, match=f"status {status}"):
                    await other.register(URI, KEK, Deadline.after(10))
        kbs.faults.add(Fault(path="/resource/", delay=30, times=1))
        async with registrar(kbs.url, jwt, claims) as other:
            with pytest.raises((DeadlineError, UnavailableError)):
                await other.register(URI, KEK, Deadline.after(0.5))


async def test_a_kbs_that_is_not_there_is_told_apart(jwt: dict[str, Any]) -> None:
    async with Kbs() as kbs:
        url = kbs.url
    async with registrar(url, jwt) as one:
        with pytest.raises(UnreachableError):
            await one.register(URI, KEK, Deadline.after(10))


async def test_a_kbs_behind_tls_needs_its_authority(jwt: dict[str, Any]) -> None:
    ca = CertificateAuthority.create()
    context: ssl.SSLContext = ca.issue("127.0.0.1").context()
    async with Kbs(tls=context) as kbs:
        async with registrar(kbs.url, jwt) as stranger:
            with pytest.raises(GuestError):
                await stranger.register(URI, KEK, Deadline.after(10))
        async with registrar(kbs.url, jwt, roots=(ca.pem.decode(),)) as one:
            await one.register(URI, KEK, Deadline.after(10))
    await asyncio.sleep(0)


@pytest.mark.parametrize("url", ["", "kbs", "ftp://h", "http://", "http://u@h/", "http://h:x/"])
async def test_a_url_that_is_none_is_refused_at_start(jwt: dict[str, Any], url: str) -> None:
    http = HttpClient(user_agent="test")
    with pytest.raises(ConfigError):
        KekRegistrar(url, http, key(jwt), AdminClaims(), lambda: 0.0)
    await http.close()
