"""Programs of others: from a directory or a registry, as pinned or not at all."""

import asyncio
import hashlib
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Final

import pytest
import zstandard

from guest_simulator.images.entries import Entry
from guest_simulator.images.image import Layer, build_image, build_index, sha256
from guest_simulator.registry.server import Registry
from image_pull.artifact import TITLE
from image_pull.manifest import OCI_MANIFEST
from image_pull.registry.oras import Access
from podvm.binaries import Store, environment_access, install, report, units_off
from podvm.errors import ImageError
from podvm.manifest import Program
from podvm.pinned import Pinned

AGENT: Final = b"\x7fELF the agent"
FORWARDER: Final = b"\x7fELF the forwarder"
REPOSITORY: Final = "kata/agent"


def archive(name: str, data: bytes) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        item = tarfile.TarInfo(name)
        item.size = len(data)
        tar.addfile(item, io.BytesIO(data))
    return buffer.getvalue()


PACKED: Final = {
    "agent.tar": archive("./usr/bin/kata-agent", AGENT),
    "agent.tar.zst": zstandard.ZstdCompressor().compress(archive("usr/bin/kata-agent", AGENT)),
    "agent.tar.xz": lzma.compress(archive("usr/bin/kata-agent", AGENT)),
    "kata-agent": AGENT,
}


def push(registry: Registry, title: str, data: bytes) -> str:
    """Store an artifact of one file; the digest of its manifest."""
    registry.put_blob(REPOSITORY, b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.binary",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": sha256(b"{}"),
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": registry.put_blob(REPOSITORY, data),
                "size": len(data),
                "annotations": {TITLE: title},
            }
        ],
    }
    body = json.dumps(manifest).encode()
    return registry.put_manifest(REPOSITORY, "v1", OCI_MANIFEST, body)


def agent(registry: Registry, digest: str, file: str, **changed: str) -> Pinned:
    """An entry for the artifact."""
    fields = {
        "name": "kata-agent",
        "repository": f"{registry.host}/{REPOSITORY}",
        "digest": digest,
        "sha256": hashlib.sha256(AGENT).hexdigest(),
        "file": file,
        "member": "usr/bin/kata-agent" if ".tar" in file else "",
    }
    return Pinned(**(fields | changed))


def store(tmp_path: Path) -> Store:
    """A new cache, and registries without TLS."""
    return Store(cache=tmp_path / "blobs", access=Access(plain_http=True))


@pytest.mark.parametrize("file", sorted(PACKED))
async def test_a_program_is_fetched_by_digest_out_of_whatever_it_is_packed_in(
    file: str, tmp_path: Path
) -> None:
    async with Registry() as registry:
        digest = push(registry, file, PACKED[file])
        entry = agent(registry, digest, file)
        found = await asyncio.to_thread(install, tmp_path, None, [entry], store(tmp_path))
        paths = [request.path for request in registry.requests]

    assert found == (
        Program(name="kata-agent", sha256=entry.sha256, source=f"{entry.repository}@{digest}"),
    )
    placed = tmp_path / "usr/local/bin/kata-agent"
    assert (placed.read_bytes(), placed.stat().st_mode & 0o777) == (AGENT, 0o755)
    assert all("v1" not in path.split("/")[2:] and "latest" not in path for path in paths)
    assert units_off(found) == ["agent-protocol-forwarder"]


async def test_a_second_build_needs_no_registry_and_trusts_no_cache(tmp_path: Path) -> None:
    async with Registry() as registry:
        entry = agent(registry, push(registry, "kata-agent", AGENT), "kata-agent")
        await asyncio.to_thread(install, tmp_path / "a", None, [entry], store(tmp_path))
        asked = len(registry.requests)
        await asyncio.to_thread(install, tmp_path / "b", None, [entry], store(tmp_path))
        assert len(registry.requests) == asked
        for blob in (tmp_path / "blobs").rglob("*"):
            if blob.is_file():
                blob.write_bytes(b"something else")
        await asyncio.to_thread(install, tmp_path / "c", None, [entry], store(tmp_path))
        assert len(registry.requests) > asked

    assert (tmp_path / "c/usr/local/bin/kata-agent").read_bytes() == AGENT


async def test_what_is_not_as_pinned_is_refused_and_nothing_is_placed(tmp_path: Path) -> None:
    async with Registry() as registry:
        digest = push(registry, "agent.tar", PACKED["agent.tar"])
        platform = build_image([Layer(entries=(Entry(path="a", data=b"b"),))])
        index = registry.push_image(f"{REPOSITORY}:all", build_index([platform]))
        wrong = [
            (agent(registry, digest, "agent.tar", sha256="00" * 32), "has sha256"),
            (agent(registry, digest, "other.tar"), "has 0 files"),
            (agent(registry, digest, "agent.tar", member="usr/bin/other"), "has no file"),
            (agent(registry, f"sha256:{'00' * 32}", "agent.tar"), "404"),
            (agent(registry, index, "agent.tar"), "is an index"),
        ]
        for entry, text in wrong:
            with pytest.raises(ImageError, match=text):
                await asyncio.to_thread(install, tmp_path, None, [entry], store(tmp_path))

    assert not (tmp_path / "usr").exists()


