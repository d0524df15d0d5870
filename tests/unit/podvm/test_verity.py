"""The hash tree and what is derived from its root."""

import hashlib
import subprocess
from pathlib import Path
from shutil import which

import pytest

from podvm.errors import ImageError
from podvm.verity import hash_tree, partition_uuids, superblock

EIGHT = "00967771273525b84d07dc23126ab2dca7fe27d682bc53b48e4da755b86522da"
THREE_HUNDRED = "c382722c1ecf53fb069ad2c8daf053944e8583184cd65423f47418e4d5ab59ee"


def blocks(count: int) -> bytes:
    return b"".join(bytes([number % 256]) * 4096 for number in range(count))


@pytest.mark.parametrize(
    ("count", "salt", "root", "size"),
    [(8, bytes(32), EIGHT, 4096), (300, bytes(range(32)), THREE_HUNDRED, 16384)],
)
def test_the_hash_tree_is_the_one_of_the_specification(
    count: int, salt: bytes, root: str, size: int
) -> None:
    tree = hash_tree(blocks(count), salt=salt)

    assert tree.root.hex() == root
    assert len(tree.tree) == size


def test_the_root_of_one_block_is_its_own_hash() -> None:
    tree = hash_tree(bytes(4096), salt=b"s")

    assert tree.tree == b""
    assert tree.root == hashlib.sha256(b"s" + bytes(4096)).digest()


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_data_that_is_no_whole_number_of_blocks_is_refused(size: int) -> None:
    with pytest.raises(ImageError):
        hash_tree(bytes(size), salt=b"")


@pytest.mark.parametrize("count", [1, 128, 129, 300])
def test_veritysetup_accepts_superblock_and_tree(tmp_path: Path, count: int) -> None:
    program = which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("veritysetup is not installed")
    data, hashes = tmp_path / "data", tmp_path / "hashes"
    data.write_bytes(blocks(count))
    tree = hash_tree(blocks(count), salt=b"salt")
    head = superblock(blocks=count, salt=b"salt", uuid=bytes(range(16)))
    hashes.write_bytes(head + tree.tree)

    done = subprocess.run(
        [program, "verify", data, hashes, tree.root.hex()], capture_output=True, timeout=60
    )

    assert done.returncode == 0, done.stderr


def test_partitions_are_named_by_the_halves_of_the_root_hash() -> None:
    root = bytes.fromhex("2fad7ce6433d884071b15f465570c7f4006b3badecd469ac1b5b5c3fa2c19ff4")

    assert partition_uuids(root) == (
        "2fad7ce6-433d-8840-71b1-5f465570c7f4",
        "006b3bad-ecd4-69ac-1b5b-5c3fa2c19ff4",
    )
