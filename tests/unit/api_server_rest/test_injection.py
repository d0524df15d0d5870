"""Resources that are pushed over HTTP: documents, limits, who may, and what a no becomes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from api_server_rest import handler
from api_server_rest.config import Feature, Injection
from api_server_rest.injection import (
    MAX_NONCE_DOCUMENT,
    MAX_RESOURCE_DOCUMENT,
    NonceDocument,
    ResourceDocument,
)
from api_server_rest.main import make_parser, open_shim
from guest.errors import (
    ConfigError,
    DecodeError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from guest.metrics import Metrics
from guest.protos import cdh_pb2
from guest.protos.injection import COMMIT, PREPARE
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import StatusError, status_of
from support.rest_world import Reply, RestWorld, rest_world

KEY = '{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"xxx","y":"yyy"}'
PREPARE_URL = "/cdh/resource-injection/prepare/a/b/c"
COMMIT_URL = "/cdh/resource-injection/commit/a/b/c"
NONCE = b'{"nonce":"bm9uY2U"}'
RESOURCE = (
    b'{"session_id":"s1", "encrypted_resource": { "protected" : "x", "tag":"y" } , "more":[1]}'
)
MALFORMED = (
    b"",
    b"not-json",
    b"[]",
    b"{}",
    b'"x"',
    b"\xff{}",
    b'{"nonce":1,"session_id":"s","encrypted_resource":"text"}',
    b'{"nonce":null,"session_id":null,"encrypted_resource":{}}',
    b'{"nonce":"a","nonce":"a","session_id":"s","session_id":"s","encrypted_resource":{}}',
    b'{"nonce":"\\ud800","session_id":"\\ud800","encrypted_resource":{}}',
    b'{"nonce":"a","session_id":"s","encrypted_resource":{"a":1,"a":2},"b":{"c":1,"c":2}}',
    b'{"nonce":"a","session_id":"s","encrypted_resource":{}} x',
    b'{"nonce":"a","session_id":"s","encrypted_resource":' + b"[" * 40 + b"]" * 40 + b"}",
)


class Hub:
    """Answers both calls; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[cdh_pb2.PrepareResourceInjectionRequest] = []
        self.pushed: list[cdh_pb2.CommitResourceInjectionRequest] = []
        self.key = KEY
        self.failure: StatusError | None = None
        self.gate: asyncio.Event | None = None
        self.deadlines: list[float] = []

    async def prepare(
        self, request: cdh_pb2.PrepareResourceInjectionRequest, context: CallContext
    ) -> cdh_pb2.PrepareResourceInjectionResponse:
        self.asked.append(request)
        self.deadlines.append(context.deadline.remaining())
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return cdh_pb2.PrepareResourceInjectionResponse(
            SessionId="s1", Nonce=request.Nonce, TeePubKey=self.key, Evidence=b'{"e":"\xff"}'
        )

    async def commit(
        self, request: cdh_pb2.CommitResourceInjectionRequest, context: CallContext
    ) -> cdh_pb2.CommitResourceInjectionResponse:
        self.pushed.append(request)
        if self.failure is not None:
            raise self.failure
        return cdh_pb2.CommitResourceInjectionResponse()


@asynccontextmanager
async def pushing(
    folder: Path, injection: Injection = Injection.LOOPBACK, *, refuse_origin: bool = False
) -> AsyncIterator[tuple[RestWorld, Hub]]:
    """A shim that lets resources be pushed, and the hub behind it."""
    hub, routes = Hub(), Routes()
    routes.bind(PREPARE, hub.prepare)
    routes.bind(COMMIT, hub.commit)
    cdh = InProcessChannel(routes)
    async with rest_world(
        folder, with_cdh=False, injection=injection, cdh=cdh, refuse_origin=refuse_origin
    ) as world:
        yield world, hub


def shows(reply: Reply, status: int, body: bytes, reason: str | None = None) -> bool:
    """Whether an answer is exactly this one, and says why."""
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get("x-coco-error") == reason
    return True


