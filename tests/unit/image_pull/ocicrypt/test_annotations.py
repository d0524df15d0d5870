"""Option documents and key annotations as tools write them, and as they must not be."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.secret import Secret
from image_pull.ocicrypt.annotations import (
    KEYS_PREFIX,
    MAX_OPTIONS,
    PUBLIC_OPTIONS,
    PrivateOptions,
    PublicOptions,
    choose_nonce,
    decode_packet,
    decode_private_options,
    decode_public_options,
    wrapped_keys,
)

MAC = "4M4v1zWWDAlsXcIh2Brs3qWTEnYNVo1S6YfecbyTJfY="
PUBLIC_B = (
    "eyJjaXBoZXIiOiJBRVNfMjU2X0NUUl9ITUFDX1NIQTI1NiIsImhtYWMiOiI0TTR2MXpXV0RBbHNYY0loMkJyczNxV1"
    "RFbllOVm8xUzZZZmVjYnlUSmZZPSIsImNpcGhlcm9wdGlvbnMiOnt9fQ=="
)
PRIVATE_B = (
    b'{"symkey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","digest":"sha256:ebd00a829d58041f2'
    b'e7829dd4e5d1e35aa545c46d306bb7341a7c393ad1af6bf","cipheroptions":{"nonce":"8PHy8/T19vf4+fr7'
    b'/P3+/w=="}}'
)


def public(document: object) -> PublicOptions:
    text = base64.b64encode(json.dumps(document).encode()).decode()
    return decode_public_options({PUBLIC_OPTIONS: text})


def private(**changes: object) -> PrivateOptions:
    document = json.loads(PRIVATE_B) | changes
    kept = {name: value for name, value in document.items() if value != "absent"}
    return decode_private_options(Secret(json.dumps(kept).encode()))


CIPHER = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": MAC}


def test_the_published_documents_are_read() -> None:
    options = decode_public_options({PUBLIC_OPTIONS: PUBLIC_B})
    assert (options.mac, options.nonce) == (base64.b64decode(MAC), None)
    assert len(PRIVATE_B) == 193
    wrapped = decode_private_options(Secret(PRIVATE_B))
    assert wrapped.key == Secret(bytes(range(32)))
    assert wrapped.nonce == bytes(range(0xF0, 0x100))
    assert wrapped.digest.startswith("sha256:ebd0")


@pytest.mark.spec("ocicrypt", 14)
def test_each_fault_of_the_public_options_has_its_own_error() -> None:
    faults = [
        {},
        {PUBLIC_OPTIONS: "%%%"},
        {PUBLIC_OPTIONS: base64.b64encode(b"no json").decode()},
        {PUBLIC_OPTIONS: base64.b64encode(b'{"cipher":"ROT13","hmac":"AA=="}').decode()},
    ]
    texts = []
    for annotations in faults:
        with pytest.raises(DecodeError) as caught:
            decode_public_options(annotations)
        texts.append(str(caught.value))
    assert len(set(texts)) == 4
    assert PUBLIC_OPTIONS in texts[0]
    assert texts[3] == "unsupported cipher type: ROT13"


@pytest.mark.spec("ocicrypt", 15)
@pytest.mark.parametrize("extra", [{}, {"cipheroptions": None}, {"cipheroptions": {}}])
def test_public_options_without_cipher_options_are_accepted(extra: dict[str, object]) -> None:
    assert public(CIPHER | extra).nonce is None


@pytest.mark.parametrize("mac", [None, "", "absent"])
def test_public_options_without_a_mac_are_refused(mac: str | None) -> None:
    document = CIPHER | {"hmac": mac}
    if mac == "absent":
        del document["hmac"]
    with pytest.raises(DecodeError, match="HMAC is not provided"):
        public(document)


@pytest.mark.spec("ocicrypt", 17)
def test_the_order_of_private_options_is_free_and_unknown_members_are_skipped() -> None:
    document = json.loads(PRIVATE_B)
    turned = {name: document[name] for name in reversed(document)} | {"more": [1, {"x": None}]}
    options = decode_private_options(Secret(json.dumps(turned).encode()))
    assert (options.key, options.nonce) == (
        Secret(bytes(range(32))),
        bytes(range(0xF0, 0x100)),
    )


@pytest.mark.parametrize("digest", ["absent", None, "", "sha256:00"])
def test_the_digest_of_private_options_is_never_a_condition(digest: str | None) -> None:
    assert private(digest=digest).key == Secret(bytes(range(32)))


@pytest.mark.parametrize("key", ["absent", None, "%%", 7])
def test_private_options_need_a_key_and_never_show_one(key: object) -> None:
    with pytest.raises(DecodeError) as caught:
        private(symkey=key)
    assert caught.value.__cause__ is None or "AAEC" not in str(caught.value.__cause__)


def test_public_or_private_nonce_but_not_two_that_differ() -> None:
    one, two = bytes(16), bytes(range(16))
    key = Secret(bytes(32))

    def choose(first: bytes | None, second: bytes | None) -> bytes:
        return choose_nonce(
            PublicOptions(mac=bytes(32), nonce=first), PrivateOptions(key=key, nonce=second)
        )

    assert choose(one, None) == choose(None, one) == choose(one, one) == one
    for first, second in ((None, None), (one, two)):
        with pytest.raises(DecodeError, match="nonce"):
            choose(first, second)


def test_keys_are_tried_in_a_fixed_order_our_provider_first() -> None:
    names = ["pkcs11", "pgp", "pkcs7", "jwe", "provider.zeta", "provider.alpha", "provider.mine"]
    annotations = {KEYS_PREFIX + name: "YQ==,Yg==" for name in names}
    annotations[KEYS_PREFIX + "provider.empty"] = ""
    found = wrapped_keys(annotations, "mine")
    assert [keys.scheme for keys in found] == [
        "provider.mine",
        "provider.alpha",
        "provider.zeta",
        "jwe",
        "pkcs7",
        "pgp",
        "pkcs11",
    ]
    assert found[0].packets == ("YQ==", "Yg==")


def test_limits_on_packets_and_options_are_kept() -> None:
    with pytest.raises(DecodeError, match="more than 64"):
        wrapped_keys({KEYS_PREFIX + "jwe": ",".join(["YQ=="] * 65)})
    with pytest.raises(DecodeError, match="longer"):
        decode_packet("A" * 1_500_000)
    with pytest.raises(DecodeError, match="longer"):
        decode_private_options(Secret(b" " * (MAX_OPTIONS + 1)))
    with pytest.raises(DecodeError, match="longer"):
        decode_public_options({PUBLIC_OPTIONS: "A" * (2 * MAX_OPTIONS + 4)})


@given(st.binary(max_size=300))
def test_any_bytes_give_options_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_private_options(Secret(data))
    with suppress(DecodeError):
        decode_public_options({PUBLIC_OPTIONS: base64.b64encode(data).decode()})
