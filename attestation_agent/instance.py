"""Which cloud instance this guest is, told to a Trustee gateway; off by default.

The gateway learns of instances from a header of attestations and from heartbeats; nothing of it is
proven.

Source: docs/spec/confidential-data-hub.md 12.6.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attestation_agent.config import InstanceConfig, InstanceType
from guest.deadline import Deadline
from guest.errors import GuestError, PeerError
from guest.http import HttpClient
from guest.proxies import Proxies
from guest.version import VERSION

log = logging.getLogger(__name__)

HEADER: Final = "AAInstanceInfo"
FILE: Final = Path("/run/attestation-agent/instance_info/instance_info.json")
METADATA: Final = "http://100.100.100.200"
HEARTBEAT_PATH: Final = "/aa-instance/heartbeat"

METADATA_SECONDS: Final = 1.0
"""For each request to the metadata server."""

HEARTBEAT_SECONDS: Final = 30.0
TOKEN_TTL: Final = "300"
MAX_ANSWER: Final = 4096

SERIALS: Final = ("sys/devices/virtual/dmi/id/product_serial", "sys/class/dmi/id/product_serial")

EAS_VARIABLES: Final = {
    "eas_model_id": "EAS_MODEL_ID",
    "eas_instance_id": "EAS_INSTANCE_ID",
    "eas_pod_name": "POD_NAME",
}
ECS_PATHS: Final = {
    "instance_id": ("instance-id",),
    "instance_name": ("instance/instance-name",),
    "owner_account_id": ("owner-account-id",),
    "image_id": ("image-id",),
    "ip": ("eipv4", "private-ipv4"),
}
"""Member to where the metadata server has it; the first that is not empty counts."""


class Instance:
    """What is known of this instance, and the heartbeats.

    Args:
        config: the kind of instance, and whether hearts beat.
        environment: of the process.
        proxies: towards the gateway; the metadata server is asked directly.
        api_key: of the gateway.
        file: gets the information, for people.
        metadata: base URL of the metadata server.
        root: of the machine's files.
    """

    def __init__(
        self,
        config: InstanceConfig,
        environment: Mapping[str, str],
        proxies: Proxies,
        *,
        api_key: str | None = None,
        file: Path = FILE,
        metadata: str = METADATA,
        root: Path = Path("/"),
    ) -> None:
        self._config = config
        self._environment = environment
        self._proxies = proxies
        self._api_key = api_key
        self._file = file
        self._metadata = metadata
        self._root = root
        self._text: str | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What attestations carry besides; nothing before the information is there."""
        return () if self._text is None else ((HEADER, self._text),)

    async def run(self, stop: asyncio.Event) -> None:
        """Find out, write it down, let the heart beat until `stop`; failures are only logged."""
        self._text = json.dumps(await self._gather(), separators=(",", ":"))
        try:
            await asyncio.to_thread(self._write)
        except OSError as error:
            extra = {"file": str(self._file), "error": error.strerror}
            log.warning("instance information cannot be written", extra=extra)
        beat = self._config.heartbeat
        if not beat.enabled or not beat.trustee_url:
            return
        http = HttpClient(user_agent=f"attestation-agent/{VERSION}", proxies=self._proxies)
        try:
            while not stop.is_set():
                await self._beat(http, f"{beat.trustee_url.rstrip('/')}{HEARTBEAT_PATH}")
                await _wait(stop, beat.interval_minutes * 60)
        finally:
            await http.close()

    async def _beat(self, http: HttpClient, url: str) -> None:
        key = () if not self._api_key else (("Authorization", f"Bearer {self._api_key}"),)
        try:
            answer = await http.request(
                "POST",
                url,
                headers=(*self.headers(), *key),
                body=b"",
                deadline=Deadline.after(HEARTBEAT_SECONDS),
                max_body=MAX_ANSWER,
            )
            if not 200 <= answer.status < 300:
                raise PeerError(f"the gateway answered with status {answer.status}")
        except GuestError as error:
            log.warning("heartbeat failed", extra={"causes": error.causes()})

    async def _gather(self) -> Mapping[str, str | None] | None:
        if self._config.instance_type is InstanceType.EAS:
            return {
                name: self._environment.get(variable, "")
                for name, variable in EAS_VARIABLES.items()
            }
        http = HttpClient(user_agent=f"attestation-agent/{VERSION}", connect_limit=METADATA_SECONDS)
        try:
            return await self._ask_metadata(http)
        except GuestError as error:
            log.warning("no metadata of the instance", extra={"causes": error.causes()})
            return await asyncio.to_thread(self._from_machine)
        finally:
            await http.close()

    async def _ask_metadata(self, http: HttpClient) -> Mapping[str, str | None]:
        await http.prepare(Deadline.after(HEARTBEAT_SECONDS))
        header = ("X-aliyun-ecs-metadata-token-ttl-seconds", TOKEN_TTL)
        url = f"{self._metadata}/latest/api/token"
        token = await _ask(http, "PUT", url, (header,))
        if token is None:
            raise PeerError("the metadata server gives no token")
        found: dict[str, str | None] = {}
        for name, paths in ECS_PATHS.items():
            found[name] = None
            for path in paths:
                url = f"{self._metadata}/latest/meta-data/{path}"
                header = ("X-aliyun-ecs-metadata-token", token)
                found[name] = found[name] or await _ask(http, "GET", url, (header,))
        return found

    def _from_machine(self) -> Mapping[str, str | None] | None:
        """What the machine itself says; None where it has no serial number."""
        for path in SERIALS:
            try:
                serial = (self._root / path).read_bytes()[:256].decode("utf-8", "replace").strip()
            except OSError as error:
                log.debug("no serial number", extra={"file": path, "error": error.strerror})
                continue
            if serial:
                found = dict.fromkeys(ECS_PATHS)
                return {**found, "instance_id": serial, "instance_name": socket.gethostname()}
        return None

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{self._file.name}.new")
        temporary.write_text(self._text or "null")
        os.replace(temporary, self._file)


async def _ask(
    http: HttpClient, method: str, url: str, headers: tuple[tuple[str, str], ...]
) -> str | None:
    """The answer's text; None where there is none of that name, or it is no printable text."""
    answer = await http.request(
        method,
        url,
        headers=headers,
        deadline=Deadline.after(METADATA_SECONDS),
        max_body=MAX_ANSWER,
    )
    text = answer.body.decode("utf-8", "replace").strip()
    if not 200 <= answer.status < 300 or not text.isascii() or not text.isprintable():
        return None
    return text or None


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
