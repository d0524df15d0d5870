"""Secure mounts with real programs: cryptsetup's headers, ext4, gocryptfs; and the device mapper.

Without a device mapper nothing can be opened: there, `cryptsetup open --test-passphrase` takes the
place of `luksOpen` (it reads the same header and tries the same key), and a second device that of
the mapping. The tests marked `dm` open for real.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdh.storage import open_mounts
from cdh.storage.base import StorageSite
from cdh.storage.keys import VolumeKeys
from cdh.storage.mounts import SecureMounts
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError, PlatformError
from guest.process import DEFAULT_PATH
from support.hub_world import Resources
from support.sealed_world import make_unsealer

KEY = bytes(range(128, 176))

CRYPTSETUP = """#!/bin/sh
PATH=@PATH@
for last; do :; done
case " $* " in
*" luksOpen "*)
    [ "$2" = --header ] || exit 1
    cryptsetup open --test-passphrase --header "$3" -d - "$6" || exit $?
    ln -s @CLEAR@ "@BASE@/mapper/$last" ;;
*" close "*) rm "@BASE@/mapper/$last" ;;
*) exec cryptsetup "$@" ;;
esac
"""


@contextmanager
def loop_device(file: Path, size: int) -> Iterator[str]:
    """A block device over a file of so many bytes."""
    with file.open("wb") as opened:
        opened.truncate(size)
    command = ["losetup", "--find", "--show", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], timeout=60, check=True)


def open_site(site: StorageSite) -> SecureMounts:
    resources = Resources()
    resources.resources = {"default/key/1": KEY, "default/key/2": KEY[::-1], "a/b/c": b"typed"}
    return open_mounts(site, VolumeKeys(resources, make_unsealer(resources), ()))


def options_of(device: str, **changes: str) -> dict[str, str]:
    return {
        "devicePath": device,
        "sourceType": "empty",
        "encryptionType": "luks2",
        "targetType": "fileSystem",
    } | changes


class HalfReal:
    """Real cryptsetup, mkfs, blkid and mount(2) over loop devices; mappings are links."""

    def __init__(self, base: Path, device: str, clear: str) -> None:
        for name in ("bin", "mapper", "run"):
            (base / name).mkdir()
        script = CRYPTSETUP.replace("@PATH@", DEFAULT_PATH).replace("@BASE@", str(base))
        (base / "bin" / "cryptsetup").write_text(script.replace("@CLEAR@", clear))
        (base / "bin" / "cryptsetup").chmod(0o755)
        self.base = base
        self.device = device
        self.place = str(base / "mnt")
        self.site = StorageSite(
            runtime_dir=base / "run", path=f"{base}/bin:{DEFAULT_PATH}", mapper=base / "mapper"
        )
        self.mounts = open_site(self.site)

    async def mount(self, options: Mapping[str, str]) -> None:
        await self.mounts.mount("block-device", options, self.place, Deadline.after(50))

    def left(self) -> list[Path]:
        return [path for path in (self.base / "run").rglob("*") if path.is_file()] + list(
            (self.base / "mapper").iterdir()
        )


@contextmanager
def half_real(base: Path) -> Iterator[HalfReal]:
    for name in ("cryptsetup", "blkid", "mkfs.ext4", "losetup"):
        if shutil.which(name, path=DEFAULT_PATH) is None:
            pytest.skip(f"no {name}")
    with (
        loop_device(base / "disk.img", 40 << 20) as device,
        loop_device(base / "clear.img", 24 << 20) as clear,
    ):
        world = HalfReal(base, device, clear)
        try:
            yield world
        finally:
            subprocess.run(["umount", "-q", world.place], timeout=60, check=False)


@pytest.mark.root
@pytest.mark.mount
async def test_a_new_volume_has_cryptsetups_header_and_is_a_mounted_ext4(tmp_path: Path) -> None:
    with half_real(tmp_path) as world:
        await world.mount(options_of(world.device, mkfsOpts="-O ^has_journal -m 0"))
        assert os.path.ismount(world.place)
        (Path(world.place) / "file").write_text("content")
        line = mount_line(world.place)
        assert ("ext4" in line, "noatime" in line) == (True, True)
        (header,) = (tmp_path / "run" / "luks-headers").iterdir()
        assert header.stat().st_mode & 0o777 == 0o600
        with Path(world.device).open("rb") as disk:
            assert not disk.read(4096).strip(b"\0")  # nothing says what the device is
        await world.mounts.unmount(world.place)
        assert (world.left(), os.path.ismount(world.place)) == ([], False)
        await world.mount(options_of(world.device))
        assert not (Path(world.place) / "file").exists()
        await world.mounts.unmount(world.place)


def mount_line(place: str) -> str:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return next(line for line in lines if line.split()[1] == place)


@pytest.mark.root
@pytest.mark.mount
async def test_a_kept_volume_is_found_again_by_its_key_alone(tmp_path: Path) -> None:
    with half_real(tmp_path) as world:
        keyed = options_of(world.device, key="kbs:///default/key/1")
        await world.mount(keyed)
        (Path(world.place) / "file").write_text("content")
        await world.mounts.unmount(world.place)
        shutil.rmtree(tmp_path / "run")
        world.mounts = open_site(world.site)
        with pytest.raises(InvalidInputError, match="blkid finds something"):
            await world.mount(keyed)
        opened = keyed | {"sourceType": "encrypted"}
        with pytest.raises(PlatformError, match=r"cryptsetup: exit status 2: No key available"):
            await world.mount(opened | {"key": "kbs:///default/key/2"})
        assert world.left() == []
        await world.mount(opened)
        assert (Path(world.place) / "file").read_text() == "content"
        await world.mounts.unmount(world.place)
        await world.mount(keyed | {"force": "true"})
        assert not (Path(world.place) / "file").exists()
        await world.mounts.unmount(world.place)
        assert world.left() == []


@pytest.mark.root
@pytest.mark.mount
async def test_a_device_that_is_mounted_elsewhere_keeps_what_is_on_it(tmp_path: Path) -> None:
    with half_real(tmp_path) as world:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        subprocess.run(["mkfs.ext4", "-q", world.device], timeout=60, check=True)
        subprocess.run(["mount", world.device, str(elsewhere)], timeout=60, check=True)
        try:
            (elsewhere / "file").write_text("content")
            for more in ({"force": "true", "key": "kbs:///default/key/1"}, {}):
                with pytest.raises(PlatformError):
                    await world.mount(options_of(world.device, **more))
            assert world.left() == []
            subprocess.run(["umount", str(elsewhere)], timeout=60, check=True)
            subprocess.run(["mount", world.device, str(elsewhere)], timeout=60, check=True)
            assert (elsewhere / "file").read_text() == "content"
        finally:
            subprocess.run(["umount", str(elsewhere)], timeout=60, check=True)


@pytest.mark.root
@pytest.mark.mount
async def test_what_the_host_edits_in_a_real_header_is_refused(tmp_path: Path) -> None:
    with half_real(tmp_path) as world:
        keyed = options_of(world.device, key="kbs:///default/key/1")
        await world.mount(keyed)
        await world.mounts.unmount(world.place)
        token = b'{"type":"x","keyslots":[]}'
        command = ["cryptsetup", "token", "import", "--json-file", "-", world.device]
        subprocess.run(command, input=token, timeout=60, check=True)
        with pytest.raises(IntegrityError, match="tokens"):
            await world.mount(keyed | {"sourceType": "encrypted"})
        with Path(world.device).open("r+b") as disk:
            disk.seek(5000)
            disk.write(b"x")
        with pytest.raises(IntegrityError, match="checksum"):
            await world.mount(keyed | {"sourceType": "encrypted"})
        assert world.left() == []


@pytest.mark.root
@pytest.mark.mount
async def test_a_full_runtime_directory_is_named_and_undone(tmp_path: Path) -> None:
    with half_real(tmp_path) as world:
        keyed = options_of(world.device, key="kbs:///default/key/1")
        await world.mount(keyed)
        await world.mounts.unmount(world.place)
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "run")]
        subprocess.run(command, timeout=60, check=True)
        try:
            with pytest.raises(PlatformError, match="No space left on device"):
                await world.mount(keyed | {"sourceType": "encrypted"})
            assert world.left() == []
        finally:
            subprocess.run(["umount", str(tmp_path / "run")], timeout=60, check=True)


@pytest.mark.root
@pytest.mark.fuse
async def test_an_encrypted_bucket_is_opened_by_the_real_gocryptfs(tmp_path: Path) -> None:
    gocryptfs = shutil.which("gocryptfs")
    if gocryptfs is None:
        pytest.skip("no gocryptfs (Debian package gocryptfs)")
    cipher, plain, place = tmp_path / "cipher", tmp_path / "plain", tmp_path / "mnt"
    for folder in (cipher, plain, place):
        folder.mkdir()
    (tmp_path / "pass").write_text("open sesame")
    init = [gocryptfs, "-init", "-q", "-scryptn", "10", "-passfile", str(tmp_path / "pass")]
    subprocess.run([*init, str(cipher)], timeout=60, check=True)
    ossfs = tmp_path / "ossfs"
    ossfs.write_text(f'#!/bin/sh\nmount --bind {cipher} "$2"\n')
    ossfs.chmod(0o755)
    site = StorageSite(runtime_dir=tmp_path / "run", ossfs=str(ossfs), gocryptfs=gocryptfs)
    mounts = open_site(site)
    names = ("akId", "akSecret", "bucket", "path", "readonly", "targetPath", "url", "volumeId")
    options = dict.fromkeys(names, "x") | {"otherOpts": "", "encrypted": "gocryptfs"}
    deadline = Deadline.after(50)
    wrong = options | {"encPasswd": "open pumpkin"}
    with pytest.raises(PlatformError, match=r"gocryptfs: exit status 12"):
        await mounts.mount("alibaba-cloud-oss", wrong, str(place), deadline)
    assert [path for path in (tmp_path / "run").rglob("*") if path.name != "storage"] == []
    await mounts.mount(
        "alibaba-cloud-oss", options | {"encPasswd": "open sesame"}, str(place), deadline
    )
    (place / "name").write_text("content")
    assert os.listdir(cipher) != ["name"]
    await mounts.unmount(str(place))
    assert not os.path.ismount(place)
    assert [path for path in (tmp_path / "run").rglob("*") if path.name != "storage"] == []


@contextmanager
def real(base: Path, size: int = 64 << 20) -> Iterator[tuple[str, SecureMounts]]:
    """A device, and mounts of this machine."""
    with loop_device(base / "disk.img", size) as device:
        yield device, open_site(StorageSite(runtime_dir=base / "run"))


@pytest.mark.dm
@pytest.mark.spec("confidential-data-hub", 49)
async def test_a_kept_volume_is_opened_again_without_the_header_directory(tmp_path: Path) -> None:
    with real(tmp_path) as (device, mounts):
        place, keyed = str(tmp_path / "mnt"), options_of(device, key="kbs:///default/key/1")
        await mounts.mount("block-device", keyed, place, Deadline.after(55))
        (Path(place) / "file").write_text("content")
        await mounts.unmount(place)
        shutil.rmtree(tmp_path / "run")
        again = open_site(StorageSite(runtime_dir=tmp_path / "run"))
        opened = keyed | {"sourceType": "encrypted", "mapperName": "guest-test-kept"}
        await again.mount("block-device", opened, place, Deadline.after(55))
        assert (Path(place) / "file").read_text() == "content"
        await again.unmount(place)
        assert not Path("/dev/mapper/guest-test-kept").exists()


@pytest.mark.dm
@pytest.mark.spec("confidential-data-hub", 50)
async def test_a_small_volume_with_integrity_is_made_and_goes_with_its_tags(tmp_path: Path) -> None:
    with real(tmp_path) as (device, mounts):
        place, name = str(tmp_path / "mnt"), "guest-test-tags"
        options = options_of(device, dataIntegrity="true", mapperName=name)
        await mounts.mount("block-device", options, place, Deadline.after(55))
        (Path(place) / "file").write_bytes(os.urandom(1 << 20))
        assert Path(f"/dev/mapper/{name}_dif").exists()
        await mounts.unmount(place)
        assert not Path(f"/dev/mapper/{name}").exists()
        assert not Path(f"/dev/mapper/{name}_dif").exists()
        assert list((tmp_path / "run" / "luks-headers").iterdir()) == []


@pytest.mark.dm
async def test_an_ephemeral_device_is_linked_and_gone_with_its_unmounting(tmp_path: Path) -> None:
    with real(tmp_path) as (device, mounts):
        place = str(tmp_path / "link")
        options = options_of(device, targetType="device", mapperName="guest-test-link")
        await mounts.mount("block-device", options, place, Deadline.after(55))
        assert Path(place).is_block_device()
        with pytest.raises(PlatformError, match="in use by dm-"):
            await mounts.mount("block-device", options, f"{place}2", Deadline.after(55))
        await mounts.unmount(place)
        assert not os.path.lexists(place)
