"""Keys of volumes: where they may come from."""

from pathlib import Path

import pytest

from cdh.storage.keys import MAX_KEY_LENGTH, VolumeKeys
from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, InvalidInputError, LimitError, NotFoundError
from support.hub_world import Resources
from support.sealed_world import load_vectors, make_unsealer


def make_keys(*folders: Path) -> VolumeKeys:
    resources = Resources()
    sealed = load_vectors()
    resources.resources = {
        "default/key/1": b"key\n",
        "default/key/empty": b"",
        "default/signing-key/sealed-secret": sealed["signing_jwk"].encode(),
        "default/sealed-secret/test": b"sealed key",
    }
    return VolumeKeys(resources, make_unsealer(resources), [str(folder) for folder in folders])


def soon() -> Deadline:
    return Deadline.after(20)


async def test_a_key_is_a_resource_a_sealed_secret_or_a_file_and_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    (tmp_path / "k").write_bytes(b"from a file\n")
    keys = make_keys(tmp_path)
    for name, expected in (
        ("kbs:///default/key/1", b"key\n"),
        (load_vectors()["vault_sealed"], b"sealed key"),
        (f"file://{tmp_path}/k", b"from a file\n"),
    ):
        with await keys.fetch(name, soon()) as key:
            assert key.reveal() == expected


@pytest.mark.parametrize(
    "name", ["", "secret", "/etc/key", "http://x/y", "File:///x", "kb://a/b/c"]
)
async def test_another_scheme_is_refused_with_the_specified_words(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await make_keys().fetch(name, soon())
    expected = "The scheme of the key uri should be `kbs`, `file` or `sealed`"
    assert str(caught.value) == expected


async def test_a_file_lies_below_a_directory_that_was_set_free_links_included(
    tmp_path: Path,
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "in-not"
    inside.mkdir()
    outside.mkdir()
    (outside / "k").write_bytes(b"x")
    (inside / "link").symlink_to(outside / "k")
    keys = make_keys(inside)
    for path in (f"{outside}/k", f"{inside}/link", f"{inside}/../in-not/k", "/proc/self/environ"):
        with pytest.raises(DeniedError):
            await keys.fetch(f"file://{path}", soon())
    with pytest.raises(DeniedError):
        await make_keys().fetch(f"file://{outside}/k", soon())


async def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_KEY_LENGTH + 1)
    keys = make_keys(tmp_path)
    for name, error in (
        (f"file://{tmp_path}/empty", InvalidInputError),
        (f"file://{tmp_path}/none", InvalidInputError),
        (f"file://{tmp_path}", InvalidInputError),
        (f"file://{tmp_path}/x\0", InvalidInputError),
        (f"file://{tmp_path}/huge", LimitError),
        ("kbs:///default/key/empty", InvalidInputError),
        ("kbs:///default/key/none", NotFoundError),
        ("kbs:///a/../b", InvalidInputError),
        ("sealed.x.y.z", GuestError),
        ("sealed.\ud800", InvalidInputError),
        ("kbs:///" + "x" * 70000, LimitError),
    ):
        with pytest.raises(error):
            await keys.fetch(name, soon())


async def test_what_is_not_sealed_is_itself() -> None:
    with await make_keys().unseal("plain text", soon()) as secret:
        assert secret.reveal() == b"plain text"
    with pytest.raises(InvalidInputError):
        await make_keys().unseal("\ud800", soon())
