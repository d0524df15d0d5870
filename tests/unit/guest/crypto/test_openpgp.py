"""OpenPGP signatures by GnuPG: whose counts."""

import base64
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from guest.crypto.openpgp import Keyring
from guest.crypto.openpgp_message import SignedMessage
from guest.errors import DecodeError, IntegrityError, UnsupportedError
from support.signing import Gnupg

pytest.importorskip("pysequoia")

NOW = datetime.now(UTC)
TEXT = b'{"text": 1}'
PAST = ("--faked-system-time", "20230101T000000")
"""When keys are made; options of gpg."""
LATER = ("--faked-system-time", "20230101T010000")
"""When they sign: however long it took to make them."""


@pytest.fixture
def gnupg(short_tmp: Path) -> Iterator[Gnupg]:
    made = Gnupg(short_tmp)
    yield made
    made.close()


def verify(ring: bytes, signature: bytes, now: datetime | None = NOW) -> str:
    message = SignedMessage.decode(signature)
    assert message.content == TEXT
    return Keyring.decode(ring).verify(message, now).primary.upper()


def test_the_specifications_signature_is_good(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "signatures.json").read_text())["simple"]
    data = base64.b64decode(vector["signature"])
    keyring = Keyring.decode(base64.b64decode(vector["keyring"]))
    signer = keyring.verify(SignedMessage.decode(data), NOW)
    assert signer.primary == signer.key == vector["fingerprint"]
    position = data.index(b"base:latest")
    flipped = data[:position] + b"B" + data[position + 1 :]
    with pytest.raises(IntegrityError):
        keyring.verify(SignedMessage.decode(flipped), NOW)


def test_a_packet_that_the_library_reads_but_cannot_write_is_refused(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "signatures.json").read_text())["simple"]
    data = base64.b64decode(vector["signature"]).replace(b"base:latest", b"Base:latest")
    issuer = bytes([9, 16]) + bytes.fromhex(vector["fingerprint"][-16:])
    assert data.count(issuer) == 1
    message = SignedMessage.decode(data.replace(issuer, bytes([9, 33]) + issuer[2:]))
    with pytest.raises(IntegrityError):
        Keyring.decode(base64.b64decode(vector["keyring"])).verify(message, NOW)


@pytest.mark.gpg
@pytest.mark.parametrize("kind", ["ed25519", "rsa2048", "nistp256", "nistp384", "nistp521"])
def test_a_signature_by_a_primary_key_is_good_in_every_compression(kind: str, gnupg: Gnupg) -> None:
    name = gnupg.key("one", kind)
    gnupg.key("two")
    for options in ((), ("-z0",), ("--compress-algo", "zlib"), ("--digest-algo", "SHA512")):
        signature = gnupg.sign("one", TEXT, *options)
        assert verify(gnupg.export(), signature) == name
        assert verify(gnupg.export(armor=True), signature) == name
    both = gnupg.export("two", armor=True) + gnupg.export("one", armor=True)
    assert verify(both, gnupg.sign("one", TEXT)) == name
    with pytest.raises(IntegrityError):
        verify(gnupg.export("two"), gnupg.sign("one", TEXT))


@pytest.mark.gpg
def test_a_subkeys_signature_is_its_primary_keys(gnupg: Gnupg) -> None:
    name = gnupg.key("one", usage="cert")
    gnupg.subkey(name)
    signature = gnupg.sign("one", TEXT)
    assert verify(gnupg.export("one"), signature) == name
    signer = Keyring.decode(gnupg.export()).verify(SignedMessage.decode(signature), NOW)
    assert signer.key.upper() == gnupg.fingerprints("one")[1]


@pytest.mark.gpg
def test_a_key_that_has_expired_is_refused_unless_the_clock_does_not_count(gnupg: Gnupg) -> None:
    name = gnupg.key("one", "ed25519", "sign", *PAST, life="10d")
    signature = gnupg.sign("one", TEXT, *LATER)
    with pytest.raises(IntegrityError, match="expired at 2023-01-11"):
        verify(gnupg.export(), signature)
    assert verify(gnupg.export(), signature, datetime(2023, 1, 5, tzinfo=UTC)) == name
    assert verify(gnupg.export(), signature, None) == name


@pytest.mark.gpg
def test_a_subkey_that_has_expired_is_refused(gnupg: Gnupg) -> None:
    name = gnupg.key("one", "ed25519", "cert", *PAST)
    gnupg.subkey(name, "ed25519", *PAST, life="10d")
    signature = gnupg.sign("one", TEXT, *LATER)
    with pytest.raises(IntegrityError, match="expired at 2023-01-11"):
        verify(gnupg.export(), signature)
    assert verify(gnupg.export(), signature, None) == name


@pytest.mark.gpg
def test_a_key_that_was_revoked_is_refused_whatever_the_clock(gnupg: Gnupg) -> None:
    name = gnupg.key("one", "ed25519", "sign", *PAST)
    signature = gnupg.sign("one", TEXT, *LATER)
    assert verify(gnupg.export(), signature) == name
    home = Path(gnupg.environment["GNUPGHOME"])
    text = (home / "openpgp-revocs.d" / f"{name}.rev").read_text()
    gnupg.gpg("--import", stdin=text.replace(":-----BEGIN", "-----BEGIN").encode())
    for now in (NOW, None):
        with pytest.raises(IntegrityError):
            verify(gnupg.export(), signature, now)


