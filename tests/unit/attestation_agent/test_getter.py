"""`evidence_getter` and the client's measurement, on hardware that a process cannot be given."""

import base64
import json
from pathlib import Path
from typing import Final

import pytest

from attestation_agent import calls, getter, resource
from attestation_agent.attesters.base import Attester, TeeHints
from attestation_agent.attesters.sample_device import SampleDeviceAttester
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.proxies import Proxies
from guest.tee import Tee
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import config_of, make_agent, running
from support.tdx_world import boot, hints_of, make_guest

DATA: Final = bytes(range(64))


class Echo:
    """An attester that says what it was given."""

    registers: Final = None
    init_data: Final = None

    def __init__(self, tee: Tee) -> None:
        self.tee = tee

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        return {"data": report_data.hex()}


class Broken(SampleDeviceAttester):
    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        raise PlatformError("the device is gone")


def plant(monkeypatch: pytest.MonkeyPatch, primary: Attester, *devices: Attester) -> None:
    monkeypatch.setattr(getter, "detect", lambda hints: primary)
    monkeypatch.setattr(getter, "detect_devices", lambda hints, beside: devices)


def soon() -> Deadline:
    return Deadline.after(30)


def test_every_tee_has_a_name_of_its_own() -> None:
    assert set(getter.NAMES) == set(Tee)
    assert len(set(getter.NAMES.values())) == len(Tee)


@pytest.mark.parametrize("tee", list(Tee))
async def test_only_the_primary_attesters_on_azure_get_32_bytes(
    monkeypatch: pytest.MonkeyPatch, tee: Tee
) -> None:
    plant(monkeypatch, Echo(tee), Echo(Tee.NVIDIA), Echo(Tee.HYGON_DCU))
    lines = (await getter.run(DATA, TeeHints(), soon())).splitlines()
    length = 32 if tee in (Tee.AZ_SNP_VTPM, Tee.AZ_TDX_VTPM) else 64
    assert lines == [
        f'{getter.NAMES[tee]}:{{"data":"{DATA[:length].hex()}"}}',
        f'Nvidia:{{"data":"{DATA.hex()}"}}',
        f'HygonDcu:{{"data":"{DATA.hex()}"}}',
    ]


async def test_a_device_that_fails_fails_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Echo(Tee.SAMPLE), Broken())
    with pytest.raises(PlatformError, match="the device is gone"):
        await getter.run(DATA, TeeHints(), soon())


@pytest.mark.blocks_loop
async def test_the_quote_of_a_tdx_guest_binds_the_64_bytes(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    name, _, evidence = (await getter.run(DATA, hints_of(guest), soon())).partition(":")
    quote = base64.b64decode(json.loads(evidence)["quote"])
    assert (name, DATA in quote) == ("Tdx", True)


@pytest.mark.blocks_loop
async def test_a_measurement_that_is_done_is_called_extended(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    config = config_of(eventlog_config={"enable_eventlog": True})
    agent = make_agent(Path(guest.root), config, hints=hints_of(guest))
    words = ["extend-runtime-measurement", "-d", "d", "-o", "o", "-c", "c"]
    async with running(agent) as channel:
        client = calls.Calls(channel, soon())
        assert await client.run(calls.make_parser().parse_args(words)) == "Extended."


@pytest.mark.blocks_loop
async def test_a_tdx_guest_gets_a_resource_without_an_agent(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    async with Kbs() as kbs:
        kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=guest.platform.root)
        kbs.put_resource("default/key/1", b"the secret")
        arguments = resource.make_parser().parse_args(
            ["--url", kbs.url, "get-resource", "--path", "default/key/1"]
        )
        text = await resource.run(arguments, hints_of(guest), Proxies())
    assert base64.b64decode(text) == b"the secret"


def test_a_path_is_never_read_as_another_resource() -> None:
    assert resource.parse_path("a/b/c?x=1").kbs_path() == "/kbs/v0/resource/a/b/c?x=1"
    assert resource.parse_path("kbs+pkcs11:///a/b/c").kbs_path() == "/kbs/v0/pkcs11/a/b/c"
    for text in ("", "/", "kbs://", "http://a/b/c"):
        with pytest.raises(InvalidInputError):
            resource.parse_path(text)
