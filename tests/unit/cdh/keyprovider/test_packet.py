"""Annotation packets and the key provider's unwrap messages."""

import base64
import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.keyprovider.packet import (
    AnnotationPacket,
    MissingAnnotationError,
    decode_unwrap_input,
    encode_unwrap_input,
    encode_unwrap_output,
)
from guest.errors import DecodeError

V1 = b'{"kid":"kbs:///a/b/c","wrapped_data":"AAEC","iv":"AAECAwQFBgcICQoL","wrap_type":"A256GCM"}'

PACKETS = st.builds(
    AnnotationPacket,
    kid=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    wrapped_data=st.binary(max_size=100),
    provider=st.sampled_from(["kbs", "aliyun", "KBS"]),
    iv=st.none() | st.binary(max_size=16),
    wrap_type=st.none() | st.sampled_from(["A256GCM", "A256CTR", "x"]),
    annotations=st.dictionaries(st.text("abc", max_size=5), st.integers(0, 9), max_size=3),
)


@pytest.fixture
def document(vectors: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((vectors / "cdh" / "packets.json").read_text())
    return loaded


def test_a_version_1_packet_decodes_and_encodes_as_published(
    document: dict[str, list[dict[str, str]]],
) -> None:
    for vector in document["vectors"]:
        text = vector["packet"].encode()
        packet = AnnotationPacket.decode(text)
        again = packet.encode_v2() if '"version"' in vector["packet"] else packet.encode_v1()
        assert again == text


def test_a_minimal_version_2_packet_gets_the_defaults() -> None:
    packet = AnnotationPacket.decode(b'{"kid":"k","wrapped_data":"","more":1}')
    assert packet == AnnotationPacket(kid="k", wrapped_data=b"")
    assert (packet.provider, packet.version, packet.iv) == ("kbs", "0.1.0", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"kid":"k"}',
        b'{"wrapped_data":""}',
        b'{"kid":1,"wrapped_data":""}',
        b'{"kid":"k","wrapped_data":"A"}',
        b'{"kid":"k","wrapped_data":"AB=="}',
        b'{"kid":"k","wrapped_data":"AA==\\n"}',
        b'{"kid":"k","kid":"l","wrapped_data":""}',
        b'{"kid":"k","wrapped_data":"","iv":"?"}',
        b'{"kid":"k","wrapped_data":"","provider_settings":[]}',
        b'{"kid":"\xff","wrapped_data":""}',
        V1 + b"x",
    ],
)
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        AnnotationPacket.decode(data)


def test_every_truncation_of_a_packet_is_refused() -> None:
    for length in range(len(V1)):
        with pytest.raises(DecodeError):
            AnnotationPacket.decode(V1[:length])


@given(PACKETS)
def test_a_packet_survives_the_round_trip(packet: AnnotationPacket) -> None:
    assert AnnotationPacket.decode(packet.encode_v2()) == packet


@given(st.binary(max_size=200))
def test_any_bytes_give_a_packet_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        AnnotationPacket.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_annotation_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_unwrap_input(data)


def test_the_published_input_holds_the_published_packet(document: dict[str, str]) -> None:
    packet = decode_unwrap_input(document["input"].encode())
    assert json.loads(packet)["kid"] == "kbs:///default/image-kek/1"
    assert encode_unwrap_input(packet) == document["input"].encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"keyunwrapparams":{"annotation":"%s"}}',
        '{"op":"keyunwrap","keyunwrapparams":{"dc":null,"annotation":"%s"}}',
        '{"op":"keyunwrap","keyunwrapparams":{"dc":{"Parameters":null},"annotation":"%s"}}',
        '{"keyunwrapparams":{"dc":{"Parameters":{"privkeys-passwords":[null]}},"annotation":"%s"}}',
        '{"op":3,"keywrapparams":null,"keyunwrapparams":{"annotation":"%s"}}',
    ],
)
def test_only_the_annotation_of_an_input_matters(text: str) -> None:
    annotation = base64.b64encode(V1).decode()
    assert decode_unwrap_input((text % annotation).encode()) == V1


@pytest.mark.parametrize(
    "text", ['{"keyunwrapparams":{}}', '{"op":"x","keyunwrapparams":{"annotation":null}}']
)
def test_a_missing_annotation_has_an_error_of_its_own(text: str) -> None:
    with pytest.raises(MissingAnnotationError, match="no AnnotationPacket given"):
        decode_unwrap_input(text.encode())


@pytest.mark.parametrize("text", ["", "{}", '{"keyunwrapparams":{"annotation":"%"}}', "[1]"])
def test_what_is_no_input_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_unwrap_input(text.encode())


def test_the_output_is_an_array_of_numbers(document: dict[str, str]) -> None:
    assert encode_unwrap_output(b"LEK!") == document["output"].encode()


def test_the_output_of_the_long_vector_has_the_published_digest(
    document: dict[str, str],
) -> None:
    digest = "sha256:" + "ab" * 32
    options = (
        '{"symkey":"QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=","digest":"'
        + digest
        + '","cipheroptions":{"nonce":"YGFiY2RlZmdoaWprbG1ubw=="}}'
    )
    output = encode_unwrap_output(options.encode())
    assert (len(options), len(output)) == (193, 665)
    assert hashlib.sha256(output).hexdigest() == document["output_of_193_bytes_sha256"]
