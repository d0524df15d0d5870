"""Opening sealed secrets: verify who sealed it, then ask the provider it names.

Source: docs/spec/confidential-data-hub.md 7.2 to 7.4.
"""

import asyncio
import logging
from collections.abc import Callable

from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms import open_getter
from cdh.kms.base import Decrypter, ResourceClient
from cdh.kms.site import KmsSite
from cdh.secrets.keys import VerificationKeys
from cdh.secrets.sealed import (
    EnvelopeSecret,
    Payload,
    SignedSecret,
    VaultSecret,
    check_verification_key,
    decode_payload,
    decode_unsigned,
)
from cdh.wrapped import KEY_LENGTH, check_wrapping, open_wrapped
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, InvalidInputError, PeerError
from guest.secret import Secret

log = logging.getLogger(__name__)


class SecretUnsealer:
    """Opens sealed secrets; any number at a time.

    Args:
        resources: where vault secrets of `kbs` come from.
        keys: finds the keys of signatures.
        open_decrypter: the service that a wrapped key's provider names.
        site: what the services of vault secrets need; None where there are none but the KBS.
        skip_verification: take secrets whose signature nobody checked, signed or not.
    """

    def __init__(
        self,
        resources: ResourceClient,
        keys: VerificationKeys,
        open_decrypter: Callable[[AnnotationPacket], Decrypter],
        *,
        site: KmsSite | None = None,
        skip_verification: bool = False,
    ) -> None:
        self._resources = resources
        self._keys = keys
        self._open_decrypter = open_decrypter
        self._site = site
        self._skip = skip_verification

    async def unseal(self, text: bytes, deadline: Deadline) -> Secret:
        """The plaintext of a sealed secret; nothing of it before its signature is good.

        Raises:
            InvalidInputError: not as specified.
            IntegrityError: the signature, or the envelope's tag, does not match.
            PeerError: what was found under its `kid` is no P-256 key.
            UnsupportedError: its provider is none that this guest has.
            GuestError: key or secret are not to be had.
        """
        try:
            payload = await self.verify(text, deadline)
        except DecodeError as error:
            raise InvalidInputError(f"sealed secret: {error}") from error
        if isinstance(payload, VaultSecret):
            settings = payload.provider_settings
            getter = open_getter(payload.provider, settings, self._resources, self._site)
            return await getter.get_secret(payload.name, payload.annotations, deadline)
        return await self._open_envelope(payload, deadline)

    async def verify(self, text: bytes, deadline: Deadline) -> Payload:
        """The payload of a sealed secret that its key has signed.

        Raises:
            DecodeError: not as specified.
            IntegrityError: the signature does not match.
            PeerError: what was found under its `kid` is no P-256 key.
            GuestError: the key is not to be had.
        """
        if self._skip:
            log.warning("signature of a sealed secret is not verified")
            return decode_payload(decode_unsigned(text))
        signed = SignedSecret.decode(text)
        jwk = await self._keys.find(signed.kid, deadline)
        return decode_payload(await asyncio.to_thread(_verify, signed, jwk))

    async def _open_envelope(self, envelope: EnvelopeSecret, deadline: Deadline) -> Secret:
        kind = check_wrapping(envelope.wrap_type, envelope.iv, envelope.encrypted_data)
        decrypter = self._open_decrypter(
            AnnotationPacket(
                kid=envelope.key_id,
                wrapped_data=envelope.encrypted_key,
                provider=envelope.provider,
                provider_settings=envelope.provider_settings,
                annotations=envelope.annotations,
            )
        )
        with await decrypter.decrypt(
            envelope.encrypted_key, envelope.key_id, envelope.annotations, deadline
        ) as key:
            if len(key) != KEY_LENGTH:
                raise InvalidInputError(f"data key has {len(key)} bytes, not {KEY_LENGTH}")
            return await asyncio.to_thread(
                open_wrapped, kind, key, envelope.iv, envelope.encrypted_data
            )


def _verify(signed: SignedSecret, jwk: Secret) -> bytes:
    """Runs in a thread: the libraries are loaded with the first secret."""
    from guest.crypto.jose import verify_es256

    try:
        check_verification_key(jwk.reveal())
    except DecodeError as error:
        raise PeerError(f"verification key {signed.kid[:200]!r} is unusable") from error
    try:
        return verify_es256(signed.jws, jwk.reveal())
    except IntegrityError as error:
        raise IntegrityError(f"Signature Error: {error}") from error.__cause__
