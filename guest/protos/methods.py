"""Every method of the suite, as one typed value each. Sans-I/O.

Source: docs/spec/protos.md 1, 2, 3 and 10.
"""

from typing import Final

from guest.protos import aa_pb2, cdh_pb2, keyprovider_pb2
from guest.rpc.method import Method, OnCancel

_AA: Final = "attestation_agent.AttestationAgentService"
_KEYPROVIDER: Final = "keyprovider.KeyProviderService"

GET_EVIDENCE: Final = Method(
    _AA, "GetEvidence", aa_pb2.GetEvidenceRequest, aa_pb2.GetEvidenceResponse
)
GET_ADDITIONAL_EVIDENCE: Final = Method(
    _AA,
    "GetAdditionalEvidence",
    aa_pb2.GetAdditionalEvidenceRequest,
    aa_pb2.GetEvidenceResponse,
)
GET_TOKEN: Final = Method(_AA, "GetToken", aa_pb2.GetTokenRequest, aa_pb2.GetTokenResponse)
EXTEND_RUNTIME_MEASUREMENT: Final = Method(
    _AA,
    "ExtendRuntimeMeasurement",
    aa_pb2.ExtendRuntimeMeasurementRequest,
    aa_pb2.ExtendRuntimeMeasurementResponse,
    on_cancel=OnCancel.FINISH,
    idempotent=False,
)
BIND_INIT_DATA: Final = Method(
    _AA,
    "BindInitData",
    aa_pb2.BindInitDataRequest,
    aa_pb2.BindInitDataResponse,
    on_cancel=OnCancel.FINISH,
    idempotent=False,
)
GET_TEE_TYPE: Final = Method(_AA, "GetTeeType", aa_pb2.GetTeeTypeRequest, aa_pb2.GetTeeTypeResponse)
GET_ADDITIONAL_TEES: Final = Method(
    _AA, "GetAdditionalTees", aa_pb2.GetAdditionalTeesRequest, aa_pb2.GetAdditionalTeesResponse
)

UNSEAL_SECRET: Final = Method(
    "api.SealedSecretService", "UnsealSecret", cdh_pb2.UnsealSecretInput, cdh_pb2.UnsealSecretOutput
)
GET_RESOURCE: Final = Method(
    "api.GetResourceService", "GetResource", cdh_pb2.GetResourceRequest, cdh_pb2.GetResourceResponse
)
SECURE_MOUNT: Final = Method(
    "api.SecureMountService",
    "SecureMount",
    cdh_pb2.SecureMountRequest,
    cdh_pb2.SecureMountResponse,
    on_cancel=OnCancel.ROLL_BACK,
    timeout=600.0,
    idempotent=False,
)
PULL_IMAGE: Final = Method(
    "api.ImagePullService",
    "PullImage",
    cdh_pb2.ImagePullRequest,
    cdh_pb2.ImagePullResponse,
    on_cancel=OnCancel.ROLL_BACK,
    timeout=None,
    idempotent=False,
)

WRAP_KEY: Final = Method(
    _KEYPROVIDER,
    "WrapKey",
    keyprovider_pb2.KeyProviderKeyWrapProtocolInput,
    keyprovider_pb2.KeyProviderKeyWrapProtocolOutput,
    idempotent=False,
)
UNWRAP_KEY: Final = Method(
    _KEYPROVIDER,
    "UnWrapKey",
    keyprovider_pb2.KeyProviderKeyWrapProtocolInput,
    keyprovider_pb2.KeyProviderKeyWrapProtocolOutput,
)
