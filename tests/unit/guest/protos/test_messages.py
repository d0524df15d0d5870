"""The messages are the published ones, and live together in one process."""

import json
from pathlib import Path
from typing import Final

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from guest.protos import (
    aa_pb2,
    cdh_pb2,
    detail_pb2,
    dkms_pb2,
    keyprovider_pb2,
    methods,
    ttrpc_pb2,
)
from guest.rpc.method import Method

FILE: Final = Path(__file__).parents[3] / "vectors" / "protos" / "messages.json"
VECTORS: Final = json.loads(FILE.read_text())["messages"]
ALL: Final = tuple(value for value in vars(methods).values() if isinstance(value, Method))
MODULES: Final = (aa_pb2, cdh_pb2, detail_pb2, dkms_pb2, keyprovider_pb2, ttrpc_pb2)

NAMES: Final = {
    "attestation_agent.AttestationAgentService": {
        "GetEvidence",
        "GetAdditionalEvidence",
        "GetToken",
        "ExtendRuntimeMeasurement",
        "BindInitData",
        "GetTeeType",
        "GetAdditionalTees",
    },
    "api.SealedSecretService": {"UnsealSecret"},
    "api.GetResourceService": {"GetResource"},
    "api.SecureMountService": {"SecureMount"},
    "api.ImagePullService": {"PullImage"},
    "keyprovider.KeyProviderService": {"WrapKey", "UnWrapKey"},
}


def _message(name: str) -> type[Message]:
    descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    return message_factory.GetMessageClass(descriptor)


def _value(given: object) -> object:
    if isinstance(given, str) and given.startswith("hex:"):
        return bytes.fromhex(given.removeprefix("hex:"))
    return given


@pytest.mark.spec("protos", 1)
def test_every_published_message_encodes_and_decodes_as_published() -> None:
    for vector in VECTORS:
        kind = _message(vector["message"])
        message = kind(**{name: _value(value) for name, value in vector["fields"].items()})
        encoded = bytes.fromhex(vector["hex"])
        assert message.SerializeToString(deterministic=True) == encoded, vector
        assert kind.FromString(encoded) == message, vector
    packages = {module.DESCRIPTOR.package for module in MODULES}
    assert packages >= {"attestation_agent", "api", "keyprovider"}


@pytest.mark.spec("protos", 2, 20)
def test_the_full_names_are_the_published_ones_without_a_leading_slash() -> None:
    found: dict[str, set[str]] = {}
    for method in ALL:
        assert not method.service.startswith("/")
        assert method.path == f"/{method.service}/{method.name}"
        found.setdefault(method.service, set()).add(method.name)
    assert found == NAMES
    for module in (aa_pb2, cdh_pb2, keyprovider_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            assert {one.name for one in service.methods} == NAMES[service.full_name]


@pytest.mark.spec("protos", 3)
def test_a_register_index_is_absent_zero_or_given() -> None:
    kind = aa_pb2.ExtendRuntimeMeasurementRequest
    absent, zero, given = (
        kind.FromString(bytes.fromhex(text)) for text in ("0a0164", "0a01642000", "0a01642011")
    )
    assert not absent.HasField("RegisterIndex")
    assert zero.HasField("RegisterIndex")
    assert (zero.RegisterIndex, given.RegisterIndex) == (0, 17)


@pytest.mark.spec("protos", 4)
def test_additional_evidence_is_answered_like_evidence() -> None:
    assert methods.GET_ADDITIONAL_EVIDENCE.response is aa_pb2.GetEvidenceResponse


@pytest.mark.spec("protos", 19)
def test_no_file_and_no_symbol_is_defined_twice() -> None:
    files = [module.DESCRIPTOR.name for module in MODULES]
    assert len(set(files)) == len(files)
    symbols = [
        message.full_name
        for module in MODULES
        for message in module.DESCRIPTOR.message_types_by_name.values()
    ]
    assert len(set(symbols)) == len(symbols)
    pool = descriptor_pool.Default()
    for name in (*files, "google/protobuf/any.proto"):
        if name.startswith("google"):
            from google.protobuf import any_pb2

            assert any_pb2.Any.DESCRIPTOR.full_name not in symbols
        else:
            assert pool.FindFileByName(name).name == name


@pytest.mark.spec("protos", 11)
def test_unknown_fields_of_every_request_are_ignored() -> None:
    unknown = bytes.fromhex("fa3f0178f83f01")
    for method in ALL:
        assert method.request.FromString(unknown).ListFields() == []
