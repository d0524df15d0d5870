"""Signers without a key of their own: cosign's certificates and bundles.

A certificate lives for minutes; a log says when it was used. Signature images are checked against
the authority and the logs of the policy; bundles by the library `sigstore` against a trusted root
that the policy has: nothing is fetched, no TUF repository is asked. The library is loaded with
the first such requirement.

Source: docs/spec/image-pull.md 9.7; containers-policy.json(5), `fulcio`; ADR 0008.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, UnsupportedError
from guest.jsonio import check
from image_pull.signature import fulcio
from image_pull.signature.bundle import parse_bundle
from image_pull.signature.evaluation import KeyStore
from image_pull.signature.keyless import Keyless
from image_pull.signature.public_key import SignerKey
from image_pull.signature.requirements.signers import Signers, read_document, read_promise

CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
CHAIN: Final = "dev.sigstore.cosign/chain"
MAX_ROOT: Final = 4 * 1024 * 1024
"""Most bytes of a trusted root."""

MAX_DEPTH: Final = 32


async def keyless_signers(
    keyless: Keyless, log_keys: Sequence[SignerKey], store: KeyStore, deadline: Deadline
) -> Signers:
    """Whoever the policy names.

    Raises:
        DecodeError: certificates or trusted root are none.
        UnsupportedError: the library for trusted roots is not installed.
        GuestError: they cannot be had.
    """
    if keyless.is_trusted_root:
        document = await read_document(keyless.source, store, deadline, "{")
        return await asyncio.to_thread(TrustedRootSigners, keyless, document.reveal())
    document = await read_document(keyless.source, store, deadline, "-----BEGIN")
    return AuthoritySigners(keyless, fulcio.read_certificates(document.reveal()), log_keys)


class AuthoritySigners:
    """Who has a certificate of an authority, and whose signature is in a log."""

    def __init__(
        self, keyless: Keyless, authorities: Sequence[Any], log_keys: Sequence[SignerKey]
    ) -> None:
        """Trust certificates of `authorities` at the time that a log of `log_keys` says."""
        self._keyless = keyless
        self._authorities = tuple(authorities)
        self._log_keys = tuple(log_keys)

    async def verify_layer(
        self, signature: bytes, payload: bytes, annotations: Mapping[str, str]
    ) -> None:
        """See `Signers.verify_layer`."""
        pem = annotations.get(CERTIFICATE)
        if pem is None:
            raise DecodeError(f"layer has no annotation {CERTIFICATE}")
        leaf = _only(fulcio.read_certificates(pem.encode()))
        chain = annotations.get(CHAIN)
        between = fulcio.read_certificates(chain.encode()) if chain else []
        entry = read_promise(annotations, self._log_keys)
        entry.verify_about(signature, payload)
        if _only(fulcio.read_certificates(entry.signer)) != leaf:
            raise IntegrityError("log entry is about another signer")
        fulcio.verify_chain(leaf, between, self._authorities, entry.integrated)
        fulcio.verify_identity(leaf, self._keyless.issuer, self._keyless.email)
        fulcio.signer_key(leaf).verify(signature, payload)

    async def open_bundle(self, data: bytes) -> bytes:
        """See `Signers.open_bundle`.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("keyless bundles are checked with trustedRootPath or -Data only")


def _only(certificates: Sequence[Any]) -> Any:
    if len(certificates) != 1:
        raise DecodeError(f"{len(certificates)} certificates of a signer, not one")
    return certificates[0]


class TrustedRootSigners:
    """Whom a trusted root of Sigstore knows."""

    def __init__(self, keyless: Keyless, document: bytes) -> None:
        """Read the document; takes a second where the library is not loaded yet.

        Raises:
            DecodeError: not a trusted root.
            UnsupportedError: the library is not installed.
        """
        self._keyless = keyless
        check(document, max_depth=MAX_DEPTH, max_bytes=MAX_ROOT)
        self._verifier = _verifier(document)

    async def verify_layer(
        self, signature: bytes, payload: bytes, annotations: Mapping[str, str]
    ) -> None:
        """See `Signers.verify_layer`.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("keyless signature images are checked with caPath or caData only")

    async def open_bundle(self, data: bytes) -> bytes:
        """See `Signers.open_bundle`."""
        envelope = parse_bundle(data)
        payload = await asyncio.to_thread(self._verify, data)
        if payload != envelope.payload:
            raise IntegrityError("bundle was read in two ways")
        return payload

    def _verify(self, data: bytes) -> bytes:
        """The library's part: chain, certificate log, times, signature log, signature."""
        from sigstore.models import Bundle

        try:
            _, payload = self._verifier.verify_dsse(Bundle.from_json(data), self)
        except IntegrityError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing is signed
            raise IntegrityError(f"bundle: {_one_line(error)}") from None
        return bytes(payload)

    def verify(self, cert: Any) -> None:
        """Called by the library, as its policy: whether a certificate is for whom we want.

        Raises:
            IntegrityError: it is not.
        """
        fulcio.verify_identity(cert, self._keyless.issuer, self._keyless.email)


def _verifier(document: bytes) -> Any:
    try:
        from sigstore.models import TrustedRoot
        from sigstore.verify import Verifier
    except ImportError as error:
        raise UnsupportedError(
            "a trusted root needs the library sigstore (extra `keyless`), which is not installed"
        ) from error
    # the library reads files only
    descriptor = os.memfd_create("trusted-root", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(document)
        return Verifier(trusted_root=TrustedRoot.from_file(f"/proc/self/fd/{descriptor}"))
    except Exception as error:  # noqa: BLE001  # of several libraries below each other
        raise DecodeError(f"not a trusted root: {_one_line(error)}") from None
    finally:
        os.close(descriptor)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
