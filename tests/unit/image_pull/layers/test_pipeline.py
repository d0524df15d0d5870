"""Whole layers through the unpack server, as whoever runs the tests."""

import asyncio
import gzip
import itertools
import os
import stat
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from guest.crypto.digest import HashAlgorithm
from guest.errors import (
    IntegrityError,
    InvalidInputError,
    LimitError,
    PlatformError,
    UnsupportedError,
)
from guest.secret import Secret
from image_pull.layers.jail import landlock_version
from image_pull.layers.pipeline import BLOCK
from image_pull.layers.record import Jail
from image_pull.layers.verify import BlobVerifier
from image_pull.ocicrypt.annotations import DECRYPT_FAILED
from image_pull.ocicrypt.cipher import LayerDecryptor, LayerEncryptor
from support import tarballs as tb
from support.tarballs import GZIP, TAR, ZSTD, file, folder, pipeline, unpack

SAMPLE = (
    folder(b"./", mode=0o750, mtime=5)
    + folder(b"etc")
    + file(b"etc/passwd", b"root\n" * 3000, mtime=7)
    + file(b"bin/su", b"x", mode=0o4755)
    + file(b"etc/.wh.shadow")
    + tb.symlink(b"link", b"/etc/passwd")
    + tb.END
)
KEY, NONCE = Secret(bytes(range(32))), bytes(range(16))


def encrypt(data: bytes) -> tuple[bytes, bytes]:
    encryptor = LayerEncryptor(KEY, NONCE)
    return encryptor.update(data), encryptor.finish()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00bytes"

FORMS = {
    "plain": (TAR, SAMPLE),
    "gzip": (GZIP, gzip.compress(SAMPLE)),
    "gzip of several members": (
        GZIP,
        b"".join(gzip.compress(SAMPLE[n : n + 700]) for n in range(0, len(SAMPLE), 700)),
    ),
    "zstd": (ZSTD, zstd(SAMPLE)),
    "zstd of several and skippable frames": (
        ZSTD,
        SKIPPABLE + zstd(SAMPLE[:5000]) + SKIPPABLE + zstd(SAMPLE[5000:]) + SKIPPABLE,
    ),
    "nondistributable": ("application/vnd.oci.image.layer.nondistributable.v1.tar", SAMPLE),
    "nondistributable gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        gzip.compress(SAMPLE),
    ),
    "nondistributable zstd": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        zstd(SAMPLE),
    ),
    "docker": ("application/vnd.docker.image.rootfs.diff.tar", SAMPLE),
    "docker gzip": ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress(SAMPLE)),
    "docker zstd": ("application/vnd.docker.image.rootfs.diff.tar.zstd", zstd(SAMPLE)),
    "docker foreign gzip": (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        gzip.compress(SAMPLE),
    ),
}


@pytest.mark.spec("image-pull", 31)
async def test_every_media_type_unpacks_and_broken_gzip_does_not(tmp_path: Path) -> None:
    bad = bytearray(gzip.compress(SAMPLE))
    bad[-6] ^= 1
    async with pipeline() as made:
        for number, (media_type, blob) in enumerate(FORMS.values()):
            target = tmp_path / str(number)
            record = await unpack(made, blob, target, tar=SAMPLE, media_type=media_type)
            assert (target / "etc/passwd").read_bytes() == b"root\n" * 3000
            assert (record.whiteouts, record.implicit) == ((b"etc/shadow",), (b"bin",))
            assert record.tar_bytes == len(SAMPLE)
            assert stat.S_IMODE((target / "bin/su").stat().st_mode) == 0o4755
            assert stat.S_IMODE(target.stat().st_mode) | 0o700 == 0o750
        broken = {
            "checksum": bytes(bad),
            "cut short": gzip.compress(SAMPLE)[:-3],
            "broken": gzip.compress(SAMPLE) + b"garbage after it",
        }
        for text, blob in broken.items():
            with pytest.raises(InvalidInputError, match=text):
                await unpack(made, blob, tmp_path / "bad", tar=SAMPLE, media_type=GZIP)
            assert not (tmp_path / "bad").exists()


