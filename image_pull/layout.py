"""An OCI image layout in a directory: images read from it and written to it.

Source: OCI image-spec "Image Layout"; docs/spec/image-pull.md 20.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import DecodeError, InvalidInputError, NotFoundError, PlatformError
from image_pull.manifest import MAX_DOCUMENT, OCI_INDEX, parse_object
from image_pull.transfer import Document, verified

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""The annotation of an entry of `index.json` that holds its tag."""

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
VERSION: Final = "1.0.0"
CHUNK: Final = 1024 * 1024
MAX_TAG: Final = 1024


class LayoutSource:
    """Reads one image of a layout: the one named `tag`, or the only one."""

    def __init__(self, directory: Path, tag: str | None) -> None:
        """Read from `directory`; nothing is opened yet."""
        self._directory = directory
        self._tag = tag

    def root(self) -> Document:
        """The manifest or index that the tag names.

        Raises:
            NotFoundError: no such directory, or no such tag.
            InvalidInputError: not a layout, or several images and no tag.
        """
        entries = _read_index(self._directory).get("manifests")
        found = [
            entry
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and (self._tag is None or _tag_of(entry) == self._tag)
        ]
        if not found:
            what = "image" if self._tag is None else f"image {self._tag!r}"
            raise NotFoundError(f"{self._directory} holds no {what}")
        if len(found) > 1:
            raise InvalidInputError(
                f"{self._directory} holds {len(found)} images that fit, name one: "
                + ", ".join(sorted(str(_tag_of(entry)) for entry in found))[:300]
            )
        try:
            return self.document(Digest.parse(str(found[0].get("digest"))))
        except DecodeError as error:
            raise InvalidInputError(f"{self._directory}: index.json has a bad entry") from error

    def document(self, digest: Digest) -> Document:
        """A manifest or index by its digest, checked.

        Raises:
            NotFoundError, InvalidInputError, IntegrityError: missing, too long, changed.
        """
        path = _blob_path(self._directory, digest)
        body = _read_file(path, MAX_DOCUMENT)
        digest.verify(digest.algorithm.of(body).value, str(path))
        return Document(body=body, media_type=None, digest=digest)

    def read(self, digest: Digest, size: int) -> Iterator[bytes]:
        """A blob in chunks; raises at the end if it is not what it should be.

        Raises:
            NotFoundError, IntegrityError, PlatformError: missing, changed, unreadable.
        """
        path = _blob_path(self._directory, digest)
        return verified(_chunks(path), digest, size, str(path))

    def close(self) -> None:
        """Nothing is held."""


class LayoutDestination:
    """Writes into a layout, which is made where there is none; other images in it stay."""

    def __init__(self, directory: Path, tag: str | None) -> None:
        """Write to `directory`, under `tag` if there is one."""
        if tag is not None and not 0 < len(tag) <= MAX_TAG:
            raise InvalidInputError(f"a tag of {len(tag)} characters is too long")
        self._directory = directory
        self._tag = tag

    def prepare(self) -> None:
        """Make the directories.

        Raises:
            InvalidInputError: the directory holds something that is no layout.
            PlatformError: it cannot be written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            marker = self._directory / LAYOUT_FILE
            if not marker.exists():
                if any(self._directory.iterdir()):
                    raise InvalidInputError(f"{self._directory} is neither empty nor a layout")
                _replace(marker, json.dumps({"imageLayoutVersion": VERSION}).encode())
            (self._directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlatformError(f"{self._directory} cannot be written") from error

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob of that name and size is there already."""
        try:
            return _blob_path(self._directory, digest).stat().st_size == size
        except OSError:
            return False

    def write(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """Store a blob; digest and size are known afterwards, and so is its name.

        Raises:
            PlatformError: it cannot be written; nothing is left of it.
        """
        folder = self._directory / "blobs" / "sha256"
        hasher, size = hashlib.sha256(), 0
        with _temporary(folder) as descriptor_and_path:
            descriptor, path = descriptor_and_path
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                _write_all(descriptor, chunk, path)
            digest = Digest(HashAlgorithm.SHA256, hasher.digest())
            os.fchmod(descriptor, 0o644)
            os.replace(path, folder / digest.hex)
        return digest, size

    def put_document(self, body: bytes, media_type: str, *, is_root: bool) -> Digest:
        """Store a manifest or index; the root one gets the tag, which another image may lose.

        Raises:
            PlatformError, InvalidInputError: it cannot be written; `index.json` is no index.
        """
        digest, size = self.write([body])
        if is_root:
            self._set_tag({"mediaType": media_type, "digest": str(digest), "size": size})
        return digest

    def _set_tag(self, entry: dict[str, object]) -> None:
        with _locked(self._directory):
            path = self._directory / INDEX_FILE
            index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            if path.exists():
                index = _read_index(self._directory)
            entries = index.get("manifests")
            others = [
                other
                for other in (entries if isinstance(entries, list) else [])
                if not self._is_replaced(other, entry)
            ]
            if self._tag is not None:
                entry = entry | {"annotations": {REF_NAME: self._tag}}
            index["manifests"] = [*others, entry]
            _replace(path, json.dumps(index, separators=(",", ":")).encode())

    def _is_replaced(self, other: object, entry: Mapping[str, object]) -> bool:
        if not isinstance(other, dict):
            return True
        tag = _tag_of(other)
        return tag == self._tag and (tag is not None or other.get("digest") == entry["digest"])

    def close(self) -> None:
        """Nothing is held."""


def _tag_of(entry: Mapping[str, Any]) -> str | None:
    annotations = entry.get("annotations")
    tag = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return tag if isinstance(tag, str) else None


def _blob_path(directory: Path, digest: Digest) -> Path:
    return directory / "blobs" / digest.algorithm.value / digest.hex


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / INDEX_FILE
    try:
        return parse_object(_read_file(path, MAX_DOCUMENT), INDEX_FILE)
    except DecodeError as error:
        raise InvalidInputError(f"{path} is not the index of a layout") from error


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}") from error
    except OSError as error:
        raise PlatformError(f"{path} cannot be read") from error
    if len(content) > limit:
        raise InvalidInputError(f"{path} has more than {limit} bytes")
    return content


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}") from error
    except OSError as error:
        raise PlatformError(f"{path} cannot be read") from error


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[int, str]]:
    """An open file that is gone after the block unless it was renamed."""
    try:
        descriptor, path = tempfile.mkstemp(prefix=".new-", dir=folder)
    except OSError as error:
        raise PlatformError(f"{folder} cannot be written") from error
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        Path(path).unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes, path: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise PlatformError(f"{path} cannot be written") from error


def _replace(path: Path, content: bytes) -> None:
    with _temporary(path.parent) as descriptor_and_path:
        descriptor, temporary = descriptor_and_path
        _write_all(descriptor, content, temporary)
        os.fchmod(descriptor, 0o644)
        os.replace(temporary, path)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
