"""The locks of the image: Debian packages, Python libraries, kernel modules."""

import json
import re
from pathlib import Path

import pytest

from podvm import kernel
from podvm.errors import ImageError
from podvm.manifest import Contents, Wheel, manifest, spdx
from podvm.packages import SETS, Lock, Package, Wanted, index, parse_uris
from podvm.places import IMAGE
from podvm.requirements import parse, runtime

HASH = "a" * 64
LINE = (
    "'http://mirror/debian/pool/main/b/bash/bash_5.2%2bdeb_amd64.deb' "
    f"bash_5.2+deb_amd64.deb 12 SHA256:{HASH}"
)
BASES = {"debian": "http://mirror/debian", "security": "http://mirror/debian-security"}
BASH = Package(
    name="bash",
    version="5.2+deb",
    file="bash_5.2+deb_aaaaaaaa.deb",
    archive="debian",
    path="pool/main/b/bash/bash_5.2+deb_amd64.deb",
    size=12,
    sha256=HASH,
)
LIBRARIES = f"""\
aiohttp==3.1 \\
    --hash=sha256:{HASH}
    # via -r runtime.in
attrs==2 ; python_version > "3" \\
    --hash=sha256:{HASH}
    # via aiohttp, jsonschema
mypy==9 \\
    --hash=sha256:{HASH}
    # via -r dev.in
zstandard==1 \\
    --hash=sha256:{HASH}
    # via -r runtime.in

# The following packages are considered to be unsafe:
setuptools==1 \\
    --hash=sha256:{HASH}
    # via mypy
"""


def test_what_apt_prints_becomes_a_locked_package() -> None:
    assert parse_uris(LINE, BASES) == (BASH,)


def test_the_archive_is_told_by_the_whole_base_url() -> None:
    line = LINE.replace("mirror/debian/", "mirror/debian-security/")

    assert parse_uris(line, BASES)[0].archive == "security"


@pytest.mark.parametrize(
    "line", [LINE.replace("SHA256", "MD5Sum"), LINE.replace("mirror", "elsewhere"), "nonsense"]
)
def test_a_line_without_a_hash_or_of_another_archive_is_refused(line: str) -> None:
    with pytest.raises(ImageError):
        parse_uris(line, BASES)


def test_a_lock_is_read_back_as_it_was_written() -> None:
    lock = Lock(release="trixie", sets={"image": (BASH,)})

    assert Lock.decode(lock.encode()) == lock


@pytest.mark.parametrize("text", ["", "[]", '{"sets": {}}', '{"release": 1, "sets": {"a": [{}]}}'])
def test_a_broken_lock_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        Lock.decode(text)


def test_the_index_names_file_and_hash() -> None:
    assert index([(BASH, "Package: bash\n")]) == (
        f"Package: bash\nFilename: ./{BASH.file}\nSize: 12\nSHA256: {HASH}\n\n"
    )


def test_the_lock_in_the_tree_holds_every_package_that_is_wanted() -> None:
    wanted = Wanted.decode((IMAGE / "packages.toml").read_text("utf-8"))
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))

    assert lock.release == wanted.release
    for name in SETS:
        locked = {package.name for package in lock.sets[name]}
        kernels = {n for n in wanted.sets[name] if n.startswith("linux-image")}
        assert set(wanted.sets[name]) - kernels <= locked
    kernel_versions = [p.version for p in lock.sets["unpacked"] if p.name.startswith("linux-")]
    assert [tuple(map(int, v.split(".")[:2])) >= (6, 12) for v in kernel_versions] == [True]


def test_only_what_run_time_needs_is_taken_from_the_library_lock() -> None:
    assert [entry.name for entry in runtime(LIBRARIES)] == ["aiohttp", "attrs", "zstandard"]


def test_a_library_without_hash_is_refused() -> None:
    with pytest.raises(ImageError):
        parse("aiohttp==3.1\n    # via -r runtime.in\n")


def test_the_library_lock_of_the_project_has_no_tools_in_its_run_time_part() -> None:
    text = (IMAGE.parent / "requirements/py313.txt").read_text("utf-8")

    names = {entry.name for entry in runtime(text)}
    wanted = (IMAGE.parent / "requirements/runtime.in").read_text("utf-8").splitlines()
    needed = {re.split("[<>=]", line)[0].lower() for line in wanted if line and line[0] != "#"}
    assert needed <= {name.lower() for name in names}
    assert not {"mypy", "pytest", "ruff", "hypothesis"} & names


DEPENDENCIES = """\
kernel/a/virtio_blk.ko.xz: kernel/a/virtio.ko.xz kernel/a/virtio-ring.ko.xz
kernel/a/virtio.ko.xz: kernel/a/virtio-ring.ko.xz
kernel/a/virtio-ring.ko.xz:
"""


def test_a_module_comes_after_what_it_needs() -> None:
    table = kernel.parse_dependencies(DEPENDENCIES)

    order = kernel.load_order(["virtio_blk", "ext4"], table, frozenset({"ext4"}))

    assert [kernel.module_name(path) for path in order] == ["virtio_ring", "virtio", "virtio_blk"]


def test_a_module_that_the_kernel_does_not_have_is_an_error() -> None:
    with pytest.raises(ImageError):
        kernel.load_order(["nothing"], {}, frozenset())


CONTENTS = Contents(
    variant="production",
    epoch=1735689600,
    kernel="6.12",
    root_hash="ab",
    packages=[BASH],
    wheels=[Wheel(file="aiohttp-3.1-cp313-cp313-linux_x86_64.whl", sha256=HASH)],
    measurements={"pcr_sha256": {"11": "00"}},
    units_off=["kata-agent"],
    outputs={"podvm.raw": HASH},
)


def test_the_manifest_says_what_is_in_the_image_and_what_it_measures_to() -> None:
    document = json.loads(manifest(CONTENTS))

    assert document["packages"] == [{"name": "bash", "version": "5.2+deb", "sha256": HASH}]
    assert document["wheels"][0]["name"] == "aiohttp"
    assert document["measurements"]["pcr_sha256"]["11"] == "00"
    assert document["units_off"] == ["kata-agent"]


def test_the_bill_of_materials_relates_every_part_to_the_image() -> None:
    document = json.loads(spdx(CONTENTS))

    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["creationInfo"]["created"] == "2025-01-01T00:00:00Z"
    contained = {r["relatedSpdxElement"] for r in document["relationships"]}
    assert contained == {package["SPDXID"] for package in document["packages"]}
    assert spdx(CONTENTS) == spdx(CONTENTS)


def test_the_units_named_by_the_preset_are_in_the_image() -> None:
    text = (IMAGE / "tree/usr/lib/systemd/system-preset/00-podvm.preset").read_text("utf-8")
    ours = {path.name for path in Path(IMAGE / "tree/usr/lib/systemd/system").iterdir()}
    enabled = {line.split()[1] for line in text.splitlines() if line.startswith("enable ")}

    foreign = {name for name in enabled if name.startswith(("systemd-", "tmp."))}
    assert enabled - foreign <= ours
    assert text.splitlines()[-1] == "disable *"
