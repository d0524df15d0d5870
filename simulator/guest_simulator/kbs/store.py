"""Where resources lie: in memory, or one file each in Trustee's `LocalFs` layout.

Source: docs/spec/kbs-protocol.md §9.3, §13.4.
"""

import re
from pathlib import Path
from typing import Final, Protocol

SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+[A-Za-z0-9_.-]*\Z")
SLASH: Final = "\\x2F"
"""How a slash of a key is written in a file name: four characters."""


def is_resource_name(segments: tuple[str, ...]) -> bool:
    """Whether these are the three segments of a resource."""
    return len(segments) == 3 and all(SEGMENT.match(segment) for segment in segments)


class ResourceStore(Protocol):
    """Bytes by key `repository/type/tag`."""

    def find(self, key: str) -> bytes | None:
        """The bytes, or None."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Store or replace."""
        ...

    def delete(self, key: str) -> bool:
        """Remove; whether it was there."""
        ...

    def keys(self) -> list[str]:
        """All keys, sorted."""
        ...


class MemoryStore:
    """Resources of one process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def find(self, key: str) -> bytes | None:
        """The bytes, or None."""
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Store or replace."""
        self._values[key] = value

    def delete(self, key: str) -> bool:
        """Remove; whether it was there."""
        return self._values.pop(key, None) is not None

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._values)


class DirectoryStore:
    """One file per resource; read anew each time, so files may be put there at any time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / key.replace("/", SLASH)

    def find(self, key: str) -> bytes | None:
        """The bytes, or None."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> None:
        """Store or replace; a reader sees the old or the new."""
        path = self._path(key)
        draft = path.with_name(path.name + ".new")
        draft.write_bytes(value)
        draft.rename(path)

    def delete(self, key: str) -> bool:
        """Remove; whether it was there."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> list[str]:
        """All keys, sorted."""
        names = (path.name for path in self._directory.iterdir() if path.is_file())
        return sorted(name.replace(SLASH, "/") for name in names)
