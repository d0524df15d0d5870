"""Signatures by skopeo and GnuPG, judged by skopeo and by us; signatures on the web."""

import asyncio
import functools
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.registry.server import Registry
from image_pull.registry.rules import RegistriesTable
from support.pulling import insecure, plain_puller
from support.signing import Gnupg

pytestmark = [pytest.mark.skopeo, pytest.mark.gpg]
pytest.importorskip("pysequoia")

SECONDS = 60
DENIED = "Image policy rejected: Denied by policy: rejected by `signedBy` rule"


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


@pytest.fixture
def gnupg(short_tmp: Path) -> Iterator[Gnupg]:
    made = Gnupg(short_tmp)
    yield made
    made.close()


def skopeo(gnupg: Gnupg, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["skopeo", *arguments],
        env=gnupg.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def image() -> Image:
    return build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"a"),))])


@dataclass
class Place:
    """One registry, one lookaside directory, and what both programs are told of them."""

    directory: Path
    registry: Registry
    gnupg: Gnupg

    @property
    def shelf(self) -> Path:
        """The lookaside directory."""
        return self.directory / "shelf"

    def configure(self, address: str) -> str:
        """Write the directory of lookaside files; the one file's text."""
        entry = {"sigstore": address, "sigstore-staging": f"file://{self.shelf}"}
        text = json.dumps({"docker": {self.registry.host: entry}})  # JSON is YAML
        folder = self.directory / "registries.d"
        folder.mkdir(exist_ok=True)
        (folder / "one.yaml").write_text(text)
        return text

    async def push(self, layout: Path, name: str, *options: str) -> None:
        """Copy an image out of a layout."""
        done = await asyncio.to_thread(
            skopeo,
            self.gnupg,
            "--insecure-policy",
            f"--registries.d={self.directory / 'registries.d'}",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            *options,
            f"oci:{layout}:v1",
            f"docker://{self.registry.host}/{name}",
        )
        assert done.returncode == 0, done.stderr

    async def skopeo_accepts(self, policy: str, name: str) -> bool:
        """Whether skopeo lets the image through."""
        path = self.directory / "policy.json"
        path.write_text(policy)
        done = await asyncio.to_thread(
            skopeo,
            self.gnupg,
            f"--policy={path}",
            f"--registries.d={self.directory / 'registries.d'}",
            "copy",
            "--src-tls-verify=false",
            f"docker://{self.registry.host}/{name}",
            f"dir:{self.directory / 'copy'}",
        )
        if done.returncode != 0:
            assert "Source image rejected" in done.stderr, done.stderr
        return done.returncode == 0

    async def we_accept(self, policy: str, name: str, sigstore: str, number: int) -> bool:
        """Whether we do."""
        rules = msgspec.convert(insecure(self.registry.host), RegistriesTable)
        async with plain_puller(
            self.directory / f"work-{number}",
            registry_config=rules,
            image_security_policy=policy,
            sigstore_config=sigstore,
        ) as puller:
            bundle = self.directory / f"bundle-{number}"
            reference = f"{self.registry.host}/{name}"
            try:
                await puller.pull(reference, bundle, deadline=Deadline.after(SECONDS))
            except DeniedError as error:
                if DENIED in str(error):
                    return False
                raise
        return True


def policy(key: Path, identity: dict[str, str] | None = None) -> str:
    members = {} if identity is None else {"signedIdentity": identity}
    rule = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key), **members}
    return json.dumps({"default": [rule]})


async def test_we_and_skopeo_agree_about_what_skopeo_signed(tmp_path: Path, gnupg: Gnupg) -> None:
    signer = gnupg.key("one", "rsa2048")
    gnupg.key("two")
    one, two = tmp_path / "one.gpg", tmp_path / "two.gpg"
    one.write_bytes(gnupg.export("one"))
    two.write_bytes(gnupg.export("two", armor=True))
    write_layout(image(), tmp_path / "layout", "v1")
    async with Registry() as registry:
        place = Place(tmp_path, registry, gnupg)
        sigstore = place.configure(f"file://{place.shelf}")
        await place.push(tmp_path / "layout", "t/base:v1", f"--sign-by={signer}")
        await place.push(tmp_path / "layout", "t/base:v2")
        pinned = f"t/base@{image().manifest_digest}"
        repository = {"type": "matchRepository"}
        exact = {"type": "matchExact"}
        named = {"type": "exactReference", "dockerReference": f"{registry.host}/t/base:v1"}
        of_name = {"type": "exactRepository", "dockerRepository": f"{registry.host}/t/base"}
        remap = {"type": "remapIdentity", "prefix": registry.host, "signedPrefix": "q.io"}
        cases = (
            (policy(one), "t/base:v1", True),
            (policy(one), pinned, True),
            (policy(one), "t/base:v2", False),
            (policy(two), "t/base:v1", False),
            (policy(one, repository), "t/base:v2", True),
            (policy(one, exact), "t/base:v1", True),
            (policy(one, exact), pinned, False),
            (policy(one, named), "t/base:v2", True),
            (policy(one, of_name), "t/base:v2", True),
            (policy(one, remap), "t/base:v1", False),
        )
        for number, (text, name, expected) in enumerate(cases):
            assert await place.skopeo_accepts(text, name) is expected, (text, name)
            assert await place.we_accept(text, name, sigstore, number) is expected, (text, name)


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """A web server of Python's own over a directory."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


async def test_a_standalone_signature_is_found_on_the_web_by_skopeo_and_by_us(
    tmp_path: Path, gnupg: Gnupg
) -> None:
    signer = gnupg.key("one")
    ring = tmp_path / "ring.gpg"
    ring.write_bytes(gnupg.export("one"))
    write_layout(image(), tmp_path / "layout", "v1")
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(image().manifest)
    async with Registry() as registry:
        place = Place(tmp_path, registry, gnupg)
        folder = place.shelf / f"t/base@{image().manifest_digest.replace(':', '=')}"
        folder.mkdir(parents=True)
        (folder / "signature-1").write_bytes(gnupg.sign("one", b"not about an image"))
        second = folder / "signature-2"
        name = f"{registry.host}/t/base:v1"
        with served(place.shelf) as address:
            sigstore = place.configure(address)
            await place.push(tmp_path / "layout", "t/base:v1")
            assert not await place.skopeo_accepts(policy(ring), "t/base:v1")
            assert not await place.we_accept(policy(ring), "t/base:v1", sigstore, 1)
            sign = ("standalone-sign", str(manifest), name, signer, "--output", str(second))
            done = await asyncio.to_thread(skopeo, gnupg, *sign)
            assert done.returncode == 0, done.stderr
            assert await place.skopeo_accepts(policy(ring), "t/base:v1")
            assert await place.we_accept(policy(ring), "t/base:v1", sigstore, 2)
        # The web server is down.
        assert not await place.we_accept(policy(ring), "t/base:v1", sigstore, 3)
