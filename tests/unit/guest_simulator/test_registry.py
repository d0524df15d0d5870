"""The registry: pull, push, ranges, credentials, redirects."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from guest_simulator.clock import Clock
from guest_simulator.faults import Fault, Lie
from guest_simulator.images.entries import Entry
from guest_simulator.images.image import (
    INDEX,
    MANIFEST,
    Layer,
    build_image,
    build_index,
)
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry

BLOB = bytes(range(256)) * 8
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
BASIC = "Basic " + base64.b64encode(b"user:pass:word").decode()
WRONG = "Basic " + base64.b64encode(b"user:other").decode()


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


async def call(
    registry: Registry, method: str, path: str, data: bytes = b"", /, **headers: str
) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    url = path if path.startswith("http") else registry.url + path
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        async with session.request(
            method, url, data=io.BytesIO(data), headers=sent, allow_redirects=False
        ) as response:
            return Answer(response, await response.read())


@pytest.fixture(params=["memory", "directory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "blobs" if request.param == "directory" else None


async def test_an_image_that_was_put_is_pulled(directory: Path | None) -> None:
    image = build_image([Layer(entries=(Entry(path="a", data=b"1"),))])
    async with Registry(directory=directory) as registry:
        digest = registry.push_image("demo/app:v1", image)
        assert digest == image.manifest_digest
        version = await call(registry, "GET", "/v2/")
        assert (version.status, version.json) == (200, {})
        for reference in ("v1", digest):
            found = await call(registry, "GET", f"/v2/demo/app/manifests/{reference}")
            assert (found.status, found.body) == (200, image.manifest)
            assert found.headers["Content-Type"] == MANIFEST
            assert found.headers["Docker-Content-Digest"] == digest
        head = await call(registry, "HEAD", "/v2/demo/app/manifests/v1")
        assert (head.headers["Content-Length"], head.body) == (str(len(image.manifest)), b"")
        for blob, data in image.blobs.items():
            assert (await call(registry, "GET", f"/v2/demo/app/blobs/{blob}")).body == data
            assert (await call(registry, "GET", f"/v2/other/blobs/{blob}")).status == 404
        assert registry.get_manifest("demo/app", "v1") == (MANIFEST, image.manifest)
        assert registry.host in registry.url
        with pytest.raises(KeyError):
            registry.get_manifest("demo/app", "v2")
        with pytest.raises(KeyError):
            registry.get_blob("sha256:" + "0" * 64)
        assert {blob: registry.get_blob(blob) for blob in image.blobs} == image.blobs


async def test_an_index_is_pushed_with_all_its_images() -> None:
    images = [
        build_image([Layer(entries=(Entry(path=name),))], architecture=name)
        for name in ("amd64", "arm64")
    ]
    index = build_index(images)
    async with Registry() as registry:
        assert registry.push_image("app", index) == index.manifest_digest
        found = await call(registry, "GET", "/v2/app/manifests/latest")
        assert found.headers["Content-Type"] == INDEX
        for entry in found.json["manifests"]:
            inner = await call(registry, "GET", f"/v2/app/manifests/{entry['digest']}")
            assert len(inner.body) == entry["size"]
        tags = await call(registry, "GET", "/v2/app/tags/list")
        assert tags.json == {"name": "app", "tags": ["latest"]}


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=2000-99999", 206, slice(2000, None)),
        ("bytes=-99999", 206, slice(None)),
        ("bytes=2048-", 416, None),
        ("bytes=9-3", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_a_range_is_served(
    directory: Path | None, wanted: str, status: int, part: slice | None
) -> None:
    async with Registry(directory=directory) as registry:
        registry.put_blob("a", BLOB)
        found = await call(registry, "GET", f"/v2/a/blobs/{DIGEST}", Range=wanted)
        assert found.status == status
        if part is None:
            assert found.headers["Content-Range"] == "bytes */2048"
            return
        assert found.body == BLOB[part]
        if status == 206:
            start, stop, _ = part.indices(len(BLOB))
            assert found.headers["Content-Range"] == f"bytes {start}-{stop - 1}/2048"
        registry.ranges = False
        whole = await call(registry, "GET", f"/v2/a/blobs/{DIGEST}", Range=wanted)
        assert (whole.status, whole.body) == (200, BLOB)


async def test_a_blob_is_pushed_whole_or_in_pieces(directory: Path | None) -> None:
    async with Registry(directory=directory) as registry:
        begun = await call(registry, "POST", "/v2/a/blobs/uploads/")
        assert begun.status == 202
        location = begun.headers["Location"]
        first = await call(registry, "PATCH", location, BLOB[:1000], Content_Range="0-999")
        assert (first.status, first.headers["Range"]) == (202, "0-999")
        again = await call(registry, "PATCH", location, BLOB[:1000], Content_Range="0-999")
        assert again.status == 416
        state = await call(registry, "GET", location)
        assert (state.status, state.headers["Range"]) == (204, "0-999")
        done = await call(registry, "PUT", f"{location}?digest={DIGEST}", BLOB[1000:])
        assert (done.status, done.headers["Docker-Content-Digest"]) == (201, DIGEST)
        assert (await call(registry, "GET", done.headers["Location"])).body == BLOB
        assert (await call(registry, "PUT", f"{location}?digest={DIGEST}")).status == 404
        whole = await call(registry, "POST", f"/v2/b/blobs/uploads/?digest={DIGEST}", BLOB)
        assert whole.status == 201
        mounted = f"/v2/c/blobs/uploads/?mount={DIGEST}&from=a"
        assert (await call(registry, "POST", mounted)).status == 201
        assert (await call(registry, "HEAD", f"/v2/c/blobs/{DIGEST}")).status == 200
        elsewhere = f"/v2/d/blobs/uploads/?mount={DIGEST}&from=nowhere"
        assert (await call(registry, "POST", elsewhere)).status == 202


async def test_a_wrong_digest_is_not_kept() -> None:
    async with Registry() as registry:
        for digest in (DIGEST, "sha256:00", ""):
            path = f"/v2/a/blobs/uploads/?digest={digest}"
            wrong = await call(registry, "POST", path, b"x")
            if digest:
                assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")
        assert (await call(registry, "GET", f"/v2/a/blobs/{DIGEST}")).status == 404
        begun = await call(registry, "POST", "/v2/a/blobs/uploads/")
        assert (await call(registry, "DELETE", begun.headers["Location"])).status == 204
        assert (await call(registry, "PATCH", begun.headers["Location"])).status == 404


async def test_manifests_are_pushed_listed_and_deleted() -> None:
    subject = {"schemaVersion": 2, "subject": {"digest": DIGEST}}
    body = json.dumps(subject).encode()
    async with Registry() as registry:
        path = "/v2/a/b/manifests/"
        pushed = await call(registry, "PUT", path + "v1", body, Content_Type=MANIFEST)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        assert (pushed.status, pushed.headers["Docker-Content-Digest"]) == (201, digest)
        assert (await call(registry, "PUT", path + digest, body)).status == 201
        wrong = await call(registry, "PUT", path + DIGEST, body)
        assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")
        assert (await call(registry, "PUT", path + "v2", b"no")).code == "MANIFEST_INVALID"
        big = await call(registry, "PUT", path + "v2", bytes(4 * 1024 * 1024 + 1))
        assert big.status == 413
        referrers = await call(registry, "GET", f"/v2/a/b/referrers/{DIGEST}")
        assert [entry["digest"] for entry in referrers.json["manifests"]] == [digest]
        sha512 = f"sha512:{hashlib.sha512(body).hexdigest()}"
        assert (await call(registry, "PUT", path + sha512, body)).status == 201
        assert (await call(registry, "GET", path + sha512)).body == body
        assert (await call(registry, "DELETE", path + "v1")).status == 202
        assert (await call(registry, "GET", path + "v1")).code == "MANIFEST_UNKNOWN"
        assert (await call(registry, "DELETE", path + digest)).status == 202
        assert (await call(registry, "DELETE", path + digest)).status == 404


async def test_what_is_no_route_is_an_error() -> None:
    async with Registry() as registry:
        for path in ("/", "/v1/", "/v2/UPPER/manifests/a", "/v2/a/b", "/v2/a/tags/list"):
            assert (await call(registry, "GET", path)).code == "NAME_UNKNOWN"
        assert (await call(registry, "PATCH", "/v2/a/manifests/b")).status == 405
        assert (await call(registry, "DELETE", f"/v2/a/blobs/{DIGEST}")).status == 404


async def test_basic_credentials_are_asked_for() -> None:
    access = Access(mode=Mode.BASIC, users={"user": "pass:word"})
    async with Registry(access=access) as registry:
        registry.put_blob("a", BLOB)
        for header in ({}, {"Authorization": WRONG}, {"Authorization": "Basic !"}):
            refused = await call(registry, "GET", f"/v2/a/blobs/{DIGEST}", b"", **header)
            assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
            assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
        for path in ("/v2/", f"/v2/a/blobs/{DIGEST}"):
            assert (await call(registry, "GET", path, Authorization=BASIC)).status == 200


async def token_of(registry: Registry, challenge: str, **headers: str) -> Answer:
    fields = dict(
        part.split("=", 1) for part in challenge.removeprefix("Bearer ").replace('"', "").split(",")
    )
    realm = fields.pop("realm")
    return await call(registry, "GET", f"{realm}?{urlencode(fields)}", b"", **headers)


async def test_bearer_tokens_open_one_repository_for_a_time() -> None:
    clock = Clock()
    access = Access(mode=Mode.BEARER, users={"user": "pass:word"}, clock=clock, token_seconds=60)
    async with Registry(access=access) as registry:
        for name in ("a", "b"):
            registry.put_blob(name, BLOB)
        path = f"/v2/a/blobs/{DIGEST}"
        challenge = (await call(registry, "GET", path)).headers["WWW-Authenticate"]
        assert challenge == (
            f'Bearer realm="{registry.url}/token",service="guest-simulator",'
            'scope="repository:a:pull"'
        )
        assert (await token_of(registry, challenge)).status == 401
        assert (await token_of(registry, challenge, Authorization=WRONG)).status == 401
        given = await token_of(registry, challenge, Authorization=BASIC)
        assert given.json["token"] == given.json["access_token"]
        assert given.json["expires_in"] == 60
        bearer = f"Bearer {given.json['token']}"
        assert (await call(registry, "GET", path, Authorization=bearer)).body == BLOB
        other = f"/v2/b/blobs/{DIGEST}"
        assert (await call(registry, "GET", other, Authorization=bearer)).status == 401
        assert (await call(registry, "POST", "/v2/a/blobs/uploads/", Authorization=bearer)
                ).status == 401  # fmt: skip
        clock.offset = 61
        assert (await call(registry, "GET", path, Authorization=bearer)).status == 401
        access.anonymous_pull = True
        anonymous = (await token_of(registry, challenge)).json["token"]
        bearer = f"Bearer {anonymous}"
        assert (await call(registry, "GET", path, Authorization=bearer)).status == 200
        registry.faults.add(Fault(path="/token", lie=Lie.EXPIRED_TOKEN, times=1))
        dead = (await token_of(registry, challenge)).json["token"]
        assert (await call(registry, "GET", path, Authorization=f"Bearer {dead}")).status == 401
        assert access.issued == 3


async def test_a_token_is_had_with_a_form_too() -> None:
    access = Access(mode=Mode.BEARER, users={"user": "p"}, refresh_tokens=frozenset({"refresh"}))
    async with Registry(access=access) as registry:
        scope = {"service": "guest-simulator", "scope": "repository:a:pull,push"}
        for form, status in (
            ({"grant_type": "password", "username": "user", "password": "p"}, 200),
            ({"grant_type": "refresh_token", "refresh_token": "refresh"}, 200),
            ({"grant_type": "refresh_token", "refresh_token": "other"}, 401),
        ):
            body = urlencode({**form, **scope}).encode()
            answer = await call(registry, "POST", "/token", body)
            assert answer.status == status
            if status == 200:
                bearer = f"Bearer {answer.json['token']}"
                begun = await call(registry, "POST", "/v2/a/blobs/uploads/", Authorization=bearer)
                assert begun.status == 202


async def test_a_redirect_leads_to_another_origin_that_wants_no_credentials() -> None:
    async with Registry(redirect=True) as registry:
        registry.put_blob("a", BLOB)
        answer = await call(registry, "GET", f"/v2/a/blobs/{DIGEST}")
        location = answer.headers["Location"]
        assert (answer.status, answer.body) == (307, b"")
        assert location.startswith(f"http://localhost:{registry.port}/cdn/")
        part = await call(registry, "GET", location, Range="bytes=1-2")
        assert (part.status, part.body) == (206, BLOB[1:3])
        leaked = await call(registry, "GET", location, Authorization=BASIC)
        assert leaked.status == 400
        unsigned = await call(registry, "GET", location.partition("?")[0])
        assert unsigned.status == 403
        missing = location.replace(DIGEST, "sha256:00")
        assert (await call(registry, "GET", missing)).status == 403


async def test_blobs_can_be_damaged_and_denied(directory: Path | None) -> None:
    async with Registry(directory=directory) as registry:
        registry.put_blob("a", BLOB)
        path = f"/v2/a/blobs/{DIGEST}"
        registry.faults.add(Fault(path="/blobs/", flip=7, times=1))
        assert (await call(registry, "GET", path)).body[7] == BLOB[7] ^ 1
        registry.faults.add(Fault(path="/blobs/", lie=Lie.DENIAL, times=1))
        denied = await call(registry, "GET", path)
        assert (denied.status, denied.code) == (403, "DENIED")
        registry.faults.add(Fault(path="/blobs/", cut_after=5, times=1))
        with pytest.raises(aiohttp.ClientPayloadError):
            await call(registry, "GET", path)
        assert (await call(registry, "GET", path)).body == BLOB


async def test_a_large_blob_streams_from_disk(tmp_path: Path) -> None:
    data = bytes(1024) * 3000 + b"end"
    async with Registry(directory=tmp_path) as registry:
        digest = registry.put_blob("a", data)
        found = await call(registry, "GET", f"/v2/a/blobs/{digest}")
        assert found.body == data
        assert registry.get_blob(digest) == data