async def test_a_registry_that_sends_other_bytes_is_refused(tmp_path: Path) -> None:
    async with Registry() as registry:
        digest = push(registry, "kata-agent", AGENT)
        blob = sha256(AGENT)
        draft = registry.repositories.blobs.draft()
        draft.append(AGENT + b" and more")
        registry.repositories.blobs.keep(draft, blob)
        entry = agent(registry, digest, "kata-agent")
        with pytest.raises(ImageError):
            await asyncio.to_thread(install, tmp_path, None, [entry], store(tmp_path))


@pytest.mark.spec("podvm-image", 30)
async def test_the_bundle_of_the_pause_image_names_a_program_that_is_there(tmp_path: Path) -> None:
    program = Entry(path="pause", data=b"\x7fELF pause", mode=0o755)
    image = build_image([Layer(entries=(program,))], config={"Entrypoint": ["/pause"]})
    async with Registry() as registry:
        digest = registry.push_image("pause:3.9", image)
        entry = Pinned(
            name="pause",
            repository=f"{registry.host}/pause",
            digest=digest,
            sha256=hashlib.sha256(program.data).hexdigest(),
            file="",
            member="",
        )
        (found,) = await asyncio.to_thread(install, tmp_path, None, [entry], store(tmp_path))

    assert found.source == entry.reference
    bundle = tmp_path / "pause_bundle"
    first = json.loads((bundle / "config.json").read_text())["process"]["args"][0]
    assert first.startswith("/")
    placed = bundle / "rootfs" / first[1:]
    assert (placed.read_bytes(), placed.stat().st_mode & 0o111) == (program.data, 0o111)


def given(tmp_path: Path) -> Path:
    """A directory with everything."""
    folder = tmp_path / "given"
    (folder / "pause_bundle/rootfs").mkdir(parents=True)
    (folder / "kata-agent").write_bytes(AGENT)
    (folder / "agent-protocol-forwarder").write_bytes(FORWARDER)
    (folder / "pause_bundle/config.json").write_text('{"process": {"args": ["/pause"]}}')
    (folder / "pause_bundle/umoci.json").write_text("{}")
    (folder / "pause_bundle/rootfs/pause").write_bytes(b"\x7fELF")
    (folder / "pause_bundle/rootfs/pause").chmod(0o755)
    return folder


def test_a_directory_goes_before_the_list(tmp_path: Path) -> None:
    pinned = Pinned(
        name="kata-agent", repository="r.example/a", digest=f"sha256:{'00' * 32}",
        sha256="00" * 32, file="a", member="",
    )  # fmt: skip

    found = install(tmp_path / "root", given(tmp_path), [pinned], store(tmp_path))

    assert [program.name for program in found] == [
        "kata-agent", "agent-protocol-forwarder", "pause",
    ]  # fmt: skip
    assert {program.source for program in found} == {"directory"}
    assert units_off(found) == []
    assert not (tmp_path / "root/pause_bundle/umoci.json").exists()


@pytest.mark.spec("podvm-image", 30)
def test_a_given_bundle_without_its_program_is_refused(tmp_path: Path) -> None:
    folder = given(tmp_path)
    (folder / "pause_bundle/rootfs/pause").unlink()

    with pytest.raises(ImageError, match="no program /pause"):
        install(tmp_path / "root", folder, [], store(tmp_path))


def test_without_any_program_the_units_are_named_that_stay_off(tmp_path: Path) -> None:
    found = install(tmp_path / "root", None, [], store(tmp_path))

    assert found == ()
    assert units_off(found) == ["kata-agent", "agent-protocol-forwarder"]
    lines = report(found)
    assert any("kata-agent.path and kata-agent.service stay off" in line for line in lines)
    assert any(line.startswith("pause: ") for line in lines)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is no directory"):
        install(tmp_path, tmp_path / "nowhere", [], store(tmp_path))


def test_proxies_and_authorities_are_those_of_the_environment() -> None:
    access = environment_access({"SSL_CERT_FILE": "/ca.pem", "https_proxy": "http://p:1"})

    assert (access.roots, access.proxies.https) == (Path("/ca.pem"), "http://p:1")
    with pytest.raises(ImageError):
        environment_access({"https_proxy": "ftp://p:1"})
