"""Resources from files."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from cdh.kms.base import InitialisationError
from cdh.kms.offline_fs import OfflineFiles
from guest.deadline import Deadline
from guest.errors import NotFoundError
from guest.resource_uri import ResourceUri

KEY1 = {"default/key/1": "a2V5MQ=="}


async def fetch(files: OfflineFiles, uri: str = "kbs:///default/key/1") -> bytes:
    return (await files.fetch(ResourceUri.parse(uri), Deadline.after(5))).reveal()


async def test_a_resource_is_found_by_its_path_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(KEY1))
    files = OfflineFiles((tmp_path / "missing.json", file))
    for uri in ("kbs:///default/key/1", "kbs://h:1/default/key/1", "kbs+x:///default/key/1?q"):
        assert await fetch(files, uri) == b"key1"
    with pytest.raises(NotFoundError, match="offline-fs-kbc: resource not found default/key/2"):
        await fetch(files, "kbs:///default/key/2")


async def test_a_later_file_replaces_what_an_earlier_one_says(tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    first.write_text(json.dumps(KEY1 | {"a/b/c": ""}))
    second.write_text(json.dumps({"default/key/1": "AA=="}))
    files = OfflineFiles((first, second))
    assert await fetch(files) == b"\0"
    assert await fetch(files, "kbs:///a/b/c") == b""


async def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(KEY1))
    files = OfflineFiles((file,))
    assert await fetch(files) == b"key1"
    before = file.stat()
    file.write_text(json.dumps({"default/key/1": "a2V5OQ=="}))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await fetch(files) == b"key1"
    replacement = tmp_path / "b.json"
    replacement.write_text(json.dumps({"default/key/1": "a2V5Mg=="}))
    replacement.rename(file)
    assert await fetch(files) == b"key2"
    file.unlink()
    with pytest.raises(NotFoundError):
        await fetch(files)


async def test_a_reader_that_wipes_its_copy_leaves_the_resource(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(KEY1))
    files = OfflineFiles((file,))
    uri = ResourceUri.parse("kbs:///default/key/1")
    with await files.fetch(uri, Deadline.after(5)) as copy:
        assert copy.reveal() == b"key1"
    assert await fetch(files) == b"key1"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a":1}', '{"a":"AB=="}', '{"a":"AA"}', '{"a":"A A="}', '{"a":"-_8="}']
)
async def test_a_malformed_file_fails_every_request_until_it_is_mended(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    files = OfflineFiles((file,))
    for _ in range(2):
        with pytest.raises(InitialisationError, match="offline-fs-kbc: "):
            await fetch(files)
    file.write_text(json.dumps(KEY1) + " ")
    assert await fetch(files) == b"key1"


async def test_what_is_no_regular_file_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(KEY1))
    assert await fetch(OfflineFiles((file, tmp_path))) == b"key1"


async def test_its_background_ends_with_stop(tmp_path: Path) -> None:
    files = OfflineFiles((tmp_path / "x",))
    stop = asyncio.Event()
    stop.set()
    await files.run(stop)
    await files.close()
