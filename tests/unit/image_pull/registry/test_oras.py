"""Pushing to and reading from registries: the simulator's, with its faults."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.errors import (
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.proxies import Proxies
from guest.secret import Secret
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.access import Access as Rules
from guest_simulator.registry.access import Mode
from guest_simulator.registry.server import Registry
from image_pull.reference import ImageReference
from image_pull.registry.auth import Credentials
from image_pull.registry.oras import Access, OrasRepository

IMAGE = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"1" * 5000),))])
BLOB = IMAGE.layers[0].blob
DIGEST = HashAlgorithm.SHA256.of(BLOB)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USER = Credentials(basic=Secret(b"user:pass:word"))
T = TypeVar("T")


def repository(
    registry: Registry,
    name: str = "demo/app:v1",
    credentials: Credentials | None = None,
    *,
    roots: Path | None = None,
    proxies: Proxies | None = None,
) -> OrasRepository:
    access = Access(
        plain_http=registry.url.startswith("http:"),
        roots=roots,
        credentials=credentials,
        proxies=proxies or Proxies(),
    )
    return OrasRepository(ImageReference.parse(f"{registry.host}/{name}"), access)


async def call(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


async def push(target: OrasRepository) -> None:
    await call(target.prepare)
    for blob in IMAGE.blobs.values():
        digest, size = await call(lambda blob=blob: target.write([blob[:100], b"", blob[100:]]))  # type: ignore[misc]  # bound here
        assert await call(lambda digest=digest, size=size: target.has(digest, size))  # type: ignore[misc]  # bound here
    await call(lambda: target.put_document(IMAGE.manifest, MANIFEST, is_root=True))


async def test_what_is_pushed_is_there_byte_for_byte_and_can_be_read_back() -> None:
    async with Registry() as registry:
        target = repository(registry)
        assert not await call(lambda: target.has(DIGEST, len(BLOB)))
        await push(target)
        assert registry.get_manifest("demo/app", "v1") == (MANIFEST, IMAGE.manifest)
        assert registry.get_blob(str(DIGEST)) == BLOB
        root = await call(target.root)
        assert (root.body, root.media_type) == (IMAGE.manifest, MANIFEST)
        by_digest = await call(lambda: target.document(root.digest))
        assert by_digest.body == IMAGE.manifest
        assert await call(lambda: b"".join(target.read(DIGEST, len(BLOB)))) == BLOB
        target.close()


@pytest.mark.parametrize("mode", [Mode.BASIC, Mode.BEARER])
async def test_credentials_are_shown_only_when_asked_for(mode: Mode) -> None:
    rules = Rules(mode=mode, users={"user": "pass:word"})
    async with Registry(access=rules) as registry:
        await push(repository(registry, credentials=USER))
        first = next(iter(registry.requests))
        assert "authorization" not in first.headers
        assert registry.get_manifest("demo/app", "v1")[1] == IMAGE.manifest
        wrong = Credentials(basic=Secret(b"user:wrong"))
        for credentials in (None, wrong):
            with pytest.raises((UnauthenticatedError, DeniedError)):
                await call(repository(registry, credentials=credentials).prepare)


async def test_a_bearer_token_of_the_user_is_used_as_it_is() -> None:
    rules = Rules(mode=Mode.BEARER, users={"user": "x"})
    token = rules.issue(["repository:demo/app:pull,push"], known=True)
    async with Registry(access=rules) as registry:
        await push(
            repository(registry, credentials=Credentials(registry_token=Secret(token.encode())))
        )


async def test_a_token_that_runs_out_is_replaced() -> None:
    rules = Rules(mode=Mode.BEARER, users={"user": "pass:word"}, token_seconds=300)
    async with Registry(access=rules) as registry:
        target = repository(registry, credentials=USER)
        await push(target)
        rules.clock.offset = 1000
        await call(lambda: target.put_document(IMAGE.manifest, MANIFEST, is_root=False))


def test_a_refresh_token_cannot_be_used_and_that_is_said() -> None:
    access = Access(credentials=Credentials(identity_token=Secret(b"x")))
    with pytest.raises(UnsupportedError, match="identity token"):
        OrasRepository(ImageReference.parse("h.example/a"), access)


async def test_a_registry_behind_tls_needs_its_authority(tmp_path: Path) -> None:
    ca = CertificateAuthority.create()
    roots = ca.write(tmp_path)
    async with Registry(tls=ca.issue("127.0.0.1").context()) as registry:
        with pytest.raises(UnavailableError):
            await call(repository(registry).root)
        target = repository(registry, roots=roots)
        await push(target)
        target.close()  # TLS ends when both sides say so


async def test_a_password_does_not_go_to_a_token_server_without_tls(tmp_path: Path) -> None:
    ca = CertificateAuthority.create()
    roots = ca.write(tmp_path)
    async with Registry(tls=ca.issue("127.0.0.1").context()) as registry:
        challenge = {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:9/token"'}
        registry.faults.add(Fault(path="/v2/", status=401, headers=challenge))
        target = repository(registry, roots=roots, credentials=USER)
        with pytest.raises(PeerError, match="has no TLS"):
            await call(target.root)
        target.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, DeniedError),
        (404, NotFoundError),
        (429, UnavailableError),
        (500, UnavailableError),
        (418, PeerError),
    ],
)
async def test_refusals_have_their_class_and_the_registrys_reason(
    status: int, kind: type[GuestError]
) -> None:
    async with Registry() as registry:
        body = b'{"errors":[{"code":"TEAPOT","message":"short and stout"}]}'
        registry.faults.add(Fault(path="/manifests/", status=status, body=body))
        with pytest.raises(kind, match=f"status {status}, TEAPOT: short and stout"):
            await call(repository(registry).root)


async def test_a_blob_that_is_not_what_it_should_be_is_refused() -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", IMAGE)
        for fault in (
            Fault(path="/blobs/", flip=10, times=1),
            Fault(path="/blobs/", resize=-1, times=1),
            Fault(path="/blobs/", resize=1, times=1),
        ):
            registry.faults.add(fault)
            with pytest.raises(IntegrityError):
                await call(lambda: list(repository(registry).read(DIGEST, len(BLOB))))
        registry.faults.add(Fault(path="/blobs/", cut_after=100, times=1))
        with pytest.raises((UnavailableError, IntegrityError)):
            await call(lambda: list(repository(registry).read(DIGEST, len(BLOB))))


async def test_a_manifest_by_digest_is_checked_and_a_huge_one_is_not_read() -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", IMAGE)
        pinned = repository(registry, f"demo/app@{IMAGE.manifest_digest}")
        assert (await call(pinned.root)).body == IMAGE.manifest
        registry.faults.add(Fault(path="/manifests/", flip=10, times=1))
        with pytest.raises(IntegrityError):
            await call(pinned.root)
        registry.put_manifest("demo/app", "huge", MANIFEST, b" " * (4 * 1024 * 1024 + 1))
        with pytest.raises(LimitError):
            await call(repository(registry, "demo/app:huge").root)


async def test_a_digest_is_no_destination() -> None:
    async with Registry() as registry:
        target = repository(registry, f"demo/app@{IMAGE.manifest_digest}")
        with pytest.raises(InvalidInputError, match="named by a tag"):
            await call(target.prepare)


async def test_an_upload_whose_source_fails_is_given_up() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise IntegrityError("no")

    async with Registry() as registry:
        target = repository(registry)
        with pytest.raises(IntegrityError):
            await call(lambda: target.write(chunks()))
        target.close()
        async with asyncio.timeout(20):
            while registry.requests.count("PATCH", "/blobs/") == 0:
                await asyncio.sleep(0.01)
        assert registry.requests.count("PUT", "/blobs/") == 0
        with pytest.raises(KeyError):
            registry.get_blob(str(HashAlgorithm.SHA256.of(b"half")))


async def test_a_registry_that_is_not_there_is_unavailable() -> None:
    async with Registry() as registry:
        target = repository(registry)
    with pytest.raises(UnavailableError):
        await call(target.root)


async def test_the_proxy_of_the_root_is_used_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with Registry() as registry:
        registry.push_image("demo/app:v1", IMAGE)
        assert (await call(repository(registry).root)).body == IMAGE.manifest
        dead = Proxies(http="http://127.0.0.1:9")
        with pytest.raises(UnavailableError):
            await call(repository(registry, proxies=dead).root)
