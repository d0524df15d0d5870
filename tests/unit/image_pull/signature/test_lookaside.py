"""Signatures from directories and web servers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import GuestError, LimitError, NotFoundError, PeerError, UnavailableError
from guest.http import HttpClient
from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming
from image_pull.reference import ImageReference
from image_pull.registry.transport import Transport
from image_pull.signature.lookaside import MAX_SIGNATURE, MAX_SIGNATURES, Lookaside
from image_pull.signature.sigstore_config import SigstoreConfig

DIGEST = HashAlgorithm.SHA256.of(b"manifest")
PLACE = f"library/busybox@sha256={DIGEST.hex}"
BUSYBOX = ImageReference.parse("busybox")


def config(address: str) -> SigstoreConfig:
    return SigstoreConfig.parse(json.dumps({"default-docker": {"sigstore": address}}).encode())


@asynccontextmanager
async def lookaside(address: str) -> AsyncIterator[Lookaside]:
    http = HttpClient(user_agent="test")
    try:
        yield Lookaside(config(address), lambda: Transport(http))
    finally:
        await http.close()


async def find(address: str, seconds: float = 20) -> tuple[bytes, ...]:
    async with lookaside(address) as at:
        return await at.find(BUSYBOX, DIGEST, Deadline.after(seconds))


async def test_every_file_of_the_directory_is_read_in_the_order_of_the_numbers(
    tmp_path: Path,
) -> None:
    folder = tmp_path / PLACE
    for address in (f"file://{tmp_path}", f"file://{tmp_path}/"):
        assert await find(address) == ()
    (folder / "directory").mkdir(parents=True)
    for number in (2, 10, 1):
        (folder / f"signature-{number}").write_bytes(b"%d" % number)
    assert await find(f"file://{tmp_path}") == (b"1", b"2", b"10")


async def test_a_directory_that_cannot_be_read_or_holds_too_much_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / PLACE
    folder.mkdir(parents=True)
    (folder / "signature-1").symlink_to("missing")
    with pytest.raises(GuestError):
        await find(f"file://{tmp_path}")
    (folder / "signature-1").unlink()
    (folder / "signature-1").write_bytes(bytes(MAX_SIGNATURE + 1))
    with pytest.raises(LimitError):
        await find(f"file://{tmp_path}")
    for number in range(MAX_SIGNATURES + 1):
        (folder / f"signature-{number}").write_bytes(b"x")
    with pytest.raises(LimitError):
        await find(f"file://{tmp_path}")


class Shelf:
    """A web server with signatures."""

    def __init__(self, *signatures: bytes, status: int = 404) -> None:
        self.held = {f"/base/{PLACE}/signature-{n}": s for n, s in enumerate(signatures, 1)}
        self.status = status
        self.asked: list[str] = []

    async def answer(self, request: Incoming) -> Reply:
        """A signature, or the status of what is not there."""
        self.asked.append(request.path)
        assert not request.header("Authorization")
        if request.path in self.held:
            return Reply(body=self.held[request.path])
        return Reply(status=self.status)


async def test_a_web_server_is_asked_for_one_number_after_the_other() -> None:
    shelf = Shelf(b"one", b"two")
    async with HttpService(shelf.answer) as service:
        assert await find(f"{service.url}/base") == (b"one", b"two")
        assert shelf.asked == [f"/base/{PLACE}/signature-{n}" for n in (1, 2, 3)]
        assert await find(f"{service.url}/base/") == (b"one", b"two")


@pytest.mark.parametrize(("status", "kind"), [(403, PeerError), (301, PeerError), (204, PeerError)])
async def test_a_web_server_that_gives_something_else_is_refused(
    status: int, kind: type[GuestError]
) -> None:
    async with HttpService(Shelf(b"one", status=status).answer) as service:
        with pytest.raises(kind):
            await find(f"{service.url}/base")


async def test_a_web_server_that_is_down_is_refused() -> None:
    async with HttpService(Shelf().answer) as service:
        address = service.url
    with pytest.raises(UnavailableError):
        await find(address)


async def test_a_web_server_without_end_or_with_long_signatures_is_refused() -> None:
    async with HttpService(Shelf(*[b"x"] * (MAX_SIGNATURES + 5)).answer) as service:
        assert len(await find(f"{service.url}/base")) == MAX_SIGNATURES
    async with HttpService(Shelf(bytes(MAX_SIGNATURE + 1)).answer) as service:
        with pytest.raises(LimitError):
            await find(f"{service.url}/base")


async def test_without_an_address_there_is_nowhere_to_look() -> None:
    at = Lookaside(SigstoreConfig.parse(b""), lambda: pytest.fail("nothing is fetched"))
    with pytest.raises(NotFoundError):
        await at.find(BUSYBOX, DIGEST, Deadline.after(5))
