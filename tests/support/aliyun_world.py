"""Alibaba Cloud KMS for tests: the simulated cloud, credential files, a site that leads there."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cdh.agent import AgentClient
from cdh.config import CdhConfig
from cdh.kms.aliyun.client_key import ClientKey, open_client_key
from cdh.kms.aliyun.service import AliyunKms
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.secret import Secret
from guest_simulator.kms.aliyun.cloud import AliyunCloud

FILE = Path(__file__).resolve().parent.parent / "vectors" / "cdh" / "aliyun.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
KEY_ID = "KAAP.00000000-test"
INSTANCE = "kst-test0001"
REGION = "cn-beijing"
ROLE = "coco-role"
KEK = bytes(range(32))
KEK_ID = "alias/test_key_id"

CLIENT_KEY_SETTINGS: Mapping[str, object] = {
    "client_type": "client_key",
    "client_key_id": KEY_ID,
    "kms_instance_id": INSTANCE,
}


def client_key() -> ClientKey:
    """The published test key."""
    given = VECTORS["client_key"]
    return open_client_key(Secret(given["document"].encode()), Secret(given["password"].encode()))


def published_private_key() -> Any:
    """The same, straight from the library."""
    from cryptography.hazmat.primitives.serialization import pkcs12

    from guest.wire import decode_base64

    given = VECTORS["client_key"]
    data = decode_base64(json.loads(given["document"])["PrivateKeyData"])
    return pkcs12.load_key_and_certificates(data, given["password"].encode())[0]


def write_credentials(folder: Path, cloud: AliyunCloud) -> None:
    """The four files of the credential directory, one after the example, one in plain text."""
    folder.mkdir(parents=True, exist_ok=True)
    given = VECTORS["client_key"]
    (folder / f"clientKey_{KEY_ID}.json").write_text(given["document"])
    (folder / f"password_{KEY_ID}.json").write_text(given["password"] + "\n")
    (folder / f"PrivateKmsCA_{INSTANCE}.pem").write_bytes(cloud.ca)
    role = {"ecs_ram_role_name": ROLE, "region_id": REGION}
    (folder / "ecsRamRole.json").write_text(json.dumps(role))


@dataclass(frozen=True, slots=True)
class AliyunWorld:
    """A cloud, and a hub's site before it.

    Attributes:
        cloud: simulated.
        site: whose credentials are in place and whose proxy leads to the cloud.
        folder: the hub's runtime directory.
    """

    cloud: AliyunCloud
    site: KmsSite
    folder: Path

    def kms(self, **settings: object) -> AliyunKms:
        """A client; without settings one of the instance."""
        return AliyunKms.open(self.site, settings or CLIENT_KEY_SETTINGS)

    async def get(
        self, kms: AliyunKms, name: str = "test_secret", seconds: float = 30, **version: object
    ) -> bytes:
        """GetSecretValue."""
        with await kms.get_secret(name, version, Deadline.after(seconds)) as secret:
            return secret.reveal()

    @property
    def credentials(self) -> Path:
        """The credential directory."""
        return self.folder / "kbs" / "kms-credential" / "aliyun"


def fill(cloud: AliyunCloud) -> None:
    """What tests expect to find."""
    cloud.store.clients[KEY_ID] = published_private_key().public_key()
    cloud.store.keys[KEK_ID] = KEK
    cloud.store.put_secret("test_secret", "the older value")
    cloud.store.put_secret("test_secret", "the secret ✓")
    cloud.store.roles.add(ROLE)


@asynccontextmanager
async def aliyun_world(
    folder: Path, agent: AgentClient | None = None, /, **aliyun: object
) -> AsyncIterator[AliyunWorld]:
    """A filled cloud whose CA the site trusts, and that site; `aliyun` is the config's table."""
    async with AliyunCloud() as cloud:
        fill(cloud)
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "metadata_url": cloud.metadata_url,
            "token_root": str(folder),
            "extra_root_certificates": [cloud.ca.decode()],
        } | aliyun
        document = {
            "kbc": {"name": "offline_fs_kbc"},
            "proxy": {"https_proxy": cloud.proxy},
            "kms": {"aliyun": table},
        }
        site = KmsSite(msgspec.convert(document, CdhConfig), folder, agent)
        world = AliyunWorld(cloud, site, folder)
        write_credentials(world.credentials, cloud)
        try:
            yield world
        finally:
            await site.close()
