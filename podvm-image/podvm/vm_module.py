"""The test-only kernel module, built against the headers of the image's kernel.

`vm-test/headers.lock.json` has the packages that it takes; `python -m podvm.vm_module` resolves
them for the kernel of `packages.lock.json`. They are unpacked beside hard links to the tools tree.
"""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from podvm import archive, tree
from podvm.build import cached_tree
from podvm.errors import ImageError
from podvm.packages import Lock, Wanted
from podvm.places import IMAGE, cache
from podvm.run import chroot, run

NAME: Final = "tsm_test_provider"
SOURCE: Final = IMAGE / "vm-test/module"
LOCK: Final = IMAGE / "vm-test/headers.lock.json"
HEADERS: Final = "headers"
PREFIX: Final = "linux-image-"


def kernel_version(lock: Lock) -> str:
    """The version of the image's kernel, as its modules' directory has it.

    Raises:
        ImageError: the lock has no kernel, or more than one.
    """
    found = [
        package.name.removeprefix(PREFIX)
        for package in lock.sets["unpacked"]
        if package.name.startswith(PREFIX)
    ]
    if len(found) != 1:
        raise ImageError(f"packages.lock.json has {len(found)} kernels")
    return found[0]


def package_names(version: str) -> tuple[str, ...]:
    """Headers of a kernel, and the programs that only a module's build needs."""
    base = version.removesuffix("-cloud-amd64")
    return (
        f"linux-headers-{version}", f"linux-headers-{base}-common", f"linux-kbuild-{base}",
        "libelf1t64", "make",
    )  # fmt: skip


def headers(lock: Lock) -> Lock:
    """The lock of the headers.

    Raises:
        ImageError: it is for another kernel.
    """
    found = Lock.decode(LOCK.read_text("utf-8"))
    names = {package.name for package in found.sets[HEADERS]}
    if names != set(package_names(kernel_version(lock))):
        raise ImageError(f"{LOCK.name} is for another kernel: make image-lock")
    return found


def key() -> str:
    """What the module depends on beside the kernel."""
    parts = [LOCK.read_bytes(), *(path.read_bytes() for path in sorted(SOURCE.iterdir()))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def build(lock: Lock, target: Path) -> None:
    """Build the module into a file.

    Raises:
        ImageError: a package cannot be had, or the compiler failed.
    """
    packages = headers(lock).sets[HEADERS]
    archive.fetch(packages, cache() / "debs")
    tools = cached_tree(lock, "tools")
    work = cache() / "vm-test-module"
    tree.remove(work)
    run(["cp", "-al", tools, work])
    for package in packages:
        run(["dpkg-deb", "--extract", cache() / "debs" / package.file, work])
    shutil.copytree(SOURCE, work / "module")
    where = f"/usr/src/linux-headers-{kernel_version(lock)}"
    chroot(work, ["make", "-s", "-C", where, "M=/module",
                  "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])  # fmt: skip
    shutil.copy(work / "module" / f"{NAME}.ko", target)
    tree.remove(work)


def relock() -> None:
    """Resolve the headers anew.

    Raises:
        ImageError: apt cannot.
    """
    wanted = Wanted.decode((IMAGE / "packages.toml").read_text("utf-8"))
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    work = cache() / "resolver"
    tree.remove(work)
    found = archive.locate(wanted, package_names(kernel_version(lock)), work=work)
    tree.remove(work)
    LOCK.write_text(Lock(release=wanted.release, sets={HEADERS: found}).encode(), "utf-8")


if __name__ == "__main__":
    try:
        relock()
    except ImageError as error:
        sys.exit(f"podvm: {error}")
