"""An eHSM-KMS for tests: the simulated service, the credential file, a site that trusts it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cdh.config import CdhConfig
from cdh.kms.ehsm.service import EhsmKms, EhsmSealer
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.secret import Secret
from guest_simulator.kms.ehsm.server import EhsmServer

FILE = Path(__file__).resolve().parent.parent / "vectors" / "cdh" / "ehsm.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
APP_ID: Final[str] = VECTORS["app_id"]
KEY_ID: Final[str] = VECTORS["key_id"]
API_KEY: Final = "canary-api-key"
CREDENTIAL: Final = {"AppId": APP_ID, "ApiKey": API_KEY}


@dataclass(frozen=True, slots=True)
class EhsmWorld:
    """A service, and a hub's site before it.

    Attributes:
        server: simulated.
        site: whose credentials are in place.
        folder: the hub's runtime directory.
    """

    server: EhsmServer
    site: KmsSite
    folder: Path

    def kms(self, **settings: object) -> EhsmKms:
        """A client."""
        given = {"app_id": APP_ID, "endpoint": self.server.endpoint}
        return EhsmKms.open(self.site, given | settings)

    def sealer(self) -> EhsmSealer:
        """An owner's client."""
        flags = {"endpoint": self.server.endpoint, "credential_file_path": self.file}
        return EhsmSealer.open(self.site, flags)

    async def seal(self, plaintext: bytes) -> bytes:
        """Encrypt under the key."""
        sealed, _ = await self.sealer().encrypt(Secret(plaintext), KEY_ID, Deadline.after(30))
        return sealed

    async def decrypt(
        self, kms: EhsmKms, sealed: bytes, key_id: str = KEY_ID, seconds: float = 30
    ) -> bytes:
        """Decrypt."""
        with await kms.decrypt(sealed, key_id, {}, Deadline.after(seconds)) as opened:
            return opened.reveal()

    @property
    def file(self) -> Path:
        """The credential file."""
        return self.folder / "kbs/kms-credential/ehsm" / f"credential_{APP_ID}.json"


def fill(server: EhsmServer) -> None:
    """What tests expect to find."""
    server.apps[APP_ID] = API_KEY
    server.keys[KEY_ID] = bytes(range(32))


@asynccontextmanager
async def ehsm_world(folder: Path, **ehsm: object) -> AsyncIterator[EhsmWorld]:
    """A filled service whose CA the site trusts, and that site; `ehsm` is the config's table."""
    async with EhsmServer() as server:
        fill(server)
        document = {
            "kbc": {"name": "offline_fs_kbc"},
            "kms": {"ehsm": {"extra_root_certificates": [server.ca.decode()]} | ehsm},
        }
        site = KmsSite(msgspec.convert(document, CdhConfig), folder)
        world = EhsmWorld(server, site, folder)
        world.file.parent.mkdir(parents=True)
        world.file.write_text(json.dumps(CREDENTIAL))
        try:
            yield world
        finally:
            await site.close()
