"""Every document that CDH reads, broken in every way: one error that names it, and nothing of it.

Cut at every byte, one bit of every byte turned, far too long, members twice, base64 of another
flavour. What comes is a value or an error of the taxonomy whose text names the document, and in
which no fragment of what the document protects stands.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cdh.config import CdhConfig
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.kms.aliyun.client_key import open_client_key
from cdh.kms.aliyun.documents import decode_role, decode_sts_token
from cdh.kms.offline_fs import OfflineFiles
from guest.config import decode_config
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, NotFoundError
from guest.initdata import InitData
from guest.resource_uri import ResourceUri
from guest.secret import Secret
from support.hub_world import Resources
from support.sealed_world import HandingKms, load_vectors, make_unsealer

CANARY: Final = "c4naryOfThePlaintext"
FRAGMENT: Final = 12
"""Characters of a canary in a row that must not show."""

DEEP: Final = 100_000


@dataclass(frozen=True)
class Document:
    """One kind.

    Attributes:
        name: one of these words stands in every error; none for a decoder whose caller names it.
        content: a good one.
        canaries: what must not show, besides `CANARY`.
        read: opens it.
        limit: bytes that are too many.
    """

    name: tuple[str, ...]
    content: bytes
    canaries: tuple[str, ...]
    read: Callable[[bytes], Awaitable[object]]
    limit: int = 5 * 1024 * 1024


def sealed(vectors: Path, folder: Path) -> Document:
    loaded = load_vectors()
    resources = Resources()
    (folder / "sealed-secret").mkdir(parents=True)
    (folder / "sealed-secret" / loaded["envelope_kid"]).write_text(loaded["signing_jwk"])
    kms = HandingKms(bytes.fromhex(loaded["envelope_dek_hex"]))
    unsealer = make_unsealer(resources, folder, opener=kms.open)

    async def read(text: bytes) -> object:
        with await unsealer.unseal(text, Deadline.after(20)) as secret:
            assert secret.reveal() == loaded["envelope_plaintext"].encode()
        return None

    names = ("sealed secret", "Signature Error", "key ", "KID", "verification key")
    canaries = (loaded["envelope_plaintext"], json.loads(loaded["signing_jwk"])["d"])
    return Document(names, loaded["envelope_sealed"].encode(), canaries, read)


def packet(vectors: Path, folder: Path) -> Document:
    document = json.loads((vectors / "cdh" / "packets.json").read_text())
    vector = document["vectors"][-1]
    options = json.loads(vector["plaintext"])
    resources = Resources()
    resources.resources = {"default/test-key/1": bytes.fromhex(vector["kek"])}
    keys = LayerKeys(resources, open_decrypter)

    async def read(data: bytes) -> object:
        with await keys.unwrap_packet(data, Deadline.after(20)) as opened:
            assert opened.reveal() == vector["plaintext"].encode()
        return None

    names = ["AnnotationPacket", "annotation packet", "LEK", "no kbs", "Unsupported provider"]
    names += ["wrap_type", "WrapType", "kbs resource uri", "wrapped", "iv"]
    return Document(
        tuple(names), vector["packet"].encode(), (options["symkey"], vector["kek"]), read
    )


def offline(vectors: Path, folder: Path) -> Document:
    folder.mkdir()
    path = folder / "offline.json"
    secret = base64.b64encode(CANARY.encode()).decode()

    async def read(data: bytes) -> object:
        path.write_bytes(data)
        client = OfflineFiles((path,))
        with await client.fetch(ResourceUri.parse("kbs:///a/b/c"), Deadline.after(20)):
            return None

    content = json.dumps({"a/b/c": secret, "a/b/d": secret}).encode()
    return Document(("offline.json", "a/b/c"), content, (secret,), read, 70 * 1024 * 1024)


def client_key(vectors: Path, folder: Path) -> Document:
    vector = json.loads((vectors / "cdh" / "aliyun.json").read_text())["client_key"]
    content = vector["document"].encode()
    inner = json.loads(content)["PrivateKeyData"]
    password = vector["password"].encode()

    async def read(data: bytes) -> object:
        return open_client_key(Secret(data), Secret(password))

    return Document(("client key",), content, (inner,), read)


def role(vectors: Path, folder: Path) -> Document:
    async def read(data: bytes) -> object:
        return decode_role(data)

    return Document((), b'{"ecs_ram_role_name":"role","region_id":"cn-beijing"}', (), read)


def token(vectors: Path, folder: Path) -> Document:
    async def read(data: bytes) -> object:
        return decode_sts_token(data)

    return Document((), f"STS.id:{CANARY}:{CANARY}/+==".encode(), (), read)


CONFIG: Final = f"""socket = "unix:///run/x.sock"
[proxy]
https_proxy = "http://user:{CANARY}@proxy:3128"
[kbc]
name = "cc_kbc"
url = "http://kbs"
fallback_urls = ["http://{CANARY}:x@kbs2"]
[image]
image_security_policy = '''
{{"{CANARY}=": 1}}
'''
"""


def config(name: str) -> Callable[[Path, Path], Document]:
    def make(vectors: Path, folder: Path) -> Document:
        import tomllib

        async def read(data: bytes) -> object:
            return decode_config(data, name, CdhConfig, strict=True)

        is_json = name.endswith(".json")
        content = json.dumps(tomllib.loads(CONFIG), indent=1) if is_json else CONFIG
        return Document((name,), content.encode(), (), read)

    return make


def init_data(vectors: Path, folder: Path) -> Document:
    async def read(data: bytes) -> object:
        return InitData.parse(data)

    content = f"version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a\" = '''\n{CANARY}=\n'''\n"
    return Document(("init data",), content.encode(), (), read)


KINDS: Final = {
    "sealed secret": sealed,
    "annotation packet": packet,
    "offline_fs file": offline,
    "client key": client_key,
    "role file": role,
    "STS token": token,
    "cdh.toml": config("cdh.toml"),
    "cdh.json": config("cdh.json"),
    "init data": init_data,
}


def broken(document: Document) -> Iterator[bytes]:
    """The document, broken."""
    content = document.content
    for length in range(len(content)):
        yield content[:length]
    for at in range(len(content)):
        yield content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
    yield content + b" " * document.limit + b"x"
    yield b'{"a":' * DEEP
    yield b"[" * DEEP
    yield b"\xef\xbb\xbf" + content
    yield content.replace(b"=", b"").replace(b"/", b"_").replace(b"+", b"-")
    yield content.replace(b"_", b"/").replace(b"-", b"+")
    yield content.replace(b"A", b"A\n")
    if content.startswith(b"{"):
        whole = content.strip()
        yield whole[:-1] + b"," + whole[1:]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_broken_document_is_an_error_that_names_it_and_shows_nothing_of_it(
    kind: str, vectors: Path, tmp_path: Path
) -> None:
    document = KINDS[kind](vectors, tmp_path / "files")
    await document.read(document.content)
    canaries = (CANARY, *document.canaries)
    fragments = {
        canary[at : at + FRAGMENT]
        for canary in canaries
        for at in range(len(canary) - FRAGMENT + 1)
    }
    errors = 0
    for data in broken(document):
        try:
            await document.read(data)
        except GuestError as error:
            shown = ": ".join(error.causes())
            assert not [part for part in fragments if part in shown], shown
            assert not document.name or any(name in shown for name in document.name), shown
            assert "\n" not in shown
            assert "Traceback" not in shown
            errors += 1
    assert errors > len(document.content) // 2


@pytest.mark.parametrize("kind", ["annotation packet", "offline_fs file", "client key", "cdh.json"])
async def test_a_member_twice_is_refused_by_name(kind: str, vectors: Path, tmp_path: Path) -> None:
    document = KINDS[kind](vectors, tmp_path / "files")
    whole = document.content.strip()
    member = whole[1:].strip().split(b'"')[1].decode()
    with pytest.raises(GuestError) as caught:
        await document.read(whole[:-1] + b"," + whole[1:])
    assert member in ": ".join(caught.value.causes())


@pytest.mark.parametrize("kind", ["annotation packet", "offline_fs file", "client key"])
async def test_base64_of_another_flavour_is_refused_and_its_member_named(
    kind: str, vectors: Path, tmp_path: Path
) -> None:
    document = KINDS[kind](vectors, tmp_path / "files")
    members = json.loads(document.content)
    name = {"annotation packet": "wrapped_data", "offline_fs file": "a/b/d"}.get(
        kind, "PrivateKeyData"
    )
    raw = base64.b64decode(members[name])
    flavours = {
        base64.urlsafe_b64encode(b"\xff\xfe" + raw).decode(),
        base64.b64encode(raw + b"x" * ((1 - len(raw)) % 3)).decode().rstrip("="),
        members[name] + "\n",
        " " + members[name],
    }
    for text in flavours:
        with pytest.raises(GuestError) as caught:
            await document.read(json.dumps(members | {name: text}).encode())
        assert not isinstance(caught.value, NotFoundError)
        assert name in ": ".join(caught.value.causes())


async def test_a_decoder_s_error_is_of_the_taxonomy_whatever_the_bytes(vectors: Path) -> None:
    for data in (b"", b"\xff", b"\0" * 100, b"{", b"[]", b"null", b'"x"', b"{}"):
        for decode in (decode_role, decode_sts_token, InitData.parse):
            with pytest.raises(DecodeError):
                decode(data)
