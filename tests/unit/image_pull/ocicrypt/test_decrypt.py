"""From annotations to plaintext: real layers, several schemes, and every way to fail."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest.deadline import Deadline
from guest.errors import (
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    UnavailableError,
)
from guest.secret import Secret
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.annotations import DECRYPT_FAILED, KEYS_PREFIX, PUBLIC_OPTIONS
from image_pull.ocicrypt.cipher import LayerEncryptor
from image_pull.ocicrypt.decrypt import layer_decryptor, unwrap_options
from support import tarballs as tb

GZIP = tb.GZIP + "+encrypted"
KEY, NONCE = Secret(bytes(range(32))), bytes(range(16))
PROVIDER = KEYS_PREFIX + "provider.attestation-agent"


class Unwrapper:
    """A key provider that knows some packets and counts."""

    def __init__(self, *answers: tuple[bytes, bytes | GuestError], as_text: bool = False) -> None:
        self.answers = dict(answers)
        self.as_text = as_text
        self.asked: list[bytes] = []

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        packet = base64.b64decode(json.loads(request)["keyunwrapparams"]["annotation"])
        self.asked.append(packet)
        answer = self.answers.get(packet, DeniedError("unknown packet"))
        if isinstance(answer, GuestError):
            raise answer
        options: object = list(answer)
        if self.as_text:
            options = base64.b64encode(answer).decode()
        return Secret(json.dumps({"keyunwrapresults": {"optsdata": options}}).encode())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public(mac: bytes, **extra: object) -> str:
    document = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": b64(mac), "cipheroptions": {}}
    return b64(json.dumps(document | extra).encode())


def private(nonce: bytes | None = NONCE, key: bytes = KEY.reveal(), **extra: object) -> bytes:
    options = {} if nonce is None else {"nonce": b64(nonce)}
    return json.dumps(
        {"symkey": b64(key), "digest": "sha256:wrong", "cipheroptions": options} | extra
    ).encode()


def describe(blob: bytes, annotations: dict[str, str], media_type: str = GZIP) -> LayerDescriptor:
    return LayerDescriptor(
        media_type=media_type, digest=tb.sha256(blob), size=len(blob), annotations=annotations
    )


def layer(plain: bytes = b"layer") -> tuple[bytes, bytes]:
    encryptor = LayerEncryptor(KEY, NONCE)
    return encryptor.update(plain), encryptor.finish()


def soon() -> Deadline:
    return Deadline.after(20)


def real(vectors: Path, name: str) -> dict[str, str]:
    rows = json.loads((vectors / "ocicrypt" / "layers.json").read_text())["vectors"]
    return next(row for row in rows if row["name"] == name)


async def pulled(row: dict[str, str], target: Path, **arguments: Any) -> None:
    """A real layer, from its annotations to the tree that its diff_id names."""
    blob = bytes.fromhex(row["ciphertext"])
    assert str(tb.sha256(blob)) == row["digest"]
    annotations = {
        row["annotation"]: b64(row["packet"].encode()),
        PUBLIC_OPTIONS: b64(row["public"].encode()),
    }
    descriptor = describe(blob, annotations)
    decryptor = await layer_decryptor(descriptor, deadline=soon(), **arguments)
    async with tb.pipeline() as made:
        record = await tb.unpack(
            made,
            blob,
            target,
            tar=b"",
            media_type=GZIP,
            decryptor=decryptor,
            diff_id=type(descriptor.digest).parse(row["diff_id"]),
        )
    assert record.diff_id == row["diff_id"]
    assert (target / "hello.txt").is_file()


@pytest.mark.spec("ocicrypt", 6)
async def test_a_layer_that_skopeo_wrapped_for_a_provider_decrypts(
    vectors: Path, tmp_path: Path
) -> None:
    row = real(vectors, "provider")
    packet = json.loads(row["packet"])
    opened = AESGCM(bytes.fromhex(row["kek"])).decrypt(
        base64.b64decode(packet["iv"]), base64.b64decode(packet["wrapped_data"]), None
    )
    assert opened == row["private"].encode()
    keys = Unwrapper((row["packet"].encode(), opened))
    await pulled(row, tmp_path / "layer", keys=keys)


async def test_a_layer_that_skopeo_wrapped_with_jwe_decrypts(vectors: Path, tmp_path: Path) -> None:
    row = real(vectors, "jwe")
    private_key = Secret(row["key"].encode())
    await pulled(row, tmp_path / "layer", keys=None, private_keys=(private_key,))


@pytest.mark.spec("ocicrypt", 5)
async def test_a_nonce_may_stand_in_public_and_two_that_differ_are_refused() -> None:
    blob, mac = layer()
    keys = Unwrapper((b"none", private(None)), (b"other", private(bytes(16))))
    shown = public(mac, cipheroptions={"nonce": b64(NONCE)})
    found = await layer_decryptor(
        describe(blob, {PROVIDER: b64(b"none"), PUBLIC_OPTIONS: shown}), keys=keys, deadline=soon()
    )
    assert found.update(blob) == b"layer"
    found.finish()
    with pytest.raises(IntegrityError, match="public nonce"):
        await layer_decryptor(
            describe(blob, {PROVIDER: b64(b"other"), PUBLIC_OPTIONS: shown}),
            keys=keys,
            deadline=soon(),
        )


@pytest.mark.spec("ocicrypt", 4)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (private(None), "no nonce"),
        (private(bytes(12)), "nonce length of 12"),
        (private(bytes(17)), "nonce length of 17"),
        (private(key=bytes(31)), "key length of 31"),
        (b"garbage", "not such a JSON document"),
    ],
)
async def test_unwrapped_options_of_another_form_fail(options: bytes, text: str) -> None:
    blob, mac = layer()
    annotations = {PROVIDER: b64(b"p"), PUBLIC_OPTIONS: public(mac)}
    with pytest.raises(IntegrityError, match=text) as caught:
        await layer_decryptor(
            describe(blob, annotations), keys=Unwrapper((b"p", options)), deadline=soon()
        )
    assert str(caught.value).startswith(DECRYPT_FAILED)


@pytest.mark.spec("image-pull", 32)
async def test_the_published_layer_decrypts_and_each_fault_has_the_decrypt_text(
    tmp_path: Path,
) -> None:
    plain = b"hello encrypted layer\n"
    blob, mac = layer(plain)
    assert blob.hex() == "320b683b67db14f8935c2c4d76a6c2b20c9269b0b18f"
    good = {PROVIDER: b64(b"p"), PUBLIC_OPTIONS: public(mac)}
    keys = Unwrapper((b"p", private()))
    found = await layer_decryptor(describe(blob, good), keys=keys, deadline=soon())
    assert found.update(blob) == plain
    found.finish()

    async def run(options: bytes, annotations: dict[str, str]) -> None:
        keys = Unwrapper((b"p", options))
        decryptor = await layer_decryptor(describe(blob, annotations), keys=keys, deadline=soon())
        media_type = tb.TAR + "+encrypted"
        async with tb.pipeline() as made:
            await tb.unpack(
                made, blob, tmp_path / "l", tar=b"", media_type=media_type, decryptor=decryptor
            )

    async def text_of(options: bytes, **changes: str) -> str:
        with pytest.raises(GuestError) as caught:
            await run(options, good | changes)
        assert not (tmp_path / "l").exists()
        return str(caught.value)

    faults = {
        "wrong HMAC": await text_of(private(), **{PUBLIC_OPTIONS: public(bytes(32))}),
        "key size": await text_of(private(key=bytes(16))),
        "no nonce": await text_of(private(None)),
        "cipher": await text_of(private(), **{PUBLIC_OPTIONS: public(mac, cipher="ROT13")}),
        "unwrap": await text_of(private(), **{PROVIDER: b64(b"unknown")}),
    }
    assert {name: text[: len(DECRYPT_FAILED)] for name, text in faults.items()} == dict.fromkeys(
        faults, DECRYPT_FAILED
    )


@pytest.mark.spec("ocicrypt", 2)
async def test_a_changed_shortened_or_lengthened_layer_publishes_nothing(tmp_path: Path) -> None:
    tar = tb.file(b"f", b"data" * 30_000) + tb.END
    blob, mac = layer(tar)
    annotations = {PROVIDER: b64(b"p"), PUBLIC_OPTIONS: public(mac)}
    middle = len(blob) // 2
    flipped = blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]
    async with tb.pipeline() as made:
        for wrong in (flipped, blob[:-1], blob + b"\0"):
            descriptor = describe(wrong, annotations, tb.TAR + "+encrypted")
            decryptor = await layer_decryptor(
                descriptor, keys=Unwrapper((b"p", private())), deadline=soon()
            )
            with pytest.raises(IntegrityError):
                await tb.unpack(
                    made,
                    wrong,
                    tmp_path / "l",
                    tar=tar,
                    media_type=descriptor.media_type,
                    decryptor=decryptor,
                )
            assert not (tmp_path / "l").exists()


@pytest.mark.spec("ocicrypt", 16)
async def test_the_wrapped_digest_decides_nothing_and_the_diff_id_does(tmp_path: Path) -> None:
    tar = tb.file(b"f", b"1") + tb.END
    blob, mac = layer(tar)
    annotations = {PROVIDER: b64(b"p"), PUBLIC_OPTIONS: public(mac)}
    media_type = tb.TAR + "+encrypted"
    options = [json.loads(private()) for _ in range(2)]
    del options[1]["digest"]
    async with tb.pipeline() as made:
        for number, document in enumerate(options):
            for diff_id in (tb.sha256(tar), tb.sha256(b"other")):
                decryptor = await layer_decryptor(
                    describe(blob, annotations, media_type),
                    keys=Unwrapper((b"p", json.dumps(document).encode())),
                    deadline=soon(),
                )
                task = tb.unpack(
                    made,
                    blob,
                    tmp_path / f"{number}",
                    tar=tar,
                    media_type=media_type,
                    decryptor=decryptor,
                    diff_id=diff_id,
                )
                if diff_id == tb.sha256(tar):
                    await task
                    assert (tmp_path / f"{number}/f").exists()
                    (tmp_path / f"{number}").rename(tmp_path / f"kept{number}")
                else:
                    with pytest.raises(IntegrityError, match="unequal uncompressed digest"):
                        await task


@pytest.mark.spec("ocicrypt", 10)
@pytest.mark.parametrize("bad", ["%%%", b64(b"bad")])
async def test_a_bad_packet_does_not_hide_a_good_one(bad: str) -> None:
    keys = Unwrapper((b"good", private()), (b"bad", InvalidInputError("not mine")))
    annotations = {PROVIDER: f"{bad},{b64(b'good')}"}
    assert await unwrap_options(annotations, keys=keys, deadline=soon()) == Secret(private())


@pytest.mark.spec("ocicrypt", 11)
async def test_a_scheme_that_fails_does_not_hide_another(vectors: Path) -> None:
    row = real(vectors, "jwe")
    annotations = {PROVIDER: b64(b"bad"), row["annotation"]: b64(row["packet"].encode())}
    found = await unwrap_options(
        annotations,
        keys=Unwrapper(),
        private_keys=(Secret(row["key"].encode()),),
        deadline=soon(),
    )
    assert found == Secret(row["private"].encode())


@pytest.mark.spec("ocicrypt", 12)
async def test_a_packet_under_another_providers_name_is_used() -> None:
    keys = Unwrapper((b"p", private()))
    annotations = {KEYS_PREFIX + "provider.somebody-else": b64(b"p")}
    assert await unwrap_options(annotations, keys=keys, deadline=soon()) == Secret(private())


@pytest.mark.spec("ocicrypt", 13)
async def test_options_are_unwrapped_without_the_stream() -> None:
    keys = Unwrapper((b"p", private()))
    assert await unwrap_options({PROVIDER: b64(b"p")}, keys=keys, deadline=soon())
    assert keys.asked == [b"p"]


@pytest.mark.spec("ocicrypt", 23)
async def test_answers_in_base64_and_in_numbers_are_read() -> None:
    for as_text in (False, True):
        keys = Unwrapper((b"p", private()), as_text=as_text)
        found = await unwrap_options({PROVIDER: b64(b"p")}, keys=keys, deadline=soon())
        assert found == Secret(private())


@pytest.mark.parametrize("kind", [DeniedError, UnavailableError])
async def test_the_class_of_a_telling_failure_is_kept(kind: type[GuestError]) -> None:
    _, mac = layer()
    annotations = {PROVIDER: b64(b"p"), PUBLIC_OPTIONS: public(mac)}
    keys = Unwrapper((b"p", kind("the KBS says so")))
    with pytest.raises(kind) as caught:
        await layer_decryptor(describe(b"", annotations), keys=keys, deadline=soon())
    assert str(caught.value).startswith(DECRYPT_FAILED)
    assert "the KBS says so" in str(caught.value)


async def test_without_any_key_the_text_says_that_one_is_missing() -> None:
    for annotations in ({}, {KEYS_PREFIX + "jwe": b64(b"x")}, {KEYS_PREFIX + "pgp": b64(b"x")}):
        with pytest.raises(GuestError, match=r"^missing private key needed for decryption"):
            await unwrap_options(annotations, keys=None, deadline=soon())
    with pytest.raises(GuestError, match=r"^no suitable key unwrapper found"):
        await unwrap_options(
            {KEYS_PREFIX + "jwe": b64(b"x")},
            keys=None,
            private_keys=(Secret(b"no key"),),
            deadline=soon(),
        )


async def test_nobody_is_asked_for_a_key_when_the_public_options_are_bad() -> None:
    keys = Unwrapper((b"p", private()))
    with pytest.raises(IntegrityError):
        await layer_decryptor(describe(b"", {PROVIDER: b64(b"p")}), keys=keys, deadline=soon())
    assert keys.asked == []
