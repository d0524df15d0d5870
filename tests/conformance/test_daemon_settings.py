"""Where the installed daemons take their settings from: variables and the kernel command line.

Source: docs/spec/podvm-image.md 12.1 and 19.
"""

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.guest_machine import (
    BIN,
    CDH_SOCKET,
    COMMANDS,
    GuestMachine,
    guest_machine,
)
from conformance.raw_ttrpc import Client, Reply, fields, request, text
from conformance.stubs import (
    FILE_CONTENT,
    SilentServer,
    StubRegistry,
    auth_file,
    basic,
    key_broker,
    loopback_certificate,
)

pytestmark = [
    pytest.mark.mount,
    pytest.mark.openssl,
    pytest.mark.skipif(
        not all((BIN / name).exists() for name in COMMANDS), reason="the commands are not installed"
    ),
]

GET_RESOURCE = "api.GetResourceService/GetResource"
PULL_IMAGE = "api.ImagePullService/PullImage"

BUNDLE = "/run/kata-containers/pod"
REJECT = '{"default": [{"type": "reject"}]}'
DENIED = "Image policy rejected: Denied by policy"


@dataclass(frozen=True)
class Trusted:
    """A registry over TLS and where its authority stands."""

    registry: StubRegistry
    authority: Path


@pytest.fixture
def machine() -> Iterator[GuestMachine]:
    with guest_machine() as guest:
        yield guest


@pytest.fixture
def trusted(tmp_path: Path) -> Iterator[Trusted]:
    certificate, key = loopback_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with StubRegistry(context).serving() as registry:
        yield Trusted(registry, certificate)


def call(machine: GuestMachine, path: str, method: str, payload: bytes) -> Reply:
    with Client(str(machine.at(path)), 90) as client:
        return client.ask(request(1, method, payload))


def pull(machine: GuestMachine, host: str, bundle: str = BUNDLE) -> Reply:
    machine.at(bundle).mkdir(parents=True, exist_ok=True)
    return call(machine, CDH_SOCKET, PULL_IMAGE, text(1, f"{host}/a/b:c") + text(2, bundle))


def set_command_line(machine: GuestMachine, text_of_it: str) -> None:
    (machine.directory / "cmdline").write_text(f"root=/dev/dm-0 ro {text_of_it}\n")


def generated(machine: GuestMachine) -> list[Path]:
    return list(machine.at("/run").rglob("ocicrypt_config.json"))


@pytest.mark.spec("podvm-image", 11)
def test_the_hub_writes_the_key_provider_file_unless_it_is_named_one(
    machine: GuestMachine,
) -> None:
    given = machine.write("/run/given.json", '{"key-providers": {}}')
    machine.start_hub(OCICRYPT_KEYPROVIDER_CONFIG=given).stop()
    assert generated(machine) == []
    assert machine.at(given).read_text() == '{"key-providers": {}}'
    socket = "/run/confidential-containers/other.sock"
    machine.write(
        "/run/cdh.toml",
        f'socket = "unix://{socket}"\n[kbc]\nname = "offline_fs_kbc"\nurl = ""\n',
    )
    daemon = machine.start("confidential-data-hub", "-c", "/run/cdh.toml")
    daemon.wait_for(str(machine.at(socket)))
    (file,) = generated(machine)
    expected = {"key-providers": {"attestation-agent": {"ttrpc": f"unix://{socket}"}}}
    assert json.loads(file.read_text()) == expected


@pytest.mark.spec("podvm-image", 12)
def test_the_credentials_variable_rules_over_the_file(
    machine: GuestMachine, trusted: Trusted
) -> None:
    host = trusted.registry.host
    machine.write("/run/toml.json", auth_file(host, "toml", "1"))
    machine.write("/run/variable.json", auth_file(host, "variable", "2"))
    machine.write(
        "/run/cdh.toml",
        '[kbc]\nname = "offline_fs_kbc"\nurl = ""\n'
        '[image]\nauthenticated_registry_credentials_uri = "file:///run/toml.json"\n',
    )
    flags = ("-c", "/run/cdh.toml")
    root = str(trusted.authority)
    hub = machine.start_hub(*flags, SSL_CERT_FILE=root)
    assert pull(machine, host).code == 0, hub.said()
    assert set(trusted.registry.seen) == {"", basic("toml", "1")}
    hub.stop()
    trusted.registry.seen.clear()
    machine.start_hub(
        *flags,
        SSL_CERT_FILE=root,
        CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS="file:///run/variable.json",
    )
    assert pull(machine, host, "/run/kata-containers/second").code == 0
    assert set(trusted.registry.seen) == {"", basic("variable", "2")}


