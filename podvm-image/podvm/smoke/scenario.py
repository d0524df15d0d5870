"""What each boot is given, and what it has to find: documents made of the world and the build."""

import base64
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podvm import vm_module
from podvm.places import IMAGE
from podvm.smoke.userdata import InitData, make_init_data, make_user_data
from podvm.smoke.world import IMAGE_FILES, IMAGE_GONE, NAME, PASSWORD, VOLUME, World

PEERPOD: Final = "/run/peerpod/"
UNITS: Final = IMAGE / "tree/usr/lib/systemd/system"
DUMMY: Final = InitData(
    text=b"algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''"
)
"""What an instance without init data gets; docs/spec/podvm-image.md 5.5."""

APF: Final = '{"pod-network": {"podip": "10.244.1.21/24"}, "tls-server-key": "%s"}'
_START: Final = """\
import sys
sys.path.insert(0, "/run/smoke")
from podvm.probes.main import main
main()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a boot is given.

    Attributes:
        init_data: the document, also where none is given (the dummy).
        user_data: the cloud-config; None for an instance without.
        files: digests of the files below /run/peerpod, by name.
    """

    init_data: InitData
    user_data: bytes | None
    files: Mapping[str, str]


def with_init_data(world: World, *, credentials: float = 0.0, scratch: bool = False) -> Given:
    """User data with init data, credentials, a configuration to be overruled and foreign paths.

    Args:
        world: what runs on the host.
        credentials: seconds that the hub tries to fetch a resource before it answers anybody;
            0: it fetches none.
        scratch: the store for layers is to be on disk.
    """
    agent = f'[token_configs.kbs]\nurl = "{world.kbs_url}"\ncert = """\n{world.authority}"""\n'
    hub = _hub(world, credentials=credentials)
    data = make_init_data({"aa.toml": agent, "cdh.toml": hub})
    apf = APF % world.password
    files = {
        f"{PEERPOD}apf.json": apf,
        f"{PEERPOD}auth.json": world.auth_json(),
        f"{PEERPOD}evil": "foreign",
        "/etc/evil": "foreign",
        f"{PEERPOD}aa.toml": '[token_configs.kbs]\nurl = "http://192.0.2.1:1"',
        f"{PEERPOD}initdata": data.encoded,
    }
    if scratch:
        files[f"{PEERPOD}scratch-space.marker"] = ""
    written = {
        "apf.json": f"{apf}\n",
        "auth.json": f"{world.auth_json()}\n",
        "initdata": f"{data.encoded}\n",
        "aa.toml": agent,
        "cdh.toml": hub,
    }
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items()}
    return Given(init_data=data, user_data=make_user_data(files), files=digests)


def _hub(world: World, *, credentials: float) -> str:
    lines = [f"credentials_seconds = {credentials}"] if credentials else []
    lines += [
        "[kbc]",
        'name = "cc_kbc"',
        f'url = "{world.kbs_url}"',
        f'kbs_cert = """\n{world.authority}"""',
        "[image]",
        f'extra_root_certificates = ["""\n{world.authority}"""]',
    ]
    if credentials:
        lines += [
            "[[credentials]]",
            f'resource_uri = "kbs:///{PASSWORD}"',
            'path = "/run/confidential-containers/cdh/kbs/password"',
        ]
    return "\n".join(lines) + "\n"


def without_user_data() -> Given:
    """An instance that nobody gave anything."""
    return Given(init_data=DUMMY, user_data=None, files={})


def expectations(
    name: str, world: World, given: Given, directory: Path, programs: Mapping[str, str]
) -> dict[str, object]:
    """What the probes of a boot must find.

    Args:
        name: of the scenario.
        world: what runs on the host.
        given: what the boot is given.
        directory: the build's results.
        programs: SHA-256 of what /usr/local/bin may have, by name.
    """
    offline = given.user_data is None
    return {
        "scenario": name,
        "root_hash": (directory / "roothash").read_text().strip(),
        "pcrs": predicted(directory),
        "digest": given.init_data.digest,
        "files": given.files,
        "programs": dict(programs),
        "kbs_address": world.kbs_url.removeprefix("https://"),
        "kbs_control": world.broker.control,
        "rest_path": "/cdh/resource/default/key/1" if offline else f"/cdh/resource/{PASSWORD}",
        "rest_status": 500 if offline else 200,
        "rest_body": world.password,
        "sealed": world.sealed,
        "unsealed": world.password,
        "image": world.image(world.registry),
        "named_image": world.image(world.registry, NAME),
        "load_path": "/aa/evidence?runtime_data=bG9hZA",
        "load_status": 200,
        "host_time": time.time(),
        "units": sorted(path.name for path in UNITS.iterdir() if path.is_file()),
        "foreign_image": world.image(world.foreign),
        "image_files": dict(IMAGE_FILES),
        "image_gone": IMAGE_GONE,
        "volume_key": f"kbs:///{VOLUME}",
        "markers": world.secrets,
    }


def probe_disk(expected: Mapping[str, object], module: bytes) -> bytes:
    """A tar archive of the probes, what they expect, and a kernel module of the test's own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        files = {"start.py": _START.encode(), "expected.json": json.dumps(expected).encode()}
        files[f"{vm_module.NAME}.ko"] = module
        package = IMAGE / "podvm"
        for path in (package / "__init__.py", *sorted((package / "probes").glob("*.py"))):
            files[f"podvm/{path.relative_to(package)}"] = path.read_bytes()
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def predicted(directory: Path) -> dict[str, str]:
    """The registers that a build says its image has, by number, but 8."""
    measured = json.loads((directory / "measurements.json").read_text())["pcr_sha256"]
    return {number: value for number, value in measured.items() if number != "8"}


def in_evidence(claims: Mapping[str, object], given: Given, measured: Mapping[str, str]) -> str:
    """What is wrong with the registers of verified evidence; empty when nothing is."""
    wanted = {**measured, "8": given.init_data.pcr8}
    wrong = [
        f"pcr{int(number):02} is {claims.get(f'pcr{int(number):02}')}"
        for number, value in wanted.items()
        if claims.get(f"pcr{int(number):02}") != value
    ]
    return ", ".join(wrong)


def secrets_in(console: str, world: World) -> list[str]:
    """Beginnings of the planted secrets that a console shows."""
    forms = [*world.secrets, *(base64.b64encode(s.encode()).decode() for s in world.secrets)]
    return [text[:6] for text in forms if text in console]
