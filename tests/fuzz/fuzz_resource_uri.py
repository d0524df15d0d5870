"""Any text is a resource URI that reads back the same, or a DecodeError."""

from contextlib import suppress

from guest.errors import DecodeError
from guest.resource_uri import ResourceUri

SEEDS = (
    b"kbs:///default/key/1",
    b"KBS+PKCS11://user@host:080/a/../b/%2e/c?x=1#f",
    b"kbs://[::1]:8080//",
)


def one_input(data: bytes) -> None:
    """Parse, write, parse again."""
    with suppress(DecodeError):
        uri = ResourceUri.parse(data.decode("utf-8", "surrogateescape"))
        assert ResourceUri.parse(str(uri)) == uri
        assert uri.kbs_path().startswith(f"/kbs/v0/{uri.plugin}/")
