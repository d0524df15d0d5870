"""What the puller finishes after a worker, and what overlayfs then shows."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from guest.errors import DecodeError, PeerError, PlatformError
from image_pull.layers.finish import Noted
from image_pull.layers.merge import merge_layers
from image_pull.layers.privileged import apply_privileged
from image_pull.layers.record import Device, Jail, LayerRecord
from support import tarballs as tb
from support.tarballs import file, folder, hard_link, symlink


def record_of(noted: Noted, *, privileged: bool) -> LayerRecord:
    return LayerRecord(
        diff_id="sha256:" + "0" * 64,
        entries=1,
        tar_bytes=1,
        jail=Jail.RESOLVER,
        privileged=privileged,
        whiteouts=tuple(noted.whiteouts),
        opaque=tuple(noted.opaque),
        implicit=tuple(noted.implicit),
        devices=tuple(noted.devices),
        kept=tuple(noted.kept),
        root=noted.root,
    )


class Image:
    """Layers unpacked one over the other, finished for overlayfs or only recorded."""

    def __init__(self, place: Path, *, privileged: bool) -> None:
        self.place = place
        self.privileged = privileged
        self.layers: list[tuple[Path, LayerRecord]] = []

    def add(self, *parts: bytes) -> LayerRecord:
        tree = self.place / f"layer{len(self.layers)}"
        noted = tb.unpack_here(b"".join(parts) + tb.END, tree, privileged=self.privileged)
        record = record_of(noted, privileged=self.privileged)
        if self.privileged:
            finish(record, tree, [path for path, _ in reversed(self.layers)])
        self.layers.append((tree, record))
        return record

    def merged(self) -> Path:
        target = self.place / "merged"
        merge_layers(self.layers, target)
        return target


def finish(record: LayerRecord, tree: Path, below: list[Path]) -> None:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_privileged(record, root, below)
    finally:
        os.close(root)


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.root)])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Image:
    return Image(tmp_path, privileged=request.param)


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


def build_changes(image: Image) -> None:
    """Three layers that use every way to hide something."""
    image.add(
        folder(b"etc"),
        file(b"etc/keep", b"1"),
        file(b"etc/passwd", b"old"),
        folder(b"var"),
        file(b"var/old", b"old"),
        folder(b"var/sub"),
        file(b"var/sub/older", b"old"),
        folder(b"swap"),
        file(b"swap/lower", b"old"),
        file(b"turn", b"file"),
        folder(b"gone"),
        file(b"gone/x", b"old"),
        symlink(b"link", b"/etc/passwd"),
    )
    image.add(
        file(b"etc/.wh.passwd"),
        folder(b"var"),
        file(b"var/new", b"new"),
        file(b"var/.wh..wh..opq"),
        file(b".wh.swap"),
        folder(b"swap"),
        file(b"swap/upper", b"new"),
        folder(b"turn"),
        file(b"turn/in", b"new"),
        file(b".wh.gone"),
        file(b"link", b"a file now"),
    )
    image.add(file(b"var/.wh.new"), file(b"var/newest", b"newest"), file(b"swap/.wh.absent"))


CHANGED = {
    "etc",
    "etc/keep",
    "var",
    "var/newest",
    "swap",
    "swap/upper",
    "turn",
    "turn/in",
    "link",
}


def test_copied_together_upper_layers_hide_and_replace_lower_ones(image: Image) -> None:
    build_changes(image)
    merged = image.merged()
    assert names(merged) == CHANGED
    assert (merged / "link").read_bytes() == b"a file now"


ON_TMPFS: Final = """
set -e
mount -t tmpfs none "$1"
cp -a "$2"/layer* "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$1/layer2:$1/layer1:$1/layer0,upperdir=$1/upper,workdir=$1/work" \\
    none "$1/root"
