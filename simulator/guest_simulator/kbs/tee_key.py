"""The guest's public key as it appears in runtime data and tokens. Sans-I/O.

Source: docs/spec/kbs-protocol.md §5.
"""

from collections.abc import Mapping
from typing import Final

from guest_simulator.encoding import EncodingError, text_member

MEMBERS: Final = {
    "EC": ("crv", "alg", "x", "y"),
    "RSA": ("alg", "n", "e"),
    "AKP": ("alg", "pub"),
}
"""Members of a JWK by its `kty`, besides `kty` itself."""


def normalise_tee_key(value: object) -> dict[str, str]:
    """The key as the server re-serialises it: exactly the members of its kind, all strings.

    Extra members are dropped, so that the digest of a key that has some does not match.

    Raises:
        EncodingError: an unknown kind or a missing member.
    """
    if not isinstance(value, Mapping):
        raise EncodingError("the TEE key is not a JSON object")
    kind = text_member(value, "kty")
    if kind not in MEMBERS:
        raise EncodingError(f"unknown TEE key kind {kind}")
    return {"kty": kind, **{name: text_member(value, name) for name in MEMBERS[kind]}}
