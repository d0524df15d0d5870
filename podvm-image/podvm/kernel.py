"""Kernel modules: which ones a list needs, in the order in which they load. Sans-I/O."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from podvm.errors import ImageError


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """`modules.dep`: path of a module to the paths that it needs."""
    table = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        table[path] = tuple(needs.split())
    return table


def module_name(path: str) -> str:
    """The name by which a module is known: no directory, no suffix, no dashes."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def load_order(
    wanted: Sequence[str], dependencies: Mapping[str, tuple[str, ...]], builtin: frozenset[str]
) -> tuple[str, ...]:
    """Paths of the wanted modules and all they need, needed ones first.

    Args:
        wanted: names.
        dependencies: from `parse_dependencies`.
        builtin: names that are part of the kernel.

    Raises:
        ImageError: the kernel has no such module.
    """
    paths = {module_name(path): path for path in dependencies}
    order: list[str] = []

    def add(path: str) -> None:
        for needed in dependencies[path]:
            if needed not in order:
                add(needed)
        if path not in order:
            order.append(path)

    for name in wanted:
        key = name.replace("-", "_")
        if key in paths:
            add(paths[key])
        elif key not in builtin:
            raise ImageError(f"the kernel has no module {name}")
    return tuple(order)