def named_by_kernel(machine: GuestMachine, trusted: Trusted) -> None:
    """Credentials, and a signature policy only where it is switched on."""
    host, root = trusted.registry.host, str(trusted.authority)
    machine.write("/run/auth.json", auth_file(host, "kernel", "3"))
    machine.write("/run/policy.json", REJECT)
    common = "agent.image_registry_auth=file:///run/auth.json"
    policy = "agent.image_policy_file=file:///run/policy.json"
    verify = "agent.enable_signature_verification"
    for turn, words in enumerate(
        (f"{policy}", f"{policy} {verify}=false", f"{policy} {verify}=yes", f"{verify}=false")
    ):
        set_command_line(machine, f"{common} {words}")
        hub = machine.start_hub(SSL_CERT_FILE=root)
        bundle = f"/run/kata-containers/{turn}"
        reply = pull(machine, host, bundle)
        assert reply.code == 0, (words, reply.message)
        rootfs = Path(f"/proc/{hub.process.pid}/root{bundle}/rootfs/hello")
        assert rootfs.read_bytes() == FILE_CONTENT
        hub.stop()
    assert set(trusted.registry.seen) == {"", basic("kernel", "3")}
    set_command_line(machine, f"{common} {policy} {verify}=true")
    hub = machine.start_hub(SSL_CERT_FILE=root)
    reply = pull(machine, host, "/run/kata-containers/refused")
    assert reply.code == 13
    assert DENIED in reply.message, hub.said()
    hub.stop()
    machine.write("/run/cdh.toml", '[kbc]\nname = "offline_fs_kbc"\nurl = ""\n[image]\n')
    trusted.registry.challenge = None
    hub = machine.start_hub("-c", "/run/cdh.toml", SSL_CERT_FILE=root)
    assert pull(machine, host, "/run/kata-containers/file").code == 0
    assert trusted.registry.seen[-1] == ""
    hub.stop()


def proxied_by_kernel(machine: GuestMachine, trusted: Trusted) -> None:
    """`https` through one proxy, `http` (of a token server) through another, or neither."""
    host, root = trusted.registry.host, str(trusted.authority)
    with SilentServer() as proxy:
        set_command_line(machine, f"agent.https_proxy=http://127.0.0.1:{proxy.port}")
        hub = machine.start_hub(SSL_CERT_FILE=root)
        with Client(str(machine.at(CDH_SOCKET)), 90) as client:
            client.socket.sendall(request(1, PULL_IMAGE, text(1, f"{host}/a/b:c") + text(2, "/b")))
            assert proxy.first_words().startswith(f"CONNECT {host} ".encode())
        hub.stop()
    with SilentServer() as proxy:
        trusted.registry.challenge = 'Bearer realm="http://tokens.invalid/t",service="s"'
        set_command_line(machine, f"agent.http_proxy=http://127.0.0.1:{proxy.port}")
        hub = machine.start_hub(SSL_CERT_FILE=root)
        with Client(str(machine.at(CDH_SOCKET)), 90) as client:
            client.socket.sendall(request(1, PULL_IMAGE, text(1, f"{host}/a/b:c") + text(2, "/b")))
            assert proxy.first_words().startswith(b"GET http://tokens.invalid/t?")
        hub.stop()
    trusted.registry.challenge = None
    with SilentServer() as proxy:
        set_command_line(
            machine,
            f"agent.https_proxy=http://127.0.0.1:{proxy.port} agent.no_proxy=127.0.0.1",
        )
        hub = machine.start_hub(SSL_CERT_FILE=root)
        assert pull(machine, host, "/run/kata-containers/direct").code == 0
        hub.stop()


def brokered_by_kernel(machine: GuestMachine, directory: Path) -> None:
    """AA and CDH find the KBS; the resources of the command line are stored before the socket."""
    key = text(1, "kbs:///default/key/1")
    with key_broker(directory) as broker:
        set_command_line(machine, f"agent.aa_kbc_params=cc_kbc::{broker['kbs']}")
        agent, hub = machine.start_agent(), machine.start_hub()
        reply = call(machine, CDH_SOCKET, GET_RESOURCE, key)
        assert list(fields(reply.payload)) == [(1, b"value-of-key-1")], agent.said()
        hub.stop()
    resources = machine.write("/run/resources.json", '{"default/key/1": "eHl6"}')
    path = "/run/confidential-containers/cdh/kbs/there"
    set_command_line(machine, f"agent.aa_kbc_params=offline_fs_kbc::null "
                     f"cdh.kbs_resources=kbs:///default/key/1::{path}")  # fmt: skip
    hub = machine.start_hub(OFFLINE_FS_KBC_EXTRA_FILE_PATH=resources)
    assert machine.at(path).read_bytes() == b"xyz"
    reply = call(machine, CDH_SOCKET, GET_RESOURCE, key)
    assert list(fields(reply.payload)) == [(1, b"xyz")]
    hub.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.spec("podvm-image", 14)
def test_the_kernel_command_line_rules_where_no_file_says_otherwise(
    machine: GuestMachine, trusted: Trusted, tmp_path: Path
) -> None:
    brokered_by_kernel(machine, tmp_path)
    named_by_kernel(machine, trusted)
    proxied_by_kernel(machine, trusted)
