"""The two calls of resource injection: requests in, responses out.

Source: docs/spec/confidential-data-hub.md 12.2 and 12.5.
"""

from typing import Final

from cdh.injection import ResourceInjection
from guest.errors import GuestError
from guest.protos import cdh_pb2
from guest.protos.injection import COMMIT, PREPARE
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import StatusError, status_of

PREPARE_FAILED: Final = "[CDH] [ERROR]: PrepareResourceInjection failed"
COMMIT_FAILED: Final = "[CDH] [ERROR]: CommitResourceInjection failed"


class InjectionEdge:
    """The handlers.

    Args:
        injection: what does the work.
        exact_status: answer with exact statuses instead of INTERNAL.
    """

    def __init__(self, injection: ResourceInjection, *, exact_status: bool = False) -> None:
        self._injection = injection
        self._exact = exact_status

    def bind(self, routes: Routes) -> None:
        """Add both methods."""
        routes.bind(PREPARE, self.prepare)
        routes.bind(COMMIT, self.commit)

    async def prepare(
        self, request: cdh_pb2.PrepareResourceInjectionRequest, context: CallContext
    ) -> cdh_pb2.PrepareResourceInjectionResponse:
        """`PrepareResourceInjection`."""
        deadline = context.deadline.for_inner_call()
        try:
            prepared = await self._injection.prepare(request.ResourcePath, request.Nonce, deadline)
        except GuestError as error:
            raise StatusError(status_of(error, PREPARE_FAILED, exact=self._exact)) from error
        return cdh_pb2.PrepareResourceInjectionResponse(
            SessionId=prepared.session,
            Nonce=prepared.nonce,
            TeePubKey=prepared.public_key,
            Evidence=prepared.evidence,
        )

    async def commit(
        self, request: cdh_pb2.CommitResourceInjectionRequest, context: CallContext
    ) -> cdh_pb2.CommitResourceInjectionResponse:
        """`CommitResourceInjection`."""
        del context
        try:
            await self._injection.commit(
                request.SessionId, request.ResourcePath, request.EncryptedResource
            )
        except GuestError as error:
            raise StatusError(status_of(error, COMMIT_FAILED, exact=self._exact)) from error
        return cdh_pb2.CommitResourceInjectionResponse()
