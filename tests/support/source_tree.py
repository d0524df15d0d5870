"""The source as the architecture tests see it: modules, their syntax trees, their imports."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PRODUCT: Final = ("guest", "attestation_agent", "cdh", "image_pull", "api_server_rest")
SIMULATOR: Final = "guest_simulator"
GENERATED: Final = ("_pb2", "_pb2_grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file.

    Attributes:
        name: dotted; a package is named without `__init__`.
        path: absolute.
    """

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        """The syntax tree, parsed once."""
        return parse(self.path)

    @property
    def docstring(self) -> str:
        """The module's docstring, or nothing."""
        return ast.get_docstring(self.tree) or ""

    @property
    def is_sans_io(self) -> bool:
        """Whether the first line of the docstring (or its first paragraph) says so."""
        first = self.docstring.split("\n\n")[0].replace("\n", " ")
        return first.rstrip().endswith("Sans-I/O.")


@functools.cache
def parse(path: Path) -> ast.Module:
    """Parse a file; cached for the process."""
    return ast.parse(path.read_text("utf-8"), filename=str(path))


@functools.cache
def modules(*packages: str, generated: bool = False) -> tuple[Module, ...]:
    """Every module of the packages; without arguments, of the product."""
    found = []
    for package in packages or PRODUCT:
        base = ROOT / "simulator" if package == SIMULATOR else ROOT
        for path in sorted((base / package).rglob("*.py")):
            parts = list(path.relative_to(base).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if generated or not parts[-1].endswith(GENERATED):
                found.append(Module(name=".".join(parts), path=path))
    return tuple(found)


@functools.cache
def module_names() -> frozenset[str]:
    """The names of all modules of ours, generated ones and the simulator's too."""
    return frozenset(m.name for m in modules(*PRODUCT, SIMULATOR, generated=True))


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield full if full in module_names() else base


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """Every import, inside functions too: the module's name and the line.

    `from package import module` names the module, `from module import name` the module.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(target, node.lineno) for target in _targets(node)]
    return found


def imported_names(tree: ast.AST) -> list[tuple[str, int]]:
    """Every import down to the name: `a.b` for `import a.b` and for `from a import b`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def is_within(name: str, prefix: str) -> bool:
    """Whether a dotted name is the prefix or lies below it."""
    return name == prefix or name.startswith(prefix + ".")


def tracked_files() -> list[Path]:
    """What git tracks or would track; without git, every file outside build folders."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        skipped = {".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache"}
        return [
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)
        ]
    names = [name for name in done.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]
