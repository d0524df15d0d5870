"""Decides at every pull whether the policy lets an image run; what cannot be evaluated denies.

Source: docs/spec/image-pull.md, sections 9.1 and 9.3.
"""

import logging
from typing import Final

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.policy import Policy, Requirement
from image_pull.signature.requirements import REQUIREMENTS
from image_pull.signature.requirements.verdict import denied_by

log = logging.getLogger(__name__)

DECISION_SECONDS: Final = 180.0
"""Most seconds that one requirement may take: what it reads is in the hands of strangers."""


class PolicyGate:
    """The policy of this guest."""

    def __init__(self, policy: Policy | None, means: Means) -> None:
        """Guard pulls.

        Args:
            policy: None lets every image through, with a warning.
            means: where keys and signatures are.
        """
        self._policy = policy
        self._means = means

    async def check(self, candidate: Candidate, deadline: Deadline) -> None:
        """Return if the image may run.

        Args:
            candidate: the image.
            deadline: for all requirements together.

        Raises:
            DeniedError: with the text that clients look for.
        """
        if self._policy is None:
            log.warning("no image policy is configured, no signature is checked")
            return
        for requirement in self._policy.requirements_for(candidate.reference):
            await self._decide(requirement, candidate, deadline)

    async def _decide(
        self, requirement: Requirement, candidate: Candidate, deadline: Deadline
    ) -> None:
        evaluate = REQUIREMENTS.get(requirement.kind)
        if evaluate is None:
            raise denied(str(denied_by(requirement.kind))) from DeniedError(
                f"requirement {requirement.kind} cannot be evaluated"
            )
        deadline = deadline.within(DECISION_SECONDS)
        try:
            async with deadline.limit(f"the policy of {candidate.reference}"):
                await evaluate(requirement, candidate, self._means, deadline)
        except DeniedError as error:
            raise denied(str(error)) from error.__cause__
        except GuestError as error:
            raise denied(str(denied_by(requirement.kind))) from error


def denied(context: str) -> DeniedError:
    """The error of a denied image."""
    return DeniedError(f"Image policy rejected: Denied by policy: {context}")
