"""Layer keys wrapped for certificates, OpenPGP keys and the public keys of tokens."""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given
from hypothesis import strategies as st

from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    GuestError,
    IntegrityError,
    LimitError,
    UnsupportedError,
)
from guest.secret import Secret
from image_pull.ocicrypt.annotations import KEYS_PREFIX
from image_pull.ocicrypt.decrypt import unwrap_options
from image_pull.ocicrypt.keywrap import der, pgp, pkcs7, pkcs11
from image_pull.ocicrypt.keywrap.der import DerReader, decode_oid
from image_pull.ocicrypt.keywrap.openpgp import dearmor, read_packets, read_rsa_keys

Open = Callable[[bytes, list[Secret]], Secret]

OPEN: dict[str, Open] = {
    "pkcs7": pkcs7.open_envelope,
    "pgp": pgp.open_message,
    "pkcs11": pkcs11.open_packet,
}
SCHEMES = pytest.mark.parametrize("name", ["pkcs7", "pgp", "pkcs11-sha1", "pkcs11-sha256"])
EXPECTED = (DecodeError, IntegrityError, LimitError, UnsupportedError)


@pytest.fixture
def rows(vectors: Path) -> dict[str, dict[str, str]]:
    listed = json.loads((vectors / "ocicrypt" / "wrapped_keys.json").read_text())["vectors"]
    return {row["name"]: row for row in listed}


def key(row: dict[str, str]) -> Secret:
    return Secret(row["key"].encode())


def packet(row: dict[str, str]) -> bytes:
    return base64.b64decode(row["packet"])


async def unwrapped(row: dict[str, str], *keys: Secret) -> bytes:
    """Through the table of schemes, as a pull does."""
    annotations = {KEYS_PREFIX + row["scheme"]: row["packet"]}
    found = await unwrap_options(
        annotations, keys=None, private_keys=keys, deadline=Deadline.after(20)
    )
    return found.reveal()


@SCHEMES
async def test_what_skopeo_wrapped_is_unwrapped_among_keys_of_all_kinds(
    name: str, rows: dict[str, dict[str, str]]
) -> None:
    row = rows[name]
    assert await unwrapped(row, key(row)) == row["plaintext"].encode()
    everyone = [key(each) for each in rows.values()]
    assert await unwrapped(row, Secret(b"-----BEGIN nonsense"), *everyone) == (
        row["plaintext"].encode()
    )
    assert everyone[0].reveal() == rows["pkcs7"]["key"].encode()


@SCHEMES
async def test_another_key_does_not_open_it(name: str, rows: dict[str, dict[str, str]]) -> None:
    row = rows[name]
    other = make_pgp_key(rsa_key()) if name == "pgp" else pem(rsa_key())
    with pytest.raises(GuestError, match="No suitable private key found for decryption"):
        await unwrapped(row, other)
    with pytest.raises(GuestError, match="No private keys found"):
        await unwrapped(row, Secret(b"-----BEGIN nonsense"))
    with pytest.raises(GuestError, match="missing private key needed for decryption"):
        await unwrapped(row)


async def test_a_key_in_a_token_is_refused_by_name(rows: dict[str, dict[str, str]]) -> None:
    yaml = Secret(b"pkcs11:\n  uri: pkcs11:token=x;object=y\n")
    for name in ("pkcs7", "pkcs11-sha256"):
        with pytest.raises(GuestError, match=r"private key is in a PKCS#11 token, and a guest has"):
            await unwrapped(rows[name], yaml)


