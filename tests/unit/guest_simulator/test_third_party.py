"""What skopeo and umoci make of our registry and images: an opinion that is not ours."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.images.rootfs import expected_rootfs, resolve
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry

FORMATS = {
    Kind.FILE: stat.S_ISREG,
    Kind.DIRECTORY: stat.S_ISDIR,
    Kind.SYMLINK: stat.S_ISLNK,
    Kind.CHARACTER: stat.S_ISCHR,
    Kind.BLOCK: stat.S_ISBLK,
    Kind.FIFO: stat.S_ISFIFO,
}


async def run(*command: str) -> str:
    """Run a program; its output, or a failure with what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.skopeo
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("redirect", [False, True])
async def test_skopeo_pushes_and_pulls(tmp_path: Path, mode: Mode, redirect: bool) -> None:
    image = build_image(demo_layers(files=30))
    write_layout(image, tmp_path / "in", "v1")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    authority = CertificateAuthority.create()
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_bytes(authority.pem)
    certs = str(tmp_path / "certs")
    access = Access(mode=mode, users={"user": "secret"})
    copy = ("skopeo", "--policy", str(policy), "copy", "--preserve-digests")
    async with Registry(
        access=access, redirect=redirect, tls=authority.issue().context()
    ) as registry:
        reference = f"docker://{registry.host}/demo/app:v1"
        source = f"oci:{tmp_path / 'in'}:v1"
        there = ("--dest-cert-dir", certs, "--dest-creds", "user:secret")
        await run(*copy, *there, source, reference)
        assert registry.get_manifest("demo/app", "v1")[1] == image.manifest
        back = ("--src-cert-dir", certs, "--src-creds", "user:secret")
        target = f"oci:{tmp_path / 'out'}:v1"
        await run(*copy, *back, reference, target)
        assert registry.requests.count("POST", "/token") + registry.requests.count(
            "GET", "/token"
        ) == (access.issued if mode is Mode.BEARER else 0)
    for digest, data in image.blobs.items():
        path = tmp_path / "out" / "blobs" / "sha256" / digest.removeprefix("sha256:")
        assert path.read_bytes() == data
    listed = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    assert listed[0]["digest"] == image.manifest_digest


def compare(root: Path, tree: dict[str, Entry]) -> list[str]:
    """What differs between an unpacked image and what it must be."""
    wrong = []
    for path in tree:
        entry, real = resolve(tree, path), root / path
        try:
            status = real.lstat()
        except OSError as error:
            wrong.append(f"{path}: {error}")
            continue
        if not FORMATS[entry.kind](status.st_mode):
            wrong.append(f"{path}: not a {entry.kind}")
        elif (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            wrong.append(f"{path}: owner")
        elif entry.kind is not Kind.SYMLINK and status.st_mode & 0o7777 != entry.mode:
            wrong.append(f"{path}: mode {oct(status.st_mode)}")
        elif entry.kind is Kind.FILE and real.read_bytes() != entry.data:
            wrong.append(f"{path}: content")
        elif entry.kind is Kind.SYMLINK and os.readlink(real) != entry.target:
            wrong.append(f"{path}: target")
        for name, value in entry.xattrs.items():
            if name.startswith("security.") and os.getxattr(real, name) != value:
                wrong.append(f"{path}: {name}")
    return wrong


@pytest.mark.root
@pytest.mark.umoci
async def test_umoci_unpacks_the_demo_image_to_the_expected_rootfs(tmp_path: Path) -> None:
    # Debian's umoci knows no zstd, and its PAX reader needs no records of binary attributes.
    layers = [
        type(layer)(entries=layer.entries) for layer in demo_layers(files=300, privileged=False)
    ]
    write_layout(build_image(layers), tmp_path / "in", "v1")
    root = tmp_path / "root"
    await run("umoci", "raw", "unpack", "--image", f"{tmp_path / 'in'}:v1", str(root))
    tree = expected_rootfs(layers)
    assert compare(root, tree) == []
    found = {
        str((Path(folder) / name).relative_to(root))
        for folder, folders, names in os.walk(root)
        for name in (*folders, *names)
    }
    assert found == set(tree)
    links = [path for path, entry in tree.items() if entry.kind is Kind.HARD_LINK]
    assert links
    assert all((root / path).samefile(root / tree[path].target) for path in links)
