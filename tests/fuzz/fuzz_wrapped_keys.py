"""Packets of public-key schemes open to what was wrapped, or are refused."""

import base64
import json
from pathlib import Path

from guest.errors import DecodeError, IntegrityError, LimitError, UnsupportedError
from guest.secret import Secret
from image_pull.ocicrypt.keywrap.openpgp import read_rsa_keys
from image_pull.ocicrypt.keywrap.pgp import open_message
from image_pull.ocicrypt.keywrap.pkcs7 import decode_envelope, open_envelope
from image_pull.ocicrypt.keywrap.pkcs11 import open_packet

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "ocicrypt" / "wrapped_keys.json"
ROWS = json.loads(VECTORS.read_text())["vectors"]
KEYS = [Secret(row["key"].encode()) for row in ROWS]
PLAIN = {row["plaintext"].encode() for row in ROWS}
SEEDS = (
    *(base64.b64decode(row["packet"]) for row in ROWS),
    *(row["key"].encode() for row in ROWS),
)
EXPECTED = (DecodeError, IntegrityError, LimitError, UnsupportedError)


def one_input(data: bytes) -> None:
    """Open with every key, and read as a keyring."""
    for open_one in (open_envelope, open_message, open_packet):
        try:
            assert open_one(data, KEYS).reveal() in PLAIN
        except EXPECTED:
            continue
    for read in (decode_envelope, lambda content: read_rsa_keys(Secret(content))):
        try:
            read(data)
        except EXPECTED:
            continue
