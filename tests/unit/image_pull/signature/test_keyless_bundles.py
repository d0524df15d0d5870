"""Keyless bundles against a trusted root: each check of the library has its lie."""

import builtins
import importlib.resources
import json
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from image_pull.signature.fulcio import read_certificates
from support.keyless import (
    SECOND,
    D,
    b64,
    bundled,
    by_authority,
    by_root,
    check,
    signature_image,
    why_not,
)
from support.sigstore_world import (
    EMAIL,
    LIFE,
    SIGNED_AT,
    Authority,
    SigstoreWorld,
    new_key,
    public_pem,
)
from support.timestamps import TimestampAuthority


@pytest.fixture(scope="module")
def world() -> SigstoreWorld:
    return SigstoreWorld()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that decides here may connect to anything."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("something connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def sigstore() -> None:
    pytest.importorskip("sigstore")


@pytest.mark.usefixtures("sigstore")
async def test_a_bundle_of_whom_the_policy_names_is_good_years_after_its_certificate(
    world: SigstoreWorld,
) -> None:
    repository = bundled(world.bundle(world.issue(), D))
    await check(repository, by_root(world))
    await check(repository, by_root(world, trustedRootData=world.trusted_root()))
    held = {"kbs:///a/b/root": world.trusted_root().encode()}
    requirement = by_root(world, trustedRootData=None, trustedRootPath="kbs:///a/b/root")
    await check(repository, requirement, held)


@pytest.mark.usefixtures("sigstore")
@pytest.mark.parametrize(
    "certificate",
    [
        {"email": "other@example.com"},
        {"email": None, "uri": EMAIL},
        {"issuer": "https://other.example"},
        {"issuer_v2": "https://other.example"},
        {"issuer": None, "issuer_v2": None},
        {"issued": SIGNED_AT - LIFE - SECOND},
        {"issued": SIGNED_AT + SECOND},
        {"purpose": ExtendedKeyUsageOID.CLIENT_AUTH},
        {"purpose": None},
        {"signs": False},
        {"by": Authority.create("test intermediate")},
        {"sct_key": new_key()},
        {"scts": 0},
        {"scts": 2},
    ],
)
async def test_a_bundle_s_certificate_that_is_another_is_refused(
    world: SigstoreWorld, certificate: dict[str, Any]
) -> None:
    await why_not(bundled(world.bundle(world.issue(**certificate), D)), by_root(world))


@pytest.mark.usefixtures("sigstore")
@pytest.mark.parametrize(
    "lie",
    [
        "signature",
        "logged payload",
        "logged signature",
        "logged signer",
        "no entry",
        "no proof",
        "no promise",
        "proof",
        "checkpoint root",
        "checkpoint signature",
        "time",
    ],
)
async def test_one_wrong_thing_in_a_bundle_and_it_is_refused(
    world: SigstoreWorld, lie: str
) -> None:
    await why_not(bundled(world.bundle(world.issue(), D, lie=lie)), by_root(world))


@pytest.mark.usefixtures("sigstore")
async def test_a_bundle_of_another_log_image_predicate_or_world_is_refused(
    world: SigstoreWorld,
) -> None:
    signer = world.issue()
    assert "bundle" in await why_not(
        bundled(world.bundle(signer, D, log_key=new_key())), by_root(world)
    )
    other = world.bundle(signer, f"sha256:{'ab' * 32}")
    assert f"does not sign off {D}" in await why_not(bundled(other), by_root(world))
    sbom = world.bundle(signer, D, predicate="https://spdx.dev/Document")
    assert "attestation" in await why_not(bundled(sbom), by_root(world))
    good = bundled(world.bundle(signer, D))
    await why_not(good, by_root(SigstoreWorld()))
    await why_not(good, by_root(world, trustedRootData=world.trusted_root(ctlogs=[])))
    await why_not(good, by_root(world, trustedRootData=world.trusted_root(tlogs=[])))
    old = world.bundle(signer, D).replace(b"bundle.v0.3+json", b"bundle+json;version=0.1")
    assert "another version" in await why_not(bundled(old), by_root(world))


@pytest.mark.usefixtures("sigstore")
@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"mediaType": "other"}', "{" * 100])
async def test_what_is_no_trusted_root_denies(world: SigstoreWorld, text: str) -> None:
    repository = bundled(world.bundle(world.issue(), D))
    await why_not(repository, by_root(world, trustedRootData=b64(text)))


async def test_each_form_of_trust_says_which_signatures_it_can_check(world: SigstoreWorld) -> None:
    repository = bundled(world.bundle(world.issue(), D))
    assert "trustedRootPath" in await why_not(repository, by_authority(world))
    log = {"rekorPublicKeyData": b64(public_pem(world.log_key))}
    key = {"type": "sigstoreSigned", "keyData": b64(public_pem(new_key()))} | log
    await why_not(repository, key)


@pytest.mark.usefixtures("sigstore")
async def test_a_trusted_root_says_that_it_does_not_check_signature_images(
    world: SigstoreWorld,
) -> None:
    assert "caPath or caData only" in await why_not(
        signature_image(world, world.issue()), by_root(world)
    )


async def test_without_the_library_a_trusted_root_denies_and_says_why(
    world: SigstoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "sigstore":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    repository = bundled(world.bundle(world.issue(), D))
    assert "extra `keyless`" in await why_not(repository, by_root(world))
    await check(signature_image(world, world.issue()), by_authority(world))


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    script = (
        "import sys, image_pull.signature.gate, image_pull.component\n"
        "print(sorted({'sigstore', 'pydantic', 'cryptography.x509'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("sigstore")
async def test_the_public_instances_trusted_roots_are_read_and_know_nobody_of_ours(
    world: SigstoreWorld,
) -> None:
    repository = bundled(world.bundle(world.issue(), D))
    store = importlib.resources.files("sigstore") / "_store"
    roots = [each / "trusted_root.json" for each in store.iterdir() if each.is_dir()]
    texts = [each.read_text() for each in roots if each.is_file()]
    assert texts
    for text in texts:
        assert "certificate chain" in await why_not(
            repository, by_root(world, trustedRootData=text)
        )
        for authority in json.loads(text)["certificateAuthorities"]:
            for entry in authority["certChain"]["certificates"]:
                lines = "".join(f"{entry['rawBytes'][n : n + 64]}\n" for n in range(0, 9000, 64))
                pem = f"-----BEGIN CERTIFICATE-----\n{lines.strip()}\n-----END CERTIFICATE-----\n"
                assert len(read_certificates(pem.encode())) == 1


@pytest.mark.openssl
@pytest.mark.usefixtures("sigstore")
async def test_a_timestamp_authority_s_time_counts_where_the_root_knows_it(
    world: SigstoreWorld, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    clock = TimestampAuthority(tmp_path)
    requirement = by_root(
        world, trustedRootData=world.trusted_root(timestampAuthorities=[clock.described()])
    )
    signer = world.issue(issued=now - LIFE / 2)
    unpromised = world.bundle(signer, D, at=now, lie="no promise")
    stamped = clock.added_to(unpromised)
    await check(bundled(stamped), requirement)
    await why_not(bundled(unpromised), requirement)
    await why_not(bundled(stamped), by_root(world))
    await why_not(bundled(clock.added_to(unpromised, b"something else")), requirement)
    other = tmp_path / "other"
    other.mkdir()
    await why_not(bundled(TimestampAuthority(other).added_to(unpromised)), requirement)
    ended = world.bundle(world.issue(), D, lie="no promise")
    await why_not(bundled(clock.added_to(ended)), requirement)
