"""What peers see of the installed daemons while these come, go, die and work.

Source: docs/spec/podvm-image.md 12.5 and 19.
"""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.guest_machine import (
    AA,
    AA_SOCKET,
    BIN,
    CDH,
    CDH_SOCKET,
    COMMANDS,
    SECONDS,
    GuestMachine,
    guest_machine,
)
from conformance.inotify import Watch
from conformance.raw_ttrpc import Client, fields, request, text
from conformance.stubs import SilentServer, key_broker

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not all((BIN / name).exists() for name in COMMANDS), reason="the commands are not installed"
    ),
]

ROUNDS = 25
GET_RESOURCE = "api.GetResourceService/GetResource"
PULL_IMAGE = "api.ImagePullService/PullImage"
UNSEAL = "api.SealedSecretService/UnsealSecret"


@pytest.fixture
def machine() -> Iterator[GuestMachine]:
    with guest_machine() as guest:
        yield guest


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.spec("podvm-image", 6)
@pytest.mark.parametrize(("command", "path"), [(AA, AA_SOCKET), (CDH, CDH_SOCKET)])
def test_a_socket_that_can_be_seen_can_be_connected_to(
    machine: GuestMachine, command: str, path: str
) -> None:
    place = machine.at(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    for turn in range(ROUNDS):
        if turn % 2:
            place.unlink()
        with Watch(place.parent) as watch, socket.socket(socket.AF_UNIX) as client:
            daemon = machine.start(command)
            watch.wait_for(place.name, SECONDS)
            client.connect(str(place))
        daemon.stop()


def forget_tokens(broker: Any) -> None:
    """The next resource is refused once, so that whoever asks needs a new token."""
    fault = json.dumps({"path": "/resource/", "status": 401, "times": 1}).encode()
    asked = urllib.request.Request(f"{broker['kbs']}/_simulator/faults", data=fault)
    with urllib.request.urlopen(asked, timeout=30) as reply:
        assert reply.status == 200


def fetch(port: int, target: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def resource_of(client: Client, stream_id: int) -> list[tuple[int, int | bytes]]:
    reply = client.ask(request(stream_id, GET_RESOURCE, text(1, "kbs:///default/key/1")))
    assert reply.code == 0, reply.message
    return list(fields(reply.payload))


@pytest.mark.spec("podvm-image", 9)
def test_killed_daemons_are_back_after_a_restart_and_nobody_else_restarts(
    machine: GuestMachine, tmp_path: Path
) -> None:
    with key_broker(tmp_path) as broker:
        params = f"cc_kbc::{broker['kbs']}"
        agent = machine.start_agent(AA_KBC_PARAMS=params)
        hub = machine.start_hub(AA_KBC_PARAMS=params)
        _, port = machine.start_rest("--features", "all")
        with Client(str(machine.at(CDH_SOCKET)), 60) as client:
            assert resource_of(client, 1) == [(1, b"value-of-key-1")]
            assert fetch(port, "/aa/evidence?runtime_data=x")[0] == 200

            agent.stop()
            assert fetch(port, "/aa/evidence?runtime_data=x")[0] != 200
            machine.start_agent(AA_KBC_PARAMS=params)
            forget_tokens(broker)
            assert resource_of(client, 3) == [(1, b"value-of-key-1")]
            assert fetch(port, "/aa/evidence?runtime_data=x")[0] == 200

            hub.stop()
            assert client.is_closed_by_peer()
        machine.start_hub(AA_KBC_PARAMS=params)
        with Client(str(machine.at(CDH_SOCKET)), 60) as client:
            assert resource_of(client, 1) == [(1, b"value-of-key-1")]
        assert fetch(port, "/cdh/resource/default/key/1") == (200, b"value-of-key-1")


@pytest.mark.spec("podvm-image", 10)
def test_a_secret_is_unsealed_beside_a_pull_on_the_same_connection(
    machine: GuestMachine, vectors: Path
) -> None:
    document = json.loads((vectors / "cdh/sealed.json").read_text())
    resources = machine.write("/run/resources.json", '{"default/sealed-secret/test": "eHl6"}')
    machine.start_hub(
        OFFLINE_FS_KBC_EXTRA_FILE_PATH=resources, SKIP_SEALED_SECRET_VERIFICATION="true"
    )
    bundle = "/run/kata-containers/pod"
    machine.at(bundle).mkdir(parents=True)
    with SilentServer() as registry, Client(str(machine.at(CDH_SOCKET)), 60) as client:
        image = text(1, f"127.0.0.1:{registry.port}/a/b:c") + text(2, bundle)
        client.socket.sendall(request(1, PULL_IMAGE, image))
        registry.first_words()
        reply = client.ask(request(3, UNSEAL, text(1, document["vault_unsigned"])))
        assert (reply.stream_id, reply.code, reply.message) == (3, 0, "")
        assert list(fields(reply.payload)) == [(1, b"xyz")]
        registry.hang_up()
        reply = client.receive()
        assert (reply.stream_id, reply.code) == (1, 13)
        assert reply.message.startswith("[CDH] [ERROR]: Image Pull error")
