"""Unpacked layers by content: staged, verified, then visible by one rename.

Source: docs/ARCHITECTURE.md, decision 7; docs/spec/image-pull.md, sections 10.4, 12.3-10 and 13.
"""

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest
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
