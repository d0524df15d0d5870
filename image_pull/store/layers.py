"""Unpacked layers by content: staged, verified, then visible by one rename.

Source: docs/ARCHITECTURE.md, decision 7; docs/spec/image-pull.md, sections 10.4, 12.3-10 and 13.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest
from guest.deadline import boot_seconds
from guest.errors import DecodeError, PlatformError
from image_pull.layers.record import MAX_RECORD, LayerRecord
from image_pull.layers.remove import remove_tree
from image_pull.store.meta import Store

TREE: Final = "tree"
RECORD: Final = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKey:
    """What makes an unpacked layer another one.

    Attributes:
        blob: digest of the blob.
        diff_id: digest of the tar.
        encrypted: whether the blob was; its plaintext is never given to an image that lists the
            same content as a plain layer.
        finished: whether the tree has what an overlay needs of it; it is for copying else.
        chain: digest over the blobs and diff_ids from the lowest layer up to this one.
    """

    blob: Digest
    diff_id: Digest
    encrypted: bool
    finished: bool
    chain: str

    def name(self, *, with_chain: bool) -> str:
        """The directory's name; with the chain when the tree depends on the layers below."""
        chain = self.chain if with_chain else ""
        text = f"{self.blob}\n{self.diff_id}\n{self.encrypted:d}{self.finished:d}\n{chain}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A verified layer.

    Attributes:
        tree: its directory.
        record: what the unpacker reported.
    """

    tree: Path
    record: LayerRecord


class LayerStore:
    """The layers of one store. All methods block."""

    def __init__(self, store: Store) -> None:
        """Keep layers in `store`."""
        self._store = store
        self._guard = threading.Lock()
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def holding(self, keys: Iterable[LayerKey]) -> Iterator[None]:
        """Within the block none of these layers is collected, be they there or not yet."""
        names = [key.name(with_chain=chain) for key in keys for chain in (False, True)]
        with self._guard:
            self._held.update(names)
        try:
            yield
        finally:
            with self._guard:
                self._held.subtract(names)
                self._held += Counter()  # forgets what nobody holds

    def has(self, key: LayerKey) -> bool:
        """Whether the layer seems to be there."""
        entries = (self._store.unpacked / key.name(with_chain=chain) for chain in (False, True))
        return any((entry / RECORD).exists() for entry in entries)

    def unheld(self) -> list[tuple[float, str]]:
        """Layers that no pull holds: seconds since boot of their last use, and name; oldest first.

        Raises:
            PlatformError: the store cannot be read.
        """
        found = []
        try:
            for entry in self._store.unpacked.iterdir():
                if not self._held.get(entry.name):
                    found.append((_last_use(entry), entry.name))
        except OSError as error:
            raise PlatformError(f"layers cannot be listed: {error.strerror}") from error
        return sorted(found)

    def collect(self, name: str, in_use: Callable[[], Container[str]]) -> bool:
        """Remove a layer unless it is held or in use: gone for everybody by one rename.

        Args:
            name: of its directory.
            in_use: asked while no pull can begin or end to hold a layer.

        Raises:
            PlatformError: the disk refuses; the layer is then whole or gone.
        """
        away = self._store.staging / self._store.fresh_name()
        try:
            with self._guard:
                if self._held.get(name) or name in in_use():
                    return False
                os.rename(self._store.unpacked / name, away)
            remove_tree(away)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PlatformError(f"layer cannot be removed: {error.strerror}") from error
        return True

    def find(self, key: LayerKey) -> StoredLayer | None:
        """The layer, if it is there whole.

        Raises:
            PlatformError: it is there and cannot be read.
        """
        for with_chain in (False, True):
            entry = self._store.unpacked / key.name(with_chain=with_chain)
            try:
                with open(entry / RECORD, "rb") as file:
                    record = LayerRecord.decode(file.read(MAX_RECORD + 1))
            except FileNotFoundError:
                continue
            except (OSError, DecodeError) as error:
                raise PlatformError(f"layer record {entry.name} cannot be read") from error
            if (entry / TREE).is_dir() and record.diff_id == str(key.diff_id):
                _touch(entry)
                return StoredLayer(tree=entry / TREE, record=record)
        return None

    def stage(self) -> Path:
        """A new directory for one layer; its tree goes to `tree` in it.

        Raises:
            PlatformError: the disk refuses.
        """
        directory = self._store.staging / self._store.fresh_name()
        try:
            directory.mkdir(mode=0o700)
        except OSError as error:
            raise PlatformError(f"layer cannot be staged: {error.strerror}") from error
        return directory

    def publish(self, staged: Path, key: LayerKey, record: LayerRecord) -> StoredLayer:
        """Make a verified layer visible; if another pull was faster, its layer is taken.

        Raises:
            PlatformError: the disk refuses.
        """
        entry = self._store.unpacked / key.name(with_chain=bool(record.implicit))
        try:
            (staged / RECORD).write_bytes(record.encode())
            _touch(staged)
            os.rename(staged, entry)
        except OSError as error:
            found = self.find(key) if error.errno in (errno.EEXIST, errno.ENOTEMPTY) else None
            if found is None:
                raise PlatformError(f"layer cannot be stored: {error.strerror}") from error
            return found
        return StoredLayer(tree=entry / TREE, record=record)

    def drop(self, staged: Path) -> None:
        """Remove what is left of a staged layer.

        Raises:
            PlatformError: the disk refuses.
        """
        try:
            remove_tree(staged)
        except OSError as error:
            raise PlatformError(f"staged layer cannot be removed: {error.strerror}") from error


def _touch(entry: Path) -> None:
    """Note the use of a layer; in the kernel's time, which nobody sets."""
    with contextlib.suppress(OSError):  # it only seems older than it is
        now = int(boot_seconds() * 1e9)
        os.utime(entry / RECORD, ns=(now, now))


def _last_use(entry: Path) -> float:
    try:
        return (entry / RECORD).stat().st_mtime
    except FileNotFoundError:
        return 0.0
