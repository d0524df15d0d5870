"""Debian's docker-registry and skopeo before us, umoci beside us: their bytes, our root."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image
from guest_simulator.images.layout import write_layout
from support.agents import agent_command

pytestmark = [pytest.mark.registry, pytest.mark.skopeo]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"
"""bcrypt of the password `right`."""


@dataclass
class Served:
    """One registry under way.

    Attributes:
        host: with port.
        destination: options that make skopeo reach it.
    """

    host: str
    destination: tuple[str, ...]

    def push(self, layout: Path, name: str, *options: str) -> None:
        """Copy an image out of a layout."""
        run(
            "skopeo",
            "--insecure-policy",
            "copy",
            *options,
            *self.destination,
            f"oci:{layout}:v1",
            f"docker://{self.host}/{name}",
        )


def run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout


def free_port() -> int:
    """docker-registry does not tell which port it took, so one is chosen that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def docker_registry(
    directory: Path, extra: Mapping[str, object], http: Mapping[str, object]
) -> Iterator[str]:
    directory.mkdir()
    port = free_port()
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", **http},
        **extra,
    }
    path = directory / "config.yml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=log)
    try:
        _wait_for(port, process, directory / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail(f"docker-registry does not listen: {log.read_text()}")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Served]:
    with docker_registry(tmp_path / "registry", {}, {}) as host:
        yield Served(host, ("--dest-tls-verify=false",))


@pytest.fixture
def layers() -> list[Layer]:
    return demo_layers(files=60)


def layout(image: Image, directory: Path) -> Path:
    write_layout(image, directory, "v1")
    return directory


