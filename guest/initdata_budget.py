"""How much room init data takes on its way to a guest, and how much there is. Sans-I/O.

Source: docs/spec/podvm-image.md 5.7 (what user data holds, limits of the clouds); Kubernetes API
"Annotations" (256 KiB of names and values in all).
"""

from dataclasses import dataclass
from typing import Final

from guest.initdata_form import ANNOTATION, pack

KIB: Final = 1024

ENTRY: Final = "  - path: /run/peerpod/initdata\n    content: |\n      \n"
"""What the cloud-config document has around the text form."""

RESERVE: Final = 6 * KIB
"""Bytes kept for the rest of a pod VM's user data: network settings with a key and certificates.

Image pull secrets of at most 12,288 bytes may come on top.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One way to a guest.

    Attributes:
        name: on the command line.
        limit: bytes that fit, as the channel counts them.
        is_encoded: whether what counts is base64 of the document that is sent.
        reserve: bytes of it that others need.
    """

    name: str
    limit: int
    is_encoded: bool = False
    reserve: int = RESERVE


CHANNELS: Final = (
    Channel(name="annotation", limit=256 * KIB, reserve=4 * KIB),
    Channel(name="alibaba", limit=32 * KIB),
    Channel(name="aws", limit=16 * KIB),
    Channel(name="azure", limit=64 * KIB, is_encoded=True),
    Channel(name="gcp", limit=256 * KIB, is_encoded=True),
)
"""The pod's annotation, which every pod has, and the clouds' user data for peer pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A document against one channel.

    Attributes:
        channel: which.
        used: bytes it takes there.
        room: bytes it may take there.
    """

    channel: Channel
    used: int
    room: int

    @property
    def is_kept(self) -> bool:
        """Whether it fits."""
        return self.used <= self.room


def budgets(content: bytes) -> tuple[Budget, ...]:
    """The document against every channel."""
    length = len(pack(content))
    return tuple(_budget(channel, length) for channel in CHANNELS)


def _budget(channel: Channel, length: int) -> Budget:
    if channel.name == "annotation":
        used = len(ANNOTATION) + length
    else:
        used = len(ENTRY) + length
    if channel.is_encoded:
        used = (used + 2) // 3 * 4
    return Budget(channel=channel, used=used, room=channel.limit - channel.reserve)
