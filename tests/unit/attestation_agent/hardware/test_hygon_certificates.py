"""Hygon's certificate service: asked once for a chip, over HTTP, with what may go wrong."""

import asyncio

import pytest

from attestation_agent.hardware.hygon_certificates import CHAIN_BYTES, SERVICE, HygonCertificates
from guest.deadline import Deadline
from guest.errors import DeadlineError, LimitError, PeerError, UnavailableError
from guest.proxies import Proxies
from support.raw_http import raw_server, saying

CHAIN = bytes(range(243)) * 12


def answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


async def test_a_chain_is_fetched_once_by_the_chips_number() -> None:
    assert len(CHAIN) == CHAIN_BYTES
    heads: list[bytes] = []

    async def talk(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(answer(CHAIN))
        await writer.drain()

    async with raw_server(talk) as address:
        source = HygonCertificates(Proxies(), f"http://{address}")
        for _ in range(2):
            assert await source.chain("TEST2026CHIP0042", Deadline.after(10)) == CHAIN
    assert [head.split(b"\r\n")[0] for head in heads] == [
        b"GET /hsk_cek?snumber=TEST2026CHIP0042 HTTP/1.1"
    ]
    assert SERVICE == "https://cert.hygon.cn"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(b"no such chip", "404 Not Found"), PeerError),
        (answer(CHAIN[:-1]), PeerError),
        (answer(b""), PeerError),
        (answer(CHAIN + b"x"), LimitError),
        (b"garbage\r\n\r\n", PeerError),
        (answer(CHAIN)[:500], UnavailableError),
    ],
    ids=["404", "short", "empty", "long", "garbage", "cut"],
)
async def test_what_is_no_chain_is_an_error_and_is_not_kept(
    said: bytes, error: type[Exception]
) -> None:
    async with raw_server(saying(said)) as address:
        source = HygonCertificates(Proxies(), f"http://{address}")
        for _ in range(2):
            with pytest.raises(error):
                await source.chain("A", Deadline.after(10))


async def test_a_service_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    async with raw_server(saying(b"", stay_open=True)) as address:
        source = HygonCertificates(Proxies(), f"http://{address}")
        with pytest.raises(DeadlineError):
            await source.chain("A", Deadline.after(1))
