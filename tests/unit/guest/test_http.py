"""guest/http.py: what is sent, what is refused, and which error says so."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeadlineError,
    InvalidInputError,
    LimitError,
    PeerError,
    UnavailableError,
    UnreachableError,
)
from guest.http import CertificateError, HttpClient
from guest.proxies import Proxies
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault
from guest_simulator.kbs.server import Kbs
from support.raw_http import connect_proxy, raw_server, saying

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def client(**arguments: Any) -> AsyncIterator[HttpClient]:
    http = HttpClient(user_agent="tester/1", **arguments)
    try:
        yield http
    finally:
        await http.close()


async def get(http: HttpClient, url: str, seconds: float = 20, **arguments: Any) -> Any:
    arguments = {"max_body": 1000, "deadline": Deadline.after(seconds), **arguments}
    return await http.request("GET", url, **arguments)


async def test_a_request_carries_what_was_given_and_nothing_else() -> None:
    heads: list[bytes] = []

    async def talk(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(OK)

    async with raw_server(talk) as address, client() as http:
        answer = await get(
            http, f"http://{address}/a%2Fb/%2e%2e/c?x=%41&y", headers=(("X-A", "1"),)
        )
        lines = heads[0].decode().split("\r\n")
    assert (answer.status, answer.body) == (200, b"ok")
    assert lines[0] == "GET /a%2Fb/%2e%2e/c?x=%41&y HTTP/1.1"
    names = sorted(line.split(":")[0].lower() for line in lines[1:] if line)
    assert names == ["accept", "host", "user-agent", "x-a"]
    assert {"User-Agent: tester/1", "Accept: */*", "X-A: 1"} <= set(lines)


async def test_a_body_is_sent_with_its_length_and_without_a_guessed_type() -> None:
    seen: list[bytes] = []

    async def talk(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(head + await reader.readexactly(4))
        writer.write(OK)

    async with raw_server(talk) as address, client() as http:
        deadline = Deadline.after(20)
        await http.request(
            "POST", f"http://{address}/", body=b"body", deadline=deadline, max_body=9
        )
    assert b"Content-Length: 4\r\n" in seen[0]
    assert b"content-type" not in seen[0].lower()
    assert seen[0].endswith(b"\r\n\r\nbody")


async def test_headers_come_lower_case_with_cookies_apart() -> None:
    head = b"HTTP/1.1 401 No\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a=1, b\r\nSet-Cookie: c=2\r\n"
    async with raw_server(saying(head + b"Content-Length: 0\r\n\r\n")) as address:
        async with client() as http:
            answer = await get(http, f"http://{address}/")
    assert answer.status == 401
    assert answer.headers["x-a"] == "1, 2"
    assert answer.headers["set-cookie"].split("\n") == ["a=1, b", "c=2"]


async def test_a_redirect_is_an_answer_and_no_cookie_is_kept() -> None:
    async with Kbs() as kbs, client() as http:
        headers = {"Location": "/kbs/v0/auth", "Set-Cookie": "a=b"}
        kbs.faults.add(Fault(path="/first", status=307, headers=headers))
        answer = await get(http, f"{kbs.url}/first")
        await get(http, f"{kbs.url}/second")
        paths = [record.path for record in kbs.requests]
        assert answer.status == 307
        assert paths == ["/first", "/second"]
        assert "cookie" not in {name.lower() for name in list(kbs.requests)[1].headers}


async def test_a_compressed_body_is_given_as_it_came() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    async with raw_server(saying(head)) as address, client() as http:
        assert (await get(http, f"http://{address}/")).body == b"abc"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"400\r\n" + bytes(1024) + b"\r\n") * 2
        + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001),
    ],
    ids=["length", "huge length", "chunked", "until close"],
)
async def test_a_body_beyond_the_limit_is_refused(answer: bytes) -> None:
    async with raw_server(saying(answer)) as address, client() as http:
        with pytest.raises(LimitError):
            await get(http, f"http://{address}/")


async def test_a_chunked_body_within_the_limit_is_read() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with raw_server(saying(answer)) as address, client() as http:
        assert (await get(http, f"http://{address}/")).body == b"abc"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"], ids=["none", "half"]
)
async def test_a_connection_that_ends_early_is_unavailable_not_unreachable(answer: bytes) -> None:
    async with raw_server(saying(answer)) as address, client() as http:
        with pytest.raises(UnavailableError) as caught:
            await get(http, f"http://{address}/")
    assert not isinstance(caught.value, UnreachableError)
    assert f"GET http://{address}/" in str(caught.value)


async def test_an_answer_that_is_not_http_is_a_peer_error() -> None:
    async with raw_server(saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as address, client() as http:
        with pytest.raises(PeerError):
            await get(http, f"http://{address}/")


async def test_a_port_nobody_listens_on_is_unreachable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        async with client() as http:
            with pytest.raises(UnreachableError):
                await get(http, f"http://127.0.0.1:{port}/")


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    async with client() as http:
        with pytest.raises(UnreachableError):
            await get(http, "http://no-such-host.invalid/")


@pytest.mark.parametrize("answer", [b"", OK[:-1]], ids=["no answer", "half an answer"])
async def test_a_peer_that_falls_silent_costs_the_deadline_and_no_more(answer: bytes) -> None:
    async with raw_server(saying(answer, stay_open=True)) as address, client() as http:
        with pytest.raises(DeadlineError, match="no time left for GET"):
            await get(http, f"http://{address}/secret?token=abc", 0.2)


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http:///x", "h", "", "http://h:99999/", "http://[::1"]
)
async def test_what_is_no_http_url_is_refused(url: str) -> None:
    async with client() as http:
        with pytest.raises(InvalidInputError):
            await get(http, url)


async def test_no_error_repeats_user_or_query() -> None:
    async with raw_server(saying(b"")) as address, client() as http:
        with pytest.raises(UnavailableError) as caught:
            await get(http, f"http://{address}/p?token=secret1")
    assert "secret1" not in "".join(caught.value.causes())


async def test_an_ipv6_literal_is_reached() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on the loopback")
    async with raw_server(saying(OK), "::1") as address, client() as http:
        assert (await get(http, f"http://{address}/")).body == b"ok"


async def test_a_closed_client_makes_no_connection() -> None:
    http = HttpClient(user_agent="tester/1")
    await http.close()
    with pytest.raises(UnavailableError, match="closed"):
        await get(http, "http://127.0.0.1:1/")


async def test_a_stream_gives_the_bytes_as_they_come_and_reuses_the_connection() -> None:
    async with Kbs() as kbs, client() as http:
        body = bytes(range(256)) * 2000
        kbs.faults.add(Fault(path="/blob", status=200, body=body))
        deadline = Deadline.after(20)
        async with http.stream("GET", f"{kbs.url}/blob", deadline=deadline, idle=5) as stream:
            assert stream.status == 200
            assert stream.headers["content-length"] == str(len(body))
            assert b"".join([chunk async for chunk in stream.chunks()]) == body


async def test_a_stream_that_is_cut_is_unavailable() -> None:
    async with Kbs() as kbs, client() as http:
        kbs.faults.add(Fault(path="/blob", status=200, body=bytes(100_000), cut_after=50_000))
        async with http.stream(
            "GET", f"{kbs.url}/blob", deadline=Deadline.unlimited(), idle=5
        ) as stream:
            with pytest.raises(UnavailableError):
                async for _ in stream.chunks():
                    pass


async def test_a_stream_that_stalls_is_unavailable_after_the_idle_time() -> None:
    async with Kbs() as kbs, client() as http:
        kbs.faults.add(Fault(path="/blob", status=200, body=bytes(1000), stall_after=10))
        async with http.stream(
            "GET", f"{kbs.url}/blob", deadline=Deadline.unlimited(), idle=0.2
        ) as stream:
            with pytest.raises(UnavailableError, match=r"no byte in 0\.2 s"):
                async for _ in stream.chunks():
                    pass


async def test_a_stream_ends_with_its_deadline() -> None:
    async with raw_server(saying(b"", stay_open=True)) as address, client() as http:
        with pytest.raises(DeadlineError):
            async with http.stream(
                "GET", f"http://{address}/", deadline=Deadline.after(0.2), idle=50
            ):
                pass
        with pytest.raises(UnavailableError, match="no answer in"):
            async with http.stream(
                "GET", f"http://{address}/", deadline=Deadline.unlimited(), idle=0.2
            ):
                pass


async def test_tls_takes_the_extra_root_and_refuses_all_else() -> None:
    authority, other = CertificateAuthority.create(), CertificateAuthority.create()
    server = authority.issue("127.0.0.1")
    async with Kbs(tls=server.context()) as kbs:
        async with client(extra_roots=(other.pem.decode(), authority.pem.decode())) as http:
            assert (await get(http, f"{kbs.url}/healthz")).status == 200
            with pytest.raises(CertificateError):
                await get(http, kbs.url.replace("127.0.0.1", "localhost") + "/healthz")
        for roots in ((), (other.pem.decode(),)):
            async with client(extra_roots=roots) as http:
                with pytest.raises(CertificateError):
                    await get(http, f"{kbs.url}/healthz")


async def test_plain_http_where_tls_is_expected_is_unreachable() -> None:
    async with Kbs() as kbs, client() as http:
        with pytest.raises(UnreachableError):
            await get(http, kbs.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "pem",
    ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"],
)
def test_a_root_that_is_not_pem_is_a_configuration_error(pem: str) -> None:
    with pytest.raises(ConfigError):
        HttpClient(user_agent="x", extra_roots=(pem,))


async def test_https_goes_through_connect_and_is_verified_end_to_end() -> None:
    authority = CertificateAuthority.create()
    context: ssl.SSLContext = authority.issue("127.0.0.1").context()
    async with Kbs(tls=context) as kbs, connect_proxy() as (proxy, lines):
        roots = (authority.pem.decode(),)
        async with client(extra_roots=roots, proxies=Proxies(https=proxy)) as http:
            assert (await get(http, f"{kbs.url}/healthz")).status == 200
        assert lines == [f"CONNECT {kbs.url.removeprefix('https://')} HTTP/1.1"]
        async with client(proxies=Proxies(https=proxy)) as http:
            with pytest.raises(CertificateError):
                await get(http, f"{kbs.url}/healthz")


async def test_http_goes_through_its_proxy_unless_the_host_is_excepted() -> None:
    async with Kbs() as kbs, connect_proxy() as (proxy, lines):
        async with client(proxies=Proxies(http=proxy)) as http:
            assert (await get(http, "http://far.invalid/x")).body == b"via proxy"
        excepted = Proxies(http=proxy, no_proxy="127.0.0.0/8")
        async with client(proxies=excepted) as http:
            assert (await get(http, f"{kbs.url}/healthz")).status == 200
    assert lines == ["GET http://far.invalid/x HTTP/1.1"]


async def test_a_proxy_that_refuses_or_is_down_makes_the_peer_unreachable() -> None:
    refusal = saying(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    async with raw_server(refusal) as address:
        for proxy in (f"http://{address}", "http://127.0.0.1:1"):
            async with client(proxies=Proxies(https=proxy)) as http:
                with pytest.raises(UnreachableError):
                    await get(http, "https://far.invalid/x")
