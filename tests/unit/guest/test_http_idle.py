"""guest/http_idle.py: a GET over an idle connection is aiohttp's GET, and its failures are too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from guest import http_idle
from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError, LimitError, UnavailableError
from guest.http import Headers, HttpClient, HttpResponse
from guest.proxies import Proxies
from guest_simulator.cert import CertificateAuthority
from guest_simulator.kbs.server import Kbs
from support.raw_http import connect_proxy, raw_server, saying

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GIVEN = (("Authorization", "Bearer abc.def"), ("X-Request-Id", "1"), ("X-Name", "Zoë"))


class Usual:
    """How often a client went aiohttp's own way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times = 0
        send = HttpClient._send

        async def counted(*arguments: object) -> object:
            self.times += 1
            return await send(*arguments)  # type: ignore[arg-type]  # what it was given

        patch.setattr(HttpClient, "_send", counted)


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> Usual:
    return Usual(monkeypatch)


class Peer:
    """Answers the requests of all connections in turn; an empty answer closes."""

    def __init__(self, *answers: bytes) -> None:
        self._answers: Iterator[bytes] = iter(answers)
        self.heads: list[bytes] = []
        self.connections = 0

    async def talk(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        while True:
            self.heads.append(head)
            answer = next(self._answers)
            if not answer:
                return
            writer.write(answer)
            head = await reader.readuntil(b"\r\n\r\n")


Get = Callable[..., Awaitable[HttpResponse]]


@asynccontextmanager
async def asking(peer: Peer) -> AsyncIterator[Get]:
    http = HttpClient(user_agent="tester/1")

    async def get(
        path: str = "/a%2Fb/%2e%2e?x=%41&y", headers: Headers = GIVEN, seconds: float = 20.0
    ) -> HttpResponse:
        return await http.request(
            "GET",
            f"http://{address}{path}",
            headers=headers,
            deadline=Deadline.after(seconds),
            max_body=1000,
        )

    async with raw_server(peer.talk) as address:
        try:
            yield get
        finally:
            await http.close()


async def test_what_is_sent_and_answered_is_the_same_byte_for_byte(usual: Usual) -> None:
    answer = b"HTTP/1.1 404 No\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nno"
    peer = Peer(answer, answer, answer)
    async with asking(peer) as get:
        first, second, third = [await get() for _ in range(3)]
    assert (peer.connections, usual.times) == (1, 1)
    assert first == second == third
    assert (first.status, first.body, first.headers["x-a"]) == (404, b"no", "1, 2")
    assert peer.heads[0] == peer.heads[1] == peer.heads[2]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 None\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=["no body", "empty", "chunked", "compressed"],
)
async def test_every_form_of_body_is_read_as_usual(answer: bytes, usual: Usual) -> None:
    peer = Peer(answer, answer, answer)
    async with asking(peer) as get:
        first, second, third = [await get() for _ in range(3)]
    assert (peer.connections, usual.times) == (1, 1)
    assert first == second == third


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/a#b", ()),
        ("?a", ()),
        ("/a\tb", ()),
        ("/", (("user-agent", "other/1"),)),
        ("/", (("Accept", "text/plain"),)),
        ("/", (("Connection", "close"),)),
    ],
)
async def test_what_is_not_plain_goes_the_usual_way(
    path: str, headers: Headers, usual: Usual
) -> None:
    peer = Peer(OK, OK, OK)
    async with asking(peer) as get:
        await get()
        assert (await get(path, headers)).body == b"ok"
        assert (await get()).body == b"ok"
    assert usual.times >= 2
    sent = peer.heads[1].decode().lower().split("\r\n")
    assert all(f"{name}: {value}".lower() in sent for name, value in headers)
    assert sum(line.startswith("user-agent:") for line in sent) == 1