@SCHEMES
def test_a_changed_bit_or_a_cut_never_gives_something_else(
    name: str, rows: dict[str, dict[str, str]]
) -> None:
    row = rows[name]
    data, unlock = packet(row), [key(row)]
    step = max(1, len(data) // 16)
    for at in range(0, len(data), step):
        changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        for bad in (changed, data[:at]):
            with suppress(*EXPECTED):
                found = OPEN[row["scheme"]](bad, unlock)
                assert found.reveal() == row["plaintext"].encode(), at


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    unlock = [Secret(b"\x30")]
    for open_one in OPEN.values():
        with pytest.raises(EXPECTED):
            open_one(data, unlock)
    with suppress(*EXPECTED):
        read_rsa_keys(Secret(data))
    with suppress(DecodeError):
        decode_oid(data)


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(made: rsa.RSAPrivateKey) -> Secret:
    from cryptography.hazmat.primitives import serialization as sr

    return Secret(made.private_bytes(sr.Encoding.PEM, sr.PrivateFormat.PKCS8, sr.NoEncryption()))


# PKCS7


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body


def oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = bytearray()
    for part in [40 * first + second, *rest]:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(0x80 | part & 0x7F)
        out += bytes(reversed(groups))
    return tlv(der.OID, bytes(out))


RSA_OID, OAEP_OID = oid("1.2.840.113549.1.1.1"), oid("1.2.840.113549.1.1.7")
GCM = {16: "2.16.840.1.101.3.4.1.6", 24: "2.16.840.1.101.3.4.1.26", 32: "2.16.840.1.101.3.4.1.46"}


def envelope(made: rsa.RSAPrivateKey, plain: bytes, length: int = 16, **changes: Any) -> bytes:
    """A strict DER envelope, as RFC 5652 and RFC 5084 have it."""
    content_key, nonce = os.urandom(length), changes.get("nonce", bytes(12))
    wrapped = made.public_key().encrypt(content_key, PKCS1v15())
    recipient = tlv(
        der.SEQUENCE,
        tlv(der.INTEGER, b"\0"),
        tlv(der.SEQUENCE, tlv(der.SEQUENCE), tlv(der.INTEGER, b"\1")),
        tlv(der.SEQUENCE, changes.get("wrapping", RSA_OID), tlv(5)),
        tlv(der.OCTET_STRING, wrapped),
    )
    sealed = AESGCM(content_key).encrypt(bytes(12), plain, None)
    cipher = tlv(
        der.SEQUENCE,
        changes.get("cipher", oid(GCM[length])),
        tlv(der.SEQUENCE, tlv(der.OCTET_STRING, nonce), tlv(der.INTEGER, b"\x10")),
    )
    data = tlv(
        der.SEQUENCE,
        tlv(der.INTEGER, b"\0"),
        tlv(der.SET, *([recipient] * changes.get("recipients", 1))),
        tlv(
            der.SEQUENCE,
            changes.get("content", oid("1.2.840.113549.1.7.1")),
            cipher,
            tlv(der.BARE_CONTEXT_0, sealed),
        ),
    )
    kind = changes.get("kind", oid("1.2.840.113549.1.7.3"))
    return tlv(der.SEQUENCE, kind, tlv(der.CONTEXT_0, data))


@pytest.mark.parametrize("length", [16, 24, 32])
def test_an_envelope_in_strict_der_opens_too(length: int) -> None:
    made = rsa_key()
    data = envelope(made, b"options", length)
    assert pkcs7.open_envelope(data, [pem(made)]).reveal() == b"options"


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"wrapping": OAEP_OID}, UnsupportedError, "wraps its key with 1.2.840.113549.1.1.7"),
        ({"cipher": oid("2.16.840.1.101.3.4.1.2")}, UnsupportedError, "not with AES-GCM"),
        ({"kind": oid("1.2.840.113549.1.7.2")}, DecodeError, "no envelope"),
        ({"content": oid("1.2.3")}, DecodeError, "holds no data"),
        ({"nonce": bytes(11)}, DecodeError, "nonce or tag of another length"),
        ({"recipients": 65}, LimitError, "more than 64 recipients"),
        ({"recipients": 0}, IntegrityError, "No suitable private key"),
    ],
    ids=str,
)
def test_an_envelope_of_another_form_is_refused_by_name(
    changes: dict[str, Any], kind: type[GuestError], text: str
) -> None:
    made = rsa_key()
    with pytest.raises(kind, match=text):
        pkcs7.open_envelope(envelope(made, b"x", **changes), [pem(made)])


@pytest.mark.parametrize(
    "data",
    [
        b"\x30",
        b"\x30\x80\x00\x00",
        b"\x30\x81\x05" + bytes(5),
        b"\x30\x82\x00\x81" + bytes(0x81),
        b"\x30\x85\x01\x00\x00\x00\x00",
        b"\x3f\x01\x00",
        b"\x31\x00",
        b"\x30\x02\x01",
    ],
)
def test_lengths_and_tags_that_are_not_der_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        DerReader(data).read(der.SEQUENCE)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x01", b"\x2a\x80\x01", b"\x81" * 5])
def test_an_object_identifier_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_oid(content)
    assert decode_oid(oid("2.16.840.1.101.3.4.1.6")[2:]) == "2.16.840.1.101.3.4.1.6"


# PGP


def number(value: int) -> bytes:
    return value.bit_length().to_bytes(2) + value.to_bytes((value.bit_length() + 7) // 8)


def pgp_packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4) + body


def make_pgp_key(
    made: rsa.RSAPrivateKey, *, version: int = 4, algorithm: int = 1, s2k: int = 0, off: int = 0
) -> Secret:
    numbers = made.private_numbers()
    public = numbers.public_numbers
    body = bytes([version]) + bytes(4) + bytes([algorithm])
    body += number(public.n) + number(public.e) + bytes([s2k])
    inverse = pow(numbers.p, -1, numbers.q)
    secret = b"".join(map(number, (numbers.d, numbers.p, numbers.q, inverse)))
    body += secret + (sum(secret) + off & 0xFFFF).to_bytes(2)
    return Secret(pgp_packet(7, body) + pgp_packet(13, b"Bob"))


