"""`guest image encrypt` as people call it."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdh.keyprovider.owner import OwnerSettings, key_provider
from cdh.keyprovider.unwrap import LayerKeys
from guest.cli import main
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.resource_uri import ResourceUri
from guest.rpc.grpc import GrpcServer
from guest.rpc.server import serving
from guest.secret import Secret
from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.store import DirectoryStore
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from support.encrypted import decrypted_layers, layout_blob, layout_root

IMAGE = build_image(
    [Layer(entries=(Entry(kind=Kind.FILE, path=name, data=name.encode() * 1000),)) for name in "ab"]
)
PLAIN = [layer.blob for layer in IMAGE.layers]
ADMIN_PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
KID = "kbs:///default/key/1"


class Folder:
    """Resources of a folder, as the guest would get them from the KBS."""

    def __init__(self, path: Path) -> None:
        self._store = DirectoryStore(path)

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        found = self._store.find(uri.path)
        if found is None:
            raise GuestError(f"no {uri}")
        return Secret(found)

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        pass


def keys(path: Path) -> LayerKeys:
    def no_kms(packet: object) -> object:
        raise AssertionError(packet)

    return LayerKeys(Folder(path), no_kms)  # type: ignore[arg-type]  # never called


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OCICRYPT_KEYPROVIDER_CONFIG", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(IMAGE, tmp_path / "in", "v1")
    return tmp_path / "in"


async def guest(*words: str) -> int:
    return await asyncio.to_thread(main, ["image", "encrypt", *words])


def key_file(folder: Path) -> tuple[Path, Path]:
    """A KEK in a file, and a KBS's folder that has it under `KID`."""
    path, stored = folder / "kek", folder / "resources"
    path.write_bytes(bytes(range(32)))
    stored.mkdir()
    DirectoryStore(stored).put("default/key/1", path.read_bytes())
    return path, stored


def key_pair(folder: Path) -> tuple[Path, bytes]:
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / "public.pem"
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return path, private


