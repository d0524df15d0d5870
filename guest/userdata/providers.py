"""Where user data comes from: a disk, or the metadata service of a cloud.

Source: docs/spec/podvm-image.md 5.1, 5.2, 11 (hardened mode) and 15 (DMI suffices).
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from guest.deadline import Deadline
from guest.errors import GuestError, NotFoundError, PeerError, UnavailableError
from guest.http import Headers, HttpClient, HttpResponse
from guest.userdata.parse import MAX_USER_DATA, decode_encoded
from guest.userdata.write import find_file

log = logging.getLogger(__name__)

REQUEST_LIMIT: Final = 10.0
"""Seconds of one request for user data."""

TOKEN_LIMIT: Final = 5.0
"""Seconds of one request for a session token."""

PROBE_LIMIT: Final = 5.0
"""Seconds of the one request that finds out whether this is Google Cloud."""

TOKEN_SECONDS: Final = 60
"""Life that is asked for a session token."""

MAX_TOKEN: Final = 4096
"""Bytes of the longest session token."""

MAX_FACT: Final = 4096
"""Bytes of the longest file that says what machine this is."""

_TOKEN: Final = re.compile(rb"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenApi:
    """How a metadata service hands out session tokens.

    Attributes:
        path: of the PUT request.
        life: header that asks for a life, in seconds.
        header: carries the token.
    """

    path: str
    life: str
    header: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataApi:
    """How a cloud serves user data.

    Attributes:
        name: of the cloud, as in logs.
        base: URL of the service as the cloud fixes it.
        path: with the query.
        headers: of the request.
        is_encoded: whether the answer is base64 of the document.
        token: None where there are none.
    """

    name: str
    base: str
    path: str
    headers: Headers = ()
    is_encoded: bool = False
    token: TokenApi | None = None


AZURE: Final = MetadataApi(
    name="azure",
    base="http://169.254.169.254",
    path="/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
    headers=(("Metadata", "true"),),
    is_encoded=True,
)

AWS: Final = MetadataApi(
    name="aws",
    base="http://169.254.169.254",
    path="/latest/user-data",
    token=TokenApi(
        path="/latest/api/token",
        life="X-aws-ec2-metadata-token-ttl-seconds",
        header="X-aws-ec2-metadata-token",
    ),
)

GCP: Final = MetadataApi(
    name="gcp",
    base="http://metadata.google.internal",
    path="/computeMetadata/v1/instance/attributes/user-data",
    headers=(("Metadata-Flavor", "Google"),),
    is_encoded=True,
)

ALIBABA: Final = MetadataApi(
    name="alibaba",
    base="http://100.100.100.200",
    path="/latest/user-data",
    token=TokenApi(
        path="/latest/api/token",
        life="X-aliyun-ecs-metadata-token-ttl-seconds",
        header="X-aliyun-ecs-metadata-token",
    ),
)

GCP_PROBE: Final = "/computeMetadata/v1/instance"

VENDORS: Final = (
    ("Microsoft Corporation", AZURE),
    ("Amazon EC2", AWS),
    ("Google", GCP),
    ("Alibaba Cloud", ALIBABA),
)
"""System vendors of DMI and whose machines theirs are."""


class Provider(Protocol):
    """One source of user data."""

    @property
    def name(self) -> str:
        """For logs and errors."""
        ...

    async def fetch(self, deadline: Deadline) -> bytes:
        """What the source holds, as it is held; one attempt.

        Raises:
            GuestError: it could not be had.
        """
        ...

    def decode(self, body: bytes) -> bytes:
        """The document in what was fetched.

        Raises:
            DecodeError: it is not in the source's encoding.
        """
        ...


class FileProvider:
    """User data on a disk that was mounted before, or that was uploaded.

    Attributes:
        name: with the path.
    """

    def __init__(self, path: Path) -> None:
        self.name: Final = f"file {path}"
        self._path = path

    async def fetch(self, deadline: Deadline) -> bytes:
        """Read the file.

        Raises:
            PlatformError: no regular file, or not readable.
            NotFoundError: it has gone.
            LimitError: longer than `MAX_USER_DATA`.
        """
        async with deadline.limit(self.name):
            content = await asyncio.to_thread(find_file, self._path, MAX_USER_DATA)
        if content is None:
            raise NotFoundError(f"{self._path} has gone")
        return content

    def decode(self, body: bytes) -> bytes:
        """It is the document."""
        return body


class MetadataProvider:
    """User data of a metadata service.

    Attributes:
        name: of the cloud.
    """

    def __init__(self, api: MetadataApi, http: HttpClient, base: str) -> None:
        """Keep what is given.

        Args:
            api: of the cloud.
            http: without proxies: a metadata service is on the link.
            base: URL of the service, without a slash at the end.
        """
        self.name: Final = api.name
        self._api = api
        self._http = http
        self._base = base

    async def fetch(self, deadline: Deadline) -> bytes:
        """Ask once, with a session token where the cloud has them and gives one.

        Raises:
            NotFoundError: the instance has no user data.
            UnavailableError: another status than 200, or no connection.
            DeadlineError: not within `REQUEST_LIMIT`.
            LimitError: longer than `MAX_USER_DATA`.
            PeerError: the answer is not HTTP.
        """
        await self._http.prepare(deadline)
        headers = self._api.headers + await self._token(deadline)
        answer = await self._http.request(
            "GET",
            self._base + self._api.path,
            headers=headers,
            deadline=deadline.within(REQUEST_LIMIT),
            max_body=MAX_USER_DATA,
        )
        if answer.status == 404:
            raise NotFoundError(f"metadata service of {self.name} has no user data: status 404")
        if answer.status != 200:
            raise UnavailableError(f"metadata service of {self.name}: status {answer.status}")
        return answer.body

    def decode(self, body: bytes) -> bytes:
        """The document, out of base64 where the cloud serves that."""
        return decode_encoded(body) if self._api.is_encoded else body

    async def _token(self, deadline: Deadline) -> Headers:
        """The header with a token; none when there is no token, whatever the reason."""
        api = self._api.token
        if api is None:
            return ()
        try:
            answer = await self._http.request(
                "PUT",
                self._base + api.path,
                headers=((api.life, str(TOKEN_SECONDS)),),
                deadline=deadline.within(TOKEN_LIMIT),
                max_body=MAX_TOKEN,
            )
            return ((api.header, _verified_token(answer)),)
        except GuestError as error:
            log.info("no session token, asking without", extra={"error": error.causes()[0]})
            return ()


def _verified_token(answer: HttpResponse) -> str:
    if answer.status != 200 or not _TOKEN.fullmatch(answer.body.strip()):
        raise PeerError(f"no token in the answer: status {answer.status}")
    return answer.body.strip().decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a machine's user data may be, and what tells.

    Attributes:
        files: user data on disks, the first that is there counts.
        vendor: file with the system vendor of DMI.
        clocks: file with the kernel's clock sources, which name the hypervisor.
        bases: cloud names to URLs that replace the ones the clouds fix.
    """

    files: tuple[Path, ...]
    vendor: Path
    clocks: Path
    bases: Mapping[str, str] = field(default_factory=dict)


