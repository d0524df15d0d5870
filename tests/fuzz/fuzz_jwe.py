"""An answer opens to what was sealed, or is refused; a KBS's bytes never break anything else."""

import json
from pathlib import Path

from guest.crypto.jose import open_jwe, verify_es256
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "kbs"
KEYS = tuple(
    TeeKey.from_pem(Secret(vector["pem"].encode()))
    for vector in json.loads((VECTORS / "keys.json").read_text())["vectors"]
)
JWK = json.dumps(KEYS[0].jwk()).encode()
SEEDS = (
    *(
        vector["text"].encode()
        for vector in json.loads((VECTORS / "responses.json").read_text())["vectors"]
    ),
    b"eyJhbGciOiJFUzI1NiJ9.e30." + b"A" * 86,
)


def one_input(data: bytes) -> None:
    """Open with each key; nothing but the sealed text may come out."""
    for key in KEYS:
        try:
            assert open_jwe(data, key).reveal() == b"kbs test secret\n"
        except (DecodeError, IntegrityError):
            continue
    try:
        verify_es256(data, JWK)
    except (DecodeError, IntegrityError):
        return
