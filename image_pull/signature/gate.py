"""Decides at every pull whether the policy lets an image run; what cannot be evaluated denies.

Source: docs/spec/image-pull.md, sections 9.1 and 9.3.
"""

import logging

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import DeniedError
from image_pull.reference import ImageReference
from image_pull.signature.policy import Policy
from image_pull.signature.requirements import REQUIREMENTS

log = logging.getLogger(__name__)


class PolicyGate:
    """The policy of this guest."""

    def __init__(self, policy: Policy | None, *, has_sigstore_config: bool) -> None:
        """Guard pulls.

        Args:
            policy: None lets every image through, with a warning.
            has_sigstore_config: whether a lookaside configuration is configured; nothing here can
                evaluate one, so it denies every image.
        """
        self._policy = policy
        self._has_sigstore_config = has_sigstore_config

    async def check(
        self, reference: ImageReference, digests: tuple[Digest, ...], deadline: Deadline
    ) -> None:
        """Return if the image may run.

        Args:
            reference: as the registry rules made it.
            digests: of the platform's manifest, then of the index if it came through one.
            deadline: for all requirements together.

        Raises:
            DeniedError: with the text that clients look for.
        """
        if self._has_sigstore_config:
            raise denied("sigstore configuration cannot be evaluated")
        if self._policy is None:
            log.warning("no image policy is configured, no signature is checked")
            return
        for requirement in self._policy.requirements_for(reference):
            evaluate = REQUIREMENTS.get(requirement.kind)
            if evaluate is None:
                raise denied(f"rejected by `{requirement.kind}` rule") from DeniedError(
                    f"requirement {requirement.kind} cannot be evaluated"
                )
            try:
                await evaluate(requirement, reference, digests, deadline)
            except DeniedError as error:
                raise denied(str(error)) from error.__cause__


def denied(context: str) -> DeniedError:
    """The error of a denied image."""
    return DeniedError(f"Image policy rejected: Denied by policy: {context}")
