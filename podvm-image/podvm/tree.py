"""Root trees: bootstrap one from locked packages, lay our files over it, trim it."""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from podvm.packages import Package
from podvm.run import chroot, run

TRIMMED: Final = (
    "boot/*", "etc/apt", "etc/cron.*", "etc/dpkg", "etc/init.d", "etc/issue", "etc/issue.net",
    "etc/ld.so.cache~", "etc/logrotate.d", "etc/machine-id", "etc/hostname", "etc/resolv.conf",
    "etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-",
    "etc/subgid-", "etc/rc?.d", "usr/bin/dpkg*", "usr/bin/apt*", "usr/sbin/dpkg*",
    "usr/lib/apt", "usr/lib/dpkg", "usr/share/doc", "usr/share/man", "usr/share/info",
    "usr/share/lintian", "usr/share/locale", "usr/share/bash-completion", "usr/share/zsh",
    "usr/share/bug", "usr/share/common-licenses/*~", "usr/share/doc-base", "usr/share/dpkg",
    "usr/share/polkit-1", "usr/share/pixmaps", "usr/share/initramfs-tools", "usr/lib/systemd/boot",
    "usr/include", "usr/lib/python3*/ensurepip", "usr/lib/python3*/idlelib",
    "usr/lib/python3*/lib2to3", "usr/lib/python3*/test", "usr/lib/python3*/tkinter",
    "usr/lib/python3*/turtledemo", "usr/lib/python3*/pydoc_data", "usr/lib/python3*/config-*",
    "usr/lib/*/*.a", "usr/lib/*/perl-base", "usr/bin/perl*", "usr/share/perl*",
    "var/cache/*", "var/lib/apt", "var/lib/dpkg", "var/lib/systemd/*", "var/log/*", "tmp/*",
    "run/*", "usr/lib/*/engines-3", "usr/share/gcc", "usr/share/gdb", "etc/ssh/ssh_host_*",
    "var/lib/ucf",
)  # fmt: skip
"""Glob patterns that leave the tree; package state and perl included (nothing runs maintainers)."""


def bootstrap(
    tree: Path, *, release: str, packages: Sequence[Package], source: str, epoch: int
) -> None:
    """Install packages into a new tree.

    Args:
        tree: is made; an old one is removed.
        release: the suite's code name.
        packages: all of them, dependencies included.
        source: the line of a repository that holds exactly these.
        epoch: seconds since 1970 that file times are held to.

    Raises:
        ImageError: mmdebstrap failed.
    """
    remove(tree)
    names = ",".join(package.name for package in packages)
    run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={names}",
         "--skip=cleanup/reproducible/machine-id,check/empty,output/dev",
         "--aptopt=APT::Install-Recommends false", "--dpkgopt=force-unsafe-io",
         release, tree, source],
        environment={"SOURCE_DATE_EPOCH": str(epoch)},
    )  # fmt: skip


def remove(tree: Path) -> None:
    """Remove a tree, if it is there."""
    if tree.exists():
        shutil.rmtree(tree)


def trim(tree: Path) -> None:
    """Take away documentation, package managers' state, logs, caches and byte code."""
    for pattern in TRIMMED:
        for path in tree.glob(pattern):
            _discard(path)
    for path in sorted(tree.rglob("__pycache__")):
        _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def overlay(files: Path, tree: Path) -> None:
    """Copy files, links and directories over a tree; links of the same name are replaced."""
    for source in sorted(files.rglob("*")):
        target = tree / source.relative_to(files)
        if source.is_dir() and not source.is_symlink():
            continue  # git keeps no empty folders, so an image has none from here either
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            _discard(target)
        shutil.copy2(source, target, follow_symlinks=False)
        if not target.is_symlink():  # a checkout keeps the executable bit alone
            target.chmod(0o755 if target.stat().st_mode & 0o100 else 0o644)


def make_directories(names: Sequence[str], tree: Path) -> None:
    """Make empty directories, mode 0755."""
    for name in names:
        (tree / name.lstrip("/")).mkdir(parents=True, exist_ok=True)


def normalise(tree: Path) -> None:
    """Root owns every file; modes are plain: no set-uid, no set-gid, nothing for groups."""
    for directory, names, files in os.walk(tree):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            os.chown(path, 0, 0, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                sticky = status.st_mode & stat.S_ISVTX
                os.chmod(path, 0o1777 if sticky else 0o755)
            elif stat.S_ISREG(status.st_mode):
                private = not status.st_mode & 0o004
                executable = status.st_mode & 0o111
                os.chmod(path, (0o600 if private else 0o644) | (0o111 if executable else 0))


def settle(tree: Path) -> None:
    """What packages do at their first start: users, presets, linker cache, hardware database."""
    chroot(tree, ["systemd-sysusers"])
    chroot(tree, ["systemctl", "preset-all"])
    chroot(tree, ["ldconfig"])
