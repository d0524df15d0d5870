"""Annotation packets and the key provider's unwrap input."""

from contextlib import suppress

from cdh.keyprovider.packet import (
    AnnotationPacket,
    decode_unwrap_input,
    encode_unwrap_input,
)
from guest.errors import DecodeError

_V1 = b'{"kid":"kbs:///a/b/c","wrapped_data":"AAEC","iv":"AAECAwQFBgcICQoL","wrap_type":"A256GCM"}'

SEEDS = (
    _V1,
    (
        b'{"version":"0.1.0","kid":"alias/x","wrapped_data":"YQ==","provider":"aliyun",'
        b'"provider_settings":{"client_type":"client_key"},"annotations":{"iv":"ICEi"}}'
    ),
    encode_unwrap_input(_V1),
    b'{"keyunwrapparams":{"dc":{"Parameters":null},"annotation":"e30="}}',
)


def one_input(data: bytes) -> None:
    """What decodes as a packet encodes to one that decodes alike."""
    with suppress(DecodeError):
        packet = AnnotationPacket.decode(data)
        assert AnnotationPacket.decode(packet.encode_v2()) == packet
    with suppress(DecodeError):
        decode_unwrap_input(data)
