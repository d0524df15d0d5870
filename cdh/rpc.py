"""CDH's calls: requests in, responses out; decides nothing.

Source: docs/spec/confidential-data-hub.md 4.
"""

from collections.abc import Awaitable
from typing import Final, TypeVar

from cdh.hub import DataHub, HubError
from cdh.keyprovider.packet import (
    MissingAnnotationError,
    decode_unwrap_input,
    encode_unwrap_output,
)
from guest.errors import DecodeError, GuestError, InvalidInputError
from guest.protos import cdh_pb2, keyprovider_pb2
from guest.protos.methods import (
    GET_RESOURCE,
    PULL_IMAGE,
    SECURE_MOUNT,
    UNSEAL_SECRET,
    UNWRAP_KEY,
    WRAP_KEY,
)
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import Code, Status, StatusError, status_of

T = TypeVar("T")

PREFIX: Final = "[CDH] [ERROR]: "
"""Begins the text of every failure of a use case."""

TTRPC_PARSE_FAILED: Final = "[ERROR] UnwrapKey Parse request failed"
GRPC_PARSE_FAILED: Final = "[ERROR] CDH Unwrap Key failed: "


class DataHubEdge:
    """The handlers.

    Args:
        hub: what does the work.
        grpc: word failures as the gRPC build does, where the two differ.
        exact_status: answer with exact statuses instead of INTERNAL.
    """

    def __init__(self, hub: DataHub, *, grpc: bool = False, exact_status: bool = False) -> None:
        self._hub = hub
        self._grpc = grpc
        self._exact = exact_status

    def routes(self) -> Routes:
        """All methods that CDH serves, and the one it only knows."""
        routes = Routes()
        routes.bind(GET_RESOURCE, self.get_resource)
        routes.bind(UNSEAL_SECRET, self.unseal_secret)
        routes.bind(SECURE_MOUNT, self.secure_mount)
        routes.bind(PULL_IMAGE, self.pull_image)
        routes.bind(UNWRAP_KEY, self.unwrap_key)
        if self._grpc:
            routes.bind(WRAP_KEY, self.wrap_key)
        else:
            routes.declare(WRAP_KEY)
        return routes

    async def get_resource(
        self, request: cdh_pb2.GetResourceRequest, context: CallContext
    ) -> cdh_pb2.GetResourceResponse:
        """`GetResource`."""
        deadline = context.deadline.for_inner_call()
        work = self._hub.get_resource(request.ResourcePath, deadline)
        with await self._answer(work) as resource:
            return cdh_pb2.GetResourceResponse(Resource=resource.reveal())

    async def unseal_secret(
        self, request: cdh_pb2.UnsealSecretInput, context: CallContext
    ) -> cdh_pb2.UnsealSecretOutput:
        """`UnsealSecret`."""
        deadline = context.deadline.for_inner_call()
        with await self._answer(self._hub.unseal_secret(request.secret, deadline)) as plaintext:
            return cdh_pb2.UnsealSecretOutput(plaintext=plaintext.reveal())

    async def secure_mount(
        self, request: cdh_pb2.SecureMountRequest, context: CallContext
    ) -> cdh_pb2.SecureMountResponse:
        """`SecureMount`."""
        deadline = context.deadline.for_inner_call()
        mount_path = await self._answer(
            self._hub.secure_mount(
                request.volume_type, dict(request.options), request.mount_point, deadline
            )
        )
        return cdh_pb2.SecureMountResponse(mount_path=mount_path)

    async def pull_image(
        self, request: cdh_pb2.ImagePullRequest, context: CallContext
    ) -> cdh_pb2.ImagePullResponse:
        """`PullImage`."""
        deadline = context.deadline.for_inner_call()
        digest = await self._answer(
            self._hub.pull_image(request.image_url, request.bundle_path, deadline)
        )
        return cdh_pb2.ImagePullResponse(manifest_digest=digest)

    async def unwrap_key(
        self, request: keyprovider_pb2.KeyProviderKeyWrapProtocolInput, context: CallContext
    ) -> keyprovider_pb2.KeyProviderKeyWrapProtocolOutput:
        """`UnWrapKey`."""
        try:
            packet = decode_unwrap_input(request.KeyProviderKeyWrapProtocolInput)
        except DecodeError as error:
            raise StatusError(self._parse_failure(error)) from error
        deadline = context.deadline.for_inner_call()
        with await self._answer(self._hub.unwrap_key(packet, deadline)) as options:
            return keyprovider_pb2.KeyProviderKeyWrapProtocolOutput(
                KeyProviderKeyWrapProtocolOutput=encode_unwrap_output(options.reveal())
            )

    async def wrap_key(
        self, request: keyprovider_pb2.KeyProviderKeyWrapProtocolInput, context: CallContext
    ) -> keyprovider_pb2.KeyProviderKeyWrapProtocolOutput:
        """`WrapKey` of the gRPC build: never implemented."""
        del request, context
        raise StatusError(Status(code=Code.UNIMPLEMENTED, message="WrapKey not implemented."))

    def _parse_failure(self, error: DecodeError) -> Status:
        text = TTRPC_PARSE_FAILED
        if self._grpc:
            missing = isinstance(error, MissingAnnotationError)
            detail = str(error) if missing else f"Illegal UnwrapKey request: {error}"
            text = f"{GRPC_PARSE_FAILED}{detail}"
        return status_of(InvalidInputError(str(error)), text, exact=self._exact)

    async def _answer(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except HubError as error:
            cause = error.__cause__
            reason = cause if isinstance(cause, GuestError) else error
            status = status_of(reason, f"{PREFIX}{error}", exact=self._exact)
            raise StatusError(status) from error
