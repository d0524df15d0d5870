"""What the smoke test proves of the checklist, and when it boots once more."""

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from podvm.errors import ImageError
from podvm.probes.names import answer
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
