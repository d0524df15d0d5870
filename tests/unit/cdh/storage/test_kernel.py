"""Mounts as the kernel does and lists them."""

import os
import subprocess
from pathlib import Path

import pytest

from cdh.storage.kernel import KernelMounts, real_path


def test_the_root_is_mounted_and_a_new_directory_is_not(tmp_path: Path) -> None:
    assert KernelMounts().count(b"/") >= 1
    assert KernelMounts().count(real_path(str(tmp_path))) == 0


def test_a_mount_point_is_counted_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert real_path(str(tmp_path / "link")) == os.fsencode(tmp_path / "there")


@pytest.mark.root
@pytest.mark.mount
def test_mounts_are_counted_and_go_even_when_they_are_in_use(tmp_path: Path) -> None:
    kernel = KernelMounts()
    place = tmp_path / "a b\\c\td"
    place.mkdir()
    target = real_path(str(place))
    kernel.unmount(target)  # nothing is there, and that is good
    for count in (1, 2):
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True, timeout=60)
        assert kernel.count(target) == count
    with (place / "file").open("w") as held:
        held.write("x")
        kernel.unmount(target)
        assert kernel.count(target) == 1
    kernel.unmount(target)
    assert kernel.count(target) == 0


@pytest.mark.root
@pytest.mark.mount
def test_what_the_kernel_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mount"):
        KernelMounts().mount(str(tmp_path / "none"), os.fsencode(tmp_path), "ext4")
