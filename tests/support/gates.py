"""Markers that name what a test needs: probed once, skipped with a reason, never in silence.

What a machine can do is tried, not concluded from the user id.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from typing import Final

import pytest

from support import debian_trees
from tools import ttrpc_peers

PROBE_SECONDS: Final = 20.0
"""Seconds one probe may take."""

OVERLAY_SCRIPT: Final = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/l" "$1/u" "$1/w" "$1/m"
mount -t overlay -o "lowerdir=$1/l,upperdir=$1/u,workdir=$1/w" none "$1/m"
"""

FUSE_SCRIPT: Final = """
set -e
exec 5<>/dev/fuse
mount -i -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0 probe "$1"
"""


def _in_mount_namespace(script: str) -> str | None:
    directory = os.path.realpath(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    command = ["unshare", "-m", "sh", "-c", script, "probe", directory]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        os.rmdir(directory)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def _program(name: str, package: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        return None if shutil.which(name) else f"no {name} (Debian package {package})"

    return probe


def _swtpm() -> str | None:
    if shutil.which("swtpm") is None:
        return "no swtpm (Debian package swtpm)"
    if importlib.util.find_spec("tpm2_pytss") is None:
        return "no tpm2-pytss (make system builds it where libtss2-dev is)"
    return None


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _mount() -> str | None:
    why = _in_mount_namespace(OVERLAY_SCRIPT)
    return why and f"cannot mount overlay: {why}"


def _fuse() -> str | None:
    if shutil.which("fusermount3") is None:
        return "no fusermount3 (Debian package fuse3)"
    why = _in_mount_namespace(FUSE_SCRIPT)
    return why and f"cannot mount FUSE: {why}"


def _device_mapper() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    for name, package in (("cryptsetup", "cryptsetup-bin"), ("dmsetup", "dmsetup")):
        if shutil.which(name) is None:
            return f"no {name} (Debian package {package})"
    done = subprocess.run(
        ["dmsetup", "version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS
    )
    if done.returncode != 0:
        return "this kernel has no device mapper"
    return None


def _tsm() -> str | None:
    if os.path.isdir("/sys/module/tsm_test_provider"):
        return None
    return "no TSM report provider for tests (make vm-test has one)"


def _vm() -> str | None:
    if shutil.which("qemu-system-x86_64") is None:
        return "no qemu-system-x86_64 (Debian package qemu-system-x86)"
    return None


PROBES: Final[dict[str, Callable[[], str | None]]] = {
    "root": _root,
    "mount": _mount,
    "swtpm": _swtpm,
    "tpm2_eventlog": _program("tpm2_eventlog", "tpm2-tools"),
    "skopeo": _program("skopeo", "skopeo"),
    "registry": _program("docker-registry", "docker-registry"),
    "umoci": _program("umoci", "umoci"),
    "debootstrap": debian_trees.why_not,
    "gpg": _program("gpg", "gnupg"),
    "bsdtar": _program("bsdtar", "libarchive-tools"),
    "go": _program("go", "golang"),
    "openssl": _program("openssl", "openssl"),
    "ttrpc_peers": ttrpc_peers.why_not,
    "fuse": _fuse,
    "dm": _device_mapper,
    "tsm": _tsm,
    "vm": _vm,
}
"""Marker to probe; a probe gives the reason why not, or None."""


@functools.cache
def why_not(marker: str) -> str | None:
    """The reason why this machine cannot run tests of a marker, or None when it can."""
    return PROBES[marker]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, naming the marker and the reason."""
    for item in items:
        for marker in PROBES:
            if item.get_closest_marker(marker) is None:
                continue
            reason = why_not(marker)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=f"[{marker}] {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a gated test that skips itself although its gates are open is a failure."""
    report = yield
    gates = [marker for marker in PROBES if item.get_closest_marker(marker) is not None]
    could_run = bool(gates) and all(why_not(marker) is None for marker in gates)
    xfailed = hasattr(report, "wasxfail")
    if report.skipped and could_run and not xfailed and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {', '.join(gates)} can run here: {report.longrepr}"
    return report
