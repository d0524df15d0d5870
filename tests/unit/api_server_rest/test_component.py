"""The shim over real sockets, check by check of its specification."""

from pathlib import Path

import pytest

from api_server_rest.config import Feature
from support.rest_world import Reply, read_reply, rest_world

NOT_FOUND = b"URL NOT FOUND"
BAD = b"BAD REQUEST"


def shows(reply: Reply, status: int, body: bytes, content_type: str | None = None) -> bool:
    """Whether an answer is exactly this one."""
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get("content-type") == content_type
    assert "server" not in reply.headers
    assert "date" in reply.headers
    return True


@pytest.mark.spec("api-server-rest", 3, 6)
async def test_it_starts_and_answers_without_any_backend(short_tmp: Path) -> None:
    async with rest_world(short_tmp, with_aa=False, with_cdh=False) as world:
        cdh = f"ttrpc connect to CDH addr: {world.backends.cdh_address} failed".encode()
        aa = world.backends.aa_address
        agent = f"ttrpc connect to Attestation Agent addr: {aa} failed".encode()
        assert shows(await world.get("/cdh/resource/a/b/c"), 500, cdh)
        for target in ("/info", "/aa/token?token_type=kbs", "/aa/evidence?runtime_data="):
            assert shows(await world.get(target), 500, agent)
        assert shows(await world.get("/x"), 404, NOT_FOUND)
        assert shows(await world.get("/aa/token"), 400, BAD)
        reply = await world.get("/cdh/resource/a/b/c")
        assert reply.headers["x-coco-error"] == "unreachable"


@pytest.mark.spec("api-server-rest", 4)
async def test_info_has_the_members_of_its_feature(short_tmp: Path) -> None:
    version = b'{"version":"Guest Components Version: v0.16.0",'
    for feature, rest in (
        (Feature.RESOURCE, b'"feature":"resource"}'),
        (Feature.ATTESTATION, b'"tee":"sample","feature":"attestation"}'),
        (Feature.ALL, b'"tee":"sample","feature":"all"}'),
    ):
        async with rest_world(short_tmp, feature=feature) as world:
            reply = await world.get("/info")
            assert shows(reply, 200, version + rest, "application/json")
            world.backends.tee, world.backends.additional_tees = "tdx", ["nvidia", "x"]
            if feature is Feature.ALL:
                rest = b'"tee":"tdx","additional_tees":["nvidia","x"],"feature":"all"}'
                assert (await world.get("/info")).body == version + rest


