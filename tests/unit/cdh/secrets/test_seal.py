"""What owners make: sealed secrets, envelopes, key files."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdh.keyprovider.packet import AnnotationPacket
from cdh.secrets import seal
from cdh.secrets.sealed import check_verification_key, decode_payload
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError, UnavailableError
from guest.secret import Secret
from support.hub_world import Resources
from support.sealed_world import HandingKms, load_vectors, make_unsealer

V = load_vectors()
KEY = Es256Key.from_jwk(Secret(V["signing_jwk"].encode()))


class TurningKms:
    """An owner's KMS that turns the key around, and the guest's that turns it back."""

    settings: Mapping[str, object] = {"region": "r1"}

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        return plaintext.reveal()[::-1], {"key": key_id}

    def open(self, packet: AnnotationPacket) -> HandingKms:
        assert packet.provider_settings == self.settings
        return HandingKms(packet.wrapped_data[::-1])


class FailingKms(TurningKms):
    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, Mapping[str, object]]:
        raise UnavailableError("not now")


def test_sealing_the_published_inputs_gives_the_published_texts() -> None:
    pointer = seal.vault("kbs:///default/sealed-secret/test", "kbs", {}, {})
    assert seal.seal(pointer, V["vault_kid"], KEY).decode() == V["vault_sealed"]
    envelope = decode_payload(V["envelope_payload"].encode())
    assert seal.seal(envelope, V["envelope_kid"], KEY).decode() == V["envelope_sealed"]


@pytest.mark.parametrize(("name", "provider"), [("", "kbs"), ("kbs:///a/b/c", "")])
def test_a_pointer_needs_name_and_provider(name: str, provider: str) -> None:
    with pytest.raises(InvalidInputError):
        seal.vault(name, provider, {}, {})


async def test_an_envelope_opens_again_and_no_two_are_alike() -> None:
    made = [
        await seal.make_envelope(
            Secret(b"the secret"), "k1", "aws", TurningKms(), Deadline.after(5)
        )
        for _ in range(2)
    ]
    assert made[0].iv != made[1].iv
    assert made[0].encrypted_key != made[1].encrypted_key
    resources = Resources()
    resources.resources = {"a/b/c": KEY.public_jwk("x")}
    unsealer = make_unsealer(resources, opener=TurningKms().open)
    text = seal.seal(made[0], "kbs:///a/b/c", KEY)
    assert b"the secret" not in text
    assert (await unsealer.unseal(text, Deadline.after(5))).reveal() == b"the secret"


async def test_a_kms_that_fails_seals_nothing() -> None:
    with pytest.raises(UnavailableError):
        await seal.make_envelope(Secret(b"x"), "k", "aws", FailingKms(), Deadline.after(5))


def test_key_files_hold_what_the_specification_lists(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private, public = seal.make_key_files("my-key", tmp_path)
    finally:
        os.umask(old)
    assert (private.name, public.name) == ("my-key-private.json", "my-key-public.json")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    members = json.loads(private.read_text())
    assert private.read_bytes().endswith(b"}\n")
    assert private.read_bytes().count(b"\n") > 3
    fixed = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "my-key"}
    assert {name: members[name] for name in fixed} == fixed
    assert set(members) == {*fixed, "d", "x", "y"}
    assert all(len(members[name]) == 43 for name in ("d", "x", "y"))
    members.pop("d")
    assert json.loads(public.read_text()) == members
    check_verification_key(public.read_bytes())
    again = Es256Key.from_jwk(Secret(private.read_bytes()))
    assert again.public_jwk("my-key") == public.read_bytes()


@pytest.mark.parametrize("taken", ["k-private.json", "k-public.json"])
@pytest.mark.parametrize("link", [False, True])
def test_no_file_is_overwritten_and_none_is_left(tmp_path: Path, taken: str, link: bool) -> None:
    if link:
        (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / taken).write_text("mine")
    with pytest.raises(PlatformError, match="is there already"):
        seal.make_key_files("k", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


@pytest.mark.parametrize("kid", ["", "a/b", "/etc/x", "a\0b", "x" * 300])
def test_a_kid_that_is_no_file_name_is_refused(tmp_path: Path, kid: str) -> None:
    with pytest.raises(InvalidInputError):
        seal.make_key_files(kid, tmp_path)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot write"):
        seal.make_key_files("k", tmp_path / "none")
