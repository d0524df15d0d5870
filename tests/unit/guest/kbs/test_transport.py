"""A KBS behind TLS and behind proxies."""

import socket

import pytest

from guest.cmdline import CommandLine, find_kbc_params
from guest.errors import ConfigError
from guest.http import CertificateError, HttpClient
from guest.kbs.client import RcarClient
from guest.kbs.endpoints import USER_AGENT
from guest.proxies import Proxies
from guest.resource_uri import ResourceUri
from guest_simulator.cert import CertificateAuthority
from guest_simulator.kbs.server import Kbs
from support.kbs_world import SampleEvidence, http_client, soon
from support.raw_http import connect_proxy

URI = ResourceUri.parse("kbs:///default/key/1")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def _fetch(url: str, http: HttpClient) -> bytes:
    client = RcarClient((url,), http, SampleEvidence())
    return (await client.fetch_resource(URI, soon())).reveal()


@pytest.mark.spec("kbs-protocol", 26)
async def test_tls_is_verified_with_the_configured_root_and_the_host_name() -> None:
    authority, other = CertificateAuthority.create(), CertificateAuthority.create()
    async with Kbs(tls=authority.issue("127.0.0.1").context()) as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        ours, theirs = authority.pem.decode(), other.pem.decode()
        async with http_client(extra_roots=(ours,)) as http:
            assert await _fetch(kbs.url, http) == b"the secret"
            with pytest.raises(CertificateError):
                await _fetch(kbs.url.replace("127.0.0.1", "localhost"), http)
        async with http_client(extra_roots=(ours + ours, theirs)) as http:
            assert await _fetch(kbs.url, http) == b"the secret"
        for roots in ((), (theirs,)):
            async with http_client(extra_roots=roots) as http:
                with pytest.raises(CertificateError, match="RCAR handshake failed"):
                    await _fetch(kbs.url, http)
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for pem in ("", "no PEM", broken, ours + broken):
        with pytest.raises(ConfigError):
            HttpClient(user_agent=USER_AGENT, extra_roots=(pem,))


@pytest.mark.spec("kbs-protocol", 27)
async def test_the_proxy_variables_are_honoured() -> None:
    authority = CertificateAuthority.create()
    roots = (authority.pem.decode(),)
    async with (
        Kbs(tls=authority.issue("127.0.0.1").context()) as kbs,
        connect_proxy() as (proxy, lines),
    ):
        kbs.put_resource("default/key/1", b"the secret")
        for variables, is_used in (
            ({"HTTPS_PROXY": proxy}, True),
            ({"https_proxy": proxy, "NO_PROXY": "example.org"}, True),
            ({"HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1"}, False),
            ({"HTTPS_PROXY": proxy, "no_proxy": "127.0.0.0/8"}, False),
            ({"HTTP_PROXY": proxy}, False),
        ):
            lines.clear()
            proxies = Proxies.from_variables(variables)
            async with http_client(extra_roots=roots, proxies=proxies) as http:
                assert await _fetch(kbs.url, http) == b"the secret"
            assert bool(lines) is is_used
            assert all(line.startswith("CONNECT 127.0.0.1:") for line in lines)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_a_kbs_at_an_ipv6_address_is_reached_also_by_kernel_parameters() -> None:
    async with Kbs(host="::1") as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        url = f"http://[::1]:{kbs.port}"
        assert find_kbc_params(f"cc_kbc::{url}", CommandLine.parse("")).url == url
        async with http_client() as http:
            assert await _fetch(url, http) == b"the secret"
