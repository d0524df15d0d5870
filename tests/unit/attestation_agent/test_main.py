"""The command: flags, exit statuses, sockets, signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import aa_pb2, methods
from guest.rpc.grpc import GrpcChannel
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.faults import Fault
from guest_simulator.kbs.server import Kbs
from support.agents import SECONDS, agent_command, agent_process, environment, run_agent

BAD_DOCUMENT = "version = 1"
GOOD_DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n'
SAMPLE = '[attester]\ntee = "sample"\n'
"""So that a machine with a TPM runs these tests too."""


def soon() -> Deadline:
    return Deadline.after(SECONDS)


def config(directory: Path, text: str = "", name: str = "aa.toml") -> str:
    (directory / name).write_text(SAMPLE + text)
    return str(directory / name)


async def tee_type(path: Path) -> str:
    channel = TtrpcChannel(f"unix://{path}")
    try:
        request = aa_pb2.GetTeeTypeRequest()
        return (await channel.call(methods.GET_TEE_TYPE, request, deadline=soon())).tee
    finally:
        await channel.close()


@pytest.mark.spec("attestation-agent", 1)
def test_every_flag_parses_and_an_unknown_one_ends_with_two(short_tmp: Path) -> None:
    file = config(short_tmp)
    (short_tmp / "i.toml").write_text(GOOD_DOCUMENT)
    digest = "A" * 43 + "="
    spellings = [
        ["-a", "unix://{}", "-c", file, "-i", digest, "-t", str(short_tmp / "i.toml")],
        ["--attestation_sock", "unix://{}", "--config-file", file, "--initdata-digest", digest,
         "--initdata-toml", str(short_tmp / "i.toml")],
        ["--attestation-sock=unix://{}", f"--config={file}", f"--initdata_digest={digest}",
         f"--initdata_toml={short_tmp}/i.toml"],
        ["-aunix://{}", f"-c={file}", f"-i={digest}"],
    ]  # fmt: skip
    for number, words in enumerate(spellings):
        path = short_tmp / f"{number}.sock"
        with agent_process(path, [word.format(path) for word in words]) as process:
            assert process.poll() is None
    for words in (["--no-such"], ["--attestation"], ["extra"], ["-a"], ["--config-fil", "x"]):
        done = run_agent(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "usage:" in done.stderr


def test_help_and_version_are_told_on_standard_output() -> None:
    done = run_agent("--version")
    first, second, third = done.stdout.splitlines()
    assert (done.returncode, first.split()[0]) == (0, "attestation-agent")
    assert second.startswith("supported attesters: tdx, sgx, az-tdx-vtpm, az-snp-vtpm, snp, csv, ")
    assert third == "token plugins: KBS, COCO_AS"
    assert run_agent("-V").stdout == done.stdout
    helped = run_agent("-h")
    assert helped.returncode == 0
    assert "--initdata-toml" in helped.stdout
    assert "--initdata_toml" not in helped.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says why; the start must have failed properly."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


@pytest.mark.spec("attestation-agent", 2)
@pytest.mark.parametrize(
    "address", ["/run/x.sock", "vsock://1:2", "tcp://127.0.0.1:0", "unix:", ""]
)
def test_an_address_without_the_unix_scheme_is_refused(short_tmp: Path, address: str) -> None:
    line = refused(run_agent("-a", address, "-c", config(short_tmp)))
    assert line.startswith("attestation-agent: socket address scheme is not expected")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = = 1", "line 3, key x"),
        ('[log]\nlevel = "a=b=c"', "Invalid log level: a=b=c"),
        ("[eventlog_config]\ninit_pcr = 'x'", "eventlog_config.init_pcr: "),
    ],
)
def test_a_wrong_configuration_is_one_line_with_file_and_key_and_no_socket(
    short_tmp: Path, text: str, words: str
) -> None:
    path = short_tmp / "s"
    line = refused(run_agent("-a", f"unix://{path}", "-c", config(short_tmp, text)))
    assert words in line
    assert "Invalid log" in line or str(short_tmp / "aa.toml") in line
    assert sorted(p.name for p in short_tmp.iterdir()) == ["aa.toml"]


def test_a_missing_configuration_or_a_bad_filter_refuses_the_start(short_tmp: Path) -> None:
    arguments = ["-a", f"unix://{short_tmp}/s", "-c", str(short_tmp / "none")]
    assert f'configuration file "{short_tmp}/none" not found' in refused(run_agent(*arguments))
    arguments = ["-a", f"unix://{short_tmp}/s", "-c", config(short_tmp)]
    done = run_agent(*arguments, RUST_LOG="=")
    assert refused(done) == (
        "attestation-agent: RUST_LOG is present but invalid: no log directive: '='"
    )


def test_an_unknown_key_is_one_warning_and_refused_when_strict(short_tmp: Path) -> None:
    file = config(short_tmp, "[eventlog_confg]\nx = 1")
    arguments = ["-a", f"unix://{short_tmp}/s", "-c", file]
    line = refused(run_agent(*arguments, "--strict"))
    assert line.endswith("eventlog_confg: unknown key; nearest known is eventlog_config")
    with agent_process(short_tmp / "s", ["-c", file]) as process:
        process.terminate()
        _, text = process.communicate(timeout=SECONDS)
    warnings = [line for line in text.splitlines() if "unknown configuration key" in line]
    assert len(warnings) == 1
    assert "key=eventlog_confg nearest=eventlog_config" in warnings[0]


def test_init_data_that_is_none_refuses_the_start_and_no_socket_appears(short_tmp: Path) -> None:
    (short_tmp / "i.toml").write_text(BAD_DOCUMENT)
    common = ["-a", f"unix://{short_tmp}/d/s", "-c", config(short_tmp)]
    line = refused(run_agent(*common, "-t", str(short_tmp / "i.toml")))
    assert "read initdata toml file" in line
    assert "base64 decode initdata" in refused(run_agent(*common, "-i", "!"))
    assert not (short_tmp / "d").exists()


async def test_a_stale_socket_is_replaced_and_a_missing_directory_made(short_tmp: Path) -> None:
    file = config(short_tmp)
    path = short_tmp / "deep" / "er" / "aa.sock"
    with agent_process(path, ["-c", file]) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    assert path.is_socket()
    with agent_process(path, ["-c", file]):
        assert await tee_type(path) == "sample"
    assert (path.parent.stat().st_mode & 0o777) == 0o755


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("attestation-agent", 4)
def test_the_missing_directory_of_the_default_socket_is_made() -> None:
    script = 'mount -t tmpfs none /run && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *agent_command("--metrics-dir", "")]
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    path = "run/confidential-containers/attestation-agent/attestation-agent.sock"
    give_up = time.monotonic() + SECONDS
    try:
        while not os.path.exists(f"/proc/{process.pid}/root/{path}"):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.spec("attestation-agent", 8)
async def test_the_environment_names_the_kbs_only_when_no_file_is_given(short_tmp: Path) -> None:
    async def cause(arguments: list[str], params: str) -> str:
        path = short_tmp / "s"
        with agent_process(path, arguments, AA_KBC_PARAMS=params):
            channel = TtrpcChannel(f"unix://{path}")
            request = aa_pb2.GetTokenRequest(TokenType="kbs")
            with pytest.raises(GuestError) as caught:
                await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(2))
            await channel.close()
        return str(caught.value)

    kbs = "cc_kbc::http://127.0.0.1:1"
    unset = "kbs token config not configured in config file"
    assert unset not in await cause([], kbs)
    assert unset in await cause(["-c", config(short_tmp)], kbs)
    assert unset in await cause([], "offline_fs_kbc::null")


@pytest.mark.spec("attestation-agent", 44)
async def test_many_evidence_calls_on_one_connection_delay_nobody(short_tmp: Path) -> None:
    path = short_tmp / "s"
    with agent_process(path, ["-c", config(short_tmp)]):
        channel = TtrpcChannel(f"unix://{path}")
        answers: list[bytes] = []
        waits: list[float] = []

        async def ask(number: int) -> None:
            request = aa_pb2.GetEvidenceRequest(RuntimeData=bytes([number]))
            response = await channel.call(methods.GET_EVIDENCE, request, deadline=soon())
            answers.append(response.Evidence)

        for _ in range(5):
            async with asyncio.TaskGroup() as group:
                for number in range(32):
                    group.create_task(ask(number))
                await asyncio.sleep(0)
                started = time.monotonic()
                request = aa_pb2.GetTeeTypeRequest()
                await channel.call(methods.GET_TEE_TYPE, request, deadline=soon())
                waits.append(time.monotonic() - started)
        await channel.close()
    assert len(answers) == 5 * 32
    assert len({json.loads(answer)["report_data"] for answer in answers}) == 32
    assert min(waits) < 0.05


@pytest.mark.spec("attestation-agent", 45)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_lets_the_call_under_way_finish_and_removes_the_socket(
    short_tmp: Path, number: signal.Signals
) -> None:
    path = short_tmp / "s"
    async with Kbs() as kbs:
        armed = kbs.faults.add(Fault(path="/attest", delay=1.0))
        file = config(short_tmp, f'[token_configs.kbs]\nurl = "{kbs.url}"\n')
        with agent_process(path, ["-c", file]) as process:
            channel = TtrpcChannel(f"unix://{path}")
            request = aa_pb2.GetTokenRequest(TokenType="kbs")
            async with asyncio.TaskGroup() as group:
                call = group.create_task(channel.call(methods.GET_TOKEN, request, deadline=soon()))
                while not armed.hits:
                    await asyncio.sleep(0.01)
                process.send_signal(number)
            assert json.loads(call.result().Token)["token"]
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
            await channel.close()
    assert not path.exists()


async def test_metrics_and_health_are_on_a_socket_of_their_own(short_tmp: Path) -> None:
    text = f'[metrics]\ndirectory = "{short_tmp}/m"\n'
    file = config(short_tmp, text)
    path, metrics = short_tmp / "s", short_tmp / "m" / "attestation-agent.sock"
    command = agent_command("-a", f"unix://{path}", "-c", file)
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        while not metrics.exists():
            assert process.poll() is None
            await asyncio.sleep(0.01)
        await tee_type(path)

        def get(what: str) -> str:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(SECONDS)
                client.connect(str(metrics))
                client.sendall(f"GET {what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                return "".join(iter(lambda: client.recv(65536).decode(), ""))

        assert get("/healthz").endswith("ok\n")
        shown = [line for line in get("/metrics").splitlines() if "call_seconds_count" in line]
        assert len(shown) == 1
        assert 'code="OK"' in shown[0]
        assert 'method="/attestation_agent.AttestationAgentService/GetTeeType"' in shown[0]
        assert shown[0].endswith(" 1.0")
    finally:
        process.kill()
        process.wait()


async def test_the_grpc_command_serves_the_same_and_binding_too(short_tmp: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-a", f"127.0.0.1:{port}", "-c", config(short_tmp), "--metrics-dir", ""]
    command = [word.replace("import main;", "import grpc_main as main;")
               for word in agent_command(*words)]  # fmt: skip
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        channel = GrpcChannel(f"127.0.0.1:{port}")
        while True:
            try:
                request = aa_pb2.GetTeeTypeRequest()
                response = await channel.call(methods.GET_TEE_TYPE, request, deadline=soon())
                break
            except GuestError:
                assert process.poll() is None
                await asyncio.sleep(0.05)
        assert response.tee == "sample"
        bind = aa_pb2.BindInitDataRequest(Digest=bytes(32))
        await channel.call(methods.BIND_INIT_DATA, bind, deadline=soon())
        token = aa_pb2.GetTokenRequest(TokenType="x")
        with pytest.raises(GuestError, match=r"\[ERROR:attestation-agent\] AA get token failed"):
            await channel.call(methods.GET_TOKEN, token, deadline=soon())
        await channel.close()
        process.terminate()
        assert await asyncio.to_thread(process.wait, SECONDS) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("address", ["unix:///x", "localhost:1", "127.0.0.1"])
def test_the_grpc_command_takes_addresses_and_ports_only(short_tmp: Path, address: str) -> None:
    command = [word.replace("import main;", "import grpc_main as main;")
               for word in agent_command("-a", address, "-c", config(short_tmp))]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert "is not <ip>:<port>" in refused(done)
