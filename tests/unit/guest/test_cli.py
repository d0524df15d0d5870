"""The command `guest`: command lines, and the three services in one process."""

import http.client
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from guest.cli import main
from guest.deadline import Deadline
from guest.protos.aa_pb2 import GetTeeTypeRequest
from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.methods import GET_RESOURCE, GET_TEE_TYPE
from guest.ttrpc.channel import TtrpcChannel
from support.agents import agent_command

SECONDS = 30.0


@pytest.mark.parametrize("words", [[], ["nonsense"], ["serve", "--nonsense"], ["image"]])
def test_a_wrong_command_line_ends_with_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize("words", [["--help"], ["serve", "-h"], ["image", "encrypt", "-h"]])
def test_help_is_there_for_every_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert "usage: guest" in capsys.readouterr().out


def serve(directory: Path, *options: str) -> "subprocess.Popen[bytes]":
    (directory / "aa.toml").write_text('[attester]\ntee = "sample"\n')
    (directory / "resources.json").write_text('{"default/key/1": "a2V5MQ=="}')
    (directory / "cdh.toml").write_text(
        f'socket = "unix://{directory}/cdh.sock"\n[kbc]\nname = "offline_fs_kbc"\n'
        f'offline_files = ["{directory}/resources.json"]\n'
    )
    command = [
        *agent_command("serve", "--aa-config", f"{directory}/aa.toml", module="guest.cli"),
        *("--cdh-config", f"{directory}/cdh.toml", "--features", "all"),
        *("--attestation-sock", f"unix://{directory}/aa.sock"),
        *("--runtime-dir", f"{directory}/run", "--metrics-dir", f"{directory}/metrics"),
        *options,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> bytes:
    """The body, once somebody listens."""
    end = time.monotonic() + SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except ConnectionRefusedError:
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.02)
        finally:
            connection.close()


async def test_one_process_serves_all_three_addresses_and_cleans_up(short_tmp: Path) -> None:
    port = free_port()
    process = serve(short_tmp, "--bind", f"127.0.0.1:{port}")
    try:
        assert json.loads(get(port, "/info"))["tee"] == "sample"
        assert get(port, "/cdh/resource/default/key/1") == b"key1"
        aa, cdh = (TtrpcChannel(f"unix://{short_tmp}/{name}.sock") for name in ("aa", "cdh"))
        tee = await aa.call(GET_TEE_TYPE, GetTeeTypeRequest(), deadline=Deadline.after(SECONDS))
        request = GetResourceRequest(ResourcePath="kbs:///default/key/1")
        key = await cdh.call(GET_RESOURCE, request, deadline=Deadline.after(SECONDS))
        assert (tee.tee, key.Resource) == ("sample", b"key1")
        await aa.close()
        await cdh.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert sorted(short_tmp.glob("*.sock")) == []
    finally:
        process.kill()
        process.communicate()


def test_a_configuration_that_cannot_be_read_is_status_1_and_no_socket(short_tmp: Path) -> None:
    process = serve(short_tmp, "--aa-config", str(short_tmp / "absent.toml"))
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.decode().strip().splitlines()[-1] == (
        f'guest serve: configuration file "{short_tmp}/absent.toml" not found'
    )
    assert list(short_tmp.glob("*.sock")) == []
