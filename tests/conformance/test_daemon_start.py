"""How the installed commands start and end, as kata-agent and the pod VM's units start them.

Source: docs/spec/podvm-image.md 12.3 and 19.
"""

import base64
import hashlib
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from conformance.guest_machine import (
    AA,
    AA_SOCKET,
    BIN,
    CDH,
    CDH_SOCKET,
    COMMANDS,
    REST,
    USER_DATA,
    Daemon,
    GuestMachine,
    guest_machine,
)
from conformance.raw_ttrpc import Client, fields, request, text

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not all((BIN / name).exists() for name in COMMANDS), reason="the commands are not installed"
    ),
]

TEE_TYPE = request(1, "attestation_agent.AttestationAgentService/GetTeeType")
GET_RESOURCE = "api.GetResourceService/GetResource"
RESOURCES = '{"default/key/1": "dmFsdWUtb2Yta2V5LTE="}'

INIT_DATA = """version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = ""
"""


@pytest.fixture
def machine() -> Iterator[GuestMachine]:
    with guest_machine() as guest:
        yield guest


def tee_of(machine: GuestMachine, path: str = AA_SOCKET) -> bytes:
    with Client(str(machine.at(path))) as client:
        ((number, value),) = fields(client.ask(TEE_TYPE).payload)
    assert number == 1
    assert isinstance(value, bytes)
    return value


