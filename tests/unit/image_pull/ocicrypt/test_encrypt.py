"""One layer encrypted: documents, media types, annotations."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError, PeerError
from guest.secret import Secret
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.decrypt import layer_decryptor
from image_pull.ocicrypt.encrypt import (
    LayerEncryption,
    encode_private_options,
    encode_public_options,
    encrypted_media_type,
    is_encrypted,
    wrap_for,
)

OCI = "application/vnd.oci.image.layer."
DOCKER = "application/vnd.docker.image.rootfs."


class Plain:
    """Wraps by doing nothing, and unwraps so."""

    annotation = "org.opencontainers.image.enc.keys.provider.plain"

    async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
        return private_options.reveal()

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        annotation = json.loads(request)["keyunwrapparams"]["annotation"]
        return Secret(json.dumps({"keyunwrapresults": {"optsdata": annotation}}).encode())


@pytest.fixture
def vector(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "keyprovider" / "wrap.json").read_text())
    return loaded


@pytest.mark.spec("ocicrypt", 19)
def test_the_documents_are_exactly_those_that_go_writes(vector: dict[str, Any]) -> None:
    private = encode_private_options(
        Secret(bytes.fromhex(vector["key"])),
        bytes.fromhex(vector["nonce"]),
        vector["source_digest"],
    )
    assert private.reveal().decode() == vector["private_options"]
    assert len(private) == 193
    mac = base64.b64decode(json.loads(vector["public_options"])["hmac"])
    public = encode_public_options(mac)
    assert public.decode() == vector["public_options"]
    assert base64.b64encode(public).decode() == vector["public_annotation"]


@pytest.mark.parametrize(
    ("plain", "encrypted"),
    [
        (f"{OCI}v1.tar", f"{OCI}v1.tar+encrypted"),
        (f"{OCI}v1.tar+gzip", f"{OCI}v1.tar+gzip+encrypted"),
        (f"{OCI}v1.tar+zstd", f"{OCI}v1.tar+zstd+encrypted"),
        (f"{OCI}nondistributable.v1.tar+gzip", f"{OCI}nondistributable.v1.tar+gzip+encrypted"),
        (
            "application/vnd.wasm.content.layer.v1+wasm",
            "application/vnd.wasm.content.layer.v1+wasm+encrypted",
        ),
        (f"{DOCKER}diff.tar.gzip", f"{OCI}v1.tar+gzip+encrypted"),
        (f"{DOCKER}foreign.diff.tar.gzip", f"{OCI}nondistributable.v1.tar+gzip+encrypted"),
    ],
)
def test_a_layer_type_gets_its_encrypted_form(plain: str, encrypted: str) -> None:
    assert encrypted_media_type(plain) == encrypted


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", f"{OCI}v1.tar+gzip+encrypted", f"{OCI}v1"]
)
def test_a_type_without_an_encrypted_form_is_refused(media_type: str) -> None:
    with pytest.raises(DecodeError, match="cannot be encrypted"):
        encrypted_media_type(media_type)


def test_a_layer_with_wrapped_keys_counts_as_encrypted() -> None:
    key = "org.opencontainers.image.enc.keys.jwe"
    assert is_encrypted({key: "x"})
    assert not is_encrypted({key: ""})
    assert not is_encrypted({"org.opencontainers.image.enc.pubopts": "x"})


@given(st.lists(st.binary(max_size=100), max_size=6))
def test_what_is_encrypted_in_any_chunks_is_decrypted(chunks: list[bytes]) -> None:
    import asyncio

    encryption = LayerEncryption("sha256:" + "0" * 64)
    blob = b"".join(encryption.stream(chunks))

    async def decrypt() -> bytes:
        plain = Plain()
        with encryption.private() as options:
            annotations = await wrap_for([plain], options, {"a": "b"}, Deadline.after(10))
        annotations |= encryption.annotations()
        assert annotations["a"] == "b"
        decryptor = await layer_decryptor(
            LayerDescriptor(
                media_type=f"{OCI}v1.tar+encrypted",
                digest=HashAlgorithm.SHA256.of(blob),
                size=len(blob),
                annotations=annotations,
            ),
            keys=plain,
            deadline=Deadline.after(10),
        )
        found = decryptor.update(blob)
        decryptor.finish()
        return bytes(found)

    assert asyncio.run(decrypt()) == b"".join(chunks)
    assert not blob or len(blob) < 8 or blob != b"".join(chunks)


def test_two_layers_never_share_key_or_nonce() -> None:
    seen = set()
    for _ in range(20):
        encryption = LayerEncryption("")
        list(encryption.stream([]))
        seen.add(encryption.private().reveal())
    assert len(seen) == 20


async def test_a_further_recipient_is_appended_to_the_list() -> None:
    plain, deadline = Plain(), Deadline.after(10)
    first = await wrap_for([plain], Secret(b"1"), {}, deadline)
    second = await wrap_for([plain], Secret(b"2"), first, deadline)
    assert second == {plain.annotation: "MQ==,Mg=="}


async def test_without_a_scheme_nothing_is_wrapped() -> None:
    with pytest.raises(InvalidInputError, match=r"^no wrapped keys produced by encryption$"):
        await wrap_for([], Secret(b"1"), {}, Deadline.after(10))


async def test_more_packets_than_a_guest_reads_are_not_written() -> None:
    full = {Plain.annotation: ",".join(["MQ=="] * 64)}
    with pytest.raises(InvalidInputError, match="more than 64"):
        await wrap_for([Plain()], Secret(b"1"), full, Deadline.after(10))


async def test_a_scheme_that_fails_fails_the_layer() -> None:
    class Broken:
        annotation = "x"

        async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
            raise PeerError("no")

    with pytest.raises(PeerError):
        await wrap_for([Plain(), Broken()], Secret(b"1"), {}, Deadline.after(10))
