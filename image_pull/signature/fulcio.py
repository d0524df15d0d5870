"""Certificates of signers, as Fulcio issues them: chain, use, issuer, identity. Sans-I/O.

The door to `cryptography.x509` here; loaded with the first requirement that needs it.

Source: docs/spec/image-pull.md 9.7; containers-policy.json(5), `fulcio`; Fulcio's "Certificate
Specification" and "Sigstore OID information"; RFC 5280 sections 4.2.1 and 6.1.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from guest.errors import DecodeError, IntegrityError
from image_pull.signature.public_key import SignerKey

MAX_PEM: Final = 256 * 1024
MAX_CERTIFICATES: Final = 16

ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The issuer of the identity, as plain bytes."""

ISSUER_V2: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The same as a UTF8String."""

_FOREIGN: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates that are malformed."""


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        DecodeError: none, more than `MAX_CERTIFICATES`, or malformed.
    """
    if len(pem) > MAX_PEM or not 0 < pem.count(b"-----BEGIN ") <= MAX_CERTIFICATES:
        raise DecodeError("not between one and 16 certificates in PEM")
    try:
        return x509.load_pem_x509_certificates(pem)
    except _FOREIGN as error:
        raise DecodeError("certificate is malformed") from error


def verify_chain(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
) -> None:
    """Require that an authority vouches for a signer's certificate at some time.

    Args:
        leaf: the signer's.
        between: what came along; untrusted.
        authorities: of the policy; each is trusted by itself.
        at: when the signature was made, as a log says.

    Raises:
        IntegrityError: no chain, none at that time, or a certificate that is not for signing.
    """
    authority_policy = ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None
    )
    leaf_policy = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None
    )
    verifier = (
        PolicyBuilder()
        .store(Store(list(authorities)))
        .time(at)
        .extension_policies(ca_policy=authority_policy, ee_policy=leaf_policy)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, list(between))
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (VerificationError, *_FOREIGN) as error:
        text = f"signer's certificate is not good at {at:%Y-%m-%dT%H:%M:%SZ}"
        raise IntegrityError(text) from error
    except x509.ExtensionNotFound as error:
        raise IntegrityError("signer's certificate does not say what it is for") from error
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise IntegrityError("signer's certificate is not for signing code")


def verify_identity(leaf: x509.Certificate, issuer: str, email: str) -> None:
    """Require that a certificate is for this address, which this issuer has vouched for.

    Raises:
        IntegrityError: it is for another, or says its issuer in two ways.
    """
    try:
        extensions = leaf.extensions
    except _FOREIGN as error:
        raise IntegrityError("signer's certificate has malformed extensions") from error
    found = {_extension(extensions, ISSUER), _utf8(_extension(extensions, ISSUER_V2))} - {None}
    if found != {issuer.encode()}:
        named = ", ".join(sorted(repr(each)[1:80] for each in found)) or "none"
        raise IntegrityError(f"signer's certificate is by the issuer {named}, not {issuer[:80]!r}")
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise IntegrityError("signer's certificate has no name") from None
    if email not in names.get_values_for_type(x509.RFC822Name):
        raise IntegrityError(f"signer's certificate is not for {email[:80]!r}")


def _extension(extensions: x509.Extensions, oid: x509.ObjectIdentifier) -> bytes | None:
    try:
        value = extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else None


def _utf8(der: bytes | None) -> bytes | None:
    try:
        return None if der is None else asn1.decode_der(str, der).encode()
    except ValueError as error:
        raise IntegrityError("signer's certificate has a malformed issuer") from error


def signer_key(leaf: x509.Certificate) -> SignerKey:
    """The key of a certificate.

    Raises:
        DecodeError: of a kind that image signatures do not have.
    """
    try:
        key = leaf.public_key()
    except _FOREIGN as error:
        raise DecodeError("signer's certificate has a key that is not supported") from error
    return SignerKey.decode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
