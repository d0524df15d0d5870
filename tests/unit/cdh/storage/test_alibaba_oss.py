"""Buckets: command lines, password files, what is unsealed, what is refused, what is undone."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.storage.oss_options import REQUIRED, encode_password_file, parse_oss
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError, PlatformError
from support.sealed_world import load_vectors
from support.storage_world import StorageWorld

OPTIONS = {
    "akId": "LTAI-id",
    "akSecret": "the secret",
    "bucket": "my-bucket",
    "otherOpts": "-o max_stat_cache_size=0 -o allow_other",
    "path": "/data",
    "readonly": "false",
    "targetPath": "/x",
    "url": "https://oss-cn-beijing.aliyuncs.com",
    "volumeId": "v-1",
}
ENCRYPTED = OPTIONS | {"encrypted": "gocryptfs", "encPasswd": "open sesame"}


def oss_world(base: Path) -> StorageWorld:
    world = StorageWorld(base)
    Path(world.place).mkdir()
    return world


async def mount(world: StorageWorld, options: dict[str, str]) -> None:
    await world.mounts.mount("alibaba-cloud-oss", options, world.place, Deadline.after(40))


@pytest.mark.spec("confidential-data-hub", 52)
async def test_command_lines_and_password_files_are_those_of_the_specification(
    tmp_path: Path,
) -> None:
    world = oss_world(tmp_path)
    sealed = load_vectors()
    plaintext = b"the secret that was sealed"
    world.resources.resources = {
        "default/signing-key/sealed-secret": sealed["signing_jwk"].encode(),
        "default/sealed-secret/test": plaintext,
    }
    options = ENCRYPTED | {"akSecret": sealed["vault_sealed"]}
    await mount(world, options)
    bucket, inner = world.calls()
    file = bucket.argv[4].removeprefix("-opasswd_file=")
    assert bucket.argv == (
        "ossfs",
        "my-bucket:/data",
        bucket.argv[2],
        "-ourl=https://oss-cn-beijing.aliyuncs.com",
        f"-opasswd_file={file}",
        *["-o", "max_stat_cache_size=0", "-o", "allow_other"],
    )
    assert (bucket.folder / "password").read_bytes() == b"my-bucket:LTAI-id:" + plaintext
    assert inner.argv == (
        "gocryptfs", bucket.argv[2], world.place, "-passfile", inner.argv[4], "-nosyslog",
    )  # fmt: skip
    assert (inner.folder / "password").read_bytes() == b"open sesame"
    for call in (bucket, inner):
        assert (call.folder / "mode").read_text() == "600\n"
        assert b"the secret" not in "\0".join(call.argv).encode() + repr(call.env).encode()
    assert file.startswith(str(world.base / "run"))
    assert os.path.basename(file) == "ossfs_passwd"
    assert os.path.basename(inner.argv[4]) == "gocryptfs_passwd"
    assert world.modes() == {}


async def test_a_plain_bucket_is_mounted_where_it_was_asked_for(tmp_path: Path) -> None:
    world = oss_world(tmp_path)
    await mount(world, OPTIONS)
    (call,) = world.calls()
    assert call.argv[2] == world.place
    assert (call.folder / "password").read_bytes() == b"my-bucket:LTAI-id:the secret"
    await world.mounts.unmount(world.place)
    assert world.left() == ["mount point"]


@pytest.mark.parametrize("number", [0, 1])
async def test_what_fails_leaves_no_mount_and_no_file(tmp_path: Path, number: int) -> None:
    world = oss_world(tmp_path)
    world.set_failure(number)
    with pytest.raises(PlatformError, match=r"exit status 1: injected failure"):
        await mount(world, ENCRYPTED)
    assert world.left() == ["mount point"]


async def test_both_mounts_of_an_encrypted_bucket_go_together(tmp_path: Path) -> None:
    world = oss_world(tmp_path)
    await mount(world, ENCRYPTED)
    assert len(world.kernel.file.read_text().splitlines()) == 2
    await world.mounts.unmount(world.place)
    assert world.left() == ["mount point"]


async def test_the_mount_point_must_be_there(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    with pytest.raises(InvalidInputError, match="is no directory"):
        await mount(world, OPTIONS)
    assert world.calls() == []


async def test_programs_are_run_at_their_fixed_places_only(tmp_path: Path) -> None:
    world = oss_world(tmp_path)
    (world.base / "bin" / "ossfs").rename(world.base / "bin" / "moved")
    with pytest.raises(PlatformError, match=r"program .*/bin/ossfs is not installed"):
        await mount(world, OPTIONS)
    assert world.left() == ["mount point"]


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_option_must_be_there(name: str) -> None:
    with pytest.raises(DecodeError, match=name):
        parse_oss({key: value for key, value in OPTIONS.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("otherOpts", "-o passwd_file=/x"),
        ("otherOpts", "-ourl=http://evil"),
        ("otherOpts", "-oallow_other,URL=http://evil"),
        ("otherOpts", "-o \\165rl=http://evil"),
        ("otherOpts", "-o a\n-o b"),
        ("otherOpts", "-d " * 65),
        ("otherOpts", "x" * 2049),
        ("url", ""),
        ("url", "http://x,passwd_file=/y"),
        ("url", "http://x y"),
        ("bucket", "-h"),
        ("bucket", "a:b"),
        ("bucket", ""),
        ("path", "/a\nb"),
        ("encrypted", "luks"),
    ],
)
def test_what_would_be_another_option_is_refused(name: str, value: str) -> None:
    with pytest.raises(DecodeError, match=name):
        parse_oss(OPTIONS | {name: value})


def test_a_secret_that_breaks_the_line_is_refused_and_not_repeated() -> None:
    for key_id, secret in ((b"a:b", b"x"), (b"a\n", b"x"), (b"a", b"x\n!!"), (b"a", b"\xff!!")):
        with pytest.raises(DecodeError) as caught:
            encode_password_file("b", key_id, secret)
        assert "!!" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert encode_password_file("b", b"i", b"s:t") == b"b:i:s:t"
    assert "open sesame" not in repr(parse_oss(ENCRYPTED))


@given(st.dictionaries(st.sampled_from([*OPTIONS, "encrypted"]), st.text(max_size=30)))
def test_any_options_are_read_or_refused(options: dict[str, str]) -> None:
    with suppress(DecodeError):
        parse_oss(OPTIONS | options)


async def test_a_secret_that_cannot_be_unsealed_ends_it(tmp_path: Path) -> None:
    world = oss_world(tmp_path)
    for name in ("akId", "akSecret", "encPasswd"):
        with pytest.raises(GuestError):
            await mount(world, ENCRYPTED | {name: "sealed.x.y.z"})
    assert (world.calls(), world.left()) == ([], ["mount point"])


async def test_secrets_that_cannot_be_used_are_refused_before_anything_runs(tmp_path: Path) -> None:
    world = oss_world(tmp_path)
    sealed = load_vectors()
    world.resources.resources = {
        "default/signing-key/sealed-secret": sealed["signing_jwk"].encode(),
        "default/sealed-secret/test": b"\xff\xfe",
    }
    for name in ("akId", "akSecret", "encPasswd"):
        with pytest.raises(InvalidInputError, match=f"option {name} is not UTF-8"):
            await mount(world, ENCRYPTED | {name: sealed["vault_sealed"]})
    with pytest.raises(InvalidInputError, match="option url"):
        await mount(world, OPTIONS | {"url": ""})
    assert (world.calls(), world.left()) == ([], ["mount point"])
