"""Any text as an image's location and as a recipient."""

from contextlib import suppress

from guest.errors import GuestError
from image_pull.location import parse_location
from image_pull.ocicrypt.recipients import Recipients

SEEDS = (
    b"oci:dir:tag",
    b"docker://127.0.0.1:5000/demo/app:v1@sha256:" + b"0" * 64,
    b"jwe:key.pem\nprovider:attestation-agent:keyid=kbs:///a/b/c\nprovider:x",
)


def one_input(data: bytes) -> None:
    """Raises nothing but our errors."""
    text = data.decode("utf-8", "replace")
    with suppress(GuestError):
        parse_location(text)
    with suppress(GuestError):
        Recipients.parse(text.split("\n"))
