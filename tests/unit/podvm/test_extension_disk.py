"""The disk of an extension image."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podvm import extension, extension_disk
from podvm.errors import ImageError
from podvm.extension_disk import (
    GRANULE,
    IMAGE_NAME,
    MAX_SIZE,
    MIB,
    PARAMETERS_NAME,
    boot_record,
    lay_out,
    pack,
    write,
)

MANIFEST: Final = """\
schema_version = 1
[paths]
ocicrypt-config = "etc/ocicrypt_config.json"
[[process]]
id = "attestation-agent"
level = 1
path = "usr/local/bin/attestation-agent"
"""
VERITYSETUP: Final = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin:/bin")


def tree(tmp_path: Path) -> Path:
    """A small extension."""
    root = tmp_path / "tree"
    for name, text in {
        extension.FILE: MANIFEST,
        "etc/ocicrypt_config.json": "{}",
        "usr/local/bin/attestation-agent": "#!/bin/sh\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def entries(record: bytes) -> list[tuple[int, int, int, int]]:
    """Flag, type, first sector and count of both entries of an MBR."""
    found = [struct.unpack_from("<B3sB3sII", record, 446 + 16 * index) for index in (0, 1)]
    return [(flag, kind, first, count) for flag, _, kind, _, first, count in found]


@given(st.integers(1, MAX_SIZE * 98 // 100))
def test_the_second_partition_is_the_last_hundredth_and_holds_the_tree(length: int) -> None:
    layout = lay_out(length)

    assert layout.size % GRANULE == 0
    assert layout.data == MIB
    assert length <= layout.hashes - layout.data
    last = layout.size - layout.hashes
    assert layout.size // 100 <= last < layout.size // 100 + 2 * MIB
    blocks = (layout.hashes - layout.data) // 4096
    assert (blocks + 127) // 128 + (blocks + 16383) // 16384 + 2 <= last // 4096


@pytest.mark.parametrize("length", [0, MAX_SIZE])
def test_nothing_and_too_much_are_refused(length: int) -> None:
    with pytest.raises(ImageError):
        lay_out(length)


def test_the_record_has_two_partitions_and_boots_the_first() -> None:
    record = boot_record(lay_out(1))

    assert (len(record), record[510:]) == (512, b"\x55\xaa")
    first, second = entries(record)
    assert first[:3] == (0x80, 0x83, 2048)
    assert second[:2] == (0, 0x83)
    assert second[2] == first[2] + first[3]
    assert (second[2] + second[3]) * 512 == GRANULE
    assert record[478:510] == bytes(32)


@pytest.mark.spec("podvm-image", 39)
@pytest.mark.skipif(VERITYSETUP is None, reason="no veritysetup (Debian package cryptsetup-bin)")
def test_veritysetup_accepts_the_disk_with_the_recorded_parameters(tmp_path: Path) -> None:
    assert VERITYSETUP is not None
    write(bytes(range(256)) * 4096, tmp_path)
    image = tmp_path / IMAGE_NAME
    with image.open("rb") as file:
        first, second = entries(file.read(512))
    assert first[2] * 512 == MIB
    assert second[3] * 512 >= image.stat().st_size // 100
    pairs = (tmp_path / PARAMETERS_NAME).read_text().strip().split(",")
    values = dict(pair.split("=") for pair in pairs)
    assert list(values) == ["root_hash", "salt", "data_blocks", "data_block_size",
                            "hash_block_size"]  # fmt: skip
    assert int(values["data_blocks"]) * 4096 == first[3] * 512
    parts = []
    for name, (_, _, start, count) in (("data", first), ("hashes", second)):
        parts.append(tmp_path / name)
        with image.open("rb") as file:
            file.seek(start * 512)
            parts[-1].write_bytes(file.read(count * 512))

    def verify(root_hash: str) -> int:
        command = [
            VERITYSETUP, "verify", "--no-superblock", "--hash-block-size=4096",
            "--data-block-size=4096", f"--data-blocks={values['data_blocks']}",
            f"--salt={values['salt']}", *map(str, parts), root_hash,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode

    assert verify(values["root_hash"]) == 0
    changed = bytearray(parts[0].read_bytes())
    changed[5000] ^= 1
    parts[0].write_bytes(changed)
    assert verify(values["root_hash"]) != 0


@pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs (erofs-utils)")
def test_the_same_tree_gives_the_same_disk(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        place = tree(tmp_path / name)
        write(pack(place, tmp_path / name), tmp_path / name)
        digests.append((tmp_path / name / PARAMETERS_NAME).read_text())
        with (tmp_path / name / IMAGE_NAME).open("rb") as file:
            file.seek(MIB + 1024)
            assert file.read(4) == b"\xe2\xe1\xf5\xe0"
    assert digests[0] == digests[1]
    assert (tmp_path / "one" / IMAGE_NAME).read_bytes() == (
        tmp_path / "two" / IMAGE_NAME
    ).read_bytes()


def test_a_tree_without_what_its_manifest_names_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "usr/local/bin/attestation-agent").unlink()
    with pytest.raises(ImageError, match="attestation-agent, which its manifest names"):
        pack(root, tmp_path)
    (root / extension.FILE).unlink()
    with pytest.raises(ImageError, match="has no etc/kata-extensions"):
        pack(root, tmp_path)


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), str(tmp_path / "out")])
    assert extension_disk.main() == 1
    assert "podvm: " in capsys.readouterr().err
