"""Layer keys out of annotation packets, with KEKs from the KBS or with a KMS.

Source: docs/spec/confidential-data-hub.md 9, docs/spec/ocicrypt.md 12.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from cdh.keyprovider.packet import (
    KBS_PROVIDER,
    PACKET_VERSION,
    AnnotationPacket,
    decode_unwrap_input,
    encode_unwrap_output,
)
from cdh.kms.base import Decrypter, ResourceClient, parse_resource_uri
from cdh.wrapped import KEY_LENGTH, check_wrapping, open_wrapped
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, InvalidInputError
from guest.resource_uri import ResourceUri
from guest.secret import Secret
from guest.single_flight import SingleFlight

FETCH_SECONDS: Final = 60.0
"""Most seconds for a KEK that several layers wait for."""

MAX_KEPT: Final = 64
"""Most KEKs that are kept while images are pulled."""


class LayerKeys:
    """Unwraps layer keys; any number of calls at a time.

    KEKs are fetched anew for every call, except while an image is pulled: its layers mostly share
    one KEK, which is then fetched once and wiped when the last pull ends.

    Args:
        resources: where KEKs come from.
        open_decrypter: the KMS of a provider's name, made from its settings.
    """

    def __init__(
        self,
        resources: ResourceClient,
        open_decrypter: Callable[[AnnotationPacket], Decrypter],
    ) -> None:
        self._resources = resources
        self._open_decrypter = open_decrypter
        self._pulls = 0
        self._kept: dict[str, Secret] = {}
        self._fetches: SingleFlight[Secret] = SingleFlight()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """While the block runs, a KEK is fetched once only."""
        self._pulls += 1
        try:
            yield
        finally:
            self._pulls -= 1
            if self._pulls == 0:
                for kek in self._kept.values():
                    kek.wipe()
                self._kept.clear()

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """Answer a key provider's unwrap input with its output, for the puller in this process.

        Raises:
            InvalidInputError: input or packet are not as specified.
            IntegrityError: the packet was not wrapped with this KEK, or was changed.
            GuestError: the KEK or the KMS is not to be had.
        """
        try:
            packet = decode_unwrap_input(request)
        except DecodeError as error:
            raise InvalidInputError("key provider input is not as specified") from error
        with await self.unwrap_packet(packet, deadline) as options:
            return Secret(encode_unwrap_output(options.reveal()))

    async def unwrap_packet(self, data: bytes, deadline: Deadline) -> Secret:
        """The private layer options inside the JSON of a packet.

        Raises:
            InvalidInputError: the packet is not as specified.
            IntegrityError: the packet was not wrapped with this KEK, or was changed.
            UnsupportedError: its provider is none that this guest has.
            GuestError: the KEK or the KMS is not to be had.
        """
        try:
            packet = AnnotationPacket.decode(data)
        except DecodeError as error:
            raise InvalidInputError("malwared AnnotationPacket format") from error
        if packet.provider == KBS_PROVIDER:
            return await self._unwrap_with_kek(packet, deadline)
        decrypter = self._open_decrypter(packet)
        return await decrypter.decrypt(
            packet.wrapped_data, packet.kid, packet.annotations, deadline
        )

    async def _unwrap_with_kek(self, packet: AnnotationPacket, deadline: Deadline) -> Secret:
        if packet.version != PACKET_VERSION:
            raise InvalidInputError(
                f"annotation packet has version {packet.version[:20]!r}, not {PACKET_VERSION!r}"
            )
        if packet.wrap_type is None or packet.iv is None:
            raise InvalidInputError("annotation packet lacks `wrap_type` or `iv`")
        wrap_type = check_wrapping(packet.wrap_type, packet.iv, packet.wrapped_data)
        with await self._get_kek(_kek_uri(packet.kid), deadline) as kek:
            if len(kek) != KEY_LENGTH:
                raise InvalidInputError(
                    f"KEK {packet.kid[:200]!r} has {len(kek)} bytes, not {KEY_LENGTH}"
                )
            try:
                return open_wrapped(wrap_type, kek, packet.iv, packet.wrapped_data)
            except IntegrityError as error:
                raise IntegrityError("decrypt LEK using KEK failed") from error

    async def _get_kek(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The KEK, the caller's own to wipe."""
        if self._pulls == 0:
            return await self._resources.fetch(uri, deadline)
        key = str(uri)
        kek = self._kept.get(key)
        if kek is None:
            async with deadline.limit("the KEK"):
                kek = await self._fetches.run(key, lambda: self._fetch_for_all(uri))
            if self._pulls > 0 and len(self._kept) < MAX_KEPT:
                self._kept.setdefault(key, Secret(kek.reveal()))
        return Secret(kek.reveal())

    async def _fetch_for_all(self, uri: ResourceUri) -> Secret:
        """A fetch that several callers share has a deadline of its own."""
        return await self._resources.fetch(uri, Deadline.after(FETCH_SECONDS))


def _kek_uri(kid: str) -> ResourceUri:
    """The KEK's URI; `/a/b/c` and `<host>/a/b/c` stand for `kbs:///a/b/c`."""
    text = kid
    if "://" not in kid:
        parts = kid.split("/")
        if len(parts) != 4 or not all(parts[1:]):
            raise InvalidInputError(f"illegal kbs resource uri: {kid[:200]!r}")
        text = "kbs:///" + "/".join(parts[1:])
    return parse_resource_uri(text)