async def test_a_session_is_begun_and_ended(short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, hub):
        reply = await world.ask("POST", PREPARE_URL + "?query=dropped", NONCE)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.body == (
            b'{"session_id":"s1","nonce":"bm9uY2U","tee_pubkey":%s,"evidence":"eyJlIjoi/yJ9"}'
            % KEY.encode()
        )
        assert [(one.ResourcePath, one.Nonce) for one in hub.asked] == [("a/b/c", "bm9uY2U")]
        assert 40 < hub.deadlines[0] <= 50
        reply = await world.ask("POST", COMMIT_URL, RESOURCE)
        assert (reply.status, reply.body) == (200, b"")
        assert "content-type" not in reply.headers
        (pushed,) = hub.pushed
        assert (pushed.SessionId, pushed.ResourcePath) == ("s1", "a/b/c")
        assert pushed.EncryptedResource == b'{ "protected" : "x", "tag":"y" }'


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "%2e%2e/a", "a%20b", "é"])
async def test_the_path_goes_to_the_hub_as_it_was_sent(path: str, short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, hub):
        await world.ask("POST", f"/cdh/resource-injection/prepare/{path}", NONCE)
        assert [one.ResourcePath for one in hub.asked] == [path]


async def test_where_it_is_off_there_is_no_such_url(short_tmp: Path) -> None:
    async with pushing(short_tmp, Injection.OFF) as (world, hub):
        for url in (PREPARE_URL, COMMIT_URL):
            for method in ("POST", "GET", "PUT"):
                assert shows(await world.ask(method, url, NONCE), 404, b"URL NOT FOUND")
        assert not hub.asked
        assert not hub.pushed


async def test_other_methods_than_post_are_not_allowed(short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, hub):
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for url in (PREPARE_URL, COMMIT_URL):
                reply = await world.ask(method, url, NONCE)
                assert shows(reply, 405, b"Method Not Allowed")
                assert reply.headers["allow"] == "POST"
        for url in ("/", "/prepare", "/commit", "/other/a", "x/prepare/a", "/prepare%2fa"):
            reply = await world.ask("POST", f"/cdh/resource-injection{url}", NONCE)
            assert shows(reply, 404, b"URL NOT FOUND")
        assert not hub.asked


@pytest.mark.parametrize("body", MALFORMED)
async def test_a_malformed_body_is_refused_and_the_connection_goes_on(
    body: bytes, short_tmp: Path
) -> None:
    async with pushing(short_tmp) as (world, hub):
        request = b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
        commit = request % (COMMIT_URL.encode(), len(body), body)
        info = b"GET /nothing HTTP/1.1\r\n\r\n"
        refused, after = await world.raw(commit + info, replies=2)
        assert shows(refused, 400, b"BAD REQUEST", "decode")
        assert after.status == 404
        assert not hub.pushed


async def test_a_malformed_nonce_is_refused(short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, hub):
        for body in MALFORMED:
            with suppress(DecodeError):
                NonceDocument.decode(body)
                continue
            assert shows(await world.ask("POST", PREPARE_URL, body), 400, b"BAD REQUEST", "decode")
        assert not hub.asked


@pytest.mark.parametrize(
    ("url", "limit"), [(PREPARE_URL, MAX_NONCE_DOCUMENT), (COMMIT_URL, MAX_RESOURCE_DOCUMENT)]
)
async def test_a_long_body_is_refused_before_it_is_held(
    url: str, limit: int, short_tmp: Path
) -> None:
    async with pushing(short_tmp) as (world, hub):
        head = b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\nx" % (url.encode(), limit + 1)
        (reply,) = await world.raw(head)
        assert shows(reply, 413, b"Payload Too Large")
        assert reply.headers["connection"] == "close"
        chunked = b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % url.encode()
        chunk = b"%x\r\n" % limit + b" " * limit + b"\r\n1\r\nx\r\n"
        (reply,) = await world.raw(chunked + chunk)
        assert shows(reply, 413, b"Payload Too Large")
        (reply,) = await world.raw(chunked + b"zz\r\n")
        assert reply.status == 500
        assert reply.body.startswith(b"error reading a body from connection: ")
        assert not hub.asked
        assert not hub.pushed