@pytest.mark.spec("image-pull", 33)
@pytest.mark.spec("ocicrypt", 8)
async def test_every_encrypted_media_type_unpacks(tmp_path: Path) -> None:
    names = ("plain", "gzip", "zstd", "nondistributable", "nondistributable gzip")
    async with pipeline() as made:
        for number, name in enumerate((*names, "nondistributable zstd")):
            media_type, plain = FORMS[name]
            blob, mac = encrypt(plain)
            target = tmp_path / str(number)
            await unpack(
                made,
                blob,
                target,
                tar=SAMPLE,
                media_type=media_type + "+encrypted",
                decryptor=LayerDecryptor(KEY, NONCE, mac),
            )
            assert (target / "etc/passwd").exists()
        wasm = "application/vnd.wasm.content.layer.v1+wasm+encrypted"
        decryptor = LayerDecryptor(KEY, NONCE, mac)
        with pytest.raises(UnsupportedError, match="unhandled media type: application"):
            await unpack(
                made, blob, tmp_path / "w", tar=SAMPLE, media_type=wasm, decryptor=decryptor
            )


@pytest.mark.parametrize("media_type", ["text/plain+foo+encrypted", "a+foo", "", TAR + "+bzip2"])
@pytest.mark.spec("ocicrypt", 9)
async def test_an_unknown_media_type_is_named(tmp_path: Path, media_type: str) -> None:
    decryptor = LayerDecryptor(KEY, NONCE, bytes(32)) if "encrypted" in media_type else None
    async with pipeline() as made:
        with pytest.raises(UnsupportedError) as caught:
            await unpack(
                made,
                SAMPLE,
                tmp_path / "x",
                tar=SAMPLE,
                media_type=media_type,
                decryptor=decryptor,
            )
    assert str(caught.value) == f"Failed to decode layer: unhandled media type: {media_type}"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("cores", [2, 4])
async def test_whatever_does_not_match_leaves_nothing(tmp_path: Path, cores: int) -> None:
    other = tb.sha256(b"other")
    blob, mac = encrypt(SAMPLE)
    flipped = bytes([blob[0]]) + bytes([blob[1] ^ 1]) + blob[2:]
    target = tmp_path / "layer"
    encrypted = TAR + "+encrypted"

    def cipher(tag: bytes = mac) -> LayerDecryptor:
        return LayerDecryptor(KEY, NONCE, tag)

    async with pipeline(cores=cores) as made:
        for text, arguments in (
            ("has digest", {"blob": SAMPLE, "digest": other}),
            ("longer than", {"blob": SAMPLE, "size": len(SAMPLE) - 1}),
            ("expected", {"blob": SAMPLE, "size": len(SAMPLE) + 1}),
            ("unequal uncompressed digest sha256:", {"blob": SAMPLE, "diff_id": other}),
            (
                DECRYPT_FAILED,
                {"blob": blob, "media_type": encrypted, "decryptor": cipher(bytes(32))},
            ),
            (DECRYPT_FAILED, {"blob": flipped, "media_type": encrypted, "decryptor": cipher()}),
        ):
            with pytest.raises((IntegrityError, InvalidInputError), match=text):
                await unpack(made, target=target, tar=SAMPLE, **arguments)  # type: ignore[arg-type]  # a table of calls
            assert not target.exists()
        await unpack(made, SAMPLE, target, tar=SAMPLE)
        assert target.exists()


@pytest.mark.parametrize(("cores", "in_threads"), [(1, False), (2, False), (3, True)])
async def test_blocks_go_to_threads_where_a_core_is_left_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, in_threads: bool
) -> None:
    hashed_by, update = set(), BlobVerifier.update

    def noted(self: BlobVerifier, data: bytes) -> None:
        hashed_by.add(threading.get_ident() != here)
        update(self, data)

    here = threading.get_ident()
    monkeypatch.setattr(BlobVerifier, "update", noted)
    tar = tb.file(b"large", bytes(BLOCK * 8)) + tb.END
    async with pipeline(cores=cores) as made:
        await unpack(made, tar, tmp_path / "layer", tar=tar)
    # the last bytes of a blob are few, and hashed at once anyway
    assert hashed_by == ({True, False} if in_threads else {False})


