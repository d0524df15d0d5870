"""Verification keys: resources and files, and nothing outside their directory."""

import os
from pathlib import Path

import pytest

from cdh.secrets.keys import VerificationKeys
from cdh.secrets.sealed import MAX_KEY_LENGTH
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, NotFoundError
from support.hub_world import Resources


def keys(directory: Path, **resources: bytes) -> VerificationKeys:
    fake = Resources()
    fake.resources = resources
    return VerificationKeys(fake, directory)


async def find(directory: Path, kid: str) -> bytes:
    return (await keys(directory).find(kid, Deadline.after(5))).reveal()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "sealed-secret"
    (made / "inner").mkdir(parents=True)
    (made / "sealed-signing").write_bytes(b"key")
    (made / "inner" / "key").write_bytes(b"inner key")
    (tmp_path / "outside").write_bytes(b"not a key")
    return made


async def test_a_resource_uri_leads_to_the_source_of_resources(tmp_path: Path) -> None:
    fake = Resources()
    fake.resources = {"default/signing-key/a": b"jwk"}
    found = await VerificationKeys(fake, tmp_path / "none").find(
        "kbs:///default/signing-key/a", Deadline.after(5)
    )
    assert found.reveal() == b"jwk"


@pytest.mark.parametrize("uri", ["kbs:///a/../b/c", "kbs:///", "kbs+x:///a//b"])
async def test_a_uri_that_cannot_be_honest_is_refused(directory: Path, uri: str) -> None:
    with pytest.raises(InvalidInputError):
        await find(directory, uri)


async def test_a_file_name_leads_below_the_directory_without_a_suffix(directory: Path) -> None:
    assert await find(directory, "sealed-signing") == b"key"
    assert await find(directory, "inner/key") == b"inner key"
    with pytest.raises(NotFoundError):
        await find(directory, "sealed-signing.json")


async def test_a_link_that_stays_inside_is_followed(directory: Path) -> None:
    (directory / "link").symlink_to("inner/key")
    assert await find(directory, "link") == b"inner key"


@pytest.mark.spec("confidential-data-hub", 28)
async def test_nothing_outside_the_directory_is_a_key(directory: Path) -> None:
    outside = directory.parent / "outside"
    (directory / "link").symlink_to(outside)
    (directory / "up").symlink_to("..")
    twin = directory.parent / "sealed-secret-twin"
    twin.mkdir()
    (twin / "key").write_bytes(b"not a key")
    for kid in (
        "../outside", "../x", "link", "up/outside", str(outside), "../sealed-secret-twin/key",
        "inner/../../outside",
    ):  # fmt: skip
        with pytest.raises((InvalidInputError, NotFoundError), match="Invalid KID Key Path"):
            await find(directory, kid)


@pytest.mark.parametrize("kid", ["", ".", "inner", "a\0b", "\ud800", "x" * 5000, "kbs", "http:/x"])
async def test_what_names_no_file_is_refused(directory: Path, kid: str) -> None:
    with pytest.raises((InvalidInputError, NotFoundError)):
        await find(directory, kid)


async def test_a_missing_directory_has_its_text(tmp_path: Path) -> None:
    text = "KID is invalid. Must be a KBS URI or a credential path."
    with pytest.raises(InvalidInputError, match=text):
        await find(tmp_path / "none", "sealed-signing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=text):
        await find(tmp_path / "file" / "below", "sealed-signing")


async def test_neither_a_pipe_nor_a_huge_file_is_read(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    (directory / "huge").write_bytes(bytes(MAX_KEY_LENGTH + 1))
    (directory / "loop").symlink_to("loop")
    for kid in ("pipe", "huge", "loop"):
        with pytest.raises(GuestError):
            await find(directory, kid)
