"""The two requirements that look at no signature."""

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import DeniedError
from image_pull.reference import ImageReference
from image_pull.signature.policy import Requirement


async def accept_anything(
    requirement: Requirement,
    reference: ImageReference,
    digests: tuple[Digest, ...],
    deadline: Deadline,
) -> None:
    """Hold for every image."""


async def reject(
    requirement: Requirement,
    reference: ImageReference,
    digests: tuple[Digest, ...],
    deadline: Deadline,
) -> None:
    """Hold for none.

    Raises:
        DeniedError: always.
    """
    raise DeniedError(f"Policy `reject` rejects image {reference}")
