"""Layer keys out of annotation packets."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from cdh.keyprovider.packet import AnnotationPacket, encode_unwrap_input
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from guest.deadline import Deadline
from guest.errors import (
    GuestError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from guest.resource_uri import ResourceUri
from guest.secret import Secret


class Resources:
    """Resources by path, with a count of fetches."""

    def __init__(self, resources: Mapping[str, bytes]) -> None:
        self.resources = resources
        self.fetched: list[str] = []
        self.given: list[Secret] = []

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.fetched.append(uri.path)
        await asyncio.sleep(0)
        if uri.path not in self.resources:
            raise NotFoundError(uri.path)
        self.given.append(Secret(self.resources[uri.path]))
        return self.given[-1]

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        return


def load(vectors: Path) -> list[dict[str, str]]:
    loaded: list[dict[str, str]] = json.loads((vectors / "cdh" / "packets.json").read_text())[
        "vectors"
    ]
    return loaded


def keys_for(vector: Mapping[str, str]) -> tuple[LayerKeys, Resources]:
    path = json.loads(vector["packet"])["kid"].removeprefix("kbs:///")
    resources = Resources({path: bytes.fromhex(vector["kek"])})
    return LayerKeys(resources, open_decrypter), resources


async def unwrap(vector: Mapping[str, str], **changes: object) -> bytes:
    """Unwrap a vector's packet with members changed; the KEK stays where it was."""
    packet = json.loads(vector["packet"]) | changes
    packet = {name: value for name, value in packet.items() if value is not None}
    keys, _ = keys_for(vector)
    data = json.dumps(packet).encode()
    return (await keys.unwrap_packet(data, Deadline.after(5))).reveal()


async def test_all_published_packets_unwrap(vectors: Path) -> None:
    for vector in load(vectors):
        expected = (
            vector["plaintext"].encode()
            if "plaintext" in vector
            else bytes.fromhex(vector["plaintext_hex"])
        )
        assert await unwrap(vector) == expected


async def test_the_answer_for_the_puller_is_the_protocol_s(vectors: Path) -> None:
    vector = load(vectors)[0]
    keys, _ = keys_for(vector)
    request = encode_unwrap_input(vector["packet"].encode())
    answer = await keys.unwrap(request, Deadline.after(5))
    assert answer.reveal() == b'{"keyunwrapresults":{"optsdata":[76,69,75,33]}}'
    with pytest.raises(InvalidInputError):
        await keys.unwrap(b"{}", Deadline.after(5))


@pytest.mark.spec("confidential-data-hub", 22)
@pytest.mark.parametrize(
    "kid",
    [
        "/default/image-kek/1",
        "kbs.example:8080/default/image-kek/1",
        "kbs://10.0.0.1:80/default/image-kek/1",
        "KBS:///default/image-kek/1",
    ],
)
async def test_a_kid_without_scheme_names_the_same_resource(vectors: Path, kid: str) -> None:
    assert await unwrap(load(vectors)[0], kid=kid) == b"LEK!"


@pytest.mark.parametrize("kid", ["", "a/b", "a/b/c/d/e", "//a/b/c/d", "http://h/a/b/c", "/a//c"])
async def test_a_kid_that_is_no_resource_is_refused(vectors: Path, kid: str) -> None:
    with pytest.raises(InvalidInputError):
        await unwrap(load(vectors)[0], kid=kid)


@pytest.mark.spec("confidential-data-hub", 21)
async def test_only_packets_of_the_kbs_have_their_version_judged(vectors: Path) -> None:
    with pytest.raises(InvalidInputError, match="version"):
        await unwrap(load(vectors)[2], version="0.2.0")
    with pytest.raises(UnsupportedError, match="Unsupported provider: aliyun"):
        await unwrap(load(vectors)[2], version="0.2.0", provider="aliyun")


