"""Root file systems that Debian's tools bootstrap, and images that other tools make of them.

The mirror is the one that apt of this machine uses. A tree is kept as an archive below `build/`,
so that only the first run needs the network.
"""

import functools
import os
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from support.unpackers import ROOT, run

BUILD_SECONDS: Final = 500.0
"""Seconds that one bootstrap may take."""

MIRROR_SECONDS: Final = 10.0
"""Seconds in which the mirror must answer."""

KEPT: Final = ROOT / "build" / "debian-trees"

DEBOOTSTRAP: Final = ("minbase", "buildd", "default")
"""Variants of debootstrap, by the names of trees; `default` is what it makes without one."""

MMDEBSTRAP: Final = ("essential", "apt", "required", "buildd", "important", "standard")
"""Variants of mmdebstrap that hold packages; trees have `mm-` before them."""

TREES: Final = (*DEBOOTSTRAP, *(f"mm-{variant}" for variant in MMDEBSTRAP))

ATTRIBUTES: Final = ("--xattrs", "--xattrs-include=*", "--numeric-owner")


def why_not() -> str | None:
    """Why no tree can be had here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if kept("minbase").exists():
        return None
    if not shutil.which("debootstrap"):
        return "no debootstrap (Debian package debootstrap)"
    if not mirror():
        return f"apt has no mirror of Debian {codename()}"
    try:
        release = f"{mirror()}/dists/{codename()}/InRelease"
        with urllib.request.urlopen(release, timeout=MIRROR_SECONDS):
            return None
    except (OSError, urllib.error.URLError) as error:
        return f"Debian's mirror cannot be reached: {error}"


@functools.cache
def codename() -> str:
    """Of this machine's Debian, or of its stable one."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")


@functools.cache
def mirror() -> str:
    """The address that apt has for the main packages of this Debian; empty if there is none."""
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    wanted = (f"Release: {codename()}", "Component: main")
    try:
        done = subprocess.run(
            (*command, *wanted), capture_output=True, text=True, timeout=MIRROR_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.split()), "").rstrip("/")


def kept(name: str) -> Path:
    """The archive of a tree, once it was made."""
    return KEPT / f"{codename()}-{name}.tar"


def make_tree(name: str, tree: Path) -> None:
    """Have a tree of `TREES` in an absent directory."""
    archive = kept(name)
    if not archive.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        under_way = archive.with_suffix(f".{os.getpid()}")
        try:
            _bootstrap(name, tree, under_way)
            under_way.rename(archive)
        finally:
            under_way.unlink(missing_ok=True)
            shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    run("tar", "-C", tree, "-xpf", archive, *ATTRIBUTES)


def _bootstrap(name: str, tree: Path, archive: Path) -> None:
    _, is_other_tool, variant = name.rpartition("mm-")
    if is_other_tool:
        command = ("mmdebstrap", "--quiet", f"--variant={variant}", "--format=tar")
        run(*command, codename(), archive, mirror(), seconds=BUILD_SECONDS)
        return
    chosen = () if name == "default" else (f"--variant={name}",)
    run("debootstrap", *chosen, codename(), tree, mirror(), seconds=BUILD_SECONDS)
    run("tar", "-C", tree, "--format=posix", *ATTRIBUTES, "-cf", archive, ".")


def one_layer(tree: Path, layout: Path, work: Path) -> Path:
    """Make image `one` of a tree, as umoci does; gives umoci's bundle of it."""
    bundle = work / "bundle-of-umoci"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:one")
    run("umoci", "unpack", "--image", f"{layout}:one", bundle)
    (bundle / "rootfs").rmdir()
    tree.rename(bundle / "rootfs")
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:one", bundle)
    return bundle


