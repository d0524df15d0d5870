"""Layers that skopeo encrypts for certificates, OpenPGP keys and public keys of tokens."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image
from guest_simulator.images.layout import write_layout
from support.encrypted import decrypted_layers, layout_blob, layout_root
from support.newer_skopeo import newer_skopeo
from support.signing import Gnupg, run

pytestmark = pytest.mark.skopeo

SECONDS = 60


@pytest.fixture
def image(tmp_path: Path) -> Image:
    made = build_image(
        [
            Layer(
                entries=(Entry(kind=Kind.FILE, path=f"f{size}", data=os.urandom(size)),),
                compression=compression,
            )
            for size, compression in ((100_000, Compression.GZIP), (5_000, Compression.ZSTD))
        ]
    )
    write_layout(made, tmp_path / "in", "v1")
    return made


@pytest.fixture
def gnupg(short_tmp: Path) -> Iterator[Gnupg]:
    home = short_tmp / "gnupg"
    home.mkdir(mode=0o700)
    made = Gnupg(home)
    yield made
    made.close()


def rsa_pair(folder: Path, bits: int) -> tuple[Path, Path]:
    private, public = folder / f"rsa{bits}.pem", folder / f"rsa{bits}.pub"
    options = ("-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}")
    run("openssl", "genpkey", *options, "-out", str(private))
    run("openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def encrypt(
    folder: Path,
    *recipients: str,
    command: tuple[str, ...] = ("skopeo",),
    **environment: str,
) -> None:
    options = [word for each in recipients for word in ("--encryption-key", each)]
    subprocess.run(
        [*command, "--insecure-policy", "copy", *options, f"oci:{folder}/in:v1",
         f"oci:{folder}/secret:v1"],
        check=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip


async def opened(folder: Path, *keys: bytes) -> list[bytes]:
    manifest = layout_root(folder / "secret", "v1")
    return await decrypted_layers(manifest, layout_blob(folder / "secret"), private_keys=keys)


@pytest.mark.openssl
async def test_layers_for_certificates_open_with_each_of_their_keys(
    tmp_path: Path, image: Image
) -> None:
    recipients, keys = [], []
    for number, bits in enumerate((2048, 3072)):
        private, _ = rsa_pair(tmp_path, bits)
        certificate = tmp_path / f"{bits}.crt"
        name = ("-subj", f"/CN=owner {number}", "-days", "2")
        run("openssl", "req", "-x509", "-key", str(private), *name, "-out", str(certificate))
        recipients.append(f"pkcs7:{certificate}")
        keys.append(private.read_bytes())
    encrypt(tmp_path, *recipients)
    for key in keys:
        assert await opened(tmp_path, key) == [layer.blob for layer in image.layers]


@pytest.mark.gpg
async def test_layers_for_openpgp_keys_open_with_each_of_them(
    tmp_path: Path, image: Image, gnupg: Gnupg
) -> None:
    for name in ("alice", "bob"):
        primary = gnupg.key(name, "rsa2048")
        gnupg.gpg("--quick-add-key", primary, "rsa2048", "encr", "0")
    recipients = [f"pgp:{name}@example.com" for name in ("alice", "bob")]
    encrypt(tmp_path, *recipients, GNUPGHOME=gnupg.environment["GNUPGHOME"])
    for name, armor in (("alice", ("--armor",)), ("bob", ())):
        key = gnupg.gpg(*armor, "--export-secret-keys", f"{name}@example.com")
        assert await opened(tmp_path, key) == [layer.blob for layer in image.layers]


@pytest.mark.openssl
@pytest.mark.parametrize(("bits", "digest"), [(2048, "sha1"), (3072, "sha256")])
async def test_layers_for_the_public_key_of_a_token_open_with_the_private_key_as_a_file(
    tmp_path: Path, image: Image, bits: int, digest: str
) -> None:
    command = newer_skopeo()
    if isinstance(command, str):
        pytest.skip(command)
    private, public = rsa_pair(tmp_path, bits)
    encrypt(
        tmp_path,
        f"pkcs11:{public}",
        command=command,
        OCICRYPT_CONFIG="internal",
        OCICRYPT_OAEP_HASHALG=digest,
    )
    assert await opened(tmp_path, private.read_bytes()) == [layer.blob for layer in image.layers]
