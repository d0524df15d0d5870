"""Vault secrets with the key broker service: the name of one is a resource URI.

Source: docs/spec/confidential-data-hub.md 7.2 and 8.8.
"""

from collections.abc import Mapping

from cdh.kms.base import ResourceClient, parse_resource_uri
from guest.deadline import Deadline
from guest.secret import Secret


class KbsVault:
    """A `SecretGetter` over whatever source of resources this guest has.

    Args:
        resources: where the secrets come from.
    """

    def __init__(self, resources: ResourceClient) -> None:
        self._resources = resources

    async def get_secret(
        self, name: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The resource `name`, as a copy that the caller may wipe; annotations mean nothing here.

        Raises:
            InvalidInputError: not a resource URI.
            GuestError: as the source of resources says.
        """
        del annotations
        resource = await self._resources.fetch(parse_resource_uri(name), deadline)
        return Secret(resource.reveal())