async def test_a_layout_is_encrypted_for_a_public_key_and_the_digest_is_printed(
    layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, private = key_pair(tmp_path)
    out = tmp_path / "out"
    assert (
        await guest(f"oci:{layout}:v1", f"oci:{out}:v2", "--encryption-key", f"jwe:{public}") == 0
    )
    printed = capsys.readouterr()
    index = json.loads((out / "index.json").read_bytes())
    assert printed.out == index["manifests"][0]["digest"] + "\n"
    assert "layer 1" in printed.err
    manifest = layout_root(out, "v2")
    assert await decrypted_layers(manifest, layout_blob(out), private_keys=[private]) == PLAIN
    again = await guest(
        f"oci:{out}:v2", f"oci:{out}:v3", "--encryption-key", f"jwe:{public}", "-q",
        "--decryption-key", str(tmp_path / "private.pem"),
    )  # fmt: skip
    assert again == 1
    (tmp_path / "private.pem").write_bytes(private)
    again = await guest(
        f"oci:{out}:v2", f"oci:{out}:v3", "--encryption-key", f"jwe:{public}", "-q",
        "--decryption-key", str(tmp_path / "private.pem"),
    )  # fmt: skip
    assert again == 0
    assert (
        ","
        in layout_root(out, "v3")["layers"][0]["annotations"][
            "org.opencontainers.image.enc.keys.jwe"
        ]
    )


async def test_keys_are_made_and_registered_in_this_process_and_the_guest_can_read_them(
    layout: Path, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.pem"
    admin.write_text(ADMIN_PEM)
    stored = tmp_path / "resources"
    stored.mkdir()
    out = tmp_path / "out"
    async with Kbs(resources=stored) as kbs:
        status = await guest(
            f"oci:{layout}:v1", f"oci:{out}:v1", "--kbs", kbs.url,
            "--auth-private-key", str(admin), "--role", "admin",
            "--encryption-key", f"provider:attestation-agent:keyid={KID}",
        )  # fmt: skip
        assert status == 0
        assert kbs.requests.count("POST", "/resource/default/key/1") == 1
    manifest = layout_root(out, "v1")
    found = await decrypted_layers(manifest, layout_blob(out), keys=keys(stored))
    assert found == PLAIN


async def test_without_a_configuration_a_key_file_is_enough(layout: Path, tmp_path: Path) -> None:
    kek, stored = key_file(tmp_path)
    out = tmp_path / "out"
    recipient = f"provider:attestation-agent:keypath={kek}::keyid={KID}::algorithm=A256CTR"
    assert await guest(f"oci:{layout}", f"oci:{out}:x", "--encryption-key", recipient) == 0
    found = await decrypted_layers(layout_root(out, "x"), layout_blob(out), keys=keys(stored))
    assert found == PLAIN


async def test_a_running_provider_of_the_configuration_is_asked(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kek, stored = key_file(tmp_path)
    recipient = f"provider:attestation-agent:keypath={kek}::keyid={KID}::packet=2"
    config = tmp_path / "ocicrypt.json"
    async with key_provider(OwnerSettings()) as service:
        server = GrpcServer(service.routes(), "127.0.0.1:0")
        async with serving(server):
            port = server.address.rpartition(":")[2]
            config.write_text(
                json.dumps({"key-providers": {"attestation-agent": {"grpc": f"localhost:{port}"}}})
            )
            monkeypatch.setenv("OCICRYPT_KEYPROVIDER_CONFIG", str(config))
            out = tmp_path / "out"
            words = (f"oci:{layout}", f"oci:{out}:x", "--encryption-key", recipient)
            assert await guest(*words) == 0
    found = await decrypted_layers(layout_root(out, "x"), layout_blob(out), keys=keys(stored))
    assert found == PLAIN
    assert await guest(f"oci:{layout}", f"oci:{out}:y", "--encryption-key", recipient) == 1


@pytest.mark.shows_secrets  # what this provider gives back as wrapped is the key
async def test_a_provider_that_is_a_program_is_run(layout: Path, tmp_path: Path) -> None:
    script = (
        "import json,sys; request = json.load(sys.stdin); "
        "print(json.dumps({'keywrapresults': {'annotation': "
        "request['keywrapparams']['optsdata']}}))"
    )
    config = tmp_path / "ocicrypt.json"
    provider = {"cmd": {"path": sys.executable, "args": ["-c", script]}}
    config.write_text(json.dumps({"key-providers": {"mine": provider}}))
    out = tmp_path / "out"
    words = (f"oci:{layout}", f"oci:{out}:x", "--encryption-key", "provider:mine:any")
    assert await guest(*words, "--keyprovider-config", str(config)) == 0
    annotation = layout_root(out, "x")["layers"][0]["annotations"][
        "org.opencontainers.image.enc.keys.provider.mine"
    ]
    assert "symkey" in json.loads(base64.b64decode(annotation))


async def test_registries_with_tls_and_passwords_on_both_sides(tmp_path: Path) -> None:
    ca = CertificateAuthority.create()
    roots = ca.write(tmp_path)
    public, private = key_pair(tmp_path)
    bearer = Access(mode=Mode.BEARER, users={"u": "p"})
    async with (
        Registry(access=Access(mode=Mode.BASIC, users={"u": "p"})) as source,
        Registry(access=bearer, tls=ca.issue("127.0.0.1").context()) as target,
    ):
        source.push_image("demo/plain:v1", IMAGE)
        auth = {"auth": base64.b64encode(b"u:p").decode()}
        authfile = tmp_path / "auth.json"
        authfile.write_text(json.dumps({"auths": {source.host: auth, target.host: auth}}))
        status = await guest(
            f"docker://{source.host}/demo/plain:v1", f"docker://{target.host}/demo/secret:v1",
            "--encryption-key", f"jwe:{public}", "--src-plain-http",
            "--dest-ca", str(roots), "--authfile", str(authfile),
        )  # fmt: skip
        assert status == 0
        manifest = json.loads(target.get_manifest("demo/secret", "v1")[1])
        found = await decrypted_layers(manifest, target.get_blob, private_keys=[private])
        assert found == PLAIN
        authfile.write_text("{}")
        status = await guest(
            f"docker://{source.host}/demo/plain:v1", f"docker://{target.host}/demo/secret:v2",
            "--encryption-key", f"jwe:{public}", "--src-plain-http",
            "--dest-ca", str(roots), "--authfile", str(authfile),
        )  # fmt: skip
        assert status == 1
        assert target.repositories.tags("demo/secret") == ["v1"]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["oci:a", "oci:b", "--encryption-key", "rot13:x"], 2, "not recognized"),
        (["oci:a", "oci:b", "--encryption-key", "jwe:x", "--kbs", "http://h"], 2, "go together"),
        (["oci:none", "oci:{tmp}/b", "--encryption-key", "jwe:none"], 1, "cannot be read"),
        (["oci:none", "oci:{tmp}/b", "--encryption-key", "provider:other"], 1, "not configured"),
        (
            ["oci:{tmp}/in", "oci:{tmp}/b", "--encryption-key", "provider:attestation-agent"],
            1,
            "a random KEK would be lost",
        ),
    ],
)
async def test_what_goes_wrong_is_said_in_one_line(
    layout: Path,
    tmp_path: Path,
    words: list[str],
    status: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await guest(*[word.replace("{tmp}", str(tmp_path)) for word in words]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert text in printed.err.splitlines()[-1]
    assert printed.err.splitlines()[-1].startswith("guest image encrypt: ")


@pytest.mark.parametrize(
    "words", [[], ["oci:a"], ["a", "b", "--encryption-key", "jwe:x"], ["oci:a", "oci:b"]]
)
async def test_a_wrong_command_line_exits_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await guest(*words)
    assert caught.value.code == 2


async def test_the_help_explains_recipients(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await guest("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("jwe:FILE", "provider:NAME", "keyid=", "--dest-ca", "oci:DIRECTORY", "example:"):
        assert word in text