async def test_the_longest_resource_that_a_message_holds_arrives(short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, hub):
        for length, status in ((MAX_RESOURCE_DOCUMENT - 1000, 200), (MAX_RESOURCE_DOCUMENT, 500)):
            body = b'{"session_id":"s","encrypted_resource":{"c":"%s"}}'
            filled = body % (b"x" * (length - len(body) + 2))
            assert len(filled) == length
            reply = await world.ask("POST", "/cdh/resource-injection/commit/" + "p" * 60, filled)
            assert reply.status == status
        assert shows(reply, 500, b"ttrpc request error", "limit")
        assert len(hub.pushed) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFoundError("no session"), "not-found"),
        (InvalidInputError("path mismatch"), "invalid-input"),
        (UnsupportedError("off"), "unsupported"),
    ],
)
async def test_what_the_hub_refuses_reads_like_every_failure_of_it(
    error: NotFoundError, reason: str, short_tmp: Path
) -> None:
    async with pushing(short_tmp) as (world, hub):
        hub.failure = StatusError(status_of(error, "[CDH] [ERROR]: failed"))
        for url, body in ((PREPARE_URL, NONCE), (COMMIT_URL, RESOURCE)):
            assert shows(await world.ask("POST", url, body), 500, b"ttrpc request error", reason)


async def test_a_hub_that_is_not_there_is_named(short_tmp: Path) -> None:
    async with rest_world(short_tmp, with_cdh=False, injection=Injection.LOOPBACK) as world:
        text = f"ttrpc connect to CDH addr: {world.backends.cdh_address} failed"
        for url, body in ((PREPARE_URL, NONCE), (COMMIT_URL, RESOURCE)):
            reply = await world.ask("POST", url, body)
            assert shows(reply, 500, text.encode(), "unreachable")


async def test_a_hub_without_the_calls_refuses_them(short_tmp: Path) -> None:
    async with rest_world(short_tmp, injection=Injection.LOOPBACK) as world:
        reply = await world.ask("POST", PREPARE_URL, NONCE)
        assert shows(reply, 500, b"ttrpc request error", "unsupported")


@pytest.mark.parametrize("key", ["", "x", "[]", '{"a":1,"a":2}'])
async def test_a_public_key_that_is_no_object_is_the_hubs_failure(
    key: str, short_tmp: Path
) -> None:
    async with pushing(short_tmp) as (world, hub):
        hub.key = key
        reply = await world.ask("POST", PREPARE_URL, NONCE)
        assert shows(reply, 500, b"ttrpc request error", "decode")


