"""The messages of the attestation service's gRPC form, built from a table: no generated code.

Source: docs/spec/protos.md 6.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

PACKAGE: Final = "attestation"
SERVICE: Final = f"{PACKAGE}.AttestationService"

_TEXTS: Final = {
    "IndividualAttestationRequest": {
        "tee": 1,
        "evidence": 3,
        "raw_runtime_data": 4,
        "structured_runtime_data": 5,
        "init_data_digest": 6,
        "init_data_toml": 7,
        "runtime_data_hash_algorithm": 8,
    },
    "AttestationResponse": {"attestation_token": 1},
    "SetPolicyRequest": {"policy_id": 1, "policy": 2},
    "SetPolicyResponse": {},
    "ChallengeResponse": {"attestation_challenge": 1},
}
"""Messages whose fields are all single strings, with the fields' numbers."""

_ONEOFS: Final = {
    "raw_runtime_data": 0,
    "structured_runtime_data": 0,
    "init_data_digest": 1,
    "init_data_toml": 1,
}
"""Field to its oneof among `runtime_data` and `init_data`."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="guest_simulator/attestation.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _TEXTS.items():
        message = file.message_type.add(name=name)
        for field, number in fields.items():
            added = _add(message, field, number)
            if field in _ONEOFS:
                added.oneof_index = _ONEOFS[field]
        if name == "IndividualAttestationRequest":
            message.oneof_decl.add(name="runtime_data")
            message.oneof_decl.add(name="init_data")
    request = file.message_type.add(name="AttestationRequest")
    individual = f".{PACKAGE}.IndividualAttestationRequest"
    _add(request, "verification_requests", 1, repeated=True, of=individual)
    _add(request, "policy_ids", 2, repeated=True)
    challenge = file.message_type.add(name="ChallengeRequest")
    entry = challenge.nested_type.add(name="InnerEntry")
    entry.options.map_entry = True
    _add(entry, "key", 1)
    _add(entry, "value", 2)
    _add(challenge, "inner", 1, repeated=True, of=f".{PACKAGE}.ChallengeRequest.InnerEntry")
    return file


def _add(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    *,
    repeated: bool = False,
    of: str = "",
) -> FieldDescriptorProto:
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    kind = FieldDescriptorProto.TYPE_MESSAGE if of else FieldDescriptorProto.TYPE_STRING
    return message.field.add(name=name, number=number, label=label, type=kind, type_name=of or None)


def message_classes() -> dict[str, Any]:
    """The classes by the messages' names, in a pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    names = (*_TEXTS, "AttestationRequest", "ChallengeRequest")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in names
    }
