"""Our services and their libraries below the fixed prefix `/opt/coco` of a root tree.

The prefix is a virtual environment made by hand: its interpreter is a link to the image's, its
libraries come from the hashed lock, its commands are launchers that run `python3 -I`.

Source: docs/spec/podvm-image.md 14.2, 14.3.
"""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from podvm.errors import ImageError
from podvm.requirements import Requirement
from podvm.run import chroot, run

PREFIX: Final = "opt/coco"
COMMANDS: Final = (
    "api-server-rest",
    "attestation-agent",
    "cdh-oneshot",
    "coco_keyprovider",
    "confidential-data-hub",
    "guest",
    "process-user-data",
)
"""The launchers that the image gets in `/usr/local/bin`."""

_PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
_LAUNCHER: Final = """\
#!/{prefix}/bin/python3 -I
import gc
import sys

gc.disable()
from {module} import {function}

gc.freeze()
gc.enable()
sys.exit({function}())
"""
"""What is imported stays: collecting garbage meanwhile finds none and takes a 20th of a start."""


def fetch_wheels(entries: Sequence[Requirement], *, minor: int, wheels: Path) -> Path:
    """Bring the wheels of locked libraries into a directory; give their entries as a lock.

    Raises:
        ImageError: a wheel cannot be had or has another hash.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    part = wheels / "runtime.txt"
    part.write_text("".join(entry.text for entry in entries))
    run(
        [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
         "--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", wheels,
         "--find-links", wheels, *_target(minor), "--requirement", part],
        inherit=True,
    )  # fmt: skip
    return part


def _target(minor: int) -> list[str]:
    platforms = [f"--platform={name}_x86_64" for name in (*_PLATFORMS, "linux")]
    abis = [f"--abi={name}" for name in (f"cp3{minor}", "abi3", "none")]
    return ["--implementation=cp", f"--python-version=3.{minor}", *abis, *platforms]


def build_wheel(root: Path, *, out: Path, epoch: int) -> Path:
    """Build our own wheel.

    Raises:
        ImageError: the build failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    run(
        [sys.executable, "-I", "-m", "hatchling", "build", "--target", "wheel", "--directory", out],
        environment={"SOURCE_DATE_EPOCH": str(epoch)},
        cwd=root,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def install(
    tree: Path, *, part: Path, wheels: Path, extra: list[Path], minor: int, scripts: dict[str, str]
) -> None:
    """Install libraries and commands into the tree.

    Args:
        tree: the root tree.
        part: lock of what is installed, from `fetch_wheels`.
        wheels: where its wheels are.
        extra: wheels outside the lock, if any: ours, and those that were built.
        minor: of the image's Python.
        scripts: command to `module:function`.

    Raises:
        ImageError: pip failed.
    """
    prefix = tree / PREFIX
    shutil.rmtree(prefix, ignore_errors=True)
    site = prefix / f"lib/python3.{minor}/site-packages"
    site.mkdir(parents=True)
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
           "--no-index", "--no-deps", "--no-compile", "--no-warn-script-location",
           "--root-user-action=ignore", f"--target={site}", "--only-binary=:all:",
           *_target(minor)]  # fmt: skip
    run([*pip, "--require-hashes", f"--find-links={wheels}", "--requirement", part])
    if extra:
        run([*pip, "--upgrade", *extra])
    _strip(site)
    _environment(prefix, minor)
    for name, target in sorted(scripts.items()):
        _launcher(tree, name, target)


def _strip(site: Path) -> None:
    shutil.rmtree(site / "bin", ignore_errors=True)
    for pattern in ("*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED",
                    "*.dist-info/direct_url.json", "**/*.pyi", "**/*.pyx", "**/*.pxd",
                    "**/*.a", "**/*.h"):  # fmt: skip
        for path in site.glob(pattern):
            path.unlink()
    for path in sorted(site.glob("*/tests")):
        shutil.rmtree(path)


def _environment(prefix: Path, minor: int) -> None:
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").symlink_to("/usr/bin/python3")
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.{minor}\n"
    )


def launcher(target: str) -> str:
    """The text of a command that calls `module:function`."""
    module, _, function = target.partition(":")
    return _LAUNCHER.format(prefix=PREFIX, module=module, function=function)


def _launcher(tree: Path, name: str, target: str) -> None:
    path = tree / PREFIX / "bin" / name
    path.write_text(launcher(target))
    path.chmod(0o755)
    if name in COMMANDS:
        link = tree / "usr/local/bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"/{PREFIX}/bin/{name}")


def console_scripts(pyproject: Path) -> dict[str, str]:
    """Command to `module:function`, from the project's own table."""
    scripts = tomllib.loads(pyproject.read_text("utf-8"))["project"]["scripts"]
    absent = set(COMMANDS) - set(scripts)
    if absent:
        raise ImageError(f"pyproject.toml has no command {' '.join(sorted(absent))}")
    return {str(name): str(target) for name, target in scripts.items()}


def compile_all(tree: Path, *, minor: int) -> None:
    """Byte-compile the standard library and ours; the kernel of the image never does it again.

    Byte code is checked against nothing (`unchecked-hash`): dm-verity has checked both.

    Raises:
        ImageError: a file does not compile.
    """
    folders = [f"/usr/lib/python3.{minor}", f"/{PREFIX}/lib"]
    if (tree / "usr/lib/python3").is_dir():
        folders.append("/usr/lib/python3")
    chroot(tree, ["/usr/bin/python3", "-m", "compileall", "-q", "-f", "-j2",
                  "--invalidation-mode", "unchecked-hash", *folders])  # fmt: skip
    for directory, _, names in os.walk(tree / "usr/lib"):
        if directory.endswith("__pycache__") and not names:
            raise ImageError(f"nothing was compiled into {directory}")


def check_imports(tree: Path) -> None:
    """Import, inside the tree, what needs shared libraries of packages.

    Raises:
        ImageError: one of them does not load.
    """
    names = ("aiohttp", "cryptography.x509", "grpc", "isal", "tpm2_pytss", "uvloop", "zstandard")
    chroot(tree, [f"/{PREFIX}/bin/python3", "-I", "-c", f"import {', '.join(names)}"])


def wheel_of(entry: Requirement, wheels: Path) -> Path:
    """The fetched wheel of a locked library.

    Raises:
        ImageError: there is none, or more than one.
    """
    stem = re.sub(r"[-_.]+", "_", entry.name).lower()
    found = [
        path for path in wheels.glob("*.whl")
        if re.sub(r"[-_.]+", "_", path.name.split("-")[0]).lower() == stem
        and path.name.split("-")[1] == entry.version
    ]  # fmt: skip
    if len(found) != 1:
        raise ImageError(f"{len(found)} wheels of {entry.name} {entry.version}, not one")
    return found[0]
