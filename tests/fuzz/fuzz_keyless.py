"""Promises of logs and certificates of signers are read or refused."""

import json
from datetime import UTC, datetime

from cryptography.utils import CryptographyDeprecationWarning

from guest.errors import DecodeError, IntegrityError
from image_pull.signature.fulcio import (
    read_certificates,
    signer_key,
    verify_chain,
    verify_identity,
)
from image_pull.signature.log_entry import LogEntry
from image_pull.signature.policy import Policy
from image_pull.signature.public_key import SignerKey
from support.sigstore_world import EMAIL, ISSUER, SIGNED_AT, SigstoreWorld, public_pem, sign

WORLD = SigstoreWorld()
SIGNER = WORLD.issue()
LOG_KEY = SignerKey.decode(public_pem(WORLD.log_key).encode())
AUTHORITIES = read_certificates(WORLD.authorities_pem.encode())
FULCIO = {"caData": "x", "oidcIssuer": ISSUER, "subjectEmail": EMAIL}
REQUIREMENT = {"type": "sigstoreSigned", "fulcio": FULCIO, "rekorPublicKeyData": "x"}
SEEDS = (
    WORLD.promise(SIGNER.pem, sign(SIGNER.key, b"payload"), b"payload").encode(),
    SIGNER.pem.encode(),
    WORLD.authorities_pem.encode(),
    json.dumps({"default": [REQUIREMENT]}).encode(),
)
EXPECTED = (DecodeError, IntegrityError, CryptographyDeprecationWarning)
"""The last one where warnings are errors: a certificate's serial number is negative."""


def one_input(data: bytes) -> None:
    """Read as everything; only what the log signed is an entry."""
    try:
        entry = LogEntry.read(data.decode("utf-8", "replace"), [LOG_KEY])
        assert entry.integrated == SIGNED_AT
    except EXPECTED:
        pass
    try:
        for certificate in read_certificates(data):
            signer_key(certificate)
            verify_identity(certificate, ISSUER, EMAIL)
            verify_chain(certificate, [], AUTHORITIES, datetime(2024, 5, 1, 12, 5, tzinfo=UTC))
            assert certificate == SIGNER.certificate
    except EXPECTED:
        pass
    try:
        Policy.parse(data)
    except DecodeError:
        pass
