"""The two requirements that look at no signature."""

from guest.deadline import Deadline
from guest.errors import DeniedError
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.policy import Requirement


async def accept_anything(
    requirement: Requirement, candidate: Candidate, means: Means, deadline: Deadline
) -> None:
    """Hold for every image."""


async def reject(
    requirement: Requirement, candidate: Candidate, means: Means, deadline: Deadline
) -> None:
    """Hold for none.

    Raises:
        DeniedError: always.
    """
    raise DeniedError(f"Policy `reject` rejects image {candidate.reference}")
