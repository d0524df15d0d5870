"""Wrapping layer keys for an image's owner: which KEK, which packet, registered where.

Source: docs/spec/ocicrypt.md 12 and 14.2.
"""

import hashlib
import os
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdh.keyprovider.packet import AnnotationPacket, WrapType
from cdh.keyprovider.parameters import WrapParameters
from cdh.wrapped import CTR_IV_LENGTH, GCM_IV_LENGTH, KEY_LENGTH
from guest.deadline import Deadline, boot_seconds
from guest.errors import DecodeError, InvalidInputError, PlatformError
from guest.resource_uri import ResourceUri
from guest.secret import Secret
from guest.single_flight import SingleFlight

SAMPLE_KEK: Final = bytes.fromhex(
    "d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea"
)
"""The published KEK of `sample=true`: everybody has it."""

SAMPLE_KID: Final = "kbs:///default/test-key/1"
GENERATED_KID: Final = "kbs:///default/image-kek/"

REGISTRATION_SECONDS: Final = 60.0
"""For so long after a registration the same KEK is not uploaded again, so that the layers of one
image cost one upload."""

REGISTRATION_LIMIT: Final = 30.0
"""Seconds that one upload may take."""

MAX_REMEMBERED: Final = 256
"""Most KEKs that are held."""


class Registrar(Protocol):
    """Where KEKs are stored for those who may read them later."""

    async def register(self, uri: ResourceUri, kek: Secret, deadline: Deadline) -> None:
        """Store a KEK.

        Raises:
            GuestError: it was not stored.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    kek: Secret
    at: float


class LayerKeyWrapper:
    """Wraps private layer options into annotation packets.

    Args:
        registrar: gets every KEK but the sample one before anything is wrapped with it; without
            one, random KEKs are refused, since nobody could ever unwrap.
        random: so many random bytes; `os.urandom`, except in tests.
    """

    def __init__(
        self, registrar: Registrar | None, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._registrar = registrar
        self._random = random
        self._made: dict[str, Secret] = {}
        self._registered: dict[str, _Kept] = {}
        self._flights: SingleFlight[None] = SingleFlight()

    async def wrap(
        self, private_options: Secret, parameters: WrapParameters, deadline: Deadline
    ) -> bytes:
        """The JSON of an annotation packet.

        Raises:
            InvalidInputError: a random KEK without a registrar; a key file that does not hold 32
                bytes; a kid that names no resource.
            PlatformError: the key file cannot be read.
            GuestError: the KEK was not registered.
        """
        wrap_type = WrapType(parameters.algorithm)
        if parameters.sample:
            iv = bytes(_iv_length(wrap_type))
            packet = _seal(wrap_type, Secret(SAMPLE_KEK), iv, SAMPLE_KID, private_options)
        else:
            kid, uri = self._kid(parameters.kid)
            kek = self._kek(parameters, str(uri))
            await self._register(uri, kek, deadline)
            iv = self._random(_iv_length(wrap_type))
            packet = _seal(wrap_type, kek, iv, kid, private_options)
        return packet.encode_v2() if parameters.packet_version == "2" else packet.encode_v1()

    def _kid(self, given: str | None) -> tuple[str, ResourceUri]:
        """What the packet says, and what it means."""
        if given is None:
            made = uuid.UUID(bytes=self._random(16), version=4)
            given = f"{GENERATED_KID}{made}"
        uri = parse_kid(given)
        return (given if "://" in given else str(uri)), uri

    def _kek(self, parameters: WrapParameters, name: str) -> Secret:
        if parameters.key_path is not None:
            return read_kek(parameters.key_path)
        if self._registrar is None:
            raise InvalidInputError(
                "a random KEK would be lost, and the image with it: give keypath=<file>, or start "
                "the key provider with --kbs and --auth-private-key"
            )
        # One name, one KEK: a second one would replace the first, which wrapped other layers.
        kek = self._made.get(name)
        if kek is None:
            kek = Secret(self._random(KEY_LENGTH))
            if len(self._made) >= MAX_REMEMBERED:
                self._made.pop(next(iter(self._made)))
            self._made[name] = kek
        return kek

    async def _register(self, uri: ResourceUri, kek: Secret, deadline: Deadline) -> None:
        registrar, name = self._registrar, str(uri)
        if registrar is None or self._is_registered(name, kek):
            return
        attempt = Secret(kek.reveal())

        async def register() -> None:
            if not self._is_registered(name, attempt):
                limit = Deadline.after(REGISTRATION_LIMIT)
                await registrar.register(uri, attempt, limit)
                self._remember(name, attempt)

        key = (name, hashlib.sha256(kek.reveal()).digest())
        async with deadline.limit(f"registration of {name}"):
            await self._flights.run(key, register)

    def _is_registered(self, name: str, kek: Secret) -> bool:
        kept = self._registered.get(name)
        if kept is None or kept.kek != kek:
            return False
        return boot_seconds() - kept.at < REGISTRATION_SECONDS

    def _remember(self, name: str, kek: Secret) -> None:
        if len(self._registered) >= MAX_REMEMBERED:
            self._registered.pop(next(iter(self._registered)))
        self._registered[name] = _Kept(kek, boot_seconds())


def parse_kid(text: str) -> ResourceUri:
    """The resource that a kid names: a URI, `<host>/<repo>/<type>/<tag>` or `/<repo>/<type>/<tag>`.

    Raises:
        InvalidInputError: it is none of these.
    """
    parts = text.split("/")
    if "://" not in text and len(parts) == 4 and all(parts[1:]):
        text = f"kbs://{text}"
    try:
        uri = ResourceUri.parse(text)
    except DecodeError as error:
        raise InvalidInputError(
            f"Resource path {text[:200]} must follow one of the following formats: "
            "'kbs:///<x>/<y>/<z>', 'kbs://<kbs_addr>/<x>/<y>/<z>', '<kbs_addr>/<x>/<y>/<z>', "
            "'/<x>/<y>/<z>'"
        ) from error
    if not all(uri.segments):
        raise InvalidInputError(f"Resource path {text[:200]} has an empty part")
    return uri


def read_kek(path: str) -> Secret:
    """The 32 raw bytes of a key file.

    Raises:
        PlatformError: it cannot be read, or is no regular file.
        InvalidInputError: it holds more or fewer bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PlatformError(f"key file {path[:200]} is no regular file")
            content = os.read(descriptor, KEY_LENGTH + 1)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise PlatformError(f"key file {path[:200]} cannot be read") from error
    if len(content) != KEY_LENGTH:
        raise InvalidInputError(
            f"key file {path[:200]} has {size} bytes, a KEK has {KEY_LENGTH} raw bytes"
        )
    return Secret(content)


def _iv_length(wrap_type: WrapType) -> int:
    return GCM_IV_LENGTH if wrap_type is WrapType.A256GCM else CTR_IV_LENGTH


def _seal(
    wrap_type: WrapType, kek: Secret, iv: bytes, kid: str, options: Secret
) -> AnnotationPacket:
    if wrap_type is WrapType.A256GCM:
        wrapped = AESGCM(kek.reveal()).encrypt(iv, options.reveal(), None)
    else:
        encryptor = Cipher(algorithms.AES(kek.reveal()), modes.CTR(iv)).encryptor()
        wrapped = encryptor.update(options.reveal()) + encryptor.finalize()
    return AnnotationPacket(kid=kid, wrapped_data=wrapped, iv=iv, wrap_type=wrap_type.value)
