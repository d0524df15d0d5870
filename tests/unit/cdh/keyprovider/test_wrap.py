"""Choosing the KEK, wrapping, registering."""

import asyncio
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdh.keyprovider.packet import AnnotationPacket
from cdh.keyprovider.parameters import WrapParameters
from cdh.keyprovider.unwrap import LayerKeys
from cdh.keyprovider.wrap import LayerKeyWrapper, parse_kid, read_kek
from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, InvalidInputError, PlatformError
from guest.resource_uri import ResourceUri
from guest.secret import Secret

KID = "kbs:///default/key/1"


class Kbs:
    """Holds what was registered and hands it out, as a KBS does."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.uploads = 0
        self.error: GuestError | None = None
        self.gate: asyncio.Event | None = None

    async def register(self, uri: ResourceUri, kek: Secret, deadline: Deadline) -> None:
        self.uploads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.stored[uri.kbs_path()] = kek.reveal()

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        return Secret(self.stored[uri.kbs_path()])

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        pass


@pytest.fixture
def vector(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "keyprovider" / "wrap.json").read_text())
    return loaded


def fixed(*values: str) -> Callable[[int], bytes]:
    left = [bytes.fromhex(value) for value in values]

    def random(length: int) -> bytes:
        value = left.pop(0)
        assert len(value) == length
        return value

    return random


async def unwrap(kbs: Kbs, packet: bytes) -> bytes:
    def no_kms(packet: AnnotationPacket) -> Any:
        raise AssertionError(packet)

    return (await LayerKeys(kbs, no_kms).unwrap_packet(packet, Deadline.after(10))).reveal()


async def test_packets_are_written_as_published(vector: dict[str, Any], tmp_path: Path) -> None:
    key = tmp_path / "kek"
    key.write_bytes(bytes.fromhex(vector["kek"]))
    for each in vector["packets"]:
        parameters = WrapParameters(kid=KID, key_path=str(key), algorithm=each["algorithm"])
        wrapper = LayerKeyWrapper(None, fixed(each["iv"]))
        options = Secret(vector["private_options"].encode())
        packet = await wrapper.wrap(options, parameters, Deadline.after(10))
        assert packet.decode() == each["packet"]


@pytest.mark.spec("ocicrypt", 24)
async def test_the_sample_key_gives_the_published_packet_and_is_not_registered(
    vector: dict[str, Any],
) -> None:
    kbs = Kbs()
    wrapper = LayerKeyWrapper(kbs, fixed())
    packet = await wrapper.wrap(
        Secret(vector["private_options"].encode()),
        WrapParameters(sample=True, kid="kbs:///ignored/a/b"),
        Deadline.after(10),
    )
    assert packet.decode() == vector["sample_packet"]
    assert kbs.uploads == 0


@pytest.mark.spec("ocicrypt", 25)
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(("algorithm", "length"), [("A256GCM", 12), ("A256CTR", 16)])
async def test_what_is_wrapped_here_is_unwrapped_by_the_data_hub(
    algorithm: str, length: int, version: str
) -> None:
    kbs = Kbs()
    wrapper = LayerKeyWrapper(kbs)
    parameters = WrapParameters(kid=KID, algorithm=algorithm, packet_version=version)
    data = await wrapper.wrap(Secret(b'{"a":1}'), parameters, Deadline.after(10))
    packet = AnnotationPacket.decode(data)
    assert packet.iv is not None
    assert (len(packet.iv), packet.wrap_type, packet.kid) == (length, algorithm, KID)
    assert (b'"version":"0.1.0"' in data) is (version == "2")
    assert await unwrap(kbs, data) == b'{"a":1}'


@pytest.mark.spec("ocicrypt", 27)
@pytest.mark.parametrize("size", [0, 31, 33, 45])
def test_a_key_file_of_another_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "kek"
    path.write_bytes(b"A" * size)
    with pytest.raises(InvalidInputError, match=f"has {size} bytes"):
        read_kek(str(path))


def test_a_key_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (str(pipe), str(tmp_path), str(tmp_path / "none"), "/dev/zero", "a\0b", ""):
        with pytest.raises(PlatformError):
            read_kek(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kbs:///a/b/c", "/kbs/v0/resource/a/b/c"),
        ("kbs://host:1/a/b/c", "/kbs/v0/resource/a/b/c"),
        ("kbs+plug:///a/b/c", "/kbs/v0/plug/a/b/c"),
        ("/a/b/c", "/kbs/v0/resource/a/b/c"),
        ("host/a/b/c", "/kbs/v0/resource/a/b/c"),
    ],
)
def test_a_kid_names_a_resource(text: str, path: str) -> None:
    assert parse_kid(text).kbs_path() == path


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "/a/b", "http://h/a/b/c", "kbs:///", "/a//c"])
def test_a_kid_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"must follow one of the following formats|empty"):
        parse_kid(text)


async def test_the_packet_keeps_a_uri_and_makes_one_of_everything_else() -> None:
    for given, written in (
        ("kbs://h:1/a/b/c", "kbs://h:1/a/b/c"),
        ("h/a/b/c", "kbs://h/a/b/c"),
        ("/a/b/c", "kbs:///a/b/c"),
    ):
        parameters = WrapParameters(kid=given)
        data = await LayerKeyWrapper(Kbs()).wrap(Secret(b"{}"), parameters, Deadline.after(10))
        assert AnnotationPacket.decode(data).kid == written


async def test_a_generated_kid_is_a_uri_that_the_data_hub_can_follow() -> None:
    kbs = Kbs()
    data = await LayerKeyWrapper(kbs).wrap(Secret(b"{}"), WrapParameters(), Deadline.after(10))
    kid = AnnotationPacket.decode(data).kid
    assert kid.startswith("kbs:///default/image-kek/")
    assert uuid.UUID(kid.rpartition("/")[2]).version == 4
    assert await unwrap(kbs, data) == b"{}"


@pytest.mark.spec("ocicrypt", 28)
@pytest.mark.parametrize("kid", [None, KID])
async def test_a_random_key_that_nobody_would_ever_have_is_refused(kid: str | None) -> None:
    with pytest.raises(InvalidInputError, match="a random KEK would be lost"):
        await LayerKeyWrapper(None).wrap(Secret(b"{}"), WrapParameters(kid=kid), Deadline.after(10))


async def test_all_layers_under_one_name_share_one_key_and_one_upload() -> None:
    kbs = Kbs()
    kbs.gate = asyncio.Event()
    wrapper = LayerKeyWrapper(kbs)

    async def one(number: int) -> bytes:
        options = Secret(b"%d" % number)
        return await wrapper.wrap(options, WrapParameters(kid=KID), Deadline.after(10))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number), name=f"wrap {number}") for number in range(5)]
        while kbs.uploads == 0:
            await asyncio.sleep(0)
        kbs.gate.set()
    packets = [task.result() for task in tasks]
    packets.append(await one(5))
    assert kbs.uploads == 1
    assert [await unwrap(kbs, packet) for packet in packets] == [b"%d" % n for n in range(6)]


async def test_nothing_is_wrapped_when_the_registration_fails() -> None:
    kbs = Kbs()
    kbs.error = DeniedError("no")
    wrapper = LayerKeyWrapper(kbs)
    for _ in range(2):
        with pytest.raises(DeniedError):
            await wrapper.wrap(Secret(b"{}"), WrapParameters(kid=KID), Deadline.after(10))
    assert kbs.uploads == 2
