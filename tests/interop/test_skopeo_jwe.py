"""JWE both ways with Debian 12's skopeo: what one encrypts the other decrypts, bit for bit."""

import asyncio
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from guest.cli import main
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image, build_index
from guest_simulator.images.layout import write_layout
from support.encrypted import decrypted_layers, layout_blob, layout_root

pytestmark = pytest.mark.skopeo

SECONDS = 60
JWE = "org.opencontainers.image.enc.keys.jwe"


def run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout


def skopeo(source: str, destination: str, *options: str) -> None:
    run("skopeo", "--insecure-policy", "copy", *options, source, destination)


def encrypt(source: str, destination: str, *recipients: str) -> None:
    options = [word for recipient in recipients for word in ("--encryption-key", recipient)]
    assert main(["image", "encrypt", "--quiet", source, destination, *options]) == 0


def make_pair(folder: Path, kind: str) -> tuple[Path, Path]:
    """Private and public key, as OpenSSL writes them."""
    private, public = folder / f"{kind}.pem", folder / f"{kind}.pub"
    options = {
        "rsa": ("RSA", "rsa_keygen_bits:2048"),
        "p256": ("EC", "ec_paramgen_curve:P-256"),
        "p384": ("EC", "ec_paramgen_curve:P-384"),
        "p521": ("EC", "ec_paramgen_curve:P-521"),
    }[kind]
    algorithm, parameter = options
    run("openssl", "genpkey", "-algorithm", algorithm, "-pkeyopt", parameter, "-out", str(private))
    run("openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def small_image() -> Image:
    return build_image(
        [
            Layer(
                entries=(Entry(kind=Kind.FILE, path=name, data=os.urandom(size)),),
                compression=compression,
            )
            for name, size, compression in (
                ("gzip", 100_000, Compression.GZIP),
                ("zstd", 5_000, Compression.ZSTD),
                ("empty", 0, Compression.GZIP),
            )
        ]
    )


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521"])
def test_skopeo_decrypts_what_we_encrypted(tmp_path: Path, kind: str) -> None:
    private, public = make_pair(tmp_path, kind)
    image = small_image()
    write_layout(image, tmp_path / "in", "v1")
    encrypt(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", f"jwe:{public}")
    skopeo(f"oci:{tmp_path}/secret:v1", f"oci:{tmp_path}/out:v1", "--decryption-key", str(private))
    before, after = json.loads(image.manifest), layout_root(tmp_path / "out", "v1")
    assert after["layers"] == before["layers"]
    assert after["config"] == before["config"]
    for layer in image.layers:
        assert layout_blob(tmp_path / "out")(str(layer.descriptor["digest"])) == layer.blob


def test_skopeo_refuses_another_key_for_what_we_encrypted(tmp_path: Path) -> None:
    _, public = make_pair(tmp_path, "p256")
    other, _ = make_pair(tmp_path, "rsa")
    write_layout(small_image(), tmp_path / "in", "v1")
    encrypt(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", f"jwe:{public}")
    with pytest.raises(AssertionError, match="no suitable key"):
        skopeo(
            f"oci:{tmp_path}/secret:v1", f"oci:{tmp_path}/out:v1", "--decryption-key", str(other)
        )


def test_each_of_several_recipients_can_decrypt_in_skopeo(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, kind) for kind in ("rsa", "p256", "p521")]
    image = small_image()
    write_layout(image, tmp_path / "in", "v1")
    recipients = [f"jwe:{public}" for _, public in pairs]
    encrypt(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", *recipients)
    for number, (private, _) in enumerate(pairs):
        out = tmp_path / f"out{number}"
        skopeo(f"oci:{tmp_path}/secret:v1", f"oci:{out}:v1", "--decryption-key", str(private))
        assert layout_root(out, "v1")["layers"] == json.loads(image.manifest)["layers"]


@pytest.mark.parametrize("kinds", [["rsa"], ["p256"], ["p384"], ["p521"], ["rsa", "p256"]], ids=str)
async def test_we_decrypt_what_skopeo_encrypted(tmp_path: Path, kinds: list[str]) -> None:
    pairs = [make_pair(tmp_path, kind) for kind in kinds]
    image = small_image()
    write_layout(image, tmp_path / "in", "v1")
    options = [word for _, public in pairs for word in ("--encryption-key", f"jwe:{public}")]
    skopeo(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", *options)
    manifest = layout_root(tmp_path / "secret", "v1")
    assert [each["mediaType"].rpartition(".")[2] for each in manifest["layers"]] == [
        "tar+gzip+encrypted",
        "tar+zstd+encrypted",
        "tar+gzip+encrypted",
    ]
    read = layout_blob(tmp_path / "secret")
    for private, _ in pairs:
        plain = await decrypted_layers(manifest, read, private_keys=[private.read_bytes()])
        assert plain == [layer.blob for layer in image.layers]


async def test_we_add_a_recipient_to_what_skopeo_encrypted_and_skopeo_reads_it(
    tmp_path: Path,
) -> None:
    first, first_public = make_pair(tmp_path, "p256")
    second, second_public = make_pair(tmp_path, "rsa")
    image = small_image()
    write_layout(image, tmp_path / "in", "v1")
    skopeo(
        f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", "--encryption-key",
        f"jwe:{first_public}",
    )  # fmt: skip
    words = [
        "image", "encrypt", "--quiet", f"oci:{tmp_path}/secret:v1", f"oci:{tmp_path}/both:v1",
        "--encryption-key", f"jwe:{second_public}", "--decryption-key", str(first),
    ]  # fmt: skip
    assert await asyncio.to_thread(main, words) == 0
    for number, private in enumerate((first, second)):
        out = tmp_path / f"out{number}"
        skopeo(f"oci:{tmp_path}/both:v1", f"oci:{out}:v1", "--decryption-key", str(private))
        assert layout_root(out, "v1")["layers"] == json.loads(image.manifest)["layers"]


def test_skopeo_decrypts_every_image_of_an_index_that_we_encrypted(tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, "p256")
    images = [small_image(), build_image(small_image().layers, architecture="arm64")]
    write_layout(build_index(images), tmp_path / "in", "v1")
    encrypt(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", f"jwe:{public}")
    for image in images:
        out = tmp_path / str(image.platform["architecture"])
        skopeo_as = ("--override-arch", str(image.platform["architecture"]))
        run(
            "skopeo", "--insecure-policy", *skopeo_as, "copy", "--decryption-key", str(private),
            f"oci:{tmp_path}/secret:v1", f"oci:{out}:v1",
        )  # fmt: skip
        assert layout_root(out, "v1")["layers"] == json.loads(image.manifest)["layers"]


@pytest.mark.umoci
def test_umoci_unpacks_the_same_files_before_and_after(tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, "p256")
    # umoci 0.4.7 does not know zstd.
    layers = [replace(each, compression=Compression.GZIP) for each in demo_layers(files=60)]
    write_layout(build_image(layers), tmp_path / "in", "v1")
    encrypt(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", f"jwe:{public}")
    skopeo(f"oci:{tmp_path}/secret:v1", f"oci:{tmp_path}/out:v1", "--decryption-key", str(private))
    rootless = () if os.geteuid() == 0 else ("--rootless",)
    for layout in ("in", "out"):
        image = ("--image", f"{tmp_path}/{layout}:v1")
        run("umoci", "raw", "unpack", *rootless, *image, str(tmp_path / f"{layout}.rootfs"))
    assert listing(tmp_path / "in.rootfs") == listing(tmp_path / "out.rootfs")


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that is in a tree: kind, mode, owner, size, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(place, name)
            status = path.lstat()
            content: object = None
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_rdev, content,
            )  # fmt: skip
    return found
