"""The trees that we unpack beside those of skopeo and umoci: alike in all that a file has."""

import asyncio
import gzip
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support import real_images
from support.unpackers import compare, run

pytestmark = [pytest.mark.root, pytest.mark.mount, pytest.mark.skopeo, pytest.mark.umoci]

PACKAGES: Final = "base-files,base-passwd,login,mount,netbase,passwd"
"""Small ones with links, devices, set-id programs and directories of other owners."""

SCALED: Final = {
    "A": real_images.many_files,
    "C": real_images.one_large_layer,
    "D": real_images.many_layers,
}


def build(letter: str, scale: float, tmp_path: Path) -> tuple[Path, str]:
    """A layout, and the tag of the form that umoci 0.4 reads, which knows no zstd."""
    layers = real_images.write_image(SCALED[letter](scale), tmp_path)
    packed = [real_images.repacked(layer, tmp_path, gzip.compress) for layer in layers]
    real_images.write_index(packed, tmp_path / "layout", "gzip")
    return tmp_path / "layout", "gzip"


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "scale"), [("A", 0.02), ("C", 0.02), ("D", 0.05)])
async def test_images_of_package_files_become_the_tree_that_umoci_makes(
    letter: str, scale: float, tmp_path: Path
) -> None:
    layout, tag = await asyncio.to_thread(build, letter, scale, tmp_path)
    rows = await compare(layout, "v1", tmp_path, gzip_tag=tag, names_root=False)
    assert len(rows) > 20
    if letter != "C":
        assert rows["odd/hard"].names == ("odd/hard", "odd/setuid")
        assert rows["odd/null"].device == (1, 3)
        assert rows["odd"].mtime == 1_600_000_000_500_000_000


@pytest.mark.slow
@pytest.mark.openssl
async def test_an_encrypted_image_becomes_the_tree_that_umoci_makes_of_the_plain_one(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    await asyncio.to_thread(make_key, key)
    layout, tag = await asyncio.to_thread(build, "A", 0.01, tmp_path)
    await compare(layout, "v1", tmp_path, gzip_tag=tag, key=key, names_root=False)


def make_key(key: Path) -> None:
    run("openssl", "genrsa", "-out", key, "2048")
    run("openssl", "rsa", "-in", key, "-pubout", "-out", f"{key}.pub")


def debian(tree: Path) -> None:
    """A tree of some packages, or a skip where their mirror cannot be reached."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("no mmdebstrap (Debian package mmdebstrap)")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    command = ("mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}")
    done = subprocess.run(
        (*command, "--format=directory", suite, tree),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode != 0:
        pytest.skip(f"mmdebstrap: {done.stderr.strip()[-300:]}")


def change(root: Path) -> None:
    """What a second layer says: other modes and owners, new things, removed ones."""
    (root / "etc/passwd").unlink(missing_ok=True)
    shutil.rmtree(root / "usr/share/doc")
    (root / "usr/share/doc").write_text("was a directory\n")
    os.chmod(root / "usr/bin/passwd", 0o755)
    os.chown(root / "usr/bin/newgrp", 12, 34)
    os.chmod(root / "usr/bin/newgrp", 0o6711)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "usr/bin/chage", "security.capability", capability)
    os.link(root / "usr/bin/chage", root / "usr/bin/chage-too")
    (root / "tmp/new").mkdir(mode=0o2770)
    (root / "tmp/new/fifo").unlink(missing_ok=True)
    os.mkfifo(root / "tmp/new/fifo")
    os.utime(root / "tmp/new", (1_500_000_000, 1_500_000_000))


def build_debian(tmp_path: Path) -> Path:
    """A layout with an image of two layers, as umoci makes it of Debian's tree."""
    layout, bundle = tmp_path / "debian", tmp_path / "made"
    debian(tmp_path / "tree")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:v1")
    run("umoci", "unpack", "--image", f"{layout}:v1", bundle)
    (bundle / "rootfs").rmdir()
    (tmp_path / "tree").rename(bundle / "rootfs")
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:v1", bundle)
    change(bundle / "rootfs")
    run("umoci", "repack", "--image", f"{layout}:v1", bundle)
    return layout


@pytest.mark.slow
async def test_debian_packages_become_the_tree_that_umoci_makes(tmp_path: Path) -> None:
    layout = await asyncio.to_thread(build_debian, tmp_path)
    rows = await compare(layout, "v1", tmp_path, gzip_tag="v1", with_skopeo=False)
    assert rows["dev/null"].device == (1, 3)
    assert "etc/passwd" not in rows
    assert rows["usr/bin/chage-too"].xattrs[0][0] == "security.capability"