@pytest.mark.spec("api-server-rest", 5)
async def test_info_is_for_get_alone(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        assert (await world.get("/info?x=1")).status == 200
        assert shows(await world.get("/info/"), 404, NOT_FOUND)
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert shows(await world.ask(method, "/info"), 405, b"Method Not Allowed")
        reply = await world.ask("HEAD", "/info")
        assert (reply.status, reply.headers["content-length"]) == (405, "18")


@pytest.mark.spec("api-server-rest", 7, 9)
async def test_paths_that_nobody_serves_are_not_found(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        for target in ("/", "/aa", "/cdh", "/x", "*", "//cdh/resource/a", "/cdh/resource",
                       "/cdh/", "/cdh/resourcex/a"):  # fmt: skip
            assert shows(await world.get(target), 404, NOT_FOUND)
        assert world.backends.requests == []


@pytest.mark.spec("api-server-rest", 2, 8)
async def test_each_feature_serves_its_half(short_tmp: Path) -> None:
    async with rest_world(short_tmp, feature=Feature.RESOURCE) as world:
        for target in ("/aa/x", "/aa/token?token_type=kbs"):
            assert shows(await world.get(target), 404, b"Attestation Feature Not Enabled")
        assert (await world.get("/cdh/resource/default/key/1")).body == b"key1"
    async with rest_world(short_tmp, feature=Feature.ATTESTATION) as world:
        for target in ("/cdh/x", "/cdh/resource/default/key/1"):
            assert shows(await world.get(target), 404, b"Resource Feature Not Enabled")
        assert (await world.get("/aa/token?token_type=kbs")).status == 200
    async with rest_world(short_tmp, feature=Feature.ALL) as world:
        assert (await world.get("/cdh/resource/default/key/1")).body == b"key1"
        assert (await world.get("/aa/token?token_type=kbs")).status == 200


@pytest.mark.spec("api-server-rest", 10, 11, 12)
async def test_a_resource_s_path_is_forwarded_as_it_was_sent(short_tmp: Path) -> None:
    paths = ("/a", "/a/b", "/a/b/c/d/e", "/a%20b/%2e%2e/c", "/a/../b", "/default/key/1", "/")
    async with rest_world(short_tmp) as world:
        for path in paths:
            await world.get(f"/cdh/resource{path}?x=/y")
        await world.get("http://evil:1/cdh/resource/z")
        expected = [
            ("GetResource", b"\x0a" + bytes([len(uri)]) + uri)
            for uri in (f"kbs://{path}".encode() for path in (*paths, "/z"))
        ]
        assert world.backends.requests == expected
        assert expected[5][1].hex() == "0a146b62733a2f2f2f64656661756c742f6b65792f31"


@pytest.mark.spec("api-server-rest", 13)
async def test_a_binary_and_an_empty_resource_come_through(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        every = bytes(range(256))
        world.backends.resources = {"kbs:///all": every, "kbs:///none": b""}
        assert shows(await world.get("/cdh/resource/all"), 200, every, "application/octet-stream")
        reply = await world.get("/cdh/resource/none")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")


@pytest.mark.spec("api-server-rest", 14)
async def test_the_longest_resource_comes_through_and_a_longer_one_does_not(
    short_tmp: Path,
) -> None:
    async with rest_world(short_tmp) as world:
        world.backends.resources = {"kbs:///l": b"x" * 4_194_292, "kbs:///m": b"x" * 4_194_300}
        assert len((await world.get("/cdh/resource/l")).body) == 4_194_292
        assert shows(await world.get("/cdh/resource/m"), 500, b"ttrpc request error")


@pytest.mark.spec("api-server-rest", 15)
async def test_a_backend_s_failure_is_told_to_the_log_alone(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rest_world(short_tmp) as world:
        world.backends.fail("the real cause")
        for target in ("/cdh/resource/a", "/aa/token?token_type=kbs", "/info"):
            reply = await world.get(target)
            assert shows(reply, 500, b"ttrpc request error")
            assert not any("real cause" in value for value in reply.headers.values())
    assert any("real cause" in str(vars(record)) for record in caplog.records)


@pytest.mark.spec("api-server-rest", 16)
async def test_token_types_are_forwarded(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        assert shows(await world.get("/aa/token"), 400, BAD)
        assert shows(await world.get("/aa/token?x=1"), 400, BAD)
        reply = await world.get("/aa/token?token_type=kbs")
        assert shows(reply, 200, b"token of kbs", "application/octet-stream")
        for query in ("token_type=", "token_type", "token_type=a&token_type=b"):
            await world.get(f"/aa/token?{query}")
        sent = [data.hex() for _, data in world.backends.requests]
        assert sent == ["0a036b6273", "", "", "0a0162"]


@pytest.mark.spec("api-server-rest", 17, 18, 19, 20)
async def test_runtime_data_is_forwarded(short_tmp: Path) -> None:
    every = bytes(range(64))
    accepted = {
        "runtime_data=xxxx": "0a0478787878",
        "runtime_data=a%00%ff+b": "0a076100efbfbd2062",
        "runtime_data=-_8&encoding=base64": "0a02fbff",
        "runtime_data=eHh4eA&encoding=base64": "0a0478787878",
        "runtime_data=&encoding=base64": "",
        "runtime_data=": "",
        "runtime_data": "",
        "runtime_data=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1"
        "Njc4OTo7PD0-Pw&encoding=base64": "0a40" + every.hex(),
    }
    refused = (
        "",
        "encoding=base64",
        "runtime_data=eHh4eA==&encoding=base64",
        "runtime_data=eHh4eB&encoding=base64",
        "runtime_data=%2b/8&encoding=base64",
        "runtime_data=xxxx&encoding=hex",
        "runtime_data=xxxx&encoding=",
        "runtime_data=xxxx&encoding",
    )
    async with rest_world(short_tmp) as world:
        for path, name in (
            ("/aa/evidence", "GetEvidence"),
            ("/aa/additional-evidence", "GetAdditionalEvidence"),
        ):
            world.backends.requests.clear()
            for query, payload in accepted.items():
                reply = await world.get(f"{path}?{query}")
                data = bytes.fromhex(payload)[2:]
                assert shows(reply, 200, data, "application/octet-stream")
            sent = [(name, bytes.fromhex(payload)) for payload in accepted.values()]
            assert world.backends.requests == sent
            for query in refused:
                assert shows(await world.get(f"{path}?{query}"), 400, BAD)
            assert world.backends.requests == sent


EVENT = b'{"domain":"d","operation":"o","content":"c","RegisterIndex":7,"more":[1]}'


@pytest.mark.spec("api-server-rest", 21, 23)
async def test_events_are_forwarded_and_their_result_is_told(short_tmp: Path) -> None:
    no = b'{"success":"false","message": "'
    results = {
        0: b'{"success":"true"}',
        1: no + b'The platform does not support runtime measurement"}',
        2: no + b'Attestation Agent does not enable eventlog recording"}',
        9: no + b'Unknown runtime measurement result"}',
    }
    async with rest_world(short_tmp) as world:
        for result, body in results.items():
            world.backends.result = result
            reply = await world.ask("POST", "/aa/aael", EVENT)
            assert shows(reply, 200, body, "application/json")
        sent = ("ExtendRuntimeMeasurement", bytes.fromhex("0a016412016f1a0163"))
        assert world.backends.requests == [sent] * 4


@pytest.mark.spec("api-server-rest", 22)
async def test_what_is_no_event_is_refused_with_the_known_prefix(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        for body in (
            b"",
            b"not-json",
            b'{"domain":"d","operation":"o"}',
            b'{"domain":1,"operation":"o","content":"c"}',
            b'{"domain":"d","domain":"d","operation":"o","content":"c"}',
            b'{"domain":"github.com/confidential-containers","operation":"o","content":"c"}',
        ):
            reply = await world.ask("POST", "/aa/aael", body)
            assert reply.status == 400
            assert reply.body.startswith(b"Illegal AAEL eventry format: ")
        assert world.backends.requests == []


@pytest.mark.spec("api-server-rest", 24)
async def test_a_long_event_is_refused_before_it_is_held(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        head = b"POST /aa/aael HTTP/1.1\r\nHost: x\r\n"
        (reply,) = await world.raw(head + b"Content-Length: 99999999999\r\n\r\nx")
        assert (reply.status, reply.body) == (413, b"Payload Too Large")
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        (reply,) = await world.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert (reply.status, reply.body) == (413, b"Payload Too Large")
        assert reply.headers["connection"] == "close"


async def test_a_body_with_broken_chunks_is_refused(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        head = b"POST /aa/aael HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        (reply,) = await world.raw(head + b"zz\r\n")
        assert reply.status == 500
        assert reply.body.startswith(b"error reading a body from connection: ")


@pytest.mark.spec("api-server-rest", 25)
async def test_wrong_methods_on_paths_of_aa_are_not_found(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        for method, target in (
            ("GET", "/aa/aael"),
            ("PUT", "/aa/aael"),
            ("POST", "/aa/token?token_type=kbs"),
        ):
            assert shows(await world.ask(method, target, b""), 404, NOT_FOUND)


@pytest.mark.spec("api-server-rest", 28, 29)
async def test_a_resource_is_for_get_and_head(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        for method in ("POST", "DELETE", "PUT"):
            reply = await world.ask(method, "/cdh/resource/default/key/1", b"")
            assert shows(reply, 405, b"Method Not Allowed")
        assert world.backends.requests == []
        request = b"HEAD /cdh/resource/default/key/1 HTTP/1.1\r\nHost: x\r\n\r\n"
        reader, writer = await world.connect()
        writer.write(request + request.replace(b"HEAD", b"GET"))
        head = await read_reply(reader, head_only=True)
        assert head is not None
        assert (head.status, head.headers["content-length"]) == (200, "4")
        get = await read_reply(reader)
        assert get is not None
        assert get.body == b"key1"
        writer.close()


@pytest.mark.spec("api-server-rest", 26, 27)
async def test_only_loopback_peers_may_ask(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = b"GET /info HTTP/1.0\r\n\r\n"
    async with rest_world(short_tmp) as world:
        reader, writer = await world.connect("127.0.0.2")
        writer.write(request)
        reply = await read_reply(reader)
        assert reply is not None
        assert reply.status == 200
        writer.close()
        monkeypatch.setattr("api_server_rest.handler.is_loopback", lambda host: False)
        for target in ("/info", "/", "/cdh/resource/default/key/1", "/aa/x", "*"):
            assert shows(await world.get(target), 403, b"Forbidden")
        bad = b"GET nonsense HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        assert (await world.raw(bad))[0].status == 403
    monkeypatch.undo()
    async with rest_world(short_tmp, bind="[::]:0") as world:
        for host in ("::1", "127.0.0.1"):
            world.host = host
            assert (await world.get("/info")).status == 200
