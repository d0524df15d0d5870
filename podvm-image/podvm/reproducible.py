"""Production built twice and compared: `python -m podvm.reproducible`.

The two builds have the sources and the fetched, hashed inputs in common, and nothing else: each
works on a copy of the working tree as two clones would have it, at other paths, with other modes;
the second one bootstraps its trees anew; and has another umask, home, time zone,
locale, working directory and start. Nothing of it is kept but the verdict.

Source: docs/spec/podvm-image.md 16 (5), 17 (S18) and 19 (40).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from podvm.build import DISKS
from podvm.errors import ImageError
from podvm.places import PROJECT, cache
from podvm.run import run

MAX_COMPRESSED: Final = 150 * 1024 * 1024
"""Most bytes of the compressed image, podvm.qcow2."""

MAX_SECONDS: Final = 180.0
"""Seconds for a build whose packages are cached."""

BUILD_SECONDS: Final = 1800.0
INPUTS: Final = ("debs", "blobs", "wheels-*", "tpm-*")
"""What of the cache is fetched or, as the TPM library's wheel, an input by contract."""

COMPARED: Final = (*DISKS, "manifest.json", "measurements.json", "sbom.spdx.json", "sha256sums")
"""All outputs; manifest.json has the hash of our wheel, and of every other."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "TZ": "Asia/Kolkata",
    "LC_ALL": "C",
    "LANG": "de_DE.UTF-8",
    "PYTHONHASHSEED": "7",
    "SOURCE_DATE_EPOCH": "1",
}


def main() -> int:
    """Build twice, compare, say what was found; 1 when something differs or is over its limit."""
    parser = argparse.ArgumentParser(prog="podvm.reproducible", description=__doc__)
    parser.add_argument("--binaries", type=Path, help="directory with kata-agent and the like")
    words = parser.parse_args()
    extra = ["--binaries", str(words.binaries.resolve())] if words.binaries else []
    with tempfile.TemporaryDirectory(prefix="podvm-twice-") as place:
        try:
            lines, good = compare_builds(Path(place), extra)
        except ImageError as error:
            print(f"podvm: {error}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0 if good else 1


def compare_builds(place: Path, extra: list[str]) -> tuple[list[str], bool]:
    """Build here and elsewhere; give the report's lines and whether all of it is good.

    Args:
        place: an empty directory.
        extra: further arguments of both builds.

    Raises:
        ImageError: a build failed.
    """
    environment = dict(os.environ)
    here, elsewhere = place / "here", place / "somewhere/else"
    copy_sources(PROJECT, {here: 0o022, elsewhere / "project": 0o077})
    cached = (cache() / "trees").is_dir()
    started = time.monotonic()
    one = build(here, place / "one", environment, extra, umask=0o022)
    seconds = time.monotonic() - started
    link_inputs(cache(), elsewhere / "cache")
    (elsewhere / "home").mkdir()
    changed = {"COCO_IMAGE_CACHE": str(elsewhere / "cache"), "HOME": str(elsewhere / "home")}
    other = build(
        elsewhere / "project", place / "other", {**environment, **ELSEWHERE, **changed}, extra,
        umask=0o077,
    )  # fmt: skip
    lines, good = verdict(one, other)
    size = (one / "podvm.qcow2").stat().st_size
    lines.append(f"compressed: {size / 2**20:.1f} MiB, at most {MAX_COMPRESSED / 2**20:.0f}")
    if cached:
        lines.append(f"build from cached packages: {seconds:.0f} s, at most {MAX_SECONDS:.0f}")
        good = good and seconds <= MAX_SECONDS
    return lines, good and size <= MAX_COMPRESSED


def build(
    project: Path, output: Path, environment: Mapping[str, str], extra: list[str], *, umask: int
) -> Path:
    """Run one build of production in a process of its own; give the directory of its results.

    Raises:
        ImageError: it failed or took too long.
    """
    command = [sys.executable, "-B", "-m", "podvm", "build", "--output", str(output), *extra]
    variables = {**environment, "PYTHONPATH": f"{project / 'podvm-image'}:{project}"}
    try:
        done = subprocess.run(
            command, cwd=project / "podvm-image", env=variables, umask=umask,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=BUILD_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"a build took more than {BUILD_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise ImageError(f"the build in {project} failed")
    return output / "production"


def copy_sources(project: Path, targets: Mapping[Path, int]) -> None:
    """What git tracks or would, as clones have it: content and executable bit, no empty folders.

    Args:
        project: a working tree; every file is read once, so that all copies are of one state.
        targets: where to, and each clone's umask.

    Raises:
        ImageError: git cannot list it.
    """
    listed = run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"], cwd=project,
    )  # fmt: skip
    for name in sorted(set(listed.decode().split("\0")) - {""}):
        source = project / name
        if not source.is_symlink() and not source.is_file():
            continue  # deleted in the working tree
        data = None if source.is_symlink() else source.read_bytes()
        for target, umask in targets.items():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                copy.symlink_to(source.readlink())
                continue
            copy.write_bytes(data)
            copy.chmod((0o777 if source.stat().st_mode & 0o100 else 0o666) & ~umask)


def link_inputs(source: Path, target: Path) -> None:
    """A cache with the fetched inputs alone, as hard links."""
    for pattern in INPUTS:
        for found in source.glob(pattern):
            shutil.copytree(found, target / found.name, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def verdict(one: Path, other: Path) -> tuple[list[str], bool]:
    """Compare all outputs byte by byte; a line for each.

    Args:
        one: directory of results.
        other: the same of another build.
    """
    lines, good = [], True
    for name in COMPARED:
        same = _same(one / name, other / name)
        good = good and same
        lines.append(f"{'identical' if same else 'DIFFERENT':9}  {name}")
    return lines, good


def _same(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while chunk := left.read(1 << 20):
            if chunk != right.read(1 << 20):
                return False
    return True


if __name__ == "__main__":
    sys.exit(main())
