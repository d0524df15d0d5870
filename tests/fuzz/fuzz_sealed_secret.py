"""Sealed secrets, their payloads and verification keys."""

from contextlib import suppress

from cdh.secrets.sealed import (
    SignedSecret,
    check_verification_key,
    decode_payload,
    decode_unsigned,
)
from guest.crypto.es256 import Es256Key
from guest.errors import DecodeError
from guest.secret import Secret

SEEDS = (
    (
        b"sealed.eyJiNjQiOnRydWUsImFsZyI6IkVTMjU2Iiwia2lkIjoiayJ9.e30."
        b"uXOcgo4sIRa-UX7cGFbBjKY5U1iQDO5Cn6p7nEJTAZeJ0XqcZSDAzSCgquWEi-1pVR5XSLjKwuLQ-rlk656F7w"
    ),
    b"sealed.fakejwsheader.eyJ2ZXJzaW9uIjoiMC4xLjAifQ.fakesignature",
    b'{"version":"0.1.0","type":"vault","name":"kbs:///a/b/c","provider":"kbs"}',
    (
        b'{"version":"0.1.0","type":"envelope","key_id":"k","encrypted_key":"YQ==",'
        b'"encrypted_data":"YQ==","wrap_type":"A256GCM","iv":"AAAA","provider":"aws",'
        b'"provider_settings":{"region":"r"},"annotations":{}}'
    ),
    (
        b'{"kty":"EC","crv":"P-256","d":"9m9xZgnlIzsBkVN_stUjq3909frK7wvZndqMyN1Rd4c",'
        b'"x":"hoivzjS0iVMIM4D0N04E9MHrWIQyo9sI4xpu5oW5sB0",'
        b'"y":"jJHkBwmsY4uFWyNPcGRULAz1jPNIQJrfNx1-xaSTIl8"}'
    ),
)


def one_input(data: bytes) -> None:
    """What decodes as a payload encodes to one that decodes alike."""
    with suppress(DecodeError):
        SignedSecret.decode(data)
    with suppress(DecodeError):
        decode_unsigned(data)
    with suppress(DecodeError):
        payload = decode_payload(data)
        assert decode_payload(payload.encode()) == payload
    with suppress(DecodeError):
        check_verification_key(data)
    with suppress(DecodeError):
        Es256Key.from_jwk(Secret(data))
