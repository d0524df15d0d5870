"""The escape corpus: layers that try to reach a tree outside, and what must become of them."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from guest_simulator.images.image import Layer
from support.tarballs import END, file, folder, hard_link, header, pax, symlink

EVIL = b"evil"


@dataclass(frozen=True)
class RawLayer(Layer):
    """A layer of any bytes."""

    raw: bytes = b""

    @cached_property
    def tar(self) -> bytes:
        """As given."""
        return self.raw


@dataclass(frozen=True, kw_only=True)
class Escape:
    """One image that tries.

    Attributes:
        name: also its repository.
        layers: entries of each layer, the lowest first.
        refused: whether it must not be pulled.
        files: what must be in the root file system: path to content.
        absent: what must not.
        links: symbolic links that stay what they are.
    """

    name: str
    layers: Sequence[bytes]
    refused: bool = False
    files: dict[bytes, bytes] = field(default_factory=dict)
    absent: tuple[bytes, ...] = ()
    links: tuple[bytes, ...] = ()

    @property
    def raw(self) -> list[RawLayer]:
        """For `build_image`."""
        return [RawLayer(entries=(), raw=entries + END) for entries in self.layers]


def device(name: bytes, major: int, minor: int, flag: bytes = b"3") -> bytes:
    """A device node, open to everybody."""
    return header(name, flag=flag, mode=0o666, major=major, minor=minor)


def loose(name: bytes) -> bytes:
    """A directory whose metadata would be seen wherever it were applied."""
    return folder(name, mode=0o777, uid=5, gid=5, mtime=99)


def overlay(*names: bytes, value: bytes, namespace: bytes = b"trusted") -> bytes:
    """An extended header with attributes that overlayfs reads."""
    prefix = b"SCHILY.xattr." + namespace + b".overlay."
    return pax(*((prefix + name, value) for name in names))


def escapes(canary: Path) -> list[Escape]:
    """All that is tried against a canary tree with `file`, `dir/inner` and a link `link`."""
    out = os.fsencode(canary)
    return [*_in_one_layer(out), *_links_and_nodes(out), *_across_layers(out)]


def _in_one_layer(out: bytes) -> list[Escape]:
    inside, up = out[1:], b"../" * 12 + out[1:]
    to_out = symlink(b"d", out)
    return [
        Escape(
            name="absolute", layers=[file(out + b"/file", EVIL)], files={inside + b"/file": EVIL}
        ),
        Escape(name="dotdot", layers=[file(up + b"/file", EVIL)], files={inside + b"/file": EVIL}),
        Escape(
            name="dotdot-inside",
            layers=[folder(b"a") + file(b"a/../../../canary/file", EVIL)],
            files={b"canary/file": EVIL},
        ),
        Escape(
            name="parent-absolute",
            layers=[to_out + file(b"d/file", EVIL)],
            files={inside + b"/file": EVIL},
            links=(b"d",),
        ),
        Escape(
            name="parent-relative",
            layers=[symlink(b"d", up) + file(b"d/file", EVIL)],
            files={inside + b"/file": EVIL},
        ),
        Escape(
            name="parent-chain",
            layers=[to_out + symlink(b"e", b"d/dir") + file(b"e/inner", EVIL)],
            files={inside + b"/dir/inner": EVIL},
        ),
        Escape(
            name="parent-proc",
            layers=[symlink(b"p", b"/proc/self/root") + file(b"p" + out + b"/file", EVIL)],
            files={b"proc/self/root" + out + b"/file": EVIL},
        ),
        Escape(
            name="parent-loop",
            layers=[symlink(b"a", b"b") + symlink(b"b", b"a") + file(b"a/file", EVIL)],
            refused=True,
        ),
        Escape(
            name="over-link",
            layers=[symlink(b"f", out + b"/file") + file(b"f", EVIL)],
            files={b"f": EVIL},
        ),
        Escape(
            name="directory-over-link",
            layers=[to_out + loose(b"d") + file(b"d/file", EVIL)],
            files={b"d/file": EVIL},
            absent=(inside + b"/file",),
        ),
        Escape(
            name="directory-metadata",
            layers=[loose(out) + loose(up + b"/dir") + loose(out + b"/dir/")],
        ),
        Escape(
            name="root-as-link", layers=[symlink(b".", out) + file(b"file", EVIL)], refused=True
        ),
        Escape(
            name="whiteout-through-link",
            layers=[to_out + file(b"d/.wh.file") + file(b"d/dir/.wh.inner")],
        ),
        Escape(name="opaque-through-link", layers=[to_out + file(b"d/.wh..wh..opq")]),
        Escape(name="whiteout-outside", layers=[file(out + b"/.wh.file") + file(up + b"/.wh.dir")]),
        Escape(name="whiteout-of-parent", layers=[file(b"a/.wh...")], refused=True),
        Escape(name="whiteout-of-itself", layers=[file(b"a/.wh..")], refused=True),
        Escape(name="whiteout-of-nothing", layers=[file(b"a/.wh.")], refused=True),
    ]


def _links_and_nodes(out: bytes) -> list[Escape]:
    up = b"../" * 12 + out[1:]
    to_out = symlink(b"d", out)
    return [
        Escape(name="hard-absolute", layers=[hard_link(b"h", out + b"/file")], refused=True),
        Escape(name="hard-dotdot", layers=[hard_link(b"h", up + b"/file")], refused=True),
        Escape(
            name="hard-through-link", layers=[to_out + hard_link(b"h", b"d/file")], refused=True
        ),
        Escape(
            name="hard-then-write",
            layers=[symlink(b"s", out + b"/file") + hard_link(b"h", b"s") + file(b"h", EVIL)],
            files={b"h": EVIL},
            links=(b"s",),
        ),
        Escape(
            name="hard-to-link",
            layers=[symlink(b"s", out + b"/file") + hard_link(b"h", b"s", mode=0o777, uid=5)],
            links=(b"s", b"h"),
        ),
        Escape(name="device-zero", layers=[device(b"file", 0, 0)], refused=True),
        Escape(name="device-through-link", layers=[to_out + device(b"d/null", 1, 3)]),
        Escape(name="fifo-through-link", layers=[to_out + header(b"d/fifo", flag=b"6")]),
        Escape(
            name="trusted-overlay",
            layers=[
                overlay(b"redirect", b"metacopy", b"opaque", value=out)
                + folder(b"d")
                + overlay(b"redirect", b"origin", value=out + b"/file")
                + file(b"f", EVIL)
            ],
            files={b"f": EVIL},
            absent=(b"d/file",),
        ),
        Escape(
            name="user-overlay",
            layers=[
                overlay(b"redirect", b"opaque", value=out, namespace=b"user")
                + folder(b"d")
                + overlay(b"whiteout", value=b"y", namespace=b"user")
                + file(b"f")
            ],
            files={b"f": b""},
            absent=(b"d/file",),
        ),
    ]


def _across_layers(out: bytes) -> list[Escape]:
    to_out = symlink(b"d", out)
    return [
        Escape(
            name="lower-link-file",
            layers=[to_out, file(b"d/file", EVIL)],
            files={b"d/file": EVIL},
        ),
        Escape(name="lower-link-whiteout", layers=[to_out, file(b"d/.wh.file")]),
        Escape(name="lower-link-opaque", layers=[to_out, file(b"d/.wh..wh..opq")]),
        Escape(
            name="lower-link-deep",
            layers=[to_out, file(b"d/dir/inner", EVIL) + file(b"d/dir/.wh.other")],
            files={b"d/dir/inner": EVIL},
        ),
        Escape(name="lower-link-device", layers=[to_out, device(b"d/null", 1, 3)]),
        Escape(name="lower-link-directory", layers=[to_out, loose(b"d")]),
        Escape(name="lower-link-whiteout-itself", layers=[to_out, file(b".wh.d")], absent=(b"d",)),
        Escape(
            name="lower-link-replaced",
            layers=[symlink(b"f", out + b"/file"), file(b"f", EVIL)],
            files={b"f": EVIL},
        ),
        Escape(
            name="lower-link-hard",
            layers=[symlink(b"s", out + b"/file"), hard_link(b"h", b"s")],
            refused=True,
        ),
        Escape(name="lower-file-hard", layers=[file(b"f"), hard_link(b"h", b"f")], refused=True),
        Escape(
            name="upper-link-then-file",
            layers=[file(b"d/file", b"lower"), to_out, file(b"d/file", EVIL)],
            files={b"d/file": EVIL},
        ),
        Escape(
            name="upper-link-then-whiteout",
            layers=[file(b"d/file", b"lower"), to_out, file(b"d/.wh.file")],
            absent=(b"d/file",),
        ),
        Escape(
            name="upper-link-stays",
            layers=[loose(b"d") + file(b"d/file", b"lower"), to_out],
            links=(b"d",),
        ),
        Escape(
            name="middle-link-metadata",
            layers=[folder(b"a") + symlink(b"a/d", out), loose(b"a"), file(b"a/d/file", EVIL)],
            files={b"a/d/file": EVIL},
        ),
        Escape(
            name="redirect-across",
            layers=[
                folder(b"d") + file(b"d/low", b"low"),
                overlay(b"redirect", b"opaque", value=out) + folder(b"d") + file(b"d/high", EVIL),
            ],
            files={b"d/low": b"low", b"d/high": EVIL},
            absent=(b"d/file",),
        ),
        Escape(
            name="device-zero-across",
            layers=[file(b"f", b"low"), device(b"f", 0, 0)],
            refused=True,
        ),
    ]


def make_canary(place: Path, owner: int) -> None:
    """A tree that whoever pulls could change."""
    (place / "dir").mkdir(parents=True)
    (place / "file").write_bytes(b"precious")
    (place / "dir" / "inner").write_bytes(b"precious too")
    (place / "link").symlink_to("file")
    os.mkfifo(place / "fifo-there")
    for path in (place, *place.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, owner, owner, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o777)
            os.utime(path, ns=(10**18, 10**18))


def everything(place: Path) -> dict[str, tuple[object, ...]]:
    """All that there is to know of a tree, the times of its inodes included."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (place, *sorted(place.rglob("*"))):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(place))] = (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            (status.st_uid, status.st_gid),
            (status.st_mtime_ns, status.st_ctime_ns),
            {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
            content,
        )
    return found


def wrong_inside(rootfs: Path, escape: Escape) -> list[str]:
    """What of an image is not as it should be; no link is followed on the way."""
    wrong = []
    for path, content in escape.files.items():
        place = rootfs / os.fsdecode(path)
        parents = [each for each in (place, *place.parents) if each.is_relative_to(rootfs)]
        if any(each.is_symlink() for each in parents) or not place.is_file():
            wrong.append(f"{os.fsdecode(path)} is not there")
        elif place.read_bytes() != content:
            wrong.append(f"{os.fsdecode(path)} has another content")
    wrong += [os.fsdecode(path) for path in escape.absent if os.path.lexists(_at(rootfs, path))]
    wrong += [os.fsdecode(path) for path in escape.links if not _at(rootfs, path).is_symlink()]
    return wrong


def _at(rootfs: Path, path: bytes) -> Path:
    return rootfs / os.fsdecode(path)
