"""User data from every cloud to `/run/peerpod`, over loopback; and what goes wrong on the way."""

import hashlib
from pathlib import Path

import pytest

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    GuestError,
    IntegrityError,
    LimitError,
    PeerError,
    PlatformError,
)
from guest.http import HttpClient
from guest.userdata.provision import provision
from guest_simulator.faults import Fault
from guest_simulator.metadata import Cloud, Metadata, Tokens
from support.pod_vm import VENDORS, PodVm, cloud_config, packed_init_data

SECONDS = 30.0
CDH = '[kbc]\nname = "cc_kbc"\n'
DATA = (
    f"\"aa.toml\" = '''\n# aa\n'''\n\"cdh.toml\" = '''\n{CDH}'''\n\"policy.rego\" = \"package p\"\n"
)
FILES = {
    "apf.json": '{\n  "pod": {}\n}\n',
    "auth.json": '{"auths": {}}\n',
    "aa.toml": "host = 1\n",
    "initdata": packed_init_data(DATA),
    "scratch-space.marker": "",
    "/etc/passwd": "root::0:0\n",
}
USER_DATA = cloud_config(FILES)
EXPECTED = {
    "aa.toml": b"# aa\n",
    "apf.json": b'{\n  "pod": {}\n}\n',
    "auth.json": b'{"auths": {}}\n',
    "cdh.toml": CDH.encode(),
    "initdata": packed_init_data(DATA).encode() + b"\n",
    "initdata.digest": hashlib.sha384(
        f'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n{DATA}'.encode()
    )
    .hexdigest()
    .encode(),
    "policy.rego": b"package p",
    "scratch-space.marker": b"",
}


async def run(
    machine: PodVm,
    bases: dict[str, str] | None = None,
    *,
    seconds: float = SECONDS,
    measured_only: bool = True,
) -> Digest:
    http = HttpClient(user_agent="test")
    settings = machine.settings(bases, measured_only=measured_only)
    try:
        return await provision(settings, http, Deadline.after(seconds))
    finally:
        await http.close()


async def on_cloud(path: Path, cloud: str, fault: Fault | None, *, seconds: float) -> PodVm:
    """A machine of that cloud after a run with one fault."""
    machine = PodVm(path)
    machine.set_vendor(VENDORS[cloud])
    async with Metadata(Cloud(cloud), USER_DATA) as server:
        if fault is not None:
            server.faults.add(fault)
        await run(machine, {cloud: server.url}, seconds=seconds)
    return machine


@pytest.mark.parametrize("cloud", VENDORS)
async def test_every_cloud_s_user_data_becomes_the_allowed_files(
    tmp_path: Path, cloud: str
) -> None:
    machine = await on_cloud(tmp_path, cloud, None, seconds=SECONDS)
    assert machine.written() == EXPECTED
    assert machine.modes() == {0o644}
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize("kind", ["cidata", "config_drive"])
async def test_a_disk_s_user_data_becomes_the_allowed_files(tmp_path: Path, kind: str) -> None:
    machine = PodVm(tmp_path)
    getattr(machine, f"put_{kind}")(USER_DATA)
    await run(machine)
    assert machine.written() == EXPECTED


@pytest.mark.spec("podvm-image", 17, 18)
async def test_exactly_the_listed_files_are_written_with_their_modes_and_others_skipped(
    tmp_path: Path,
) -> None:
    machine = PodVm(tmp_path)
    listed = dict.fromkeys(("aa.toml", "cdh.toml", "apf.json", "auth.json"), "x = 1\n")
    foreign = dict.fromkeys(("/etc/passwd", "policy.rego", "/run/peerpod/../x"), "bad\n")
    machine.put_cidata(cloud_config(foreign | listed | {"scratch-space.marker": ""}))
    await run(machine)
    own = {"aa.toml", "initdata", "initdata.digest"}
    assert set(machine.written()) == {*listed, "scratch-space.marker", *own}
    assert machine.modes() == {0o644}
    assert machine.peerpod.stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "run"]


