"""`python -m podvm.vm_test`: the tests that need a kernel, in a machine that has one.

The project's files go onto a disk, the tests with the wanted markers run as root in the machine,
and what they prove comes back: JUnit XML and the record of `tools.checklist`.
"""

import argparse
import ast
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from podvm import vm_machine
from podvm.build import step
from podvm.errors import ImageError
from podvm.places import OUTPUT, PROJECT
from podvm.run import chroot
from podvm.vm_system import PLACE, System, squash, system

EXPRESSION: Final = "dm or tsm or mount or fuse"
ROOMS: Final = (
    "tests/interop/test_kernel_tsm.py",
    "tests/interop/test_secure_mount.py",
    "tests/unit/cdh",
    "tests/unit/image_pull/store",
    "tests/unit/image_pull/layers/test_privileged.py",
)
"""Where tests are looked for that need this kernel and not much time."""

SECONDS: Final = 1800.0
TEST_SECONDS: Final = 1200
"""Seconds that one test may take."""

IGNORED: Final = frozenset({".git", ".venv", "build", "dist"})
"""Directories of the project that the machine does not get; nor any cache."""

RESULTS: Final = "/results"
RECORD: Final = PROJECT / "build" / "vm-checklist.json"
MAX_RESULT: Final = 64 << 20
"""Most bytes of one result file."""


def main() -> int:
    """Run the tests in a machine; give pytest's exit status, or 1."""
    parser = argparse.ArgumentParser(prog="vm-test", description=__doc__)
    parser.add_argument("-m", dest="expression", default=EXPRESSION, help="marker expression")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="until it is killed")
    parser.add_argument("paths", nargs="*", help="files, folders; default: where it pays")
    words = parser.parse_args()
    try:
        return run_tests(words.expression, words.paths, words.seconds)
    except (ImageError, OSError) as error:
        print(f"vm-test: {error}", file=sys.stderr)
        return 1


def run_tests(expression: str, paths: Sequence[str], seconds: float) -> int:
    """Make the disks, boot, read the results.

    Raises:
        ImageError: the machine cannot be made or started, or brought no results.
    """
    vm_machine.require_qemu()
    if os.geteuid() != 0:
        raise ImageError("the machine's disks are made as root")
    files = marked_files(PROJECT, paths or ROOMS, marker_names(expression))
    if not files:
        raise ImageError(f"no test has a marker of {expression!r}")
    made = system()
    output = OUTPUT / "vm-test"
    output.mkdir(parents=True, exist_ok=True)
    disk = output / "project.squashfs"
    step("project disk", lambda: pack_project(made, disk, pytest_command(expression, files)))
    guest = vm_machine.Guest(
        kernel=made.kernel,
        initrd=made.initrd,
        disks=(made.disk, disk),
        results=output / "results.tar",
    )
    took = vm_machine.run_guest(guest, deadline=seconds, console=output / "console.log")
    found = read_results(guest.results.read_bytes())
    for name, data in found.items():
        (output / name).write_bytes(data)
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_bytes(found["checklist.json"])
    print(summary(found, took), flush=True)
    lacking = unmet(found["checklist.json"], marker_names(expression))
    for reason in lacking:
        print(f"vm-test: the machine should have been able to: {reason}", file=sys.stderr)
    return int(found["status"]) or int(bool(lacking))


def unmet(record: bytes, names: frozenset[str]) -> list[str]:
    """Why tests were skipped for a wanted marker; this machine is there to have what they need."""
    starts = tuple(f"[{name}]" for name in names)
    return [reason for reason in json.loads(record)["skipped"] if reason.startswith(starts)]


def marker_names(expression: str) -> frozenset[str]:
    """The names in a marker expression that it does not only exclude.

    Raises:
        ImageError: it is none.
    """
    try:
        whole = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise ImageError(f"{expression!r} is no marker expression") from error
    return frozenset(_wanted(whole))


