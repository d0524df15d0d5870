"""`sigstoreSigned`: cosign's `.sig` images, and bundles among the referrers.

Source: docs/spec/image-pull.md 9.4 and 9.7.
"""

from typing import Final

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    LimitError,
    NotFoundError,
)
from guest.wire import decode_base64
from image_pull.manifest import MAX_DOCUMENT, Descriptor, Manifest, parse_document
from image_pull.signature.bundle import BUNDLE, parse_referrers, parse_statement
from image_pull.signature.evaluation import Candidate, KeyStore, Means
from image_pull.signature.identity import IdentityKind, SignedIdentity
from image_pull.signature.payload import MAX_PAYLOAD, PayloadType, SignedClaim
from image_pull.signature.policy import Requirement
from image_pull.signature.requirements.signers import KeySigners, Signers, read_keys
from image_pull.signature.requirements.verdict import NO_KEY, Reasons, denied_by

KIND: Final = "sigstoreSigned"
SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION: Final = "dev.cosignproject.cosign/signature"
ALLOWED: Final = frozenset({IdentityKind.MATCH_REPOSITORY, IdentityKind.EXACT_REPOSITORY})
"""Identities that a payload without a tag can have."""


async def sigstore_signed(
    requirement: Requirement, candidate: Candidate, means: Means, deadline: Deadline
) -> None:
    """Hold if one signature satisfies key, digest, identity and type together.

    Raises:
        DeniedError: none does.
        GuestError: a key cannot be had.
    """
    identity = requirement.identity
    if identity is not None and identity.kind not in ALLOWED:
        name = identity.kind.value[:1].upper() + identity.kind.value[1:]
        raise denied_by(KIND) from DeniedError(f"Denied by {name}")
    search = _Search(
        candidate=candidate,
        signers=await _signers(requirement, means.keys, deadline),
        identity=identity,
        deadline=deadline,
    )
    for digest in candidate.digests:
        if await search.has_image(digest):
            return
        if identity is None and await search.has_bundle(digest):
            return
    raise search.reasons.denial(KIND)


async def _signers(requirement: Requirement, store: KeyStore, deadline: Deadline) -> Signers:
    log_keys = await read_keys(requirement.log_keys, store, deadline)
    if requirement.keyless is not None:
        from image_pull.signature.requirements.keyless import keyless_signers  # late: heavy

        return await keyless_signers(requirement.keyless, log_keys, store, deadline)
    if not requirement.keys:
        raise denied_by(KIND) from DeniedError(NO_KEY)
    return KeySigners(await read_keys(requirement.keys, store, deadline), log_keys)


class _Search:
    """For one signature that is good, in the repository of the image."""

    def __init__(
        self,
        *,
        candidate: Candidate,
        signers: Signers,
        identity: SignedIdentity | None,
        deadline: Deadline,
    ) -> None:
        self.reasons = Reasons()
        self._candidate = candidate
        self._signers = signers
        self._identity = identity
        self._deadline = deadline

    async def has_image(self, digest: Digest) -> bool:
        """Whether the signature image of a digest has a good signature."""
        tag = f"{digest.algorithm.value}-{digest.hex}.sig"
        try:
            layers = (await self._manifest(tag)).layers
        except NotFoundError:
            return False
        except GuestError as error:
            self.reasons.add(tag, error)
            return False
        for layer in layers:
            if layer.media_type != SIMPLE_SIGNING:
                continue
            try:
                await self._check_layer(layer, digest)
            except GuestError as error:
                self.reasons.add(f"signature {layer.digest}", error)
            else:
                return True
        return False

    async def _check_layer(self, layer: Descriptor, digest: Digest) -> None:
        text = layer.annotations.get(ANNOTATION)
        if text is None:
            raise DecodeError(f"layer has no annotation {ANNOTATION}")
        # Compat: some signers break the lines of the signature.
        signature = decode_base64(text.replace("\r", "").replace("\n", ""), "signature")
        payload = await self._blob(layer, MAX_PAYLOAD)
        await self._signers.verify_layer(signature, payload, layer.annotations)
        claim = SignedClaim.parse(payload, PayloadType.COSIGN)
        if claim.manifest_digest != digest:
            raise IntegrityError(f"signature is for {claim.manifest_digest}")
        if self._identity is not None:
            self._identity.verify(self._candidate.reference, claim.docker_reference)

    async def has_bundle(self, digest: Digest) -> bool:
        """Whether a bundle that refers to a digest is a good signature."""
        try:
            index = await self._candidate.repository.referrers(digest, self._deadline)
            referrers = () if index is None else parse_referrers(index)
        except GuestError as error:
            self.reasons.add(f"referrers of {digest}", error)
            return False
        for referrer in referrers:
            try:
                await self._check_bundle(referrer, digest)
            except GuestError as error:
                self.reasons.add(f"bundle {referrer.digest}", error)
            else:
                return True
        return False

    async def _check_bundle(self, referrer: Descriptor, digest: Digest) -> None:
        layers = (await self._manifest(str(referrer.digest))).layers
        if len(layers) != 1 or layers[0].media_type != BUNDLE:
            raise DecodeError("referrer does not hold one bundle")
        bundle = await self._blob(layers[0], MAX_DOCUMENT)
        statement = await self._signers.open_bundle(bundle)
        if digest not in parse_statement(statement):
            raise IntegrityError(f"bundle does not sign off {digest}")

    async def _manifest(self, selector: str) -> Manifest:
        fetched = await self._candidate.repository.manifest(selector, self._deadline)
        document = parse_document(fetched.body, fetched.content_type)
        if not isinstance(document, Manifest):
            raise DecodeError("signatures are in an index, which is not supported")
        return document

    async def _blob(self, layer: Descriptor, limit: int) -> bytes:
        if layer.size > limit:
            raise LimitError(f"signature has {layer.size} bytes, at most {limit} are read")
        return await self._candidate.repository.small_blob(layer, self._deadline)
