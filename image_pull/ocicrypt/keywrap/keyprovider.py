"""`provider.<name>`: the packet goes to a key provider, whatever name it was wrapped under.

Source: docs/spec/ocicrypt.md §3 and 11.
"""

from guest.deadline import Deadline
from guest.errors import DecodeError, PeerError, UnsupportedError
from guest.secret import Secret
from image_pull.ocicrypt.protocol import (
    KeyUnwrapper,
    decode_unwrap_output,
    encode_unwrap_input,
)


async def unwrap_with_provider(
    packet: bytes, keys: KeyUnwrapper | None, deadline: Deadline
) -> Secret:
    """Ask the key provider for the private options.

    Raises:
        UnsupportedError: no key provider is configured.
        PeerError: its answer is none.
        GuestError: it refused.
    """
    if keys is None:
        raise UnsupportedError("no key provider is configured")
    with await keys.unwrap(encode_unwrap_input(packet), deadline) as output:
        try:
            return decode_unwrap_output(output)
        except DecodeError as error:
            raise PeerError("key provider gave no private options") from error