def more_layers(layout: Path, bundle: Path, work: Path) -> None:
    """Make image `several` of `one`: a layer of changes, inserted ones, GNU tar's, and changes."""
    image = f"{layout}:several"
    change(bundle / "rootfs")
    run("umoci", "repack", "--image", image, bundle)
    new = work / "new"
    (new / "sub").mkdir(parents=True)
    (new / "sub" / "file").write_text("inserted\n")
    os.chown(new / "sub", 5, 60)
    run("umoci", "insert", "--opaque", "--image", image, new, "/usr/share/bug")
    run("umoci", "insert", "--image", image, new, "/usr/share/common-licenses")
    run("umoci", "insert", "--whiteout", "--image", image, "/usr/share/info")
    odd = work / "odd"
    odd.mkdir()
    odd_files(odd)
    tar = work / "odd.tar"
    run("tar", "-C", work, "--format=posix", "--sparse", *ATTRIBUTES, "-cf", tar, "odd")
    run("umoci", "raw", "add-layer", "--image", image, tar)
    shutil.rmtree(bundle)
    run("umoci", "unpack", "--image", image, bundle)
    change_again(bundle / "rootfs")
    run("umoci", "repack", "--image", image, bundle)


def change(root: Path) -> None:
    """What a second layer says: removed things, other kinds, modes, owners, attributes."""
    for name in ("usr/share/doc", "var/cache", "var/lib/dpkg/info"):
        shutil.rmtree(root / name)
    (root / "var/cache").symlink_to("/run/cache")
    (root / "etc/debian_version").unlink()
    (root / "etc/debian_version").mkdir(mode=0o2750)
    (root / "etc/debian_version" / "in").write_text("was a file\n")
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").write_text("was a link\n")
    os.chmod(root / "usr/bin/newgrp", 0o755)
    os.chown(root / "usr/bin/lastlog", 12, 3_000_000)
    os.chmod(root / "usr/bin/lastlog", 0o6711)
    run("setcap", "cap_net_raw+ep", root / "usr/bin/tac")
    os.link(root / "usr/bin/tac", root / "opt/tac-too")
    os.setxattr(root / "usr/bin/env", "user.note", b"a\0=\nb")
    os.setxattr(root / "srv", "user.note", b"of a directory")
    os.lchown(root / "bin/sh", 7, 8)


def odd_files(place: Path) -> None:
    """What packages have not: a file of holes, nodes, names and times of all kinds."""
    with open(place / "sparse", "wb") as file:
        for start in (1 << 20, 3 << 20, (6 << 20) + 5):
            file.seek(start)
            file.write(b"data")
        file.truncate(9 << 20)
    os.mkfifo(place / "fifo", 0o620)
    os.mknod(place / "null", 0o020666, os.makedev(1, 3))
    os.mknod(place / "loop", 0o060660, os.makedev(7, 300))
    (place / "hard").write_text("linked\n")
    os.chmod(place / "hard", 0o6755)
    os.link(place / "hard", place / "hard-too")
    (place / "dangling").symlink_to("../../no/where")
    for name in (b"l" * 255, b"bytes-\xff\xfe", b"new\nline", b" blank ", b"-dash", b"\\back"):
        Path(os.fsdecode(os.fsencode(place) + b"/" + name)).write_bytes(name)
    (place / "deep").mkdir()
    (place / "deep" / "old").write_text("before the epoch\n")
    os.utime(place / "deep" / "old", ns=(0, 1_234_567_891))
    os.utime(place / "deep", (1_500_000_000, 1_500_000_000))
    os.utime(place / "dangling", (1_400_000_000, 1_400_000_000), follow_symlinks=False)


def change_again(root: Path) -> None:
    """What a last layer says: what was removed comes back, what was changed goes."""
    shutil.rmtree(root / "etc/debian_version")
    (root / "usr/share/doc").mkdir()
    (root / "usr/share/doc" / "new").write_text("not what was there\n")
    (root / "odd" / "hard").unlink()
    shutil.rmtree(root / "odd" / "deep")
    (root / "var/cache").unlink()
    (root / "var/cache").mkdir(mode=0o700)
