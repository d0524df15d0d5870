"""Table of the policy requirements that can be evaluated; any other one denies."""

from types import MappingProxyType
from typing import Final, Protocol

from guest.deadline import Deadline
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.policy import Requirement
from image_pull.signature.requirements.cosign import sigstore_signed
from image_pull.signature.requirements.fixed import accept_anything, reject
from image_pull.signature.requirements.signed_by import signed_by


class Evaluate(Protocol):
    """Decides one requirement."""

    async def __call__(
        self, requirement: Requirement, candidate: Candidate, means: Means, deadline: Deadline
    ) -> None:
        """Return if it holds.

        Raises:
            DeniedError: it does not; the text is the `<context>` of the specification.
            GuestError: it cannot be decided, which denies as well.
        """
        ...


REQUIREMENTS: Final[MappingProxyType[str, Evaluate]] = MappingProxyType(
    {
        "insecureAcceptAnything": accept_anything,
        "reject": reject,
        "signedBy": signed_by,
        "sigstoreSigned": sigstore_signed,
    }
)
"""Requirement type to what decides it."""
