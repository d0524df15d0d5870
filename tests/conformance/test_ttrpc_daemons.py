"""The daemons as installed, over their sockets, with a client that shares no code with them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from conformance.raw_ttrpc import Client, fields, frame, request, text

BIN: Final = Path(os.environ.get("CONFORMANCE_BIN", Path(sys.executable).parent))
IS_OURS: Final = os.environ.get("CONFORMANCE_IMPLEMENTATION", "coco-guest") == "coco-guest"
START_SECONDS: Final = 30.0
FIFTY: Final = 50_000_000_000

AA: Final = "attestation_agent.AttestationAgentService"
GET_RESOURCE: Final = "api.GetResourceService/GetResource"
RESOURCE: Final = text(1, "kbs:///default/key/1")
OVERSIZE: Final = "message length 4194305 exceed maximum message size of 4194304"

DAEMONS: Final = ("attestation-agent", "confidential-data-hub")

pytestmark = pytest.mark.skipif(
    not all((BIN / name).exists() for name in DAEMONS), reason="the daemons are not installed"
)


@dataclass(frozen=True)
class Daemons:
    """Both daemons while they run."""

    sockets: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    log: Path


def _commands(directory: Path) -> dict[str, list[str]]:
    (directory / "aa.toml").write_text('[attester]\ntee = "sample"\n')
    resources = directory / "resources.json"
    resources.write_text('{"default/key/1": "dmFsdWUtb2Yta2V5LTE="}')
    (directory / "cdh.toml").write_text(
        f'socket = "unix://{directory}/cdh.sock"\n'
        f'[aa]\naa_socket = "unix://{directory}/aa.sock"\n'
        f'[kbc]\nname = "offline_fs_kbc"\noffline_files = ["{resources}"]\n'
    )
    aa = [str(BIN / DAEMONS[0]), "-a", f"unix://{directory}/aa.sock"]
    aa += ["-c", str(directory / "aa.toml")]
    cdh = [str(BIN / DAEMONS[1]), "-c", str(directory / "cdh.toml")]
    if IS_OURS:
        metrics = ["--metrics-dir", str(directory / "metrics")]
        aa += metrics
        cdh += [*metrics, "--runtime-dir", str(directory / "cdh")]
    return {DAEMONS[0]: aa, DAEMONS[1]: cdh}


def _wait_for(process: subprocess.Popen[bytes], path: str, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends, f"{path} did not appear: {log.read_text()}"
        time.sleep(0.01)


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Daemons]:
    log = directory / "log"
    processes: dict[str, subprocess.Popen[bytes]] = {}
    sockets = {DAEMONS[0]: f"{directory}/aa.sock", DAEMONS[1]: f"{directory}/cdh.sock"}
    try:
        for name, command in _commands(directory).items():
            with log.open("ab") as output:
                processes[name] = subprocess.Popen(command, stdout=output, stderr=output)
        for name, process in processes.items():
            _wait_for(process, sockets[name], log)
        yield Daemons(sockets, processes, log)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="cg", dir="/tmp"))
    try:
        with started(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=DAEMONS)
def client(request: pytest.FixtureRequest, daemons: Daemons) -> Iterator[Client]:
    with Client(daemons.sockets[request.param]) as connection:
        yield connection


@pytest.fixture
def aa(daemons: Daemons) -> Iterator[Client]:
    with Client(daemons.sockets[DAEMONS[0]]) as connection:
        yield connection


@pytest.fixture
def cdh(daemons: Daemons) -> Iterator[Client]:
    with Client(daemons.sockets[DAEMONS[1]]) as connection:
        yield connection


def test_the_attestation_agent_names_its_tee(aa: Client) -> None:
    reply = aa.ask(request(1, f"{AA}/GetTeeType", timeout=FIFTY))
    assert (reply.stream_id, reply.kind, reply.code) == (1, 2, 0)
    assert list(fields(reply.payload)) == [(1, b"sample")]


def test_the_data_hub_gives_a_resource_in_the_published_bytes(cdh: Client) -> None:
    asked = bytes.fromhex(
        "000000440000000101000a166170692e4765745265736f7572636553657276696365120b4765745265736f7572"
        "63651a160a146b62733a2f2f2f64656661756c742f6b65792f312080e8eda1ba01"
    )
    assert request(1, GET_RESOURCE, RESOURCE, timeout=FIFTY) == asked
    published = "000000140000000102000a0012100a0e76616c75652d6f662d6b65792d31"
    assert cdh.ask(asked).raw == bytes.fromhex(published)


def test_a_missing_resource_has_the_published_text(cdh: Client) -> None:
    reply = cdh.ask(request(1, GET_RESOURCE, text(1, "kbs:///default/key/none")))
    assert (reply.code, reply.payload) == (13, b"")
    assert reply.message.startswith("[CDH] [ERROR]: Get Resource failed")


def test_what_is_not_there_has_its_code_and_text(client: Client) -> None:
    reply = client.ask(request(3, "nope.Svc/M"))
    assert reply.raw == bytes.fromhex(
        "000000250000000302000a230803121f6e6f70652e537663207365727669636520646f6573206e6f7420657869"
        "7374"
    )
    reply = client.ask(frame(5, 1))
    assert (reply.code, reply.message) == (3, " service does not exist")


def test_an_unknown_method_is_unimplemented(aa: Client, cdh: Client) -> None:
    published = bytes.fromhex("000000110000000502000a0f080c120b4e6f7065206d6574686f64")
    assert aa.ask(request(5, f"{AA}/Nope")).raw == published
    assert cdh.ask(request(5, "api.GetResourceService/Nope")).raw == published


def test_a_method_that_is_not_offered_is_not_found(aa: Client, cdh: Client) -> None:
    reply = aa.ask(request(1, f"{AA}/BindInitData"))
    assert (reply.code, reply.message) == (5, f"/{AA}/BindInitData is not supported")
    reply = cdh.ask(request(1, "keyprovider.KeyProviderService/WrapKey"))
    assert reply.raw == bytes.fromhex(
        "0000003e0000000102000a3c080512382f6b657970726f76696465722e4b657950726f76696465725365727669"
        "63652f577261704b6579206973206e6f7420737570706f72746564"
    )


def test_what_cannot_be_decoded_is_refused(client: Client, aa: Client, cdh: Client) -> None:
    assert client.ask(frame(1, 1, b"\x0a\xff")).code == 3
    reply = aa.ask(request(3, f"{AA}/GetToken", b"\x0a\x02\xc3\x28"))
    assert (reply.code, reply.message[:11]) == (2, "ttrpc err: ")
    reply = cdh.ask(request(3, GET_RESOURCE, b"\x0a\xff"))
    assert (reply.code, reply.message[:11]) == (2, "ttrpc err: ")


def test_even_ids_are_refused_on_themselves(client: Client) -> None:
    published = bytes.fromhex(
        "0000001b0000000a02000a190803121573747265616d206964206d757374206265206f6464"
    )
    assert client.ask(request(10, "s.S/M")).raw == published
    assert client.ask(request(0, "s.S/M")).message == "stream id must be odd"


def test_any_free_odd_id_is_served(aa: Client) -> None:
    for stream_id in (9, 9, 3, 4294967295):
        reply = aa.ask(request(stream_id, f"{AA}/GetTeeType"))
        assert (reply.stream_id, reply.code) == (stream_id, 0)


def test_an_oversize_frame_is_refused_and_the_connection_lives(client: Client) -> None:
    reply = client.ask(frame(37, 1, bytes(4194305)))
    assert (reply.stream_id, reply.code, reply.message) == (37, 3, OVERSIZE)
    assert client.ask(request(1, "s.S/M")).code == 3


def test_a_frame_of_the_limit_is_taken(cdh: Client) -> None:
    small = len(request(1, GET_RESOURCE, text(1, "x" * 4_000_000)))
    path = "x" * (4_000_000 + 4194304 + 10 - small)
    asked = request(1, GET_RESOURCE, text(1, path))
    assert len(asked) == 4194304 + 10
    assert cdh.ask(asked).message.startswith("[CDH] [ERROR]: Get Resource failed")


def test_lost_framing_closes_the_connection(client: Client) -> None:
    client.socket.sendall(b"\xff" * 10)
    assert client.is_closed_by_peer()


def test_stray_frames_do_no_harm(client: Client) -> None:
    reply = client.ask(frame(21, 3, b"x"))
    assert (reply.stream_id, reply.code) == (21, 3)
    assert reply.message == "Stream is no longer active"
    client.socket.sendall(frame(5, 2, b"\x0a\x00", 0xFF) + frame(7, 9, b"x"))
    assert client.ask(request(9, "s.S/M", flags=7)).stream_id == 9


def test_frames_may_come_in_any_pieces_and_together(aa: Client) -> None:
    asked = request(1, f"{AA}/GetTeeType")
    for at in range(len(asked)):
        aa.socket.sendall(asked[at : at + 1])
    assert aa.receive().code == 0
    aa.socket.sendall(asked + request(3, f"{AA}/GetTeeType"))
    assert {aa.receive().stream_id, aa.receive().stream_id} == {1, 3}


def test_a_thousand_calls_at_once_are_each_answered_once(aa: Client) -> None:
    ids = range(1, 2001, 2)
    aa.socket.sendall(b"".join(request(n, f"{AA}/GetTeeType") for n in ids))
    assert sorted(aa.receive().stream_id for _ in ids) == list(ids)


def test_a_negative_timeout_is_over_at_once(aa: Client) -> None:
    published = bytes.fromhex("0000000d0000000102000a0b0804120774696d656f7574")
    assert aa.ask(request(1, f"{AA}/GetTeeType", timeout=-5)).raw == published


def test_metadata_does_no_harm(aa: Client) -> None:
    pairs = (("k1", "a"), ("k1", "b"))
    assert aa.ask(request(1, f"{AA}/GetTeeType", metadata=pairs)).code == 0


def test_a_half_close_is_a_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed_by_peer()


def test_half_a_frame_and_an_end_leave_a_server_that_serves(aa: Client, daemons: Daemons) -> None:
    asked = request(1, f"{AA}/GetTeeType")
    for cut in (1, 9, 10, 20):
        with Client(daemons.sockets[DAEMONS[0]]) as other:
            other.socket.sendall(asked[:cut])
    assert aa.ask(asked).code == 0
    assert "ERROR" not in daemons.log.read_text()


def test_the_socket_file_is_gone_after_a_stop(short_tmp: Path) -> None:
    with started(short_tmp) as daemons:
        for name, process in daemons.processes.items():
            assert Path(daemons.sockets[name]).is_socket()
            process.send_signal(signal.SIGTERM)
        for name, process in daemons.processes.items():
            assert process.wait(20) == 0, daemons.log.read_text()
            assert not Path(daemons.sockets[name]).exists()
