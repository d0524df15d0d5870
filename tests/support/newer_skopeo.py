"""A skopeo that knows key providers: the machine's own, or Debian 13's in a folder.

Debian 12's 1.9.3 does not know them. apt fetches the newer one with state, cache and list of its
own, from the mirror that this machine is configured for; nothing is installed. The libraries come
along, their loader runs it. A machine where that does not work says why.
"""

import fcntl
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

RELEASE: Final = "trixie"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES: Final = ("stable", "oldstable", "oldoldstable")
SECONDS: Final = 150.0
"""Seconds that each run of apt-get may take."""

UNKNOWN: Final = "Provided protocol not recognized"
WANTED: Final = ("lib", "skopeo_", "zlib1g_")
"""How the names of those packages begin that are unpacked."""

Command = tuple[str, ...]
"""How to start skopeo, without arguments."""


class NoneToBeHadError(Exception):
    """The text says why."""


@functools.cache
def newer_skopeo() -> Command | str:
    """How to start it, or the reason why there is none."""
    try:
        return _find()
    except (NoneToBeHadError, OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())[:300] or type(error).__name__


def _find() -> Command:
    found = shutil.which("skopeo")
    if found and _knows_providers((found,)):
        return (found,)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coco-guest"
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"skopeo-{RELEASE}-{platform.machine()}"
    with _locked(cache / "lock"):
        if not tree.is_dir():
            with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as work:
                _build(Path(work))
                os.rename(Path(work) / "tree", tree)
        command = _command(tree)
        if not _knows_providers(command):
            raise NoneToBeHadError(f"skopeo of Debian {RELEASE} does not run here")
        return command


def _knows_providers(skopeo: Command) -> bool:
    """Ask for a copy that fails for want of a source if it does not fail before."""
    options = ("copy", "--insecure-policy", "--encryption-key", "provider:x")
    done = subprocess.run(
        [*skopeo, *options, "oci:/nonexistent/a", "oci:/nonexistent/b"],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return UNKNOWN not in done.stderr and "/nonexistent" in done.stderr


def _build(work: Path) -> None:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise NoneToBeHadError(f"no {program} to get a newer skopeo with")
    if not KEYRING.exists():
        raise NoneToBeHadError("no keys of Debian's archive to check a newer skopeo with")
    for folder in ("lists/partial", "archives/partial", "tree"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {RELEASE} main\n")
    _apt(work, "update")
    _apt(work, "--download-only", "--no-install-recommends", "install", "skopeo")
    for package in sorted((work / "archives").glob("*.deb")):
        if package.name.startswith(WANTED):
            command = ["dpkg", "-x", str(package), str(work / "tree")]
            subprocess.run(command, check=True, timeout=60, capture_output=True)


def _mirror() -> str:
    """The archive that this machine's packages come from."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise NoneToBeHadError("this is no Debian, so there is no mirror to get skopeo from")
    suites = (*SUITES, release.get("VERSION_CODENAME", ""))
    fields = "$(REPO_URI)|$(SUITE)|$(COMPONENT)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        uri, suite, component = line.split("|")
        if component == "main" and suite in suites and "security" not in uri:
            return uri
    raise NoneToBeHadError("apt has no Debian mirror configured")


def _apt(work: Path, *arguments: str) -> None:
    options = {
        "Dir::State": work,
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::Archives": work / "archives",
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": 1,
        "Acquire::Languages": "none",
        "Acquire::Retries": 2,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
    }
    flags = [f"-o={name}={value}" for name, value in options.items()]
    done = subprocess.run(
        ["apt-get", "-qq", "-y", *flags, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=SECONDS, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8"),
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no word"])[-1]
        raise NoneToBeHadError(f"apt-get {arguments[0]} for a newer skopeo: {last}")


def _command(tree: Path) -> Command:
    loaders = sorted(tree.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise NoneToBeHadError(f"{tree} has no loader")
    program = str(tree / "usr" / "bin" / "skopeo")
    return (str(loaders[0]), "--library-path", str(loaders[0].parent), program)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
