"""Where user data comes from: which source is chosen, and how it is asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    LimitError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnavailableError,
)
from guest.http import HttpClient
from guest.userdata.parse import MAX_USER_DATA
from guest.userdata.providers import (
    ALIBABA,
    AWS,
    AZURE,
    GCP,
    MetadataProvider,
    Provider,
    find_provider,
)
from guest_simulator.faults import Fault
from guest_simulator.metadata import Cloud, Metadata, Tokens
from support.pod_vm import VENDORS, PodVm

SECONDS = 30.0
APIS = {"azure": AZURE, "aws": AWS, "gcp": GCP, "alibaba": ALIBABA}
USER_DATA = b"#cloud-config\nwrite_files: []\n"


@asynccontextmanager
async def service(
    cloud: str, user_data: bytes | None = USER_DATA, tokens: Tokens = Tokens.OPTIONAL
) -> AsyncIterator[tuple[Metadata, MetadataProvider]]:
    """A metadata service and who asks it."""
    http = HttpClient(user_agent="test")
    try:
        async with Metadata(Cloud(cloud), user_data, tokens=tokens) as server:
            yield server, MetadataProvider(APIS[cloud], http, server.url)
    finally:
        await http.close()


async def fetch(provider: Provider, seconds: float = SECONDS) -> bytes:
    return await provider.fetch(Deadline.after(seconds))


async def chosen(machine: PodVm, bases: dict[str, str] | None = None) -> str | None:
    http = HttpClient(user_agent="test")
    try:
        sources = machine.settings(bases).sources
        provider = await find_provider(sources, http, Deadline.after(SECONDS))
    finally:
        await http.close()
    return None if provider is None else provider.name


@pytest.mark.parametrize("cloud", APIS)
async def test_each_cloud_is_asked_as_it_wants_to_be(cloud: str) -> None:
    async with service(cloud) as (_, provider):
        assert provider.decode(await fetch(provider)) == USER_DATA


def test_the_addresses_are_those_that_the_clouds_fix() -> None:
    assert [(api.base, api.path) for api in APIS.values()] == [
        (
            "http://169.254.169.254",
            "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
        ),
        ("http://169.254.169.254", "/latest/user-data"),
        (
            "http://metadata.google.internal",
            "/computeMetadata/v1/instance/attributes/user-data",
        ),
        ("http://100.100.100.200", "/latest/user-data"),
    ]


@pytest.mark.spec("podvm-image", 22)
async def test_azure_and_google_serve_base64_and_the_others_plain_text() -> None:
    for cloud, is_encoded in (("azure", 1), ("gcp", 1), ("aws", 0), ("alibaba", 0)):
        async with service(cloud) as (_, provider):
            body = await fetch(provider)
            assert (body != USER_DATA) == bool(is_encoded)
            assert provider.decode(body) == USER_DATA
    machine_file = b"d3JpdGVfZmlsZXM6IFtdCg=="
    async with service("aws", machine_file) as (_, provider):
        assert provider.decode(await fetch(provider)) == machine_file


@pytest.mark.parametrize("cloud", ["aws", "alibaba"])
async def test_a_hardened_service_is_asked_with_a_token_of_sixty_seconds(cloud: str) -> None:
    async with service(cloud, tokens=Tokens.REQUIRED) as (server, provider):
        assert await fetch(provider) == USER_DATA
        assert server.lives == [60]
        assert [record.method for record in server.requests] == ["PUT", "GET"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="PUT", status=401),
        Fault(method="PUT", drop=True),
        Fault(method="PUT", body=b"two words"),
        Fault(method="PUT", body=b"a\r\nX-Injected: b"),
        Fault(method="PUT", body=b"x" * 5000),
        Fault(method="PUT", body=b""),
    ],
)
@pytest.mark.parametrize("cloud", ["aws", "alibaba"])
async def test_without_a_token_the_service_is_asked_without(cloud: str, fault: Fault) -> None:
    async with service(cloud) as (server, provider):
        server.faults.add(fault)
        assert await fetch(provider) == USER_DATA


@pytest.mark.spec("podvm-image", 21)
async def test_aws_is_asked_for_a_token_of_sixty_seconds_and_without_one_on_401_or_timeout() -> (
    None
):
    async with service("aws", tokens=Tokens.REQUIRED) as (server, provider):
        assert await fetch(provider) == USER_DATA
        assert server.lives == [60]
    for fault in (Fault(method="PUT", status=401), Fault(method="PUT", delay=50)):
        async with service("aws") as (server, provider):
            server.faults.add(fault)
            assert await fetch(provider) == USER_DATA
            assert server.requests.count("GET", "/latest/user-data", 200) == 1


async def test_an_instance_without_user_data_is_told_apart_from_a_service_that_fails() -> None:
    for cloud in ("aws", "gcp", "alibaba"):
        async with service(cloud, None) as (_, provider):
            with pytest.raises(NotFoundError, match=f"{cloud} has no user data"):
                await fetch(provider)
    async with service("azure", None) as (_, provider):
        assert provider.decode(await fetch(provider)) == b""


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(method="GET", status=500), UnavailableError),
        (Fault(method="GET", status=204), UnavailableError),
        (Fault(method="GET", status=302, headers={"Location": "http://x/"}), UnavailableError),
        (Fault(method="GET", drop=True), UnavailableError),
        (Fault(method="GET", cut_after=3), UnavailableError),
        (Fault(method="GET", stall_after=3), DeadlineError),
        (Fault(method="GET", delay=50), DeadlineError),
        (Fault(method="GET", body=b"x" * (MAX_USER_DATA + 1)), LimitError),
    ],
)
@pytest.mark.parametrize("cloud", ["aws", "gcp"])
async def test_an_answer_that_is_none_is_an_error(
    cloud: str, fault: Fault, error: type[Exception]
) -> None:
    async with service(cloud) as (server, provider):
        server.faults.add(fault)
        with pytest.raises(error):
            await fetch(provider, 1.0 if error is DeadlineError else SECONDS)


async def test_what_does_not_speak_http_is_an_error() -> None:
    import asyncio

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-none\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    http = HttpClient(user_agent="test")
    async with server:
        port = server.sockets[0].getsockname()[1]
        provider = MetadataProvider(GCP, http, f"http://127.0.0.1:{port}")
        with pytest.raises((PeerError, UnavailableError)):
            await fetch(provider)
    await http.close()


@pytest.mark.spec("podvm-image", 20)
async def test_the_order_is_disk_dmi_and_the_network_last(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.set_clocks("kvm-clock tsc acpi_pm")
    async with Metadata(Cloud.GCP, USER_DATA) as server:
        bases = dict.fromkeys(APIS, server.url)
        for cloud, vendor in VENDORS.items():
            machine.set_vendor(vendor)
            assert await chosen(machine, bases) == cloud
        assert len(server.requests) == 0
        machine.set_vendor("QEMU")
        assert await chosen(machine, bases) == "gcp"
        assert [record.path for record in server.requests] == ["/computeMetadata/v1/instance"]
        for vendor in VENDORS.values():
            machine.set_vendor(vendor)
            machine.put_cidata(USER_DATA)
            machine.put_config_drive(USER_DATA)
            name = await chosen(machine, bases)
            assert name == f"file {tmp_path}/media/cidata/user-data"
        assert len(server.requests) == 1


async def test_a_config_drive_is_read_where_there_is_no_nocloud_disk(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.put_config_drive(USER_DATA)
    name = await chosen(machine)
    assert name == f"file {tmp_path}/media/config-2/openstack/latest/user_data"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404),
        Fault(status=301, headers={"Metadata-Flavor": ""}),
        Fault(drop=True),
        Fault(status=500),
    ],
)
async def test_a_machine_of_no_known_cloud_has_no_provider(tmp_path: Path, fault: Fault) -> None:
    machine = PodVm(tmp_path)
    assert await chosen(machine) is None
    machine.set_vendor("QEMU")
    machine.set_clocks("tsc acpi_pm")
    assert await chosen(machine) is None
    machine.set_clocks("kvm-clock")
    async with Metadata(Cloud.GCP, USER_DATA) as server:
        server.faults.add(fault)
        assert await chosen(machine, {"gcp": server.url}) is None


async def test_a_disk_that_cannot_be_looked_at_counts_as_there(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "cidata").write_text("no directory")
    http = HttpClient(user_agent="test")
    provider = await find_provider(machine.settings().sources, http, Deadline.after(SECONDS))
    await http.close()
    assert provider is not None
    with pytest.raises(PlatformError, match="cannot be opened"):
        await fetch(provider)


async def test_dmi_that_is_there_and_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    (tmp_path / "sys/class/dmi/id/sys_vendor").mkdir(parents=True)
    with pytest.raises(PlatformError):
        await chosen(machine)


async def test_a_link_on_a_disk_is_not_followed(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    (tmp_path / "secret").write_bytes(USER_DATA)
    machine.put_cidata(b"")
    disk = tmp_path / "media/cidata/user-data"
    disk.unlink()
    disk.symlink_to(tmp_path / "secret")
    http = HttpClient(user_agent="test")
    provider = await find_provider(machine.settings().sources, http, Deadline.after(SECONDS))
    await http.close()
    assert provider is not None
    with pytest.raises(PlatformError):
        await fetch(provider)
