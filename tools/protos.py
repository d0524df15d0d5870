"""Generates `guest/protos/*_pb2.py` and their stubs from the `.proto` files, or compares them.

The generated files are committed, so that nothing needs a compiler at run time; `make check`
fails when they are not what the locked compiler makes of the sources.
"""

import argparse
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Final

from grpc_tools import protoc

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = Path("guest/protos")
SUFFIXES: Final = ("_pb2.py", "_pb2.pyi")


def generate(target: Path) -> list[Path]:
    """Compile every `.proto` into a tree at `target`; give the files, relative to it."""
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / FOLDER).glob("*.proto"))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    known = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--proto_path={ROOT}",
        f"--proto_path={known}",
        f"--python_out={target}",
        f"--mypy_out=quiet,readable_stubs:{target}",
        *map(str, sources),
    ]
    status = protoc.main(arguments)
    if status != 0:
        raise SystemExit(f"protoc ended with status {status}")
    return sorted(FOLDER / (source.stem + suffix) for source in sources for suffix in SUFFIXES)


def stale(tree: Path, names: list[Path]) -> list[str]:
    """Name what differs between the committed files and the generated ones."""
    found = []
    for name in names:
        committed = ROOT / name
        if not committed.exists():
            found.append(f"{name}: missing")
        elif committed.read_bytes() != (tree / name).read_bytes():
            found.append(f"{name}: not what {name.stem.removesuffix('_pb2')}.proto gives")
    for suffix in SUFFIXES:
        committed_names = {FOLDER / path.name for path in (ROOT / FOLDER).glob("*" + suffix)}
        found += [f"{name}: has no source" for name in sorted(committed_names - set(names))]
    return found


def main() -> int:
    """Regenerate, or with `--check` only compare; 1 when something is stale."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        names = generate(tree)
        found = stale(tree, names)
        if not check:
            for name in names:
                shutil.copyfile(tree / name, ROOT / name)
            found = [line for line in found if line.endswith("has no source")]
    for line in found:
        print(line)
    if not found:
        print(f"{len(names)} generated files are up to date")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