async def test_other_peers_may_push_only_where_that_is_configured_and_do_nothing_else(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (
        "/info",
        "/",
        "/cdh/resource/a",
        "/aa/token?token_type=kbs",
        "/aa/x",
        "*",
        PREPARE_URL,
    )
    monkeypatch.setattr(handler, "is_loopback", lambda host: False)
    async with pushing(short_tmp) as (world, hub):
        for url, body in ((PREPARE_URL, NONCE), (COMMIT_URL, RESOURCE)):
            assert shows(await world.ask("POST", url, body), 403, b"Forbidden")
        assert not hub.asked
    async with pushing(short_tmp, Injection.REMOTE) as (world, hub):
        assert (await world.ask("POST", PREPARE_URL, NONCE)).status == 200
        assert (await world.ask("POST", COMMIT_URL, RESOURCE)).status == 200
        for url in others:
            assert shows(await world.get(url), 403, b"Forbidden")
        bad = b"POST nonsense HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        assert shows((await world.raw(bad))[0], 403, b"Forbidden")
        assert len(hub.asked) == len(hub.pushed) == 1
        assert world.backends.requests == []
    async with pushing(short_tmp, Injection.REMOTE, refuse_origin=True) as (world, hub):
        reply = await world.ask("POST", PREPARE_URL, NONCE, headers="Origin: http://evil\r\n")
        assert shows(reply, 403, b"Forbidden")


async def test_few_bodies_are_in_memory_at_a_time_and_a_wait_for_a_turn_ends(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handler.MAX_INJECTIONS == 4
    async with pushing(short_tmp) as (world, hub):
        hub.gate = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(world.ask("POST", PREPARE_URL, NONCE), name=f"prepare {n}")
                for n in range(4)
            ]
            while len(hub.asked) < 4:
                await asyncio.sleep(0.001)
            monkeypatch.setattr(handler, "BACKEND_SECONDS", 0.05)
            late = await world.ask("POST", COMMIT_URL, RESOURCE)
            assert shows(late, 500, b"ttrpc request error", "deadline")
            assert (await world.get("/nothing")).status == 404
            hub.gate.set()
        assert {task.result().status for task in asked} == {200}
        monkeypatch.undo()
        assert (await world.ask("POST", COMMIT_URL, RESOURCE)).status == 200


async def test_a_long_document_is_read_beside_the_loop(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, threads = ResourceDocument.decode, []

    def noting(body: bytes) -> ResourceDocument:
        threads.append(threading.current_thread())
        return decode(body)

    monkeypatch.setattr(ResourceDocument, "decode", noting)
    async with pushing(short_tmp) as (world, _):
        assert (await world.ask("POST", COMMIT_URL, RESOURCE)).status == 200
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_peer_that_leaves_gives_its_turn_back(short_tmp: Path) -> None:
    async with pushing(short_tmp) as (world, _):
        head = b"POST %s HTTP/1.1\r\nContent-Length: 9\r\n\r\n{" % COMMIT_URL.encode()
        for _ in range(2 * handler.MAX_INJECTIONS):
            _, writer = await world.connect()
            writer.write(head)
            await writer.drain()
            writer.close()
        assert (await world.ask("POST", PREPARE_URL, NONCE)).status == 200


async def test_nothing_that_was_pushed_reaches_the_log(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    async with pushing(short_tmp) as (world, hub):
        await world.ask("POST", PREPARE_URL, b'{"nonce":"NONCE-CANARY"}')
        for failure in (None, StatusError(status_of(NotFoundError("none"), "failed"))):
            hub.failure = failure
            body = b'{"session_id":"SESSION-CANARY","encrypted_resource":{"x":"JWE-CANARY"}}'
            await world.ask("POST", COMMIT_URL, body)
        await world.ask("POST", COMMIT_URL, b'{"session_id":"SESSION-CANARY","x":"JWE-CANARY"')
    shown = [str(vars(record)) for record in caplog.records]
    assert [line for line in shown if "injection-commit" in line]
    assert not [line for line in shown if "CANARY" in line]


def test_the_switch_is_off_and_needs_the_hubs_half() -> None:
    assert make_parser().parse_args([]).resource_injection == "off"
    for word in ("on", "", "Remote"):
        with pytest.raises(SystemExit):
            make_parser().parse_args(["--resource-injection", word])
    arguments = make_parser().parse_args(["-f", "attestation", "--resource-injection=loopback"])
    with pytest.raises(ConfigError, match="needs --features resource or all"):
        open_shim(arguments, {}, Metrics())


async def test_with_attestation_alone_there_are_no_routes_of_the_hub(short_tmp: Path) -> None:
    async with rest_world(
        short_tmp, feature=Feature.ATTESTATION, injection=Injection.REMOTE
    ) as world:
        reply = await world.ask("POST", PREPARE_URL, NONCE)
        assert shows(reply, 404, b"Resource Feature Not Enabled")
