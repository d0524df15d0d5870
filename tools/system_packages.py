"""The Debian packages that demo and tests use when they are there; installed when root.

A machine without them loses the tests that need them, which say so, and nothing else. In CI
(`CI` set) a package that could not be installed is a failure. Standard library only.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools import tpm_library

PROGRAMS: Final = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "gpg": "gnupg",
    "openssl": "openssl",
    "bsdtar": "libarchive-tools",
    "fusermount3": "fuse3",
    "curl": "curl",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "swtpm": "swtpm",
    "tpm2_checkquote": "tpm2-tools",
    "cryptsetup": "cryptsetup-bin",
    "dmsetup": "dmsetup",
    "gocryptfs": "gocryptfs",
    "mkfs.ext4": "e2fsprogs",
    "setfattr": "attr",
    "htpasswd": "apache2-utils",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mksquashfs": "squashfs-tools",
    "mkfs.erofs": "erofs-utils",
    "jq": "jq",
    "debootstrap": "debootstrap",
    "setcap": "libcap2-bin",
}
"""Program to the package that holds it."""

FILES: Final = {
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/include/tss2/tss2_esys.h": "libtss2-dev",
    "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
}
"""File to the package that holds it: headers for the TPM library, firmware for machines."""

APT_SECONDS: Final = 600.0
"""Seconds that one run of apt-get may take."""

PAUSES: Final = (0.0, 5.0, 15.0)
"""Seconds to wait after each failed attempt, before the package lists are fetched anew."""

APT_OPTIONS: Final = (
    "-qq",
    "-y",
    "--no-install-recommends",
    "-o=Acquire::Retries=3",
    "-o=Acquire::http::Timeout=30",
    "-o=Acquire::https::Timeout=30",
    "-o=DPkg::Lock::Timeout=120",
    "-o=Dpkg::Options::=--force-confold",
)

POLICY: Final = Path("/usr/sbin/policy-rc.d")
"""Debian's hook that decides whether an installed package may start its service."""


def missing() -> list[str]:
    """The packages whose program is not there, sorted."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    absent = {pkg for name, pkg in PROGRAMS.items() if not shutil.which(name, path=path)}
    absent |= {pkg for file, pkg in FILES.items() if not Path(file).exists()}
    if sys.base_prefix == "/usr" and not tpm_library.has_python_header():
        absent.add("python{}.{}-dev".format(*sys.version_info[:2]))
    return sorted(absent)


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting daemons: tests start what they need themselves."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


def _apt(*arguments: str) -> str | None:
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")
    try:
        done = subprocess.run(
            ["apt-get", *APT_OPTIONS, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=APT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-6:]) or f"exit status {done.returncode}"


def _install(packages: list[str]) -> None:
    print(f"setup: installing {' '.join(packages)}", file=sys.stderr, flush=True)
    with _no_services():
        for pause in PAUSES:
            if _apt("install", *packages) is None:
                return
            time.sleep(pause)
            _apt("update")
        for package in packages:
            problem = _apt("install", package)
            if problem is not None:
                print(f"setup: apt-get install {package}: {problem}", file=sys.stderr)


def install_missing() -> int:
    """Install what is missing if this is root and there is apt; name what stays missing.

    Returns:
        0, or 1 in CI when something could not be installed.
    """
    wanted = missing()
    if wanted and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(wanted)
        wanted = missing()
    if not wanted:
        return 0
    print(
        f"setup: not installed: {' '.join(wanted)}. What needs them is skipped and named; "
        f"to have it all: sudo apt-get install {' '.join(wanted)}",
        file=sys.stderr,
    )
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(install_missing())