@pytest.mark.parametrize("cores", [2, 4])
async def test_a_source_that_never_waits_does_not_keep_the_loop(tmp_path: Path, cores: int) -> None:
    turns, at_chunk = 0, list[int]()
    over = asyncio.Event()

    async def others() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    async def memory() -> AsyncIterator[bytes]:
        for start in range(0, len(tar), BLOCK):
            at_chunk.append(turns)
            yield tar[start : start + BLOCK]

    tar = tb.file(b"large", bytes(BLOCK * 40)) + tb.END
    async with pipeline(cores=cores) as made, asyncio.TaskGroup() as tasks:
        tasks.create_task(others())
        await unpack(made, tar, tmp_path / "layer", tar=tar, source=memory())
        over.set()
    assert all(before < after for before, after in itertools.pairwise(at_chunk))


async def test_a_broken_blob_is_told_from_a_bad_layer(tmp_path: Path) -> None:
    async with pipeline() as made:
        with pytest.raises(IntegrityError, match="has digest"):
            await unpack(
                made,
                b"no gzip at all" * 1000,
                tmp_path / "x",
                tar=SAMPLE,
                media_type=GZIP,
                digest=tb.sha256(gzip.compress(SAMPLE)),
            )


async def test_the_diff_id_may_be_sha512_and_nothing_else(tmp_path: Path) -> None:
    async with pipeline() as made:
        digest = HashAlgorithm.SHA512.of(SAMPLE)
        record = await unpack(made, SAMPLE, tmp_path / "a", tar=SAMPLE, diff_id=digest)
        assert record.diff_id == str(digest)
        for algorithm in (HashAlgorithm.SHA384, HashAlgorithm.SM3):
            with pytest.raises(UnsupportedError, match="Unsupported uncompressed digest format"):
                await unpack(made, SAMPLE, tmp_path / "b", tar=SAMPLE, diff_id=algorithm.of(SAMPLE))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("kind", "tar"),
    {
        "climbing link": tb.hard_link(b"h", b"../../../etc/shadow") + tb.END,
        "loop": tb.symlink(b"a", b"a") + file(b"a/b") + tb.END,
        "disguise": tb.header(b"c", flag=b"3") + tb.END,
        "truncated": SAMPLE[:3000],
        "checksum": b"\xff" + SAMPLE[1:],
        "text": b"this is no tar archive" * 100,
        "huge name": tb.header(b"x", flag=b"L", size=1 << 30) + tb.END,
    }.items(),
)
async def test_a_hostile_layer_is_one_clear_error(tmp_path: Path, kind: str, tar: bytes) -> None:
    target = tmp_path / "layer"
    async with pipeline() as made:
        with pytest.raises(InvalidInputError, match="Failed to unpack layer: "):
            await unpack(made, tar, target, tar=tar)
        assert not target.exists()
        await unpack(made, SAMPLE, target, tar=SAMPLE)


async def test_a_decompression_bomb_meets_the_limit(tmp_path: Path) -> None:
    size = 64 << 20
    tar = tb.header(b"zeros", size=size) + bytes(size) + tb.END
    async with pipeline(max_bytes=16 << 20) as made:
        for media_type, blob in ((GZIP, gzip.compress(tar, 9)), (ZSTD, zstd(tar))):
            with pytest.raises(LimitError, match="more than"):
                await unpack(made, blob, tmp_path / "x", tar=tar, media_type=media_type)
            assert not (tmp_path / "x").exists()


async def test_a_zstd_window_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    # a frame header that asks for a window of 256 MiB, and one raw block
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(28 - 10) << 3]) + b"\x21\x00\x00" + b"data"
    async with pipeline() as made:
        with pytest.raises(InvalidInputError, match="zstd data is broken"):
            await unpack(made, frame, tmp_path / "x", tar=SAMPLE, media_type=ZSTD)


