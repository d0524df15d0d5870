"""`ttrpc-aa-client`, `evidence_getter` and `trustee-attester` as processes."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestation_agent.config import AaConfig
from guest.rpc.server import serving
from guest.ttrpc.server import TtrpcServer
from guest.version import VERSION
from guest_simulator.attestation_service import AttestationService
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault, kbs_error
from guest_simulator.kbs.policy import Access
from guest_simulator.kbs.server import Kbs
from support.agents import config_of, make_agent, running
from support.cdh_tools import Done, run_tool

MODULE = "attestation_agent.tools"
DATA = "AAEC"
DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"a.toml" = "x = 1"\n'
SECRET = base64.b64encode(b"the secret").decode() + "\n"
DEVICE = {"ENABLE_SAMPLE_DEVICE": ""}
QUIET = {"RUST_LOG": "off"}


async def client(address: str, *arguments: object) -> Done:
    return await run_tool("client_main", "-a", address, *arguments, module=MODULE)


async def getter(
    *arguments: object, stdin: bytes | None = None, variables: dict[str, str] | None = None
) -> Done:
    variables = QUIET if variables is None else variables
    return await run_tool(
        "getter_main", *arguments, module=MODULE, stdin=stdin, variables=variables
    )


async def attester(*arguments: object, variables: dict[str, str] | None = None) -> Done:
    return await run_tool("attester_main", *arguments, module=MODULE, variables=variables)


@asynccontextmanager
async def agent_at(
    folder: Path, config: AaConfig | None = None, *, devices: bool = True
) -> AsyncIterator[str]:
    made = make_agent(folder, config, devices=devices)
    address = f"unix://{folder}/aa.sock"
    async with running(made), serving(TtrpcServer(made.routes, address)):
        yield address


async def test_the_client_prints_tee_devices_and_evidence(short_tmp: Path) -> None:
    async with agent_at(short_tmp) as address:
        assert await client(address, "get-tee") == Done(0, "sample\n", "")
        assert await client(address, "get-additional-tees") == Done(0, "sampledevice\n", "")
        done = await client(address, "get-evidence", "-r", DATA)
        assert done == Done(0, '{"svn":"1","report_data":"AAEC"}\n', "")
        done = await client(address, "get-additional-evidence", "--runtime-data", DATA)
        expected = '{"sampledevice":{"svn":"2","report_data":"AAEC"}}\n'
        assert done == Done(0, expected, "")


async def test_without_devices_the_client_prints_nothing(short_tmp: Path) -> None:
    async with agent_at(short_tmp, devices=False) as address:
        assert await client(address, "get-additional-tees") == Done(0, "", "")
        assert await client(address, "get-additional-evidence", "-r", DATA) == Done(0, "", "")


async def test_the_client_prints_both_kinds_of_tokens(short_tmp: Path) -> None:
    async with Kbs() as kbs, AttestationService() as service:
        config = config_of(token_configs={"kbs": {"url": kbs.url}, "coco_as": {"url": service.url}})
        async with agent_at(short_tmp, config) as address:
            done = await client(address, "get-token", "-t", "coco_as")
            assert done == Done(0, f"{service.tokens[-1]}\n", "")
            done = await client(address, "--timeout", "0", "get-token", "--token-type", "kbs")
            assert set(json.loads(done.out)) == {"token", "tee_keypair"}
            assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("enabled", "words"),
    [
        (False, "Runtime measurement is not enabled in Attestation Agent configuration."),
        (True, "Current platform does not support runtime measurement."),
    ],
)
async def test_the_client_says_what_became_of_a_measurement(
    short_tmp: Path, enabled: bool, words: str
) -> None:
    config = config_of(eventlog_config={"enable_eventlog": enabled})
    event = ("extend-runtime-measurement", "-d", "d", "-o", "o", "-c", "c", "-p", 2**64 - 1)
    async with agent_at(short_tmp, config) as address:
        assert await client(address, *event) == Done(0, f"{words}\n", "")


async def test_a_failed_call_is_one_line_and_status_one(short_tmp: Path) -> None:
    nobody = f"unix://{short_tmp}/nobody"
    async with agent_at(short_tmp) as address:
        for where, arguments, words in (
            (address, ("get-token", "-t", "kbs"), "kbs token config not configured"),
            (address, ("get-evidence", "-r", "AAE"), "runtime data is not base64"),
            (address, ("bind-init-data", "-d", DATA), "BindInitData is not supported"),
            (nobody, ("get-tee",), "nobody"),
            ("http://a", ("get-tee",), "http://a"),
        ):
            done = await client(where, *arguments)
            assert (done.status, done.out) == (1, "")
            assert done.err.startswith("ttrpc-aa-client: ")
            assert words in done.err
            assert done.err.count("\n") == 1


async def test_the_client_waits_no_longer_than_it_is_told(short_tmp: Path) -> None:
    async with AttestationService() as service:
        service.faults.add(Fault(delay=60.0))
        config = config_of(token_configs={"coco_as": {"url": service.url}})
        async with agent_at(short_tmp, config) as address:
            done = await client(address, "--timeout", "1.5", "get-token", "-t", "coco_as")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("get",),
        ("get-token", "-t", "KBS"),
        ("get-evidence",),
        ("--time", "1", "get-tee"),
        ("--timeout", "nan", "get-tee"),
        ("--timeout", "-1", "get-tee"),
        ("extend-runtime-measurement", "-d", "d", "-o", "o", "-c", "c", "-p", 2**64),
    ],
)
async def test_a_wrong_command_line_of_the_client_is_status_two(arguments: tuple[str, ...]) -> None:
    done = await run_tool("client_main", *arguments, module=MODULE)
    assert (done.status, done.out) == (2, "")
    assert "usage: ttrpc-aa-client" in done.err


async def test_the_getter_pads_and_cuts_each_source_to_64_bytes(short_tmp: Path) -> None:
    long = bytes(range(1, 71))
    (short_tmp / "data").write_bytes(long)
    for given, arguments, stdin in (
        (b"abc", ("stdio",), b"abc"),
        (long, ("stdio",), long),
        ("\u00e4".encode(), ("commandline", "\u00e4"), None),
        (long, ("file", short_tmp / "data"), None),
        (b"", ("stdio",), None),
    ):
        done = await getter(*arguments, stdin=stdin)
        name, _, evidence = done.out.partition(":")
        bound = base64.b64decode(json.loads(evidence)["report_data"])
        assert (done.status, name, done.err) == (0, "Sample", "")
        assert bound == given[:64].ljust(64, b"\0")


async def test_the_getter_prints_a_line_for_each_device_and_logs_elsewhere() -> None:
    done = await getter("commandline", "x", variables=DEVICE)
    first, second = done.out.splitlines()
    data = base64.b64encode(b"x".ljust(64, b"\0")).decode()
    assert first == f'Sample:{{"svn":"1","report_data":"{data}"}}'
    assert second == f'SampleDevice:{{"svn":"2","report_data":"{data}"}}'
    assert "no TEE was found" in done.err


async def test_a_file_that_is_not_there_is_one_line_and_status_one(short_tmp: Path) -> None:
    done = await getter("file", short_tmp / "absent")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("evidence_getter: report data from file cannot be read")
    assert done.err.count("\n") == 1
    assert (await getter("other")).status == 2


@pytest.mark.parametrize(
    "path",
    [
        "default/key/1",
        "/default/key/1",
        "//default/key/1",
        "kbs:///default/key/1",
        "kbs://elsewhere:1/default/key/1",
        "kbs+resource:///default/key/1",
    ],
)
async def test_the_attester_prints_a_resource_by_path_and_by_uri(path: str) -> None:
    async with Kbs(base_path="/trustee") as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        done = await attester(
            "--url", kbs.url, "get-resource", "--path", path, variables={"RUST_LOG": "debug"}
        )
        assert (done.status, done.out) == (0, SECRET)
        assert "no TEE was found" in done.err
        assert kbs.requests.count("GET", r"^/trustee/kbs/v0/resource/default/key/1$") == 1
        assert kbs.attestations == 1


async def test_the_attester_trusts_the_given_certificate_and_sends_init_data(
    short_tmp: Path,
) -> None:
    claims: list[str] = []

    def note(access: Access) -> bool:
        claims.append(json.dumps(access.claims))
        return True

    authority = CertificateAuthority.create()
    root = authority.write(short_tmp)
    async with Kbs(tls=authority.issue("127.0.0.1").context()) as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        kbs.behaviour.policy = note
        get = ("get-resource", "--path", "default/key/1", "--initdata", DOCUMENT)
        refused = await attester("--url", kbs.url, *get)
        assert (refused.status, refused.out, kbs.handshakes) == (1, "", 0)
        done = await attester("--url", kbs.url, "--cert-file", root, *get)
        assert (done.status, done.out) == (0, SECRET)
    (token,) = claims
    assert '"init_data_claims": {"a.toml": {"x": 1}}' in token


async def test_the_attester_says_why_it_failed(short_tmp: Path) -> None:
    (short_tmp / "none.pem").write_text("no PEM")
    async with Kbs() as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        kbs.faults.add(kbs_error("PolicyDeny", "Access denied by policy", path="/resource/"))
        get = ("get-resource", "--path", "default/key/1")
        for arguments, words in (
            (("--url", kbs.url, *get), "Access denied by policy"),
            (("--url", "ftp://x", *get), "is not an http or https URL"),
            (("--url", kbs.url, "get-resource", "--path", "http://a/b"), "scheme must be kbs"),
            (("--url", kbs.url, "--cert-file", short_tmp / "none.pem", *get), "PEM"),
            (("--url", kbs.url, "--cert-file", short_tmp / "absent", *get), "cannot be read"),
        ):
            done = await attester(*arguments, variables=QUIET)
            assert (done.status, done.out) == (1, "")
            assert done.err.startswith("trustee-attester: ")
            assert words in done.err
            assert done.err.count("\n") == 1


async def test_the_attester_knows_its_version_and_its_usage() -> None:
    done = await attester("--version")
    assert done == Done(0, f"trustee-attester {VERSION}\n", "")
    for arguments in (("get-resource", "--path", "a/b/c"), ("--url", "http://a")):
        done = await attester(*arguments)
        assert (done.status, done.out) == (2, "")
