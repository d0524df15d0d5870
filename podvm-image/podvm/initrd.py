"""The initrd: a shell script, busybox, veritysetup and the modules that reach the root."""

import lzma
from pathlib import Path

import zstandard

from podvm import cpio
from podvm.errors import ImageError
from podvm.kernel import load_order, module_name, parse_dependencies
from podvm.run import chroot

APPLETS = (
    "cat", "echo", "grep", "insmod", "mkdir", "mount", "readlink", "sh", "sleep", "switch_root",
)  # fmt: skip
"""The busybox commands that the script uses."""

LEVEL = 12


def build(
    *, tree: Path, busybox: Path, script: Path, modules: tuple[str, ...], version: str
) -> bytes:
    """Make the compressed archive.

    Args:
        tree: the root tree that veritysetup, its libraries and the modules come from.
        busybox: a static one.
        script: becomes `/init`.
        modules: names of kernel modules.
        version: of the kernel.

    Raises:
        ImageError: something is missing.
    """
    entries = {
        "init": cpio.file(script.read_bytes(), 0o755),
        "bin/busybox": cpio.file(busybox.read_bytes(), 0o755),
        "bin/veritysetup": cpio.file((tree / "usr/sbin/veritysetup").read_bytes(), 0o755),
        **{f"bin/{name}": cpio.symlink("busybox") for name in APPLETS},
        **{name: cpio.directory() for name in ("dev", "proc", "sys", "run", "root")},
    }
    for path in libraries(tree, "/usr/sbin/veritysetup"):
        entries[path.lstrip("/")] = cpio.file((tree / path.lstrip("/")).read_bytes(), 0o755)
    names = []
    base = tree / "usr/lib/modules" / version
    dependencies = parse_dependencies((base / "modules.dep").read_text())
    built_in = (base / "modules.builtin").read_text().splitlines()
    for path in load_order(modules, dependencies, frozenset(map(module_name, built_in))):
        name = f"{module_name(path)}.ko"
        entries[f"modules/{name}"] = cpio.file(_plain(base / path))
        names.append(name)
    entries["modules.order"] = cpio.file("".join(f"{name}\n" for name in names).encode())
    return compress(cpio.encode(entries))


def compress(data: bytes) -> bytes:
    """Zstandard, one thread: the same bytes every time."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)


def libraries(tree: Path, program: str) -> tuple[str, ...]:
    """Absolute paths of the shared libraries of a program in the tree, the loader included."""
    listed = chroot(tree, ["/usr/bin/ldd", program]).decode()
    found = {word for word in listed.split() if word.startswith("/")}
    if not found:
        raise ImageError(f"{program} has no shared libraries")
    return tuple(sorted(found))


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.endswith(".ko.xz"):
        return lzma.decompress(data)
    if path.name.endswith(".ko"):
        return data
    raise ImageError(f"{path.name}: unknown compression of a kernel module")
