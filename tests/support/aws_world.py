"""AWS for tests: the simulated cloud, the credential file, a site that leads there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cdh.config import CdhConfig
from cdh.kms.aws.service import AwsKms, AwsSealer
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.secret import Secret
from guest_simulator.kms.aws.cloud import AwsCloud
from guest_simulator.kms.aws.store import AccessKey

FILE = Path(__file__).resolve().parent.parent / "vectors" / "cdh" / "aws.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
REGION: Final = "us-east-1"
KEK_ID: Final = "alias/my-coco-key"
ACCESS_KEY: Final = "ASIDEXAMPLE"
CREDENTIAL: Final = {
    "access_key_id": ACCESS_KEY,
    "secret_access_key": "canary/secret+key",
    "session_token": "canaryTOKEN+/==",
}


@dataclass(frozen=True, slots=True)
class AwsWorld:
    """A cloud, and a hub's site before it.

    Attributes:
        cloud: simulated.
        site: whose credentials are in place and whose proxy leads to the cloud.
        folder: the hub's runtime directory.
    """

    cloud: AwsCloud
    site: KmsSite
    folder: Path

    def kms(self, region: str = REGION) -> AwsKms:
        """A client of a region."""
        return AwsKms.open(self.site, {"region": region})

    def sealer(self) -> AwsSealer:
        """An owner's client."""
        flags = {"region": REGION, "credential_file_path": self.credentials / "credential.json"}
        return AwsSealer.open(self.site, flags)

    async def get(
        self, kms: AwsKms, name: str = "test_secret", seconds: float = 30, **version: object
    ) -> bytes:
        """GetSecretValue."""
        with await kms.get_secret(name, version, Deadline.after(seconds)) as secret:
            return secret.reveal()

    async def seal(self, plaintext: bytes) -> bytes:
        """Encrypt under the KEK."""
        sealed, _ = await self.sealer().encrypt(Secret(plaintext), KEK_ID, Deadline.after(30))
        return sealed

    @property
    def credentials(self) -> Path:
        """The credential directory."""
        return self.folder / "kbs" / "kms-credential" / "aws"

    def write(self, **changes: object) -> None:
        """The credential file."""
        self.credentials.mkdir(parents=True, exist_ok=True)
        document = json.dumps(CREDENTIAL | changes)
        (self.credentials / "credential.json").write_text(document)


def fill(cloud: AwsCloud) -> None:
    """What tests expect to find."""
    key = AccessKey(secret=CREDENTIAL["secret_access_key"], token=CREDENTIAL["session_token"])
    cloud.store.access_keys[ACCESS_KEY] = key
    cloud.store.keys[KEK_ID] = bytes(range(32))
    cloud.store.put_secret("test_secret", "the older value")
    cloud.store.put_secret("test_secret", "the secret ✓")
    cloud.store.put_secret("binary", b"\0\xffbytes")


@asynccontextmanager
async def aws_world(folder: Path, **aws: object) -> AsyncIterator[AwsWorld]:
    """A filled cloud whose CA the site trusts, and that site; `aws` is the config's table."""
    async with AwsCloud() as cloud:
        fill(cloud)
        document = {
            "kbc": {"name": "offline_fs_kbc"},
            "proxy": {"https_proxy": cloud.proxy},
            "kms": {"aws": {"extra_root_certificates": [cloud.ca.decode()]} | aws},
        }
        site = KmsSite(msgspec.convert(document, CdhConfig), folder)
        world = AwsWorld(cloud, site, folder)
        world.write()
        try:
            yield world
        finally:
            await site.close()
