"""What the command tells at its start, whom, and what it does only once."""

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.protos import aa_pb2, methods
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.guest import REPORTS
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import SECONDS, agent_process, config_of, make_agent, running
from support.tdx_world import hints_of, make_guest

SAMPLE = '[attester]\ntee = "sample"\n'


def said(directory: Path, arguments: list[str], **names: str) -> str:
    """What a start and a stop leave on standard error."""
    with agent_process(directory / "s", arguments, **names) as process:
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    return text


def test_a_start_is_told_a_line_an_event_without_colours(short_tmp: Path) -> None:
    file = short_tmp / "aa.toml"
    file.write_text(SAMPLE)
    text = said(short_tmp, ["-c", str(file)])
    assert "\x1b" not in text
    first, second = text.splitlines()[:2]
    for words in ("starting", "version=", "log=info", "rpc=ttrpc"):
        assert words in first
    assert f"Using config file: {file}" in second


def test_a_start_without_a_file_says_where_the_kbs_comes_from(short_tmp: Path) -> None:
    text = said(short_tmp, [], AA_KBC_PARAMS="offline_fs_kbc::null")
    assert (
        "No AA config file specified. Using default configuration and the kbs address will be "
        "read from kernel cmdline."
    ) in text


@pytest.mark.parametrize(
    ("rust_log", "is_told"),
    [("some_crate::module=trace,h2=off", False), ("info,nobody=error", True), ("off", False)],
)
def test_a_log_filter_beats_the_file_and_never_fails_on_a_target_it_does_not_know(
    short_tmp: Path, rust_log: str, is_told: bool
) -> None:
    file = short_tmp / "aa.toml"
    file.write_text(SAMPLE + '[log]\nlevel = "error"\n')
    text = said(short_tmp, ["-c", str(file)], RUST_LOG=rust_log)
    assert ("starting" in text) is is_told


def test_the_service_manager_is_told_when_the_socket_accepts(short_tmp: Path) -> None:
    file = short_tmp / "aa.toml"
    file.write_text(SAMPLE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "n"))
        manager.settimeout(SECONDS)
        arguments = ["-c", str(file)]
        with agent_process(short_tmp / "s", arguments, NOTIFY_SOCKET=str(short_tmp / "n")):
            assert b"READY=1" in manager.recv(4096)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(short_tmp / "s"))


@pytest.mark.blocks_loop
async def test_tokens_and_evidence_use_what_was_detected_at_the_start(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    async with Kbs() as kbs:
        kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=guest.platform.root)
        config = config_of(token_configs={"kbs": {"url": kbs.url}})
        async with running(make_agent(short_tmp, config, hints=hints_of(guest))) as channel:
            await asyncio.sleep(0)
            guest.calls.clear()
            for _ in range(3):
                request = aa_pb2.GetTokenRequest(TokenType="kbs")
                await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
                evidence = aa_pb2.GetEvidenceRequest(RuntimeData=b"x")
                await channel.call(methods.GET_EVIDENCE, evidence, deadline=Deadline.after(30))
    looked = {call.path for call in guest.calls if call.call == "exists"}
    assert looked <= {REPORTS}
    made = [call for call in guest.calls if call.call == "mkdir"]
    assert len(made) == 6, "one instance a quote, none for detection"