@pytest.mark.gpg
@pytest.mark.parametrize("kind", ["ed25519", "rsa2048", "nistp256"])
def test_a_key_whose_life_was_prolonged_keeps_its_old_signatures(kind: str, gnupg: Gnupg) -> None:
    name = gnupg.key("one", kind, "sign", *PAST, life="10d")
    signature = gnupg.sign("one", TEXT, *LATER)
    gnupg.gpg("--quick-set-expire", name, "2y")
    ring = gnupg.export()
    assert verify(ring, signature) == name
    with pytest.raises(IntegrityError, match="expired"):
        verify(ring, signature, NOW + timedelta(days=1000))
    message = SignedMessage.decode(signature)
    damaged = message.encoded.replace(b"text", b"tezt")
    with pytest.raises(IntegrityError):
        Keyring.decode(ring).verify(SignedMessage.decode(damaged), NOW)


@pytest.mark.gpg
def test_a_subkey_whose_life_was_prolonged_keeps_its_old_signatures(gnupg: Gnupg) -> None:
    name = gnupg.key("one", "rsa2048", "cert", *PAST)
    gnupg.subkey(name, "ed25519", *PAST, life="10d")
    signature = gnupg.sign("one", TEXT, *LATER)
    gnupg.gpg("--quick-set-expire", name, "2y", gnupg.fingerprints("one")[1])
    ring = gnupg.export()
    assert verify(ring, signature) == name
    with pytest.raises(IntegrityError, match="expired"):
        verify(ring, signature, NOW + timedelta(days=1000))


@pytest.mark.gpg
def test_a_subkey_that_was_revoked_or_put_under_another_primary_key_is_refused(
    gnupg: Gnupg,
) -> None:
    name = gnupg.key("one", "ed25519", "cert", *PAST)
    gnupg.subkey(name, "ed25519", *PAST)
    signature = gnupg.sign("one", TEXT, *LATER)
    ring = gnupg.export()
    assert verify(ring, signature) == name
    gnupg.key("two", "ed25519", "cert", *PAST)
    stolen = gnupg.export("two") + ring[ring.index(b"\xb8\x33") :]
    for now in (NOW, None):
        with pytest.raises(IntegrityError):
            verify(stolen, signature, now)
    gnupg.edit(name, "key 1", "revkey", "y", "0", "", "y", "save")
    for now in (NOW, None):
        with pytest.raises(IntegrityError):
            verify(gnupg.export("one"), signature, now)


@pytest.mark.gpg
def test_a_key_that_is_not_for_signing_any_more_is_refused(gnupg: Gnupg) -> None:
    name = gnupg.key("one", "rsa2048", "sign", *PAST)
    signature = gnupg.sign("one", TEXT, *LATER)
    assert verify(gnupg.export(), signature) == name
    gnupg.edit(name, "change-usage", "S", "Q", "save")
    for now in (NOW, None):
        with pytest.raises(IntegrityError):
            verify(gnupg.export(), signature, now)


@pytest.mark.gpg
def test_a_signature_that_has_expired_or_is_from_the_future_is_refused(gnupg: Gnupg) -> None:
    gnupg.key("one", "ed25519", "sign", *PAST)
    expiring = ("--default-sig-expire", "2d")
    future = ("--faked-system-time", "20990101T000000")
    for options in ((*LATER, *expiring), future):
        with pytest.raises(IntegrityError):
            verify(gnupg.export(), gnupg.sign("one", TEXT, *options))


@pytest.mark.gpg
def test_other_forms_of_gnupgs_signatures_are_refused(gnupg: Gnupg) -> None:
    gnupg.key("one", "rsa2048")
    gnupg.key("two")
    gpg = (("--detach-sign",), ("--clearsign",), ("--armor", "--sign"), ("--textmode", "--sign"))
    for options in (*gpg, ("--local-user", "two", "--sign"), ("--digest-algo", "SHA1", "--sign")):
        data = gnupg.gpg("--local-user", "one", "--output", "-", *options, stdin=TEXT)
        with pytest.raises(DecodeError):
            SignedMessage.decode(data)


@pytest.mark.gpg
def test_bytes_that_are_no_keys_are_refused(gnupg: Gnupg) -> None:
    gnupg.key("one")
    ring = gnupg.export()
    armored = gnupg.export(armor=True)
    message = gnupg.sign("one", TEXT)
    other = b"-----BEGIN PGP MESSAGE-----\n\n-----END PGP MESSAGE-----\n"
    for data in (b"", b"x", ring[:-3], message, other, armored + other, armored[:-30]):
        with pytest.raises(DecodeError):
            Keyring.decode(data)


def test_without_the_library_keyrings_are_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    with pytest.raises(UnsupportedError, match=r"pysequoia \(extra `pgp`\)"):
        Keyring.decode(b"")