PLANTED = (
    "sitecustomize",
    "usercustomize",
    "encodings/idna",
    "encodings/cp037",
    "encodings/__init__",
    "os",
    "traceback",
    "zoneinfo/__init__",
    "_sysconfigdata",
)


async def test_no_module_or_codec_of_a_layer_ever_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')\nopen('/ran', 'w')\n".encode()
    roots = (b"", b"usr/lib/python3.11/", os.fsencode(os.path.dirname(os.__file__))[1:] + b"/")
    tar = b""
    for root in roots:
        for name in PLANTED:
            path = root + name.encode() + b".py"
            tar += tb.pax((b"path", path)) + file(b"x", code)
    async with pipeline() as made:
        # the rest of these layers makes the worker fail in each of its ways, after the planting
        for rest in (
            tb.END,
            tb.header(b"c", flag=b"3"),
            b"garbage".ljust(512, b"x"),
            file(b"\xff\xfe\xfd" * 30),
            tb.pax((b"path", b"\xff/\xfe" * 2000)) + file(b"x"),
        ):
            target = tmp_path / "layer"
            try:
                await unpack(made, tar + rest, target, tar=tar + rest)
                assert not (target / "ran").exists()
                os.rename(target, tmp_path / os.urandom(4).hex())
            except InvalidInputError:
                pass
            assert not marker.exists()


@pytest.mark.root
async def test_root_unpacks_in_the_full_jail(tmp_path: Path) -> None:
    tar = file(b"f", b"1", uid=1234, gid=5678) + tb.symlink(b"s", b"f", uid=7) + tb.END
    async with pipeline() as made:
        record = await unpack(made, tar, tmp_path / "layer", tar=tar)
    assert (record.jail, record.privileged, record.kept) == (Jail.FULL, True, ())
    status = (tmp_path / "layer/f").stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert (tmp_path / "layer/s").lstat().st_uid == 7


@pytest.mark.root
@pytest.mark.mount
async def test_a_server_that_was_there_before_the_store_s_disk_unpacks_onto_it(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    async with pipeline() as made:
        made.start()
        await unpack(made, SAMPLE, tmp_path / "before", tar=SAMPLE)
        subprocess.run(["mount", "-t", "tmpfs", "store", str(disk)], check=True, timeout=30)
        try:
            await unpack(made, SAMPLE, disk / "layer", tar=SAMPLE)
            unpacked = sorted(path.name for path in (disk / "layer").iterdir())
        finally:
            subprocess.run(["umount", str(disk)], check=True, timeout=30)
    assert unpacked == sorted(path.name for path in (tmp_path / "before").iterdir())
    assert not any(disk.iterdir())


BIG = tb.header(b"big", size=1 << 20) + bytes(1 << 20) + SAMPLE


async def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    target.mkdir()
    (target / "mine").touch()
    async with pipeline() as made:
        with pytest.raises(PlatformError, match="not empty"):
            await unpack(made, SAMPLE, target, tar=SAMPLE)
    assert (target / "mine").exists()


async def test_many_layers_at_a_time_come_out_whole(tmp_path: Path) -> None:
    async with pipeline() as made, asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(
                unpack(made, gzip.compress(BIG), tmp_path / f"{number}", tar=BIG, media_type=GZIP)
            )
    assert len({path.stat().st_size for path in tmp_path.glob("*/big")}) == 1


async def test_without_root_the_wall_is_reported_and_owners_are_kept(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root has the full jail")
    tar = file(b"f", b"1", uid=1234, gid=5678, mode=0o000) + tb.END
    async with pipeline() as made:
        record = await unpack(made, tar, tmp_path / "layer", tar=tar)
    assert record.jail is (Jail.LANDLOCK if landlock_version() else Jail.RESOLVER)
    assert not record.privileged
    assert [(kept.uid, kept.gid, kept.mode) for kept in record.kept] == [(1234, 5678, 0)]