@pytest.mark.parametrize("bad", ["a\r\nX-B: 2", "a\nX-B: 2", "a\0b"])
async def test_no_header_makes_a_second_one(bad: str) -> None:
    peer = Peer(OK, OK)
    async with asking(peer) as get:
        await get()
        with pytest.raises(ValueError):
            await get("/", (("X-A", bad),))
    assert len(peer.heads) == 1


@pytest.mark.parametrize(
    "end",
    [b"", b"HTTP/1.1 103 Early\r\n\r\n" + OK, b"SSH-2.0-x\r\n\r\n"],
    ids=["closed", "early hints", "not HTTP"],
)
async def test_an_idle_connection_that_gives_no_answer_is_given_up(
    end: bytes, usual: Usual
) -> None:
    peer = Peer(OK, end, OK)
    async with asking(peer) as get:
        await get()
        assert (await get()).body == b"ok"
    assert (peer.connections, usual.times) == (2, 2)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
    ids=["closed", "not HTTP", "bad length"],
)
async def test_a_failure_reads_as_if_there_had_been_no_idle_connection(answer: bytes) -> None:
    texts: list[list[str]] = []
    for before in ((), (OK,)):
        async with asking(Peer(*before, *(answer,) * 4)) as get:
            for _ in before:
                await get("/")
            with pytest.raises(GuestError) as caught:
                await get("/")
        texts.append([text.partition("127.0.0.1")[0] for text in caught.value.causes()])
        texts[-1].append(type(caught.value).__name__)
    assert texts[0] == texts[1]


async def test_a_body_that_is_cut_is_not_asked_for_again() -> None:
    class Cut(Peer):
        async def talk(
            self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            self.heads.append(head)
            writer.write(OK)
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    peer = Cut()
    async with asking(peer) as get:
        await get()
        with pytest.raises(UnavailableError):
            await get()
    assert len(peer.heads) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), LimitError),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
            + bytes(1001)
            + b"\r\n0\r\n\r\n",
            LimitError,
        ),
        (OK[:-1], DeadlineError),
        (b"\r\n", DeadlineError),
    ],
    ids=["length", "chunked", "half a body", "no head"],
)
async def test_limit_and_deadline_hold_and_the_connection_is_not_used_again(
    answer: bytes, error: type[GuestError], usual: Usual
) -> None:
    peer = Peer(OK, answer, OK)
    async with asking(peer) as get:
        await get()
        with pytest.raises(error):
            await get(seconds=1.0 if error is DeadlineError else 20)
        assert usual.times == 1
        assert (await get()).body == b"ok"
    assert peer.connections == 2


async def test_each_origin_is_asked_over_its_own_connection(usual: Usual) -> None:
    authority = CertificateAuthority.create()
    http = HttpClient(user_agent="tester/1", extra_roots=(authority.pem.decode(),))
    tls = authority.issue("127.0.0.1").context()
    async with Kbs() as plain, Kbs(tls=tls) as secure:
        for _ in range(3):
            for kbs in (plain, secure):
                answer = await http.request(
                    "GET", f"{kbs.url}/healthz", deadline=Deadline.after(20), max_body=1000
                )
                assert answer.status == 200
        await http.close()
    assert usual.times == 2


async def test_a_client_with_a_proxy_asks_the_proxy_each_time() -> None:
    async with connect_proxy() as (proxy, lines), raw_server(saying(OK)) as address:
        http = HttpClient(user_agent="tester/1", proxies=Proxies(http=proxy))
        for _ in range(2):
            answer = await http.request(
                "GET", f"http://{address}/", deadline=Deadline.after(20), max_body=1000
            )
            assert answer.body == b"via proxy"
        await http.close()
    assert len(lines) == 2


def test_it_fits_the_aiohttp_of_the_locks() -> None:
    assert http_idle.fits()


async def test_with_another_aiohttp_all_go_the_usual_way(
    usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiohttp.__version__", "3.15.0")
    async with asking(Peer(OK, OK)) as get:
        assert [(await get()).body for _ in range(2)] == [b"ok", b"ok"]
    assert usual.times == 2