cd "$1/root"
ls -lR >/dev/null
find . -mindepth 1 -printf "%P\\n"
"""


def listed(tmp_path: Path) -> set[str]:
    """What an overlay of three layers shows; nothing in it makes `ls` complain."""
    place = tmp_path / "mount"
    place.mkdir()
    command = ["unshare", "-m", "sh", "-c", ON_TMPFS, "sh", str(place), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("image-pull", 39)
def test_mounted_on_tmpfs_upper_layers_hide_and_replace_lower_ones(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    build_changes(image)
    assert listed(tmp_path) == CHANGED


@pytest.mark.root
def test_opaque_directories_hold_no_whiteout(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    build_changes(image)
    for tree, record in image.layers:
        for path in record.opaque:
            directory = tree / os.fsdecode(path)
            assert os.getxattr(directory, "trusted.overlay.opaque") == b"y"
            assert not [p for p in directory.rglob("*") if stat.S_ISCHR(p.lstat().st_mode)]
        for path in record.whiteouts:
            status = (tree / os.fsdecode(path)).lstat()
            assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)


DEVICES = (
    folder(b"dev", mtime=77),
    tb.header(b"dev/null", flag=b"3", major=1, minor=3, mode=0o666, uid=1, gid=2, mtime=5),
    hard_link(b"dev/zilch", b"dev/null"),
    tb.header(b"dev/sda", flag=b"4", major=8, minor=300, mode=0o640),
    tb.header(b"dev/pipe", flag=b"6", mode=0o600),
)


@pytest.mark.root
@pytest.mark.spec("image-pull", 36)
def test_devices_and_fifos_have_type_numbers_and_owners(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    image.add(*DEVICES)
    for root in (image.layers[0][0], image.merged()):
        null, zilch, sda, pipe = (
            (root / "dev" / name).lstat() for name in ("null", "zilch", "sda", "pipe")
        )
        assert stat.S_ISCHR(null.st_mode)
        assert (null.st_rdev, null.st_mode & 0o7777) == (os.makedev(1, 3), 0o666)
        assert (null.st_uid, null.st_gid, null.st_mtime) == (1, 2, 5)
        assert null.st_ino == zilch.st_ino
        assert stat.S_ISBLK(sda.st_mode)
        assert (sda.st_rdev, sda.st_mode & 0o7777) == (os.makedev(8, 300), 0o640)
        assert stat.S_ISFIFO(pipe.st_mode)
        assert (root / "dev").stat().st_mtime == 77


@pytest.mark.root
@pytest.mark.spec("image-pull", 40)
def test_nothing_in_an_archive_has_an_effect_on_overlayfs(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    names_ = (b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"user.overlay.opaque")
    records = [(b"SCHILY.xattr." + name, b"y") for name in names_]
    image.add(tb.pax(*records), folder(b"d"), tb.pax(*records), file(b"f", b"1"))
    assert os.listxattr(image.layers[0][0] / "d") == os.listxattr(image.layers[0][0] / "f") == []
    with pytest.raises(DecodeError, match="whiteout in disguise"):
        image.add(tb.header(b"c", flag=b"3", major=0, minor=0))


@pytest.mark.root
def test_implied_parents_take_after_the_nearest_layer_that_has_them(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    image.add(
        folder(b"tmp", mode=0o1777, mtime=5, uid=3),
        folder(b"a", mode=0o700, mtime=6),
        folder(b"a/b", mode=0o711, mtime=7),
        folder(b"hidden", mode=0o700),
        folder(b"under", mode=0o700),
        folder(b"under/x", mode=0o700),
    )
    image.add(
        folder(b"a", mode=0o750, mtime=8),
        file(b".wh.hidden"),
        folder(b"under"),
        file(b"under/.wh..wh..opq"),
    )
    image.add(
        file(b"tmp/f", b"1"),
        file(b"a/b/f", b"1"),
        file(b"hidden/f", b"1"),
        file(b"under/x/f", b"1"),
        file(b"new/f", b"1"),
    )
    top = image.layers[2][0]

    def look(name: str) -> tuple[int, int, float]:
        status = (top / name).stat()
        return status.st_mode & 0o7777, status.st_uid, status.st_mtime

    assert look("tmp") == (0o1777, 3, 5)
    assert look("a") == (0o750, 0, 8)
    assert look("a/b") == (0o711, 0, 7)
    assert look("hidden") == look("under/x") == look("new") == (0o755, 0, 0)


def build_moot(image: Image) -> None:
    """Whiteouts where no layer below has anything, through a link of their own layer too."""
    image.add(folder(b"low"), folder(b"low/er"), file(b"low/er/f"), file(b"low/x"))
    image.add(
        symlink(b"cache", b"/run/cache"),
        file(b"cache/.wh.ldconfig"),
        folder(b"new"),
        file(b"new/.wh.nothing"),
        file(b"new/f"),
        file(b"no/such/.wh.place"),
        file(b"kept/f"),
        file(b"kept/.wh.nothing"),
        file(b"shut/.wh..wh..opq"),
        file(b"low/.wh.x"),
    )


MOOT: Final = {"cache", "new", "new/f", "kept", "kept/f", "shut", "low", "low/er", "low/er/f"}


def test_copied_together_whiteouts_of_nothing_leave_nothing(image: Image) -> None:
    build_moot(image)
    assert names(image.merged()) == MOOT


@pytest.mark.root
@pytest.mark.mount
def test_mounted_whiteouts_of_nothing_are_not_listed(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=True)
    build_moot(image)
    image.add(file(b"low/f"))
    assert listed(tmp_path) == MOOT | {"low/f"}
    assert stat.S_ISCHR((tmp_path / "layer1/low/x").lstat().st_mode)


def test_copied_together_implied_parents_keep_what_is_there(image: Image) -> None:
    image.add(folder(b"./", mode=0o711), folder(b"tmp", mode=0o1777, mtime=5))
    image.add(file(b"tmp/f", b"1"), file(b"new/f", b"2", mode=0o4000))
    merged = image.merged()
    assert (merged / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (merged / "tmp").stat().st_mtime == 5
    assert merged.stat().st_mode & 0o7777 == 0o711
    assert (merged / "new/f").stat().st_mode & 0o7777 == 0o4000


def test_copied_together_links_holes_and_shut_directories_stay(image: Image) -> None:
    image.add(
        folder(b"shut", mode=0o000),
        file(b"shut/a", b"data" * 5000, mode=0o000, mtime=3),
        hard_link(b"b", b"shut/a"),
        symlink(b"l", b"/nowhere", mtime=9),
        tb.header(b"p", flag=b"6"),
        tb.pax(
            (b"GNU.sparse.size", b"%d" % (1 << 26)),
            (b"GNU.sparse.numblocks", b"1"),
            (b"GNU.sparse.map", b"%d,1" % ((1 << 26) - 1)),
        ),
        tb.file(b"sparse", b"x"),
    )
    image.add(file(b"c", b"c"))
    merged = image.merged()
    assert merged.joinpath("shut").stat().st_mode & 0o777 == 0
    status = (merged / "b").stat()
    assert (status.st_nlink, status.st_mode & 0o777, status.st_mtime) == (2, 0, 3)
    assert os.readlink(merged / "l") == "/nowhere"
    assert (merged / "l").lstat().st_mtime == 9
    sparse = (merged / "sparse").stat()
    assert (sparse.st_size, sparse.st_blocks < 2048) == (1 << 26, True)
    store = image.layers[0][0] / "b"
    assert store.stat().st_ino != status.st_ino


@pytest.mark.parametrize(
    "changes",
    [
        {"whiteouts": (b"../out",)},
        {"whiteouts": (b"link/out",)},
        {"whiteouts": (b"f/x",)},
        {"whiteouts": (b"f",)},
        {"opaque": (b"link",)},
        {"implicit": (b"/etc",)},
        {"devices": (Device(path=b"link/d", mode=stat.S_IFCHR, major=1, minor=1),)},
        {"devices": (Device(path=b"d", mode=stat.S_IFREG, major=1, minor=1),)},
        {"devices": (Device(path=b"d", mode=stat.S_IFCHR, major=0, minor=0),)},
    ],
    ids=str,
)
@pytest.mark.root
def test_a_report_that_leads_out_of_the_tree_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = Image(tmp_path, privileged=True)
    record = image.add(symlink(b"link", os.fsencode(outside)), file(b"f", b"1"))
    lying = record._replace(**changes)  # type: ignore[arg-type]  # free fields
    with tb.unchanged(outside), pytest.raises(PeerError):
        finish(lying, image.layers[0][0], [outside])


def test_a_tree_without_owners_is_never_finished_for_a_mount(tmp_path: Path) -> None:
    image = Image(tmp_path, privileged=False)
    record = image.add(file(b"f", b"1"))
    with pytest.raises(PlatformError, match="without privilege"):
        finish(record, image.layers[0][0], [])