async def find_provider(sources: Sources, http: HttpClient, deadline: Deadline) -> Provider | None:
    """The first source that this machine has; None for a machine that has none.

    Nothing is asked over the network unless neither a disk nor DMI decides.

    Raises:
        PlatformError: a file that tells is there and cannot be read.
    """
    for path in sources.files:
        if await asyncio.to_thread(_is_there, path):
            return FileProvider(path)
    vendor = await asyncio.to_thread(_fact, sources.vendor)
    for name, api in VENDORS:
        if vendor == name:
            return MetadataProvider(api, http, sources.bases.get(api.name, api.base))
    if "kvm-clock" in (await asyncio.to_thread(_fact, sources.clocks)).split():
        base = sources.bases.get(GCP.name, GCP.base)
        if await _is_google(http, base, deadline):
            return MetadataProvider(GCP, http, base)
    return None


def _is_there(path: Path) -> bool:
    """Whether a file is there; every failure to look but `ENOENT` says that it is."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _fact(path: Path) -> str:
    content = find_file(path, MAX_FACT)
    return "" if content is None else content.decode("utf-8", "replace").strip()


async def _is_google(http: HttpClient, base: str, deadline: Deadline) -> bool:
    await http.prepare(deadline)
    try:
        answer = await http.request(
            "GET",
            base + GCP_PROBE,
            headers=GCP.headers,
            deadline=deadline.within(PROBE_LIMIT),
            max_body=MAX_USER_DATA,
        )
    except GuestError as error:
        log.info("not on Google Cloud", extra={"error": error.causes()[0]})
        return False
    # the service itself answers with a redirect to the same path with a slash
    is_redirect = answer.status in {301, 302, 307, 308}
    return answer.status == 200 or (
        is_redirect and answer.headers.get("metadata-flavor") == "Google"
    )
