"""What a source of resources and a key management service can do."""

import asyncio
import re
from collections.abc import Mapping
from typing import Final, Protocol

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError
from guest.resource_uri import ResourceUri
from guest.secret import Secret

_DOT_SEGMENT: Final = re.compile(r"/(?:\.|%2[eE]){1,2}(?:[/?#]|\Z)")


class InitialisationError(GuestError):
    """The client of a resource source could not be made; the reason is its cause.

    Peers get a text of its own for it, whatever the class of the reason.
    """

    code = "initialisation"


class ResourceClient(Protocol):
    """One source of resources, for the life of the process; any number of calls at a time."""

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The resource's bytes.

        Raises:
            InitialisationError: the source cannot be used at all now: files that are wrong, an
                attestation agent that cannot be reached.
            NotFoundError: there is no such resource.
            GuestError: denied, unauthenticated, unreachable, out of time.
        """
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """What it does in the background, until `stop`; runs beside `fetch`, at most once."""
        ...

    async def close(self) -> None:
        """Let go of connections; calls under way fail. May be called again."""
        ...


class Decrypter(Protocol):
    """A key management service that unwraps with a key of its own."""

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext of `ciphertext` under the service's key `key_id`.

        Raises:
            GuestError: no such key, denied, unreachable, out of time.
        """
        ...


class SecretGetter(Protocol):
    """A service that keeps secrets under names."""

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The secret called `name`; the caller's own, to wipe.

        Raises:
            GuestError: no such secret, denied, unreachable, out of time.
        """
        ...


class Encrypter(Protocol):
    """A key management service as an owner uses it: encrypts with a key of its own."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What a guest needs to find the service again; public."""
        ...

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        """The ciphertext under the service's key `key_id`, and annotations for the decrypter.

        Raises:
            GuestError: no such key, denied, unreachable, out of time.
        """
        ...


class SecretKeeper(Protocol):
    """A service that keeps secrets, as an owner uses it."""

    async def put_secret(
        self, name: str, secret: Secret, deadline: Deadline
    ) -> Mapping[str, object]:
        """Keep a secret under a name, new or as a new version; gives annotations for the getter.

        Raises:
            GuestError: denied, unreachable, out of time; a version may be kept all the same.
        """
        ...


def parse_resource_uri(text: str) -> ResourceUri:
    """Read a caller's resource URI; empty and dot segments have no honest use and are refused.

    Raises:
        InvalidInputError: `illegal kbs resource uri: ...`.
    """
    illegal = f"illegal kbs resource uri: {text[:200]!r}"
    try:
        uri = ResourceUri.parse(text)
    except DecodeError as error:
        raise InvalidInputError(illegal) from error
    if not all(uri.segments) or _DOT_SEGMENT.search(text):
        raise InvalidInputError(illegal)
    return uri
