"""The command `api-server-rest` as a process, and its command line."""

import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_server_rest.main import make_parser, open_shim
from guest.errors import ConfigError
from guest.metrics import Metrics
from support.agents import SECONDS, agent_command, environment


def run(*arguments: str, **names: str) -> tuple[int, str, str]:
    command = agent_command("--metrics-dir", "", *arguments, module="api_server_rest.main")
    done = subprocess.run(
        command, env=environment(**names), text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A shim on a free port, and that port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = agent_command(
        "--metrics-dir", "", "-b", f"127.0.0.1:{port}", *arguments, module="api_server_rest.main"
    )
    child = subprocess.Popen(
        command, env=environment(), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    give_up = time.monotonic() + SECONDS
    try:
        while True:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < give_up, "does not listen"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.005)
        yield child, port
    finally:
        child.kill()
        child.communicate()


def get(port: int, target: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.spec("api-server-rest", 1)
def test_flags_have_their_defaults_and_all_their_spellings() -> None:
    parse = make_parser().parse_args
    options = parse([])
    assert options.bind == "127.0.0.1:8006"
    assert options.features == "resource"
    assert options.cdh_addr == "unix:///run/confidential-containers/cdh.sock"
    folder = "unix:///run/confidential-containers/attestation-agent"
    assert options.aa_addr == f"{folder}/attestation-agent.sock"
    values = ("127.0.0.1:1", "all", "unix:///c", "unix:///a")
    for spellings in (
        ("-b", "-f", "-c", "-a"),
        ("--bind", "--features", "--cdh_addr", "--aa_addr"),
        ("--bind", "--features", "--cdh-addr", "--aa-addr"),
    ):
        words = [word for pair in zip(spellings, values, strict=True) for word in pair]
        options = parse(words)
        assert (options.bind, options.features, options.cdh_addr, options.aa_addr) == values


@pytest.mark.parametrize("feature", ["", "none", "resource,attestation", "ALL", "all "])
def test_an_unknown_feature_is_refused(feature: str) -> None:
    options = make_parser().parse_args(["-f", feature])
    with pytest.raises(ConfigError, match=r"Unknown features\. Supported features are: "):
        open_shim(options, {}, Metrics())


@pytest.mark.spec("api-server-rest", 2)
def test_an_unknown_feature_is_status_1() -> None:
    status, _, said = run("-f", "x")
    assert status == 1
    text = "Unknown features. Supported features are: resource, attestation, all."
    assert text in said.splitlines()[-1]


@pytest.mark.parametrize("bind", ["localhost:8006", "127.0.0.1", "127.0.0.1:x", "203.0.113.1:1"])
def test_an_address_that_cannot_be_had_is_status_1(bind: str) -> None:
    status, _, said = run("-b", bind)
    assert status == 1
    assert "Traceback" not in said


def test_a_taken_address_a_wrong_flag_and_a_wrong_log_filter_have_their_status() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("-b", f"127.0.0.1:{taken.getsockname()[1]}")[0] == 1
    assert run("--cdh", "x")[0] == 2
    assert run("-b", "127.0.0.1:0", RUST_LOG="x=notalevel")[0] == 1


def test_the_version_is_shown_as_upstream_shows_it() -> None:
    status, said, _ = run("-V")
    assert status == 0
    assert re.fullmatch(r"api-server-rest Guest Components Version: \S+\n\n", said)


def test_addresses_are_not_judged_before_the_first_request(short_tmp: Path) -> None:
    with process("-f", "all", "-c", "nonsense", "-a", f"unix://{short_tmp}/a") as (_, port):
        assert get(port, "/cdh/resource/a") == (
            500,
            b"ttrpc connect to CDH addr: nonsense failed",
        )
        assert get(port, "/info")[0] == 500
        assert get(port, "/nothing") == (404, b"URL NOT FOUND")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_status_0(number: signal.Signals) -> None:
    with process() as (child, port):
        assert get(port, "/info")[0] == 200
        child.send_signal(number)
        assert child.wait(SECONDS) == 0
