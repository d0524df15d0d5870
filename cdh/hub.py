"""What CDH does: resources, layer keys, images. No transport, no flags.

Source: docs/spec/confidential-data-hub.md 4.2, 9 and 11.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms.base import InitialisationError, ResourceClient, parse_resource_uri
from cdh.secrets.unseal import SecretUnsealer
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    GuestError,
    InvalidInputError,
    UnavailableError,
    UnsupportedError,
)
from guest.secret import Secret

log = logging.getLogger(__name__)

MEASUREMENT_SECONDS: Final = 10.0
"""Seconds that the attestation agent has for the measurement of a pull."""

PULL_TEXTS: Final = ("Image Pull error: ", "Image Client error: ")
"""How the texts of failed pulls begin."""

_UNFIT_FOR_MEASUREMENT: Final = re.compile(r'["\\\x00-\x1f\x7f]')


class HubError(GuestError):
    """A use case failed: the text that peers are told. The reason is its `__cause__`."""

    code = "hub"


class Puller(Protocol):
    """What is used of the image puller."""

    async def pull(self, image: str, bundle: Path, *, deadline: Deadline) -> str:
        """Pull into `bundle`; give the digest of the manifest that runs."""
        ...

    async def discard(self, bundle: Path) -> None:
        """Undo a pull that succeeded."""
        ...

    async def close(self) -> None:
        """Stop what is under way."""
        ...


class VolumeMounter(Protocol):
    """What is used of secure mounts."""

    async def mount(
        self, volume_type: str, options: Mapping[str, str], mount_point: str, deadline: Deadline
    ) -> None:
        """Mount a volume, or leave nothing of it."""
        ...


class PullMeasurer(Protocol):
    """Whoever records pulls in the guest's event log."""

    async def measure_pull(self, image: str, digest: str, deadline: Deadline) -> None:
        """Record one pull, or find that this guest records none."""
        ...


class DataHub:
    """The use cases of CDH; calls run side by side and never wait for each other.

    Args:
        resources: where resources come from.
        keys: unwraps layer keys.
        unsealer: opens sealed secrets.
        open_puller: makes the puller; called at the first pull, and again after a failure.
        measurer: records pulls.
        mounts: mounts volumes; None where none are mounted.
    """

    def __init__(
        self,
        *,
        resources: ResourceClient,
        keys: LayerKeys,
        unsealer: SecretUnsealer,
        open_puller: Callable[[], Awaitable[Puller]],
        measurer: PullMeasurer,
        mounts: VolumeMounter | None = None,
    ) -> None:
        self._resources = resources
        self._keys = keys
        self._unsealer = unsealer
        self._open_puller = open_puller
        self._measurer = measurer
        self._mounts = mounts

    async def get_resource(self, uri: str, deadline: Deadline) -> Secret:
        """The bytes of a resource.

        Args:
            uri: `kbs://...`, as the caller gave it.
            deadline: when the bytes must be here.

        Raises:
            HubError: `kbs client initialization failed` or `Get Resource failed`.
        """
        try:
            return await self._resources.fetch(parse_resource_uri(uri), deadline)
        except InitialisationError as error:
            cause = error.__cause__ if isinstance(error.__cause__, GuestError) else error
            raise HubError("kbs client initialization failed") from cause
        except GuestError as error:
            raise HubError("Get Resource failed") from error

    async def unwrap_key(self, packet: bytes, deadline: Deadline) -> Secret:
        """The private layer options inside the JSON of an annotation packet.

        Raises:
            HubError: `Decrypt Image (UnwrapKey) failed`.
        """
        try:
            return await self._keys.unwrap_packet(packet, deadline)
        except GuestError as error:
            raise HubError("Decrypt Image (UnwrapKey) failed") from error

    async def unseal_secret(self, secret: bytes, deadline: Deadline) -> Secret:
        """The plaintext of a sealed secret.

        Raises:
            HubError: `Unseal Secret failed`.
        """
        try:
            return await self._unsealer.unseal(secret, deadline)
        except GuestError as error:
            raise HubError("Unseal Secret failed") from error

    async def secure_mount(
        self, volume_type: str, options: Mapping[str, str], mount_point: str, deadline: Deadline
    ) -> str:
        """Mount a volume; give the mount point.

        Raises:
            HubError: `Secure Mount failed`.
        """
        try:
            if self._mounts is None:
                raise UnsupportedError("no volumes are mounted here")
            await self._mounts.mount(volume_type, options, mount_point, deadline)
        except GuestError as error:
            raise HubError("Secure Mount failed") from error
        return mount_point

    async def pull_image(self, image: str, bundle: str, deadline: Deadline) -> str:
        """Pull an image into a bundle and have the pull measured; give the manifest's digest.

        Raises:
            HubError: `Image Pull error: ...`, `Image Client error: ...` or `Attestation Agent
                client error: ...`.
        """
        if _UNFIT_FOR_MEASUREMENT.search(image):
            raise HubError("Image Pull error: Illegal image reference") from InvalidInputError(
                "the reference has a quote, a backslash or a control character"
            )
        if not bundle.startswith("/") or "\0" in bundle:
            raise HubError("Image Pull error: Failed to create bundle") from InvalidInputError(
                "the bundle path is not absolute"
            )
        try:
            puller = await self._open_puller()
        except GuestError as error:
            raise HubError(f"Image Client error: {error}") from error
        digest = await self._pull(puller, image, Path(bundle), deadline)
        try:
            await self._measure(image, digest, deadline)
        except (HubError, asyncio.CancelledError):
            await _discard(puller, Path(bundle))
            raise
        return digest

    async def _pull(self, puller: Puller, image: str, bundle: Path, deadline: Deadline) -> str:
        try:
            async with self._keys.kept():
                return await puller.pull(image, bundle, deadline=deadline)
        except GuestError as error:
            raise HubError(_pull_text(error)) from error

    async def _measure(self, image: str, digest: str, deadline: Deadline) -> None:
        try:
            await self._measurer.measure_pull(image, digest, deadline.within(MEASUREMENT_SECONDS))
        except DeadlineError as error:
            # The agent's own limit is not the caller's: it must not read as the call's timeout.
            cause: GuestError = error
            if not deadline.is_over():
                cause = UnavailableError(str(error))
            raise HubError(f"Attestation Agent client error: {error}") from cause
        except GuestError as error:
            raise HubError(f"Attestation Agent client error: {error}") from error


def _pull_text(error: GuestError) -> str:
    """The puller's own text, which says which of the two kinds of failure it is."""
    text = str(error)
    return text if text.startswith(PULL_TEXTS) else f"{PULL_TEXTS[0]}{text}"


async def _discard(puller: Puller, bundle: Path) -> None:
    """What was not measured must not run."""
    try:
        await puller.discard(bundle)
    except GuestError as error:
        log.error(
            "bundle of an unmeasured pull stays",
            extra={"bundle": str(bundle), "causes": ": ".join(error.causes())},
        )