@pytest.mark.spec("podvm-image", 24)
async def test_without_any_source_the_published_document_starts_the_services(
    tmp_path: Path,
) -> None:
    machine = PodVm(tmp_path)
    digest = await run(machine)
    assert digest.hex == "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d"
    written = machine.written()
    assert set(written) == {"aa.toml", "initdata", "initdata.digest"}
    assert written["aa.toml"] == b""
    assert written["initdata.digest"] == digest.hex.encode()
    import base64
    import gzip

    text = gzip.decompress(base64.b64decode(written["initdata"]))
    assert (len(text), hashlib.sha256(text).hexdigest()) == (66, digest.hex)
    assert await run(machine) == digest
    assert machine.written() == written


@pytest.mark.spec("podvm-image", 26)
async def test_init_data_beats_user_data_and_alone_gives_the_policy(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    host = {"aa.toml": "host\n", "cdh.toml": "host\n", "policy.rego": "host\n"}
    machine.put_cidata(cloud_config(host | {"initdata": packed_init_data(DATA)}))
    await run(machine)
    written = machine.written()
    assert {name: written[name] for name in host} == {name: EXPECTED[name] for name in host}
    other = PodVm(tmp_path / "other")
    other.put_cidata(cloud_config(host))
    await run(other)
    assert "policy.rego" not in other.written()


@pytest.mark.spec("podvm-image", 27)
async def test_the_digest_file_has_no_line_end_and_is_written_last(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(USER_DATA)
    await run(machine)
    assert machine.written()["initdata.digest"] == EXPECTED["initdata.digest"]
    times = {path.name: path.stat().st_ctime_ns for path in machine.peerpod.iterdir()}
    assert max(times.values()) == times["initdata.digest"]


async def test_a_host_s_configuration_beside_init_data_is_left_out_unless_accepted(
    tmp_path: Path,
) -> None:
    user_data = cloud_config({"aa.toml": "a\n", "initdata": packed_init_data('"policy.rego" = ""')})
    for measured_only in (True, False):
        machine = PodVm(tmp_path / str(measured_only))
        machine.peerpod.mkdir(parents=True)
        (machine.peerpod / "cdh.toml").write_text("of cloud-init\n")
        machine.put_cidata(user_data)
        await run(machine, measured_only=measured_only)
        present = {"aa.toml", "cdh.toml"} & set(machine.written())
        assert present == (set() if measured_only else {"aa.toml", "cdh.toml"})


FIXED_LATER = {
    "down": Fault(method="GET", drop=True, times=2),
    "failing": Fault(method="GET", status=503, times=2),
    "without user data at first": Fault(method="GET", status=404, times=2),
    "cut": Fault(method="GET", cut_after=20, times=2),
    "truncated": Fault(method="GET", resize=-25, times=1),
    "redirecting": Fault(method="GET", status=302, times=1),
    "slow": Fault(method="GET", delay=1.0, times=1),
}


@pytest.mark.parametrize("fault", FIXED_LATER.values(), ids=FIXED_LATER)
@pytest.mark.parametrize("cloud", ["azure", "alibaba"])
async def test_a_service_that_recovers_in_time_does_no_harm(
    tmp_path: Path, cloud: str, fault: Fault
) -> None:
    machine = await on_cloud(tmp_path, cloud, fault, seconds=SECONDS)
    assert machine.written() == EXPECTED


NEVER_RIGHT: dict[str, tuple[Fault, type[GuestError]]] = {
    "down": (Fault(method="GET", drop=True), DeadlineError),
    "failing": (Fault(method="GET", status=500), DeadlineError),
    "without user data": (Fault(method="GET", status=404), DeadlineError),
    "stalled": (Fault(method="GET", stall_after=10), DeadlineError),
    "slow": (Fault(method="GET", delay=50.0), DeadlineError),
    "no text": (Fault(method="GET", body=b"\xff\xfe"), PeerError),
    "no YAML": (Fault(method="GET", body=b"%$#"), PeerError),
    "unknown keys": (Fault(method="GET", body=b"users: []\n"), PeerError),
    "longer": (Fault(method="GET", body=bytes(2 * 1024 * 1024)), LimitError),
}


@pytest.mark.parametrize(("fault", "error"), NEVER_RIGHT.values(), ids=NEVER_RIGHT)
async def test_a_service_that_stays_wrong_is_an_error_and_nothing_is_written(
    tmp_path: Path, fault: Fault, error: type[GuestError]
) -> None:
    seconds = 1.5 if error is DeadlineError else SECONDS
    with pytest.raises(error):
        await on_cloud(tmp_path, "alibaba", fault, seconds=seconds)
    assert PodVm(tmp_path).written() == {}


async def test_the_reason_for_having_no_user_data_in_time_is_told(tmp_path: Path) -> None:
    fault = Fault(method="GET", status=503)
    with pytest.raises(DeadlineError) as caught:
        await on_cloud(tmp_path, "aws", fault, seconds=3.0)
    assert caught.value.causes() == (
        "no user data of aws in time",
        "metadata service of aws: status 503",
    )


async def test_a_document_that_stays_unreadable_is_fetched_twice_only(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.set_vendor(VENDORS["gcp"])
    async with Metadata(Cloud.GCP, b"users: [hunter2]\n") as server:
        with pytest.raises(PeerError) as caught:
            await run(machine, {"gcp": server.url})
        assert server.requests.count("GET", "user-data") == 2
    assert caught.value.causes() == (
        "user data of gcp cannot be read",
        "user data, line 1: unknown key 'users'",
    )


async def test_hardened_alibaba_cloud_is_served(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.set_vendor(VENDORS["alibaba"])
    async with Metadata(Cloud.ALIBABA, USER_DATA, tokens=Tokens.REQUIRED) as server:
        await run(machine, {"alibaba": server.url})
    assert machine.written() == EXPECTED


BAD_INIT_DATA = {
    "not base64": "no base64!",
    "truncated": packed_init_data(DATA)[:40],
    "not gzip": "dmVyc2lvbg==",
    "not TOML": "H4sIAAAAAAAC/8vMSywpLUoFAAAA//8=",
    "another algorithm": packed_init_data(DATA, "sha1"),
    "SM3": packed_init_data(DATA, "sm3"),
    "a number for a text": packed_init_data("a = 1\n"),
    "one file twice": packed_init_data('"aa.toml" = ""\n"./aa.toml" = ""\n'),
    "a bomb": packed_init_data("#" + "x" * 5_000_000),
}


@pytest.mark.parametrize("text", BAD_INIT_DATA.values(), ids=BAD_INIT_DATA)
async def test_init_data_that_is_wrong_stops_everything(tmp_path: Path, text: str) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(cloud_config(FILES | {"initdata": text}))
    with pytest.raises(PeerError, match="init data cannot be read"):
        await run(machine)
    assert machine.written() == {}


async def test_init_data_that_changes_within_one_boot_is_refused(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(USER_DATA)
    await run(machine)
    machine.put_cidata(cloud_config(FILES | {"initdata": packed_init_data("")}))
    with pytest.raises(IntegrityError, match="that of this boot"):
        await run(machine)
    assert machine.written() == EXPECTED


@pytest.mark.parametrize("name", ["initdata", "initdata.digest"])
async def test_what_is_there_and_cannot_be_read_is_not_absent(tmp_path: Path, name: str) -> None:
    machine = PodVm(tmp_path)
    (machine.peerpod / name).mkdir(parents=True)
    with pytest.raises(PlatformError):
        await run(machine)


async def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    machine = PodVm(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    machine.peerpod.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlatformError):
        await run(machine)
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_nothing_secret_reaches_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = PodVm(tmp_path)
    machine.put_cidata(cloud_config({"auth.json": "hunter2\n", "/etc/x": "hunter2\n"}))
    with caplog.at_level("DEBUG"):
        await run(machine)
    assert "File: /etc/x is not allowed in WriteFiles." in caplog.messages
    assert "hunter2" not in caplog.text + "".join(str(vars(r)) for r in caplog.records)
