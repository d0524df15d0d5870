"""Blobs and manifests of a registry: in memory, or blobs as files.

Source: OCI distribution specification, "Content".
"""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from guest_simulator.reply import CHUNK, FilePart

DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of some bytes, `algorithm:hex`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest or index as it was pushed."""

    media_type: str
    data: bytes


class Draft(Protocol):
    """A blob under way."""

    @property
    def length(self) -> int:
        """Bytes so far."""
        ...

    def append(self, data: bytes) -> None:
        """More bytes."""
        ...

    def digest(self, algorithm: str) -> str:
        """Over all bytes so far."""
        ...


class BlobStore(Protocol):
    """Blobs by digest."""

    def find(self, digest: str) -> bytes | FilePart | None:
        """The blob, or None."""
        ...

    def draft(self) -> Draft:
        """Begin a blob."""
        ...

    def keep(self, draft: Draft, digest: str) -> None:
        """Store a finished draft under its digest, which the caller has checked."""
        ...


class MemoryDraft:
    """A blob under way, in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def length(self) -> int:
        """Bytes so far."""
        return len(self.data)

    def append(self, data: bytes) -> None:
        """More bytes."""
        self.data += data

    def digest(self, algorithm: str) -> str:
        """Over all bytes so far."""
        return f"{algorithm}:{hashlib.new(algorithm, self.data).hexdigest()}"


class MemoryBlobs:
    """Blobs of one process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def find(self, digest: str) -> bytes | FilePart | None:
        """The blob, or None."""
        return self._blobs.get(digest)

    def draft(self) -> Draft:
        """Begin a blob."""
        return MemoryDraft()

    def keep(self, draft: Draft, digest: str) -> None:
        """Store a finished draft."""
        assert isinstance(draft, MemoryDraft)
        self._blobs[digest] = bytes(draft.data)


class FileDraft:
    """A blob under way, in a file."""

    def __init__(self, directory: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=directory, prefix="draft-", delete=False) as file:
            self.path = Path(file.name)
        self.length = 0

    def append(self, data: bytes) -> None:
        """More bytes."""
        with self.path.open("ab") as file:
            file.write(data)
        self.length += len(data)

    def digest(self, algorithm: str) -> str:
        """Over all bytes so far."""
        hasher = hashlib.new(algorithm)
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK):
                hasher.update(piece)
        return f"{algorithm}:{hasher.hexdigest()}"


class DirectoryBlobs:
    """Blobs as files `<algorithm>-<hex>`; an unfinished one is called `draft-…`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest.replace(":", "-")

    def find(self, digest: str) -> bytes | FilePart | None:
        """The blob, or None."""
        path = self._path(digest)
        try:
            return FilePart(path=path, start=0, length=path.stat().st_size)
        except FileNotFoundError:
            return None

    def draft(self) -> Draft:
        """Begin a blob."""
        return FileDraft(self._directory)

    def keep(self, draft: Draft, digest: str) -> None:
        """Store a finished draft."""
        assert isinstance(draft, FileDraft)
        draft.path.rename(self._path(digest))


class Repositories:
    """What every repository holds: its blobs' digests, its manifests, its tags."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self._links: dict[str, set[str]] = {}
        self._manifests: dict[str, dict[str, Manifest]] = {}
        self._tags: dict[str, dict[str, str]] = {}

    def link(self, name: str, digest: str) -> None:
        """Make a stored blob visible in a repository."""
        self._links.setdefault(name, set()).add(digest)

    def find_blob(self, name: str, digest: str) -> bytes | FilePart | None:
        """A blob of this repository, or None."""
        return self.blobs.find(digest) if digest in self._links.get(name, ()) else None

    def delete_blob(self, name: str, digest: str) -> bool:
        """Take a blob out of a repository; whether it was there."""
        if digest not in self._links.get(name, ()):
            return False
        self._links[name].discard(digest)
        return True

    def put_manifest(self, name: str, reference: str, manifest: Manifest) -> str:
        """Store a manifest under its digest and, unless that is the reference, a tag."""
        algorithm = reference.split(":")[0] if DIGEST.match(reference) else "sha256"
        digest = digest_of(manifest.data, algorithm)
        self._manifests.setdefault(name, {})[digest] = manifest
        if not DIGEST.match(reference):
            self._tags.setdefault(name, {})[reference] = digest
        return digest

    def find_manifest(self, name: str, reference: str) -> tuple[str, Manifest] | None:
        """Digest and manifest by tag or digest, or None."""
        digest = self._tags.get(name, {}).get(reference, reference)
        manifest = self._manifests.get(name, {}).get(digest)
        return (digest, manifest) if manifest is not None else None

    def delete_manifest(self, name: str, reference: str) -> bool:
        """Remove a tag, or a manifest with its tags; whether it was there."""
        tags = self._tags.get(name, {})
        if tags.pop(reference, None) is not None:
            return True
        if self._manifests.get(name, {}).pop(reference, None) is None:
            return False
        self._tags[name] = {tag: digest for tag, digest in tags.items() if digest != reference}
        return True

    def tags(self, name: str) -> list[str] | None:
        """The tags of a repository, sorted; None when there is no such repository."""
        return sorted(self._tags.get(name, {})) if name in self._manifests else None

    def manifests(self, name: str) -> dict[str, Manifest]:
        """All manifests of a repository by digest."""
        return dict(self._manifests.get(name, {}))

    def names(self) -> list[str]:
        """All repositories that have a manifest, sorted."""
        return sorted(self._manifests)