def status_of(port: int, target: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.spec("podvm-image", 1, 2)
def test_all_four_start_with_next_to_no_environment_and_nothing_to_read(
    machine: GuestMachine,
) -> None:
    machine.write("/media/cidata/user-data", "#cloud-config\n")
    done = machine.run(USER_DATA, "provision-files")
    assert done.returncode == 0, done.stderr
    assert machine.at("/run/peerpod/aa.toml").read_bytes() == b""
    machine.start_agent("-c", "/run/peerpod/aa.toml")
    assert tee_of(machine) == b"sample"
    machine.start_hub()
    _, port = machine.start_rest("--features", "all")
    assert status_of(port, "/aa/evidence?runtime_data=x") == 200


@pytest.mark.spec("podvm-image", 3)
def test_the_agent_takes_kata_s_flags_in_their_order_and_the_short_ones(
    machine: GuestMachine,
) -> None:
    folder = "/run/confidential-containers/initdata"
    document = machine.write(f"{folder}/initdata.toml", INIT_DATA)
    config = machine.write(f"{folder}/aa.toml", "")
    machine.start_agent("--initdata-toml", document, "-c", config)
    assert tee_of(machine) == b"sample"
    digest = base64.b64encode(hashlib.sha256(INIT_DATA.encode()).digest()).decode()
    for name, words in (
        ("long", ("--attestation_sock", "--config-file", "--initdata-toml", document)),
        ("short", ("-a", "-c", "-t", document)),
        ("digest", ("-a", "-c", "-i", digest)),
        ("long-digest", ("--attestation_sock", "--config-file", "--initdata-digest", digest)),
    ):
        path = f"/run/{name}.sock"
        address, file, bound, value = words
        daemon = machine.start(AA, address, f"unix://{path}", bound, value, file, config)
        daemon.wait_for(str(machine.at(path)))
        assert tee_of(machine, path) == b"sample"


@pytest.mark.spec("podvm-image", 4)
def test_the_hub_without_arguments_serves_the_offline_resources(machine: GuestMachine) -> None:
    resources = machine.write("/run/resources.json", RESOURCES)
    machine.start_hub(OFFLINE_FS_KBC_EXTRA_FILE_PATH=resources)
    assert machine.at(CDH_SOCKET).is_socket()
    with Client(str(machine.at(CDH_SOCKET))) as client:
        reply = client.ask(request(1, GET_RESOURCE, text(1, "kbs:///default/key/1")))
    assert list(fields(reply.payload)) == [(1, b"value-of-key-1")]


@pytest.mark.spec("podvm-image", 5)
def test_the_shim_starts_with_each_feature_and_with_nothing_else(machine: GuestMachine) -> None:
    machine.start_agent()
    machine.start_hub(
        OFFLINE_FS_KBC_EXTRA_FILE_PATH=machine.write("/run/resources.json", RESOURCES)
    )
    for feature, expected in (
        ("resource", (200, 404)),
        ("attestation", (404, 200)),
        ("all", (200, 200)),
    ):
        _, port = machine.start_rest("--features", feature)
        targets = ("/cdh/resource/default/key/1", "/aa/evidence?runtime_data=x")
        assert tuple(status_of(port, target) for target in targets) == expected, feature
    for feature in ("", "none", "ALL", "resource,attestation"):
        assert machine.run(REST, "--features", feature).returncode == 1


@pytest.mark.spec("podvm-image", 7)
def test_a_stale_socket_of_a_killed_predecessor_is_no_obstacle(machine: GuestMachine) -> None:
    for path, start in ((AA_SOCKET, machine.start_agent), (CDH_SOCKET, machine.start_hub)):
        start().stop()
        assert machine.at(path).is_socket()
        start()
    assert tee_of(machine) == b"sample"
    with Client(str(machine.at(CDH_SOCKET))) as client:
        assert client.ask(request(1, GET_RESOURCE, text(1, "kbs:///default/key/1"))).code == 13


@pytest.mark.spec("podvm-image", 8)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_usual_signals_end_a_service_in_good_order(
    machine: GuestMachine, number: signal.Signals
) -> None:
    daemons = [machine.start_agent(), machine.start_hub(), machine.start_rest()[0]]
    with Client(str(machine.at(AA_SOCKET))) as idle:
        for daemon in daemons:
            began = time.monotonic()
            daemon.process.send_signal(number)
            assert daemon.process.wait(30) == 0, daemon.said()
            assert time.monotonic() - began < 5
        assert idle.is_closed_by_peer()
    assert not machine.at(AA_SOCKET).exists()
    assert not machine.at(CDH_SOCKET).exists()


def send_garbage(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"this is no request\r\n\r\n")
        while connection.recv(4096):
            pass


def has_level(daemon: Daemon, word: str) -> bool:
    """Whether a line of that level was said: ` INFO `, as upstream's subscriber writes it too."""
    return any(word in line.split()[:2] for line in daemon.said().splitlines())


@pytest.mark.spec("podvm-image", 13)
def test_rust_log_rules_over_the_file_and_the_file_over_info(machine: GuestMachine) -> None:
    machine.write("/run/aa.toml", '[log]\nlevel = "debug"\n')
    machine.write(
        "/run/cdh.toml", '[log]\nlevel = "debug"\n[kbc]\nname = "offline_fs_kbc"\nurl = ""\n'
    )
    cases = {
        "unset": ((), {}, (True, False)),
        "file": (("-c", "file"), {}, (True, True)),
        "debug": ((), {"RUST_LOG": "debug"}, (True, True)),
        "variable over file": (("-c", "file"), {"RUST_LOG": "error"}, (False, False)),
    }
    for name, (flags, variables, expected) in cases.items():
        for command, path, config in (
            (AA, AA_SOCKET, "/run/aa.toml"),
            (CDH, CDH_SOCKET, "/run/cdh.toml"),
        ):
            words = [config if word == "file" else word for word in flags]
            daemon = machine.start(command, *words, **variables)
            daemon.wait_for(str(machine.at(path)))
            with Client(str(machine.at(path))) as client:
                client.ask(request(1, "no.Service/Method"))
                client.ask(TEE_TYPE if command == AA else request(1, GET_RESOURCE, text(1, "x")))
            daemon.process.terminate()
            daemon.process.wait(30)
            found = (has_level(daemon, "INFO"), has_level(daemon, "DEBUG"))
            assert found == expected, (name, command, daemon.said())
        if not flags:
            daemon, port = machine.start_rest("--features", "all", **variables)
            status_of(port, "/aa/evidence?runtime_data=x")
            send_garbage(port)
            daemon.process.terminate()
            daemon.process.wait(30)
            found = (has_level(daemon, "INFO"), has_level(daemon, "DEBUG"))
            assert found == expected, (name, daemon.said())