def message(made: rsa.RSAPrivateKey, plain: bytes, **changes: Any) -> bytes:
    session_key = os.urandom(32)
    checked = bytes([9]) + session_key + (sum(session_key) & 0xFFFF).to_bytes(2)
    encrypted = int.from_bytes(made.public_key().encrypt(checked, PKCS1v15()))
    session = pgp_packet(
        1, bytes([3]) + bytes(8) + bytes([changes.get("algorithm", 1)]) + number(encrypted)
    )
    literal = changes.get("inside", pgp_packet(11, b"b\0" + bytes(4) + plain))
    start = os.urandom(16)
    content = start + start[-2:] + literal + b"\xd3\x14"
    content += hashlib.sha1(content, usedforsecurity=False).digest()
    if changes.get("flip"):
        content = content[:-1] + bytes([content[-1] ^ 1])
    sealer = Cipher(AES(session_key), CFB(bytes(16))).encryptor()
    body = bytes([changes.get("version", 1)]) + sealer.update(content) + sealer.finalize()
    sealed = pgp_packet(changes.get("tag", 18), body)
    before: bytes = changes.get("before", b"")
    after: bytes = changes.get("after", b"")
    return before + session * int(changes.get("times", 1)) + sealed + after


def test_a_message_made_by_hand_opens() -> None:
    made = rsa_key()
    unlock = [make_pgp_key(made)]
    assert pgp.open_message(message(made, b"options"), unlock).reveal() == b"options"
    marker = pgp_packet(10, b"PGP")
    assert pgp.open_message(message(made, b"o", before=marker, times=64), unlock).reveal() == b"o"


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"flip": True}, IntegrityError, "was changed"),
        ({"algorithm": 18}, UnsupportedError, "for no RSA key"),
        ({"times": 0}, UnsupportedError, "for no RSA key"),
        ({"times": 65}, LimitError, "more than 64 recipients"),
        ({"version": 2}, UnsupportedError, "another version than 1"),
        ({"tag": 9}, UnsupportedError, "packet of kind 9"),
        ({"tag": 10}, DecodeError, "not encrypted, or without protection"),
        ({"after": pgp_packet(10, b"PGP")}, DecodeError, "behind its end"),
        ({"inside": pgp_packet(8, b"\1")}, UnsupportedError, "something else than plain data"),
        ({"inside": b""}, UnsupportedError, "something else than plain data"),
    ],
    ids=str,
)
def test_a_message_of_another_form_is_refused_by_name(
    changes: dict[str, Any], kind: type[GuestError], text: str
) -> None:
    made = rsa_key()
    with pytest.raises(kind, match=text):
        pgp.open_message(message(made, b"x", **changes), [make_pgp_key(made)])


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"version": 6}, UnsupportedError, "version 6"),
        ({"algorithm": 22}, UnsupportedError, "algorithm 22"),
        ({"s2k": 254}, UnsupportedError, "has a passphrase"),
        ({"off": 1}, DecodeError, "wrong checksum"),
    ],
    ids=str,
)
def test_an_openpgp_key_that_cannot_be_used_says_why(
    changes: dict[str, int], kind: type[GuestError], text: str
) -> None:
    made = rsa_key()
    with pytest.raises(kind, match=text):
        pgp.open_message(message(made, b"x"), [make_pgp_key(made, **changes)])
    good = make_pgp_key(made)
    if kind is UnsupportedError:
        both = Secret(make_pgp_key(made, **changes).reveal() + good.reveal())
        assert len(read_rsa_keys(both)) == 1


def test_armor_of_something_else_is_refused() -> None:
    for text in (
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----",
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nA\n-----END PGP PRIVATE KEY BLOCK-----",
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n",
    ):
        with pytest.raises(DecodeError):
            dearmor(Secret(text))


def test_packets_of_the_old_form_and_in_pieces_are_read() -> None:
    pieces = b"\xcb\xe1ab" + b"\xe0c" + b"\x01d"
    old = b"\x84\x01x" + b"\x85\x00\x02yz" + b"\x87rest"
    found = [(each.tag, each.body) for each in read_packets(pieces + old)]
    assert found == [(11, b"abcd"), (1, b"x"), (1, b"yz"), (1, b"rest")]
    long = b"\xcb\xc0\x00" + bytes(192)
    assert [len(each.body) for each in read_packets(long)] == [192]
    with pytest.raises(LimitError):
        list(read_packets(b"\xca\x00" * 4097))
    with pytest.raises(LimitError):
        list(read_packets(b"\xcb" + b"\xe0x" * 65537))


# PKCS11


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"version": 1}, UnsupportedError),
        ({"recipients": [{"version": 1, "blob": ""}]}, UnsupportedError),
        ({"recipients": [{"blob": "", "hash": "md5"}]}, UnsupportedError),
        ({"recipients": [{"blob": "?"}]}, DecodeError),
        ({"recipients": [{"blob": ""}] * 65}, DecodeError),
        ({"recipients": None}, DecodeError),
        ({"recipients": []}, IntegrityError),
    ],
)
def test_a_packet_for_tokens_of_another_form_is_refused(
    document: dict[str, Any], kind: type[GuestError]
) -> None:
    full = {"version": 0, "recipients": [{"version": 0, "blob": ""}]} | document
    with pytest.raises(kind):
        pkcs11.open_packet(json.dumps(full).encode(), [pem(rsa_key())])