def image_pull(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a shell would."""
    options = ["--work-dir", str(tmp_path / "work"), "--quiet", "--timeout", "50"]
    return subprocess.run(
        agent_command(*options, *arguments, module="image_pull.main"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def pull(tmp_path: Path, *arguments: str) -> str:
    """Pull; the digest that was printed."""
    done = image_pull(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def failure(tmp_path: Path, *arguments: str) -> str:
    """Pull in vain; the one line that says why."""
    done = image_pull(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@contextlib.contextmanager
def undone(tmp_path: Path, bundle: Path) -> Iterator[None]:
    """Take the bundle apart at the end, mounted or not."""
    try:
        yield
    finally:
        assert image_pull(tmp_path, "--undo", "-", str(bundle)).returncode == 0


def names(rootfs: Path) -> set[str]:
    found = set()
    for place, directories, files in os.walk(rootfs):
        inside = Path(place).relative_to(rootfs)
        found |= {str(inside / name) for name in (*directories, *files)}
    return found


@pytest.mark.umoci
def test_what_we_unpack_is_what_umoci_unpacks(
    tmp_path: Path, plain: Served, layers: list[Layer]
) -> None:
    # umoci 0.4 knows no zstd.
    image = build_image([replace(each, compression=Compression.GZIP) for each in layers])
    source = layout(image, tmp_path / "layout")
    plain.push(source, "t/base:x", "--preserve-digests")
    bundle = tmp_path / "bundle"
    reference = f"{plain.host}/t/base:x"
    digest = pull(tmp_path, "--insecure", plain.host, reference, str(bundle))
    with undone(tmp_path, bundle):
        assert digest == image.manifest_digest
        rootless = () if os.geteuid() == 0 else ("--rootless",)
        reference_root = tmp_path / "umoci"
        run("umoci", "raw", "unpack", *rootless, "--image", f"{source}:v1", str(reference_root))
        theirs, ours = names(reference_root), names(bundle / "rootfs")
        if os.geteuid() != 0:
            theirs = {path for path in theirs if not path.startswith("dev/")}
            ours = {path for path in ours if not path.startswith("dev/")}
        assert ours == theirs
        for path in sorted(theirs):
            one, other = (bundle / "rootfs" / path).lstat(), (reference_root / path).lstat()
            assert one.st_mode == other.st_mode, path
            assert (one.st_uid, one.st_gid) == (other.st_uid, other.st_gid), path
            assert one.st_nlink == other.st_nlink or os.path.isdir(reference_root / path), path
            if os.path.isfile(reference_root / path) and not os.path.islink(reference_root / path):
                assert (bundle / "rootfs" / path).read_bytes() == (
                    reference_root / path
                ).read_bytes(), path


@pytest.mark.parametrize("compression", list(Compression))
def test_every_compression_that_skopeo_pushes_is_pulled(
    compression: Compression, tmp_path: Path, plain: Served
) -> None:
    entry = Entry(kind=Kind.FILE, path="a", data=b"content" * 1000)
    image = build_image([Layer(entries=(entry,), compression=compression)])
    plain.push(layout(image, tmp_path / "layout"), "t/a:x", "--preserve-digests")
    bundle = tmp_path / "bundle"
    pull(tmp_path, "--insecure", plain.host, f"{plain.host}/t/a:x", str(bundle))
    with undone(tmp_path, bundle):
        assert (bundle / "rootfs" / "a").read_bytes() == entry.data


def test_docker_media_types_are_pulled(tmp_path: Path, plain: Served) -> None:
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"x"),))])
    plain.push(layout(image, tmp_path / "layout"), "t/a:x", "--format", "v2s2")
    bundle = tmp_path / "bundle"
    digest = pull(tmp_path, "--insecure", plain.host, f"{plain.host}/t/a:x", str(bundle))
    with undone(tmp_path, bundle):
        assert digest != image.manifest_digest
        inspected = run("skopeo", "inspect", "--tls-verify=false", f"docker://{plain.host}/t/a:x")
        assert json.loads(inspected)["Digest"] == digest
        assert names(bundle / "rootfs") == {"a"}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Served, Path]]:
    """TLS of a private CA, and a password; also the CA's file."""
    authority = CertificateAuthority.create()
    ca = authority.write(tmp_path)
    server = authority.issue("127.0.0.1", "localhost")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    certificate.write_bytes(server.certificate)
    key.write_bytes(server.key)
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(HTPASSWD)
    auth = {"auth": {"htpasswd": {"realm": "test", "path": str(htpasswd)}}}
    tls = {"tls": {"certificate": str(certificate), "key": str(key)}}
    with docker_registry(tmp_path / "registry", auth, tls) as host:
        options = ("--dest-tls-verify=false", "--dest-creds", "user:right")
        yield Served(host, options), ca


def test_a_private_ca_and_a_password_open_the_registry_and_nothing_less_does(
    tmp_path: Path, guarded: tuple[Served, Path]
) -> None:
    served, ca = guarded
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"x"),))])
    served.push(layout(image, tmp_path / "layout"), "t/a:x", "--preserve-digests")
    reference, bundle = f"{served.host}/t/a:x", tmp_path / "bundle"
    run("skopeo", "login", "--authfile", str(tmp_path / "auth.json"), "--tls-verify=false",
        "-u", "user", "-p", "right", served.host)  # fmt: skip
    auth = ("--auth-file", str(tmp_path / "auth.json"))
    trust = ("--ca", str(ca))
    assert "CERTIFICATE_VERIFY_FAILED" in failure(tmp_path, *auth, reference, str(bundle))
    assert "Not authorized" in failure(tmp_path, *trust, reference, str(bundle))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"auths": {served.host: {"auth": "dXNlcjp3cm9uZw=="}}}))
    said = failure(tmp_path, *trust, "--auth-file", str(wrong), reference, str(bundle))
    assert "Not authorized" in said
    assert not bundle.exists()
    digest = pull(tmp_path, "--ca", str(ca), *auth, reference, str(bundle))
    with undone(tmp_path, bundle):
        assert digest == image.manifest_digest
        assert names(bundle / "rootfs") == {"a"}


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_layers_that_skopeo_encrypted_are_decrypted(
    compression: Compression, tmp_path: Path, plain: Served
) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    run("openssl", "genrsa", "-out", str(private), "2048")
    run("openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public))
    entry = Entry(kind=Kind.FILE, path="a", data=os.urandom(100_000))
    image = build_image([Layer(entries=(entry,), compression=compression)])
    source = layout(image, tmp_path / "layout")
    plain.push(source, "t/secret:x", "--encryption-key", f"jwe:{public}")
    bundle = tmp_path / "bundle"
    arguments = ["--insecure", plain.host, f"{plain.host}/t/secret:x", str(bundle)]
    text = (
        "Failed to decrypt the image layer, please ensure that the decryption key is placed "
        "and correct"
    )
    assert text in failure(tmp_path, *arguments)
    pull(tmp_path, "--decryption-key", str(private), *arguments)
    with undone(tmp_path, bundle):
        assert (bundle / "rootfs" / "a").read_bytes() == entry.data
    # What is in the store already needs its key all the same.
    assert text in failure(tmp_path, *arguments)
