"""What the smoke test proves of the checklist, and when it boots once more."""

import asyncio
import json
import shutil
import socket
import struct
from pathlib import Path

import pytest

from podvm.errors import ImageError
from podvm.probes.names import answer
from podvm.smoke import contents
from podvm.smoke.boots import programs
from podvm.smoke.builds import differing, extension_built
from podvm.smoke.checks import CHECKS, record
from podvm.smoke.contents import overlay
from podvm.smoke.gate import gate
from podvm.smoke.rows import ROWS
from podvm.smoke.run import LANES
from podvm.smoke.site import emulator_fault
from podvm.smoke.table import Result
from tools.checklist import load_pages

GOOD = Result(good=True, detail="")
BAD = Result(good=False, detail="why")


def test_a_check_is_recorded_as_its_results_are() -> None:
    checks = {1: ("a.x", "b.y"), 2: ("a.x",), 3: ("c.z",)}

    found = record(checks, {"a.x": GOOD, "b.y": BAD})

    assert found == {
        "podvm-image": {
            "1": {"failed": ["image-test a.x", "image-test b.y"]},
            "2": {"passed": ["image-test a.x"]},
        }
    }


def test_every_check_is_one_of_the_page_and_stands_on_results_of_a_boot() -> None:
    (page,) = [page for page in load_pages() if page.name == "podvm-image"]
    boots = {step for lane in LANES for step in lane} | {"hash", "data"}

    assert set(CHECKS) <= set(page.checks)
    for needs in [*CHECKS.values(), *(row.needs for row in ROWS)]:
        assert {name.split(".")[0] for name in needs} <= boots


@pytest.mark.parametrize(
    ("console", "again"),
    [
        ("[ 1.0] Kernel panic - not syncing: IO-APIC + timer doesn't work!", True),
        ("Welcome to Debian\n[ 9.0] Kernel panic - not syncing: Fatal exception", True),
        ("[ 6.0] Kernel panic - not syncing: dm-verity device corrupted", False),
        ("[ 1.0] all is well", False),
    ],
)
def test_only_what_the_emulator_broke_is_repeated(console: str, again: bool) -> None:
    assert bool(emulator_fault(console)) is again


def test_a_name_has_its_address_and_no_other_record() -> None:
    question = b"\x08registry\x05smoke\x04test\x00"
    head = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)

    found = answer(head + question + struct.pack(">HH", 1, 1), "100.100.100.2")
    assert struct.unpack_from(">HHHHHH", found) == (7, 0x8180, 1, 1, 0, 0)
    assert found.endswith(socket.inet_aton("100.100.100.2"))

    other = answer(head + question + struct.pack(">HH", 28, 1), "100.100.100.2")
    assert struct.unpack_from(">HHHHHH", other) == (7, 0x8180, 1, 0, 0, 0)


async def test_a_gate_refuses_until_somebody_asks_for_it() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    async with server, gate(target, closed=True) as found:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", found.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", found.control)
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        assert await reader.read() == b"here"
        writer.close()


def test_images_that_differ_by_more_than_the_overlay_are_told(tmp_path: Path) -> None:
    base = tmp_path
    wants = "etc/systemd/system/multi-user.target.wants"
    for name in ("one", "two", "declared"):
        (base / name / "usr/lib").mkdir(parents=True)
        (base / name / wants).mkdir(parents=True)
    for name in ("two", "declared"):
        (base / name / "usr/lib/more.service").write_text("x")
    (base / "two" / wants / "more.service").symlink_to("/usr/lib/more.service")

    assert overlay(base / "one", base / "two", base / "declared").startswith("2 paths")
    (base / "two/usr/lib/else").write_text("y")
    with pytest.raises(ImageError, match="usr/lib/else"):
        overlay(base / "one", base / "two", base / "declared")


def test_what_packages_bring_on_top_is_declared_and_what_they_change_is_not(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "etc/alternatives").mkdir(parents=True)
        (tmp_path / name / "usr/bin").mkdir(parents=True)
        (tmp_path / name / "etc/passwd").write_text("root:x:0:0\n")
        (tmp_path / name / "usr/bin/sh").write_text("sh")
    (tmp_path / "declared").mkdir()
    two = tmp_path / "two"
    (two / "usr/bin/vim").write_text("vim")
    (two / "usr/bin/vi").symlink_to("/etc/alternatives/vi")
    (two / "etc/alternatives/vi").symlink_to("/usr/bin/vim")
    (two / "etc/passwd").write_text("root:x:0:0\nsshd:x:1:1\n")

    def compared() -> str:
        packaged = frozenset({"usr/bin/vim"})
        return overlay(tmp_path / "one", two, tmp_path / "declared", packaged)

    assert compared().startswith("4 paths differ")
    (two / "etc/passwd").write_text("root::0:0\nsshd:x:1:1\n")
    with pytest.raises(ImageError, match="etc/passwd"):
        compared()
    (two / "etc/passwd").write_text("root:x:0:0\n")
    (two / "usr/bin/sh").write_text("other")
    with pytest.raises(ImageError, match="usr/bin/sh"):
        compared()


def test_a_variant_of_other_wheels_is_not_compared(tmp_path: Path) -> None:
    def manifest(sha256: str) -> bytes:
        return json.dumps({"wheels": [{"file": "guest.whl", "sha256": sha256}]}).encode()

    path = tmp_path / "manifest.json"
    assert not contents.is_of_same_wheels(path, manifest("a"))
    path.write_bytes(manifest("a"))
    assert contents.is_of_same_wheels(path, manifest("a"))
    assert not contents.is_of_same_wheels(path, manifest("b"))


def test_the_programs_that_may_be_there_are_ours_and_those_that_the_manifest_names(
    tmp_path: Path,
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"programs": []}')
    ours = programs(tmp_path)
    assert {"attestation-agent", "confidential-data-hub", "setup-nat-for-imds.sh"} <= set(ours)
    others = [
        {"name": "kata-agent", "sha256": "aa", "source": "directory"},
        {"name": "pause", "sha256": "bb", "source": "directory"},
    ]
    path.write_text(json.dumps({"programs": others}))
    assert programs(tmp_path) == {**ours, "kata-agent": "aa"}


def test_outputs_that_differ_or_are_missing_are_named(tmp_path: Path) -> None:
    for name, text in {"one": "aa  a\nbb  b\n", "two": "aa  a\ncc  b\ndd  c\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "sha256sums").write_text(text)

    assert differing(tmp_path / "one", tmp_path / "two") == ["b", "c"]
    assert differing(tmp_path / "one", tmp_path / "one") == []


@pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs (erofs-utils)")
def test_an_extension_of_our_files_is_the_same_at_another_time_and_place(tmp_path: Path) -> None:
    one = extension_built(tmp_path / "one")
    other = extension_built(tmp_path / "other/place", epoch=1)

    names = sorted(path.name for path in one.iterdir())
    assert names == ["kata-containers-coco-extension.img", "root_hash_coco-extension.txt"]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes()