def _wanted(node: ast.expr) -> Iterable[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _wanted(value)
    elif not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        raise ImageError("a marker expression has names, and, or, not")


def marked_files(project: Path, paths: Sequence[str], names: frozenset[str]) -> list[str]:
    """The test files at or below these paths that use one of these markers.

    Args:
        project: what paths are relative to, and the result too.
        paths: files and folders.
        names: of markers.

    Raises:
        ImageError: a path is not there.
    """
    found = []
    for path in [project / name for name in paths]:
        if not path.exists():
            raise ImageError(f"{path} does not exist")
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            if any(_uses(file.read_text("utf-8"), name) for name in names):
                found.append(file.relative_to(project).as_posix())
    return found


def _uses(text: str, name: str) -> bool:
    return re.search(rf"mark\.{re.escape(name)}\b", text) is not None


def pytest_command(expression: str, files: Sequence[str]) -> list[str]:
    """What the machine runs."""
    return [
        "/opt/coco/bin/python3", "-m", "pytest", "-p", "no:cacheprovider", "-v",
        "--color=no", "--durations=10", f"--timeout={TEST_SECONDS}", "-m", expression,
        f"--junitxml={RESULTS}/junit.xml", f"--checklist={RESULTS}/checklist.json", *files,
    ]  # fmt: skip


def pack_project(made: System, disk: Path, command: Sequence[str]) -> None:
    """Bring the project's files up to date in the system's tree, byte-compile them, pack them.

    Raises:
        ImageError: a program failed.
    """
    place = made.tree / PLACE
    mirror(PROJECT, place)
    (place / "vm-test-command").write_text("".join(f"{word}\n" for word in command))
    folders = sorted(path.name for path in place.iterdir() if (path / "__init__.py").exists())
    folders += ["simulator", "tests/support"]
    chroot(made.tree, ["/usr/bin/python3", "-m", "compileall", "-q", "-j2",
                       *(f"/{PLACE}/{name}" for name in folders)])  # fmt: skip
    squash(place, disk, level=1)


def mirror(source: Path, target: Path) -> None:
    """Make one directory like another; caches stay out, and byte code in the target stays."""
    target.mkdir(exist_ok=True)
    wanted = {path.name: path for path in source.iterdir() if not _is_ignored(path)}
    for path in target.iterdir():
        if path.name not in wanted and path.name != "__pycache__":
            _remove(path)
    for name, path in wanted.items():
        copy = target / name
        if path.is_dir() and not path.is_symlink():
            if copy.is_symlink() or copy.is_file():
                copy.unlink()
            mirror(path, copy)
        elif path.is_symlink() or path.is_file():
            if copy.is_dir() and not copy.is_symlink():
                shutil.rmtree(copy)
            _copy(path, copy)


def _copy(path: Path, copy: Path) -> None:
    try:
        if _differs(path, copy):
            copy.unlink(missing_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)
    except FileNotFoundError:
        return  # somebody's temporary file, gone meanwhile


def _is_ignored(path: Path) -> bool:
    return path.name in IGNORED or path.name == "__pycache__" or path.name.endswith("_cache")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _differs(path: Path, copy: Path) -> bool:
    if not os.path.lexists(copy) or path.is_symlink() or copy.is_symlink():
        return True
    one, other = path.stat(), copy.stat()
    return (one.st_size, one.st_mtime_ns, one.st_mode) != (
        other.st_size, other.st_mtime_ns, other.st_mode
    )  # fmt: skip


def read_results(data: bytes) -> dict[str, bytes]:
    """The files that the machine sent.

    Raises:
        ImageError: it sent none, or not all.
    """
    found: dict[str, bytes] = {}
    if not data:
        raise ImageError("the machine sent no results; its console says why")
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and member.size <= MAX_RESULT:
                    found[Path(member.name).name] = content.read()
    except tarfile.TarError as error:
        raise ImageError(f"the machine sent no results: {error}") from error
    for name in ("status", "junit.xml", "checklist.json"):
        if name not in found:
            raise ImageError(f"the machine sent no {name}")
    return found


def summary(found: Mapping[str, bytes], seconds: float) -> str:
    """How many tests passed, and which checks they prove."""
    suites = ElementTree.fromstring(found["junit.xml"])
    names = ("tests", "failures", "errors", "skipped")
    total, *others = (sum(int(suite.get(name, 0)) for suite in suites) for name in names)
    counts = f"{others[0]} failed, {others[1]} with errors, {others[2]} skipped"
    lines = [f"\n{total - sum(others)} passed, {counts}, in a machine that ran {seconds:.0f} s"]
    record = json.loads(found["checklist.json"])
    for page, checks in record["checks"].items():
        proven = [number for number, outcomes in checks.items() if set(outcomes) == {"passed"}]
        lines.append(f"  proven of {page}: {', '.join(proven) or 'none'}")
    lines += [f"  skipped: {count} {reason}" for reason, count in record["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
