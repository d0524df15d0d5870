"""`signedBy`: simple signing with OpenPGP keys, signatures from a lookaside store.

Source: docs/spec/image-pull.md 9.4, 9.5 and 9.6.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

from guest.crypto.digest import Digest
from guest.crypto.openpgp import Keyring
from guest.crypto.openpgp_message import SignedMessage
from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, IntegrityError
from guest.wire import decode_base64
from image_pull.signature.evaluation import Candidate, KeyStore, Means
from image_pull.signature.identity import MATCH_REPO_DIGEST_OR_EXACT, SignedIdentity
from image_pull.signature.key_source import KeyAt, KeyHere, KeySource
from image_pull.signature.payload import PayloadType, SignedClaim
from image_pull.signature.policy import Requirement
from image_pull.signature.requirements.verdict import NO_KEY, Reasons, denied_by

KIND: Final = "signedBy"
NOT_CONFIGURED: Final = "Simple Signing Sigstore Config not set"


async def signed_by(
    requirement: Requirement, candidate: Candidate, means: Means, deadline: Deadline
) -> None:
    """Hold if one signature is good, names the image and is over one of its digests.

    Raises:
        DeniedError: none is.
        GuestError: keys or signatures cannot be had.
    """
    keyring = await _keyring(requirement.keys, means.keys, deadline)
    if means.lookaside is None:
        raise denied_by(KIND) from DeniedError(NOT_CONFIGURED)
    identity = requirement.identity or MATCH_REPO_DIGEST_OR_EXACT
    now = datetime.now(UTC) if means.keys_end else None
    reasons = Reasons()
    for digest in candidate.digests:
        try:
            found = await means.lookaside.find(candidate.reference, digest, deadline)
        except GuestError as error:
            reasons.add(f"signatures of {digest}", error)
            continue
        for number, signature in enumerate(found, 1):
            try:
                claim = await asyncio.to_thread(_claim, signature, keyring, now)
                _check(claim, identity, candidate, digest)
            except GuestError as error:
                reasons.add(f"signature {number} of {digest}", error)
            else:
                return
    raise reasons.denial(KIND)


async def _keyring(sources: tuple[KeySource, ...], keys: KeyStore, deadline: Deadline) -> Keyring:
    if not sources:
        raise denied_by(KIND) from DeniedError(NO_KEY)
    rings = []
    for source in sources:
        match source:
            case KeyAt(uri=uri):
                data = (await keys.fetch(uri, deadline)).reveal()
            case KeyHere(data=text):
                data = decode_base64("".join(text.split()), "keyData")
        rings.append(await asyncio.to_thread(Keyring.decode, data))
    return Keyring.union(rings)


def _claim(signature: bytes, keyring: Keyring, now: datetime | None) -> SignedClaim:
    message = SignedMessage.decode(signature)
    keyring.verify(message, now)
    return SignedClaim.parse(message.content, PayloadType.SIMPLE)


def _check(
    claim: SignedClaim, identity: SignedIdentity, candidate: Candidate, digest: Digest
) -> None:
    identity.verify(candidate.reference, claim.docker_reference)
    if claim.manifest_digest != digest:
        raise IntegrityError(f"signature is for {claim.manifest_digest}")
