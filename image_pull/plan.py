"""Which layers of a manifest are needed, in which order. Sans-I/O.

Source: docs/spec/image-pull.md, sections 10.1 and 10.2.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from guest.crypto.digest import Digest
from guest.errors import DecodeError
from image_pull.layers.media_types import compression_of, is_encrypted
from image_pull.manifest import Descriptor, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """One layer to have.

    Attributes:
        descriptor: of its blob.
        diff_id: of its tar.
        encrypted: whether it needs a key.
        chain: stands for this layer on top of all layers below it.
    """

    descriptor: Descriptor
    diff_id: Digest
    encrypted: bool
    chain: str


def plan_layers(manifest: Manifest, diff_ids: tuple[Digest, ...]) -> tuple[PlannedLayer, ...]:
    """The layers, bottom first, each blob once and where it occurs last.

    The topmost of equal layers decides what is seen, and overlayfs takes a directory only once.

    Args:
        manifest: with as many layers as there are diff_ids.
        diff_ids: bottom first.

    Raises:
        UnsupportedError: a media type that cannot be unpacked.
        DecodeError: one blob with two diff_ids.
    """
    last: dict[Digest, tuple[Descriptor, Digest]] = {}
    for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True):
        known = last.pop(descriptor.digest, None)
        if known is not None and (known[1], known[0].media_type, known[0].size) != (
            diff_id,
            descriptor.media_type,
            descriptor.size,
        ):
            raise DecodeError(f"layer {descriptor.digest} is listed twice and differently")
        last[descriptor.digest] = (descriptor, diff_id)
    planned = []
    chain = hashlib.sha256()
    for descriptor, diff_id in last.values():
        compression_of(descriptor.media_type)
        chain.update(f"{descriptor.digest} {descriptor.media_type} {diff_id}\n".encode())
        planned.append(
            PlannedLayer(
                descriptor=descriptor,
                diff_id=diff_id,
                encrypted=is_encrypted(descriptor.media_type),
                chain=chain.hexdigest(),
            )
        )
    return tuple(planned)


def largest_first(planned: Sequence[PlannedLayer]) -> list[int]:
    """The layers' numbers in the order in which they are best begun.

    A large one that is begun last is unpacked alone, and the other cores have nothing to do.
    """
    return sorted(range(len(planned)), key=lambda number: -planned[number].descriptor.size)