@pytest.mark.spec("ocicrypt", 33)
async def test_packets_of_both_versions_unwrap_and_kbs_is_spelled_in_lower_case(
    vectors: Path,
) -> None:
    v1, _, v2 = load(vectors)[:3]
    assert await unwrap(v1) == await unwrap(v2) == b"LEK!"
    minimal = {"version": None, "provider": None, "provider_settings": None, "annotations": None}
    assert await unwrap(v2, **minimal) == b"LEK!"
    with pytest.raises(InvalidInputError):
        await unwrap(v2, version="0.2.0")
    with pytest.raises(UnsupportedError, match="Unsupported provider: KBS"):
        await unwrap(v2, provider="KBS")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"wrap_type": "A128GCM"}, InvalidInputError),
        ({"wrap_type": None}, InvalidInputError),
        ({"iv": None}, InvalidInputError),
        ({"iv": "AAECAwQFBgcICQoLDA0ODw=="}, InvalidInputError),
        ({"iv": "AAECAwQFBgcICQoM"}, IntegrityError),
        ({"wrapped_data": "W7N7urTRJx34itP8Q7Yb0FusbN8="}, IntegrityError),
        ({"wrapped_data": "W7N7urTRJx34itP8Q7Y="}, InvalidInputError),
        ({"kid": "kbs:///default/image-kek/2"}, NotFoundError),
    ],
)
async def test_a_packet_that_cannot_be_opened_gives_its_error(
    vectors: Path, changes: dict[str, object], kind: type[GuestError]
) -> None:
    with pytest.raises(kind):
        await unwrap(load(vectors)[0], **changes)


async def test_a_kek_of_another_length_is_refused(vectors: Path) -> None:
    vector = load(vectors)[0]
    for kek in (vector["kek"][:-2], vector["kek"] + "00", ""):
        with pytest.raises(InvalidInputError, match="32"):
            await unwrap(vector | {"kek": kek})


async def test_during_a_pull_a_kek_is_fetched_once(vectors: Path) -> None:
    vector = load(vectors)[0]
    keys, resources = keys_for(vector)
    data = vector["packet"].encode()
    async with keys.kept():
        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                work = keys.unwrap_packet(data, Deadline.after(5))
                tasks.create_task(work, name=f"unwrap {number}")
        await keys.unwrap_packet(data, Deadline.after(5))
    assert len(resources.fetched) == 1
    await keys.unwrap_packet(data, Deadline.after(5))
    assert len(resources.fetched) == 2


@pytest.mark.parametrize("change", [{}, {"iv": "AAAAAAAAAAAAAAAA"}], ids=["good", "bad"])
async def test_outside_of_pulls_a_kek_is_wiped_once_it_was_used(
    change: dict[str, str], vectors: Path
) -> None:
    vector = load(vectors)[0]
    keys, resources = keys_for(vector)
    data = json.dumps(json.loads(vector["packet"]) | change).encode()
    with suppress(IntegrityError):
        await keys.unwrap_packet(data, Deadline.after(5))
    (kek,) = resources.given
    with pytest.raises(ValueError, match="wiped"):
        kek.reveal()


async def test_a_failed_fetch_is_not_kept(vectors: Path) -> None:
    vector = load(vectors)[0]
    keys, resources = keys_for(vector)
    held, resources.resources = resources.resources, {}
    async with keys.kept():
        with pytest.raises(NotFoundError):
            await keys.unwrap_packet(vector["packet"].encode(), Deadline.after(5))
        resources.resources = held
        await keys.unwrap_packet(vector["packet"].encode(), Deadline.after(5))


async def test_a_kms_gets_what_the_packet_says() -> None:
    seen: list[object] = []

    class Kms:
        async def decrypt(
            self,
            ciphertext: bytes,
            key_id: str,
            annotations: Mapping[str, object],
            deadline: Deadline,
        ) -> Secret:
            seen.extend([ciphertext, key_id, dict(annotations)])
            return Secret(b"plain")

    def open_kms(packet: AnnotationPacket) -> Kms:
        seen.append((packet.provider, packet.provider_settings))
        return Kms()

    keys = LayerKeys(Resources({}), open_kms)
    packet = AnnotationPacket(
        kid="alias/x",
        wrapped_data=b"blob",
        provider="aliyun",
        provider_settings={"client_type": "client_key"},
        annotations={"iv": "AA=="},
    )
    options = await keys.unwrap_packet(packet.encode_v2(), Deadline.after(5))
    assert options.reveal() == b"plain"
    assert seen == [
        ("aliyun", {"client_type": "client_key"}),
        b"blob",
        "alias/x",
        {"iv": "AA=="},
    ]
