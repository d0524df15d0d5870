"""The command `confidential-data-hub` as a process."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.ttrpc.channel import TtrpcChannel
from support.agents import SECONDS, agent_command, environment


def command(folder: Path, *arguments: str, grpc: bool = False) -> list[str]:
    options = ["--runtime-dir", f"{folder}/rt", "--metrics-dir", "", *arguments]
    line = agent_command(*options, module="cdh.main")
    if grpc:
        line = [word.replace("import main;", "import grpc_main as main;") for word in line]
    return line


def run(folder: Path, *arguments: str, grpc: bool = False, **names: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(folder, *arguments, grpc=grpc), env=environment(**names), text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def write_config(folder: Path, text: str = "") -> Path:
    path = folder / "cdh.toml"
    resources = folder / "resources.json"
    resources.write_text(json.dumps({"default/key/1": "a2V5MQ=="}))
    path.write_text(
        f'socket = "unix://{folder}/cdh.sock"\n{text}\n'
        f'[kbc]\nname = "offline_fs_kbc"\noffline_files = ["{resources}"]\n'
    )
    return path


@contextmanager
def process(folder: Path, *arguments: str, **names: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        command(folder, *arguments), env=environment(**names), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        give_up = time.monotonic() + SECONDS
        while not (folder / "cdh.sock").exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < give_up, "no socket"
            time.sleep(0.005)
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.spec("confidential-data-hub", 59)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_its_socket(short_tmp: Path, number: signal.Signals) -> None:
    with process(short_tmp, "-c", str(write_config(short_tmp))) as child:
        child.send_signal(number)
        assert child.wait(SECONDS) == 0
    assert not (short_tmp / "cdh.sock").exists()


def test_a_credential_that_cannot_be_had_ends_the_start_with_one_line(short_tmp: Path) -> None:
    path = write_config(
        short_tmp,
        f"""[[credentials]]
resource_uri = "kbs:///default/key/1"
path = "{short_tmp}/rt/kbs/here"
[[credentials]]
resource_uri = "kbs:///default/key/2"
path = "{short_tmp}/rt/kbs/absent"
""",
    )
    status, output, errors = run(short_tmp, "-c", str(path), RUST_LOG="off")
    assert (status, output) == (1, "")
    (line,) = errors.splitlines()
    assert "init Hub failed: kbs client get resource failed: kbs:///default/key/2" in line
    assert "resource not found default/key/2" in line
    assert not (short_tmp / "cdh.sock").exists()
    assert not list(short_tmp.glob("rt/kbs/*"))


def test_a_start_waits_for_its_credentials_no_longer_than_it_may(short_tmp: Path) -> None:
    path = write_config(
        short_tmp,
        f"""credentials_seconds = 2.5
[[credentials]]
resource_uri = "kbs:///default/key/1"
path = "{short_tmp}/rt/kbs/x"
[aa]
aa_socket = "unix://{short_tmp}/nobody.sock"
""",
    )
    text = path.read_text().replace('"offline_fs_kbc"', '"cc_kbc"\nurl = "http://127.0.0.1:9"')
    path.write_text(text)
    began = time.monotonic()
    status, _, errors = run(short_tmp, "-c", str(path), RUST_LOG="off")
    assert time.monotonic() - began < SECONDS
    assert status == 1
    (line,) = errors.splitlines()
    assert "kbs:///default/key/1" in line
    assert f"create AA token provider failed: unix://{short_tmp}/nobody.sock" in line


def test_the_file_may_be_named_by_a_variable(short_tmp: Path) -> None:
    with process(short_tmp, CDH_CONFIG_PATH=str(write_config(short_tmp))):
        assert (short_tmp / "rt" / "ocicrypt_config.json").exists()


@pytest.mark.spec("confidential-data-hub", 11)
def test_a_log_filter_that_is_none_ends_the_start(short_tmp: Path) -> None:
    path = write_config(short_tmp)
    status, _, said = run(short_tmp, "-c", str(path), RUST_LOG="x=notalevel")
    assert status == 1
    assert "RUST_LOG is present but invalid" in said
    path = write_config(short_tmp, '[log]\nlevel = "x=notalevel"')
    status, _, said = run(short_tmp, "-c", str(path))
    assert status == 1
    assert "Invalid log level: x=notalevel" in said
    assert not (short_tmp / "cdh.sock").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('socket = "tcp://127.0.0.1:1"', "socket address scheme is not expected"),
        ('socket = "127.0.0.1:1"', "socket"),
        ("[aa]\naa_socket = 'x'", "aa.aa_socket"),
        ("[rpc]\nexact_status = 3", "rpc.exact_status"),
        ("credentials = [{path = '/x'}]", "resource_uri"),
        ("[[credentials]]\nresource_uri='kbs:///a/b/c'\npath='/etc/x'", "illegal path to put"),
        ("[image]\nmax_concurrent_layer_downloads_per_image = 0", "max_concurrent_layer"),
        ("= 1", "line"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_status_1(
    short_tmp: Path, text: str, words: str
) -> None:
    path = write_config(short_tmp, text)
    if text.startswith("socket"):
        path.write_text(path.read_text().split("\n", 1)[1])
    status, _, said = run(short_tmp, "-c", str(path))
    assert status == 1
    assert words in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (short_tmp / "cdh.sock").exists()


def test_an_unknown_key_is_warned_of_or_refused(short_tmp: Path) -> None:
    path = write_config(short_tmp, "sokcet = 1")
    with process(short_tmp, "-c", str(path)) as child:
        child.terminate()
        _, said = child.communicate(timeout=SECONDS)
    assert "sokcet" in said
    assert "nearest=socket" in said
    status, _, said = run(short_tmp, "-c", str(path), "--strict")
    assert status == 1
    assert "sokcet" in said


def test_a_missing_file_is_status_1_and_a_wrong_flag_status_2(short_tmp: Path) -> None:
    status, _, said = run(short_tmp, "-c", f"{short_tmp}/none.toml")
    assert status == 1
    assert "none.toml" in said
    assert run(short_tmp, "--conf", "x")[0] == 2
    assert run(short_tmp, "-x")[0] == 2


def test_the_version_says_what_is_built_in(short_tmp: Path) -> None:
    status, said, _ = run(short_tmp, "-V")
    lines = said.splitlines()
    assert status == 0
    assert lines[1] == "kbs: enabled"
    assert lines[2].startswith("kms plugins:")


def test_the_grpc_command_wants_a_bare_address_and_fails_when_it_is_taken(
    short_tmp: Path,
) -> None:
    path = write_config(short_tmp)
    status, _, said = run(short_tmp, "-c", str(path), grpc=True)
    assert status == 1
    assert "socket" in said
    path.write_text(path.read_text().replace(f"unix://{short_tmp}/cdh.sock", "203.0.113.1:1"))
    assert run(short_tmp, "-c", str(path), grpc=True)[0] == 1


async def test_pulls_count_on_the_metrics_socket(short_tmp: Path) -> None:
    config = ("-c", str(write_config(short_tmp)))
    with process(short_tmp, *config, "--metrics-dir", f"{short_tmp}/m"):
        channel = TtrpcChannel(f"unix://{short_tmp}/cdh.sock")
        request = ImagePullRequest(image_url="A B", bundle_path=f"{short_tmp}/bundle")
        with pytest.raises(GuestError, match="Illegal image reference"):
            await channel.call(PULL_IMAGE, request, deadline=Deadline.after(SECONDS))
        await channel.close()
        socket = f"{short_tmp}/m/confidential-data-hub.sock"
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
    assert 'coco_image_pull_seconds_count{code="INVALID_ARGUMENT"} 1.0' in answer
