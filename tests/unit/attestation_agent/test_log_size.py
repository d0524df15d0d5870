"""The longest event log still reaches a KBS; a longer one never stands in evidence's way."""

import base64
import json
import logging
from pathlib import Path
from typing import Any, Final

import pytest

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.gather import MAX_OWN_BYTES, MAX_SENT_BYTES
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest.ttrpc.frame import MAX_DATA_LENGTH
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.ccel import FirmwareEvent
from guest_simulator.tdx.guest import TdxGuest
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import config_of, make_agent, running
from support.tdx_world import boot, hints_of, make_guest, replay_log

EVENT_BYTES: Final = 16 * 1024


def fill_own_log(guest: TdxGuest) -> None:
    """As many events as the log takes, measured."""
    text = b"domain operation ".ljust(EVENT_BYTES, b"x")
    entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=text)
    content = entry.encode()
    count = MAX_OWN_BYTES // len(content)
    for _ in range(count):
        guest.domain.registers.extend(3, entry.digest)
    path = Path(guest.root, "run/attestation-agent/eventlog")
    path.parent.mkdir(parents=True)
    path.write_bytes(content * count)


def boot_with(guest: TdxGuest, length: int) -> None:
    """Firmware that logs one event of `length` bytes."""
    log = boot(guest, (FirmwareEvent(1, 6, bytes(length)),))
    guest.ccel = log + b"\xff" * 64


async def evidence_of(channel: Channel) -> tuple[int, dict[str, Any]]:
    request = aa_pb2.GetEvidenceRequest(RuntimeData=b"data")
    response = await channel.call(methods.GET_EVIDENCE, request, deadline=Deadline.after(30))
    return len(response.Evidence), json.loads(response.Evidence)


@pytest.mark.blocks_loop
async def test_the_longest_log_fits_into_ttrpc_and_convinces_a_kbs(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    fill_own_log(guest)
    boot_with(guest, MAX_SENT_BYTES - MAX_OWN_BYTES - 1024)
    async with Kbs() as kbs:  # takes 2 MiB, as the real one
        kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=guest.platform.root)
        config = config_of(token_configs={"kbs": {"url": kbs.url}})
        agent = make_agent(short_tmp, config, hints=hints_of(guest))
        async with running(agent) as channel:
            length, evidence = await evidence_of(channel)
            assert length < MAX_DATA_LENGTH / 2
            log = base64.b64decode(evidence["cc_eventlog"])
            assert MAX_OWN_BYTES < len(log) <= MAX_SENT_BYTES
            assert replay_log(log)[4] == guest.domain.registers.read(3)
            request = aa_pb2.GetTokenRequest(TokenType="kbs")
            await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
        assert kbs.attestations == 1


@pytest.mark.blocks_loop
async def test_a_firmware_log_that_makes_it_too_long_costs_the_log_and_not_the_evidence(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(short_tmp)
    fill_own_log(guest)
    boot_with(guest, MAX_SENT_BYTES - MAX_OWN_BYTES + 32 * 1024)
    async with running(make_agent(short_tmp, hints=hints_of(guest))) as channel:
        with caplog.at_level(logging.WARNING):
            length, evidence = await evidence_of(channel)
    assert evidence["cc_eventlog"] is None
    assert length < EVENT_BYTES
    reasons = [vars(record).get("reason", "") for record in caplog.records]
    assert any("expected at most" in reason for reason in reasons)
