"""Table of the policy requirements that can be evaluated; any other one denies."""

from types import MappingProxyType
from typing import Final, Protocol

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from image_pull.reference import ImageReference
from image_pull.signature.policy import Requirement
from image_pull.signature.requirements.fixed import accept_anything, reject


class Evaluate(Protocol):
    """Decides one requirement."""

    async def __call__(
        self,
        requirement: Requirement,
        reference: ImageReference,
        digests: tuple[Digest, ...],
        deadline: Deadline,
    ) -> None:
        """Return if it holds.

        Raises:
            DeniedError: it does not; the text is the `<context>` of the specification.
        """
        ...


REQUIREMENTS: Final[MappingProxyType[str, Evaluate]] = MappingProxyType(
    {
        "insecureAcceptAnything": accept_anything,
        "reject": reject,
    }
)
"""Requirement type to what decides it."""
