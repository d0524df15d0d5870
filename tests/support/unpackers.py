"""The trees that skopeo, umoci and we make of one image, each by its own code.

umoci unpacks a layout. skopeo copies an image into a store of the container tools, whose driver
`vfs` keeps the whole tree of every layer as plain files. Ours is pulled by the command from a
registry, to which skopeo pushed it.
"""

import asyncio
import contextlib
import json
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guest_simulator.registry.server import Registry
from support.agents import agent_command
from support.trees import Row, differences, rows_of

ROOT: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 100.0
"""Seconds that one program may take."""

ACCESS_LISTS: Final = ("system.posix_acl_access", "system.posix_acl_default")


def run(*command: str | Path, seconds: float = SECONDS) -> str:
    """Run a program to its end; gives what it said."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def _image_pull(work: Path, *arguments: str | Path) -> None:
    options = ("--work-dir", work, "--quiet", "--timeout", "90")
    run(*agent_command(module="image_pull.main"), *options, *arguments)


@contextlib.contextmanager
def pulled(image: str, tmp_path: Path, *options: str | Path) -> Iterator[Path]:
    """The root file system of an image that the command pulled."""
    work, bundle = tmp_path / "work", tmp_path / "bundle"
    host = image.partition("/")[0]
    _image_pull(work, "--insecure", host, *options, image, bundle)
    try:
        yield bundle / "rootfs"
    finally:
        _image_pull(work, "--undo", "-", bundle)


def rows_of_pulled(image: str, tmp_path: Path, *options: str | Path) -> dict[str, Row]:
    """Our tree."""
    with pulled(image, tmp_path, *options) as rootfs:
        return rows_of(rootfs)


def rows_of_umoci(layout: Path, tag: str, tmp_path: Path) -> dict[str, Row]:
    """The tree that umoci makes of an image in a layout."""
    tree = tmp_path / "umoci"
    tree.mkdir()
    tree.chmod(0o755)  # as ours, where the image does not say
    run("umoci", "raw", "unpack", "--image", f"{layout}:{tag}", tree)
    return rows_of(tree)


def rows_of_skopeo(layout: Path, tag: str, tmp_path: Path) -> dict[str, Row]:
    """The tree that the container tools' store makes of an image in a layout."""
    store, state = tmp_path / "storage", tmp_path / "storage-state"
    target = f"containers-storage:[vfs@{store}+{state}]localhost/image:v1"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:{tag}", target)
    (image,) = json.loads((store / "vfs-images" / "images.json").read_bytes())
    return rows_of(store / "vfs" / "dir" / image["layer"])


def push(layout: Path, tag: str, image: str, *options: str) -> None:
    """Copy an image of a layout to a registry without TLS."""
    copy = ("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false")
    run(*copy, *options, f"oci:{layout}:{tag}", f"docker://{image}")


async def compare(
    layout: Path,
    tag: str,
    tmp_path: Path,
    *,
    gzip_tag: str,
    key: Path | None = None,
    names_root: bool = True,
    with_skopeo: bool = True,
) -> dict[str, Row]:
    """Our tree of an image, after it was found to be umoci's and skopeo's.

    Args:
        layout: holds the image.
        tag: of what we pull.
        tmp_path: where the trees go.
        gzip_tag: of the same image as the others can read it.
        key: private key; the image is then encrypted on its way to the registry.
        names_root: whether a layer says what the root directory is; skopeo's store has a mode of
            its own for it else.
        with_skopeo: false where a layer of umoci makes a file of a directory, which skopeo's
            store refuses.
    """
    async with Registry() as registry:
        image = f"{registry.host}/t/image:v1"
        options = ("--encryption-key", f"jwe:{key}.pub") if key else ("--preserve-digests",)
        await asyncio.to_thread(push, layout, tag, image, *options)
        opened = ("--decryption-key", key) if key else ()
        ours = await asyncio.to_thread(rows_of_pulled, image, tmp_path, *opened)
    umocis = await asyncio.to_thread(rows_of_umoci, layout, gzip_tag, tmp_path)
    await asyncio.to_thread(_expect_alike, ours, umocis)
    if with_skopeo:
        await asyncio.to_thread(_compare_skopeo, ours, layout, gzip_tag, tmp_path, names_root)
    return ours


def _compare_skopeo(
    ours: dict[str, Row], layout: Path, gzip_tag: str, tmp_path: Path, names_root: bool
) -> None:
    started = time.time_ns()
    theirs = rows_of_skopeo(layout, gzip_tag, tmp_path)
    for path, row in theirs.items():
        # a directory that a layer adds to and does not name has there the time of the unpacking
        if stat.S_ISDIR(row.mode) and row.mtime >= started and path in ours:
            theirs[path] = row._replace(mtime=ours[path].mtime)
    for path in theirs.keys() & ours.keys():
        # its store copies the layers below without their access lists
        lists = {each for each in ours[path].xattrs if each[0] in ACCESS_LISTS}
        xattrs = tuple(sorted(lists | {*theirs[path].xattrs}))
        theirs[path] = theirs[path]._replace(xattrs=xattrs)
    if not names_root:
        theirs["."] = ours["."]
    _expect_alike(ours, theirs)


def _expect_alike(ours: dict[str, Row], theirs: dict[str, Row]) -> None:
    found = differences(ours, theirs)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])
