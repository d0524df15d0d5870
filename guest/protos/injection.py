"""The two methods of resource injection, which only Alibaba's fork has beside us. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 12.5; docs/spec/protos.md 9.
"""

from typing import Final

from guest.protos import cdh_pb2
from guest.rpc.method import Method, OnCancel

_SERVICE: Final = "api.GetResourceService"

PREPARE: Final = Method(
    _SERVICE,
    "PrepareResourceInjection",
    cdh_pb2.PrepareResourceInjectionRequest,
    cdh_pb2.PrepareResourceInjectionResponse,
    idempotent=False,
)
COMMIT: Final = Method(
    _SERVICE,
    "CommitResourceInjection",
    cdh_pb2.CommitResourceInjectionRequest,
    cdh_pb2.CommitResourceInjectionResponse,
    on_cancel=OnCancel.FINISH,
    idempotent=False,
)
