"""`guest image encrypt` with Debian's docker-registry, plain and guarded; our pull reads it."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.cli import main
from guest.config import decode_config
from guest.deadline import Deadline
from guest.errors import GuestError, NotFoundError
from guest.secret import Secret
from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Layer, build_image, build_index
from guest_simulator.images.layout import write_layout
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from support.gates import why_not
from support.pulling import insecure

pytestmark = pytest.mark.registry

SECONDS = 60.0
CANNOT_PULL = why_not("mount") if os.geteuid() == 0 else None
"""A pull as root mounts; any other unpacks into the bundle."""

PASSWORD = "$2b$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC"
"""bcrypt of `right`."""


@contextlib.contextmanager
def docker_registry(
    directory: Path, auth: dict[str, object] | None = None, tls: dict[str, str] | None = None
) -> Iterator[str]:
    directory.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"} | ({"tls": tls} if tls else {}),
    } | ({"auth": auth} if auth else {})
    path = directory / "config.yml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    for command in (
        ("genpkey", *curve, "-out", str(private)),
        ("pkey", "-in", str(private), "-pubout", "-out", str(public)),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=SECONDS)
    return private, public


class NoResources:
    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        raise NotFoundError(f"no {uri}")


@pytest.mark.skipif(CANNOT_PULL is not None, reason=str(CANNOT_PULL))
async def test_an_encrypted_image_is_pushed_read_back_and_pulled(
    tmp_path: Path, key: tuple[Path, Path]
) -> None:

    private, public = key
    layers = [
        Layer(
            entries=(Entry(kind=Kind.FILE, path=name, data=os.urandom(300_000)),),
            compression=compression,
        )
        for name, compression in (
            ("a", Compression.GZIP),
            ("b", Compression.ZSTD),
            ("c", Compression.NONE),
        )
    ]
    index = build_index([build_image(layers), build_image(layers, architecture="s390x")])
    write_layout(index, tmp_path / "in", "v1")
    with docker_registry(tmp_path / "registry") as host:
        for source, target, number in (
            (f"oci:{tmp_path}/in:v1", f"docker://{host}/demo/first:v1", "0"),
            (f"docker://{host}/demo/first:v1", f"docker://{host}/demo/second:v1", "1"),
        ):
            words = ["image", "encrypt", "-q", "--plain-http", source, target]
            words += ["--encryption-key", f"jwe:{public}", "--encrypt-layer", number]
            assert await asyncio.to_thread(main, words) == 0
        settings = {"work_dir": str(tmp_path / "work"), "registry_config": insecure(host)}
        config = decode_config(json.dumps(settings).encode(), "image.json", ImageConfig)
        keys = [Secret(private.read_bytes())]
        puller = build_puller(config, resources=NoResources(), keys=None, private_keys=keys)
        bundle = tmp_path / "bundle"
        try:
            await puller.pull(f"{host}/demo/second:v1", bundle, deadline=Deadline.after(SECONDS))
            for layer in layers:
                (entry,) = layer.entries
                assert (bundle / "rootfs" / entry.path).read_bytes() == entry.data
        except GuestError as error:
            pytest.fail(": ".join(error.causes()))
        finally:
            await puller.discard(bundle)
            await puller.close()


def test_a_password_and_a_private_authority_are_enough_and_needed(
    tmp_path: Path, key: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, public = key
    authority = CertificateAuthority.create()
    ca = authority.write(tmp_path)
    server = authority.issue("127.0.0.1", "localhost")
    certificate, server_key = tmp_path / "server.pem", tmp_path / "server.key"
    certificate.write_bytes(server.certificate)
    server_key.write_bytes(server.key)
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(f"user:{PASSWORD}\n")
    entry = Entry(kind=Kind.FILE, path="a", data=b"x" * 1000)
    write_layout(build_image([Layer(entries=(entry,))]), tmp_path / "in", "v1")
    auth: dict[str, object] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    tls = {"certificate": str(certificate), "key": str(server_key)}
    with docker_registry(tmp_path / "registry", auth, tls) as host:
        authfile = tmp_path / "auth.json"
        authfile.write_text(json.dumps({"auths": {host: {"auth": "dXNlcjpyaWdodA=="}}}))
        words = ["image", "encrypt", "-q", f"oci:{tmp_path}/in:v1", f"docker://{host}/demo/a:v1"]
        words += ["--encryption-key", f"jwe:{public}"]
        assert main(words) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
        nobody = tmp_path / "nobody.json"
        nobody.write_text('{"auths":{}}')
        assert main([*words, "--ca", str(ca), "--authfile", str(nobody)]) == 1
        assert "refuses an anonymous user" in capsys.readouterr().err
        assert main([*words, "--dest-ca", str(ca), "--dest-authfile", str(authfile)]) == 0
        digest = capsys.readouterr().out.strip()
        words[3:5] = [f"docker://{host}/demo/a:v1", f"oci:{tmp_path}/out:v1"]
        options = ["--src-ca", str(ca), "--src-authfile", str(authfile)]
        assert main([*words, *options]) == 1
        assert "encrypted already" in capsys.readouterr().err
        assert digest.startswith("sha256:")
