"""OpenPGP messages, keys and keyrings, as a lookaside store and a resource give them."""

import base64
import importlib.util

from guest.crypto.openpgp import Keyring
from guest.crypto.openpgp_key import PacketKey
from guest.crypto.openpgp_message import SignedMessage
from guest.errors import DecodeError, IntegrityError

RING = base64.b64decode(
    "mDMEZZIAgBYJKwYBBAHaRw8BAQdAifLZlHKRn2GgkNpYjiknOuf1BHHrz4jeZCZG6MSp8eG0AXSIkAQTFggAOBYhBMepk4m"
    "mw/HnwJ++5wvouJg7W4IkBQJlkgCAAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJEAvouJg7W4Ik+3UA/ArkzDyvOc"
    "NYVwcMxZNfSV+KST47nup64+6e76i1vlyJAP9Yga4XR07BlI3vjn0eRk6TR+5jWtLiOHyTjRqkYauTDg=="
)
MESSAGE = base64.b64decode(
    "kA0DAAgWC+i4mDtbgiQBrPtiCXNwYXkuanNvbmWTUgB7ImNyaXRpY2FsIjp7ImlkZW50aXR5Ijp7ImRvY2tlci1yZWZlcmVu"
    "Y2UiOiIxMjcuMC4wLjE6NTA3Ny90L2Jhc2U6bGF0ZXN0In0sImltYWdlIjp7ImRvY2tlci1tYW5pZmVzdC1kaWdlc3QiOiJz"
    "aGEyNTY6NTVkMDJhNGYxYjUwYjE1ZjQ1N2RkOTY3MDNhMjFiODRhODE4MWRjZGY2NDIxNDE4ZTQ0ODQ4YzliYTA0M2E5MyJ9"
    "LCJ0eXBlIjoiYXRvbWljIGNvbnRhaW5lciBzaWduYXR1cmUifSwib3B0aW9uYWwiOnt9fYh1BAAWCAAdFiEEx6mTiabD8efA"
    "n77nC+i4mDtbgiQFAmWTUgAACgkQC+i4mDtbgiQ1pAEAuvSSh8qDO0r6bLWgl4eaaiPsbl+70pSadk/0FXWGXKgA+wQo+L6I"
    "t1pfJvzLmIz+n2r9KdQCR5s7m/KyOx0KnawD"
)
KEY = RING[2:53]
SEEDS = (MESSAGE, RING, KEY)
CONTENT = SignedMessage.decode(MESSAGE).content
SIGNATURE = MESSAGE[-117:]
HAS_LIBRARY = importlib.util.find_spec("pysequoia") is not None
KEYRING = Keyring.decode(RING) if HAS_LIBRARY else None


def one_input(data: bytes) -> None:
    """A message or none; one that is good has the text that was signed."""
    try:
        key = PacketKey.decode(data)
        key.verify(SIGNATURE, CONTENT)
    except (DecodeError, IntegrityError):
        pass
    try:
        PacketKey.decode(KEY).verify(data, CONTENT)
    except (DecodeError, IntegrityError):
        pass
    if KEYRING is None:
        return
    try:
        message = SignedMessage.decode(data)
        KEYRING.verify(message, None)
        assert message.content == CONTENT
    except (DecodeError, IntegrityError):
        pass
    try:
        Keyring.decode(data)
    except DecodeError:
        pass
