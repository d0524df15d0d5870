"""Certificates for loopback: trusted by whom they should be."""

import ssl
from pathlib import Path

import aiohttp
import pytest

from guest_simulator.cert import CertificateAuthority
from guest_simulator.kbs.server import Kbs


async def health(kbs: Kbs, context: ssl.SSLContext, host: str = "127.0.0.1") -> int:
    async with aiohttp.ClientSession() as session:
        url = f"https://{host}:{kbs.port}/healthz"
        async with session.get(url, ssl=context) as response:
            return response.status


async def test_a_server_is_trusted_by_its_authority_only(tmp_path: Path) -> None:
    authority, stranger = CertificateAuthority.create(), CertificateAuthority.create("other")
    assert authority.write(tmp_path).read_bytes() == authority.pem
    async with Kbs(tls=authority.issue().context()) as kbs:
        assert kbs.url.startswith("https://")
        assert await health(kbs, authority.client_context()) == 200
        assert await health(kbs, authority.client_context(), "localhost") == 200
        for context in (stranger.client_context(), ssl.create_default_context()):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await health(kbs, context)


@pytest.mark.parametrize("expired", [False, True])
async def test_another_name_and_an_old_certificate_are_refused(expired: bool) -> None:
    authority = CertificateAuthority.create()
    certificate = authority.issue(days=-1) if expired else authority.issue("kbs.test")
    async with Kbs(tls=certificate.context()) as kbs:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await health(kbs, authority.client_context())


async def test_clients_can_be_asked_for_a_certificate(tmp_path: Path) -> None:
    authority = CertificateAuthority.create()
    client = authority.issue("client", client=True)
    path = tmp_path / "client.pem"
    path.write_bytes(client.key + client.certificate)
    async with Kbs(tls=authority.issue().context(authority.pem)) as kbs:
        context = authority.client_context()
        with pytest.raises(aiohttp.ClientError):
            await health(kbs, context)
        context.load_cert_chain(path)
        assert await health(kbs, context) == 200
