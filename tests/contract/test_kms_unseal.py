"""Secrets of AWS and eHSM from their owner to a guest, over CDH's own socket.

The guest's credentials come from the KBS, as resources that CDH stores before it answers.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdh.keyprovider.packet import AnnotationPacket, encode_unwrap_input, encode_unwrap_output
from cdh.secrets import seal
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import cdh_pb2, keyprovider_pb2
from guest.protos.methods import UNSEAL_SECRET, UNWRAP_KEY
from guest.rpc.method import Channel
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.kms.aws.cloud import AwsCloud
from guest_simulator.kms.ehsm.server import EhsmServer
from support import aws_world, ehsm_world
from support.cdh_tools import Done, run_tool
from support.kbs_hub import hub_world

SIGNER = "default/signing-key/1"
KID = f"kbs:///{SIGNER}"
AWS_SETTINGS = {"region": aws_world.REGION}
FAILED = r"^\[CDH\] \[ERROR\]: Unseal Secret failed"


@dataclass(frozen=True, slots=True)
class World:
    """A hub, both services behind it, and an owner.

    Attributes:
        cloud: AWS.
        server: eHSM.
        channel: to the hub's socket.
        folder: of the owner's files.
        signer: whose secrets the hub believes.
    """

    cloud: AwsCloud
    server: EhsmServer
    channel: Channel
    folder: Path
    signer: Es256Key

    async def unseal(self, sealed: bytes) -> bytes:
        """UnsealSecret."""
        request = cdh_pb2.UnsealSecretInput(secret=sealed)
        answer = await self.channel.call(UNSEAL_SECRET, request, deadline=Deadline.after(30))
        return answer.plaintext

    async def unwrap(self, packet: AnnotationPacket) -> bytes:
        """UnWrapKey."""
        request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=encode_unwrap_input(packet.encode_v2())
        )
        answer = await self.channel.call(UNWRAP_KEY, request, deadline=Deadline.after(30))
        return answer.KeyProviderKeyWrapProtocolOutput

    def vault(self, name: str, provider: str = "aws", **annotations: object) -> bytes:
        """A signed pointer."""
        pointer = seal.vault(name, provider, AWS_SETTINGS, annotations)
        return seal.seal(pointer, KID, self.signer)

    async def envelope(self, key_id: str, *service: object, credential: str) -> bytes:
        """What the command makes of a plaintext."""
        (self.folder / "plain").write_bytes(b"canary plaintext")
        (self.folder / "credential").write_text(credential)
        (self.folder / "roots.pem").write_bytes(self.cloud.ca + self.server.ca)
        with self.signer.private_jwk("x") as jwk:
            (self.folder / "jwk").write_bytes(jwk.reveal())
        done = await run_tool(
            "secret_main",
            "seal", "--signing-kid", KID, "--signing-jwk-path", self.folder / "jwk",
            "envelope", "-k", key_id, "-f", self.folder / "plain",
            *service, "-c", self.folder / "credential",
            variables={
                "HTTPS_PROXY": self.cloud.proxy,
                "NO_PROXY": "127.0.0.1",
                "SSL_CERT_FILE": str(self.folder / "roots.pem"),
                "AWS_ACCESS_KEY_ID": "AKPLANTED",
                "AWS_SECRET_ACCESS_KEY": "planted",
            },
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "canary" not in done.out + done.err
        return done.out.encode()

    async def keep(self, name: str, content: bytes, *more: object, secret: object) -> Done:
        """Hand a secret to AWS with the command, the plaintext on standard input."""
        (self.folder / "credential").write_text(json.dumps(aws_world.CREDENTIAL))
        (self.folder / "roots.pem").write_bytes(self.cloud.ca)
        with self.signer.private_jwk("x") as jwk:
            (self.folder / "jwk").write_bytes(jwk.reveal())
        return await run_tool(
            "secret_main",
            "seal", "--signing-kid", KID, "--signing-jwk-path", self.folder / "jwk",
            "vault", "-r", name, "-p", "aws", "--provider-settings", json.dumps(AWS_SETTINGS),
            "-f", secret, "-c", self.folder / "credential", *more, stdin=content,
            variables={
                "HTTPS_PROXY": self.cloud.proxy,
                "SSL_CERT_FILE": str(self.folder / "roots.pem"),
                "AWS_ACCESS_KEY_ID": "AKPLANTED",
                "AWS_SECRET_ACCESS_KEY": "planted",
            },
        )  # fmt: skip

    async def unseal_by_hand(self, sealed: bytes, name: str, credential: str) -> bytes:
        """What the command writes, its credentials in a directory of its own."""
        (self.folder / "sealed").write_bytes(sealed)
        keys = self.folder / "keys"
        keys.mkdir()
        (keys / name).write_text(credential)
        resources = {SIGNER: base64.b64encode(self.signer.public_jwk("x")).decode()}
        (self.folder / "resources.json").write_text(json.dumps(resources))
        done = await run_tool(
            "secret_main",
            "unseal", "--file-path", self.folder / "sealed", "--key-path", keys,
            "--aa-kbc-params", "offline_fs_kbc::",
            variables={
                "HTTPS_PROXY": self.cloud.proxy,
                "NO_PROXY": "127.0.0.1",
                "SSL_CERT_FILE": str(self.folder / "roots.pem"),
                "OFFLINE_FS_KBC_EXTRA_FILE_PATH": str(self.folder / "resources.json"),
            },
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "canary" not in done.out + done.err
        return (self.folder / "sealed.unsealed").read_bytes()


FILES: Mapping[str, Mapping[str, str]] = {
    "aws/credential.json": aws_world.CREDENTIAL,
    f"ehsm/credential_{ehsm_world.APP_ID}.json": ehsm_world.CREDENTIAL,
}


@asynccontextmanager
async def world(short_tmp: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with AwsCloud() as cloud, EhsmServer() as server:
        aws_world.fill(cloud)
        ehsm_world.fill(server)
        credentials = [
            {
                "resource_uri": f"kbs:///default/kms/{number}",
                "path": f"{short_tmp}/rt/kbs/kms-credential/{name}",
            }
            for number, name in enumerate(FILES)
        ]
        tables: dict[str, object] = {
            "credentials": credentials,
            "proxy": {"https_proxy": cloud.proxy, "no_proxy": "127.0.0.1"},
            "kms": {
                "aws": {"extra_root_certificates": [cloud.ca.decode()]},
                "ehsm": {"extra_root_certificates": [server.ca.decode()]},
            },
        }
        async with hub_world(short_tmp, wait=False, tables=tables) as hub:
            signer = Es256Key.generate()
            hub.kbs.put_resource(SIGNER, signer.public_jwk("x"))
            for number, content in enumerate(FILES.values()):
                hub.kbs.put_resource(f"default/kms/{number}", json.dumps(content).encode())
            hub.agent.gate.set()
            async with asyncio.timeout(30):
                while not hub.socket.exists():
                    await asyncio.sleep(0.01)
            channel = TtrpcChannel(f"unix://{hub.socket}")
            try:
                yield World(cloud, server, channel, tmp_path, signer)
            finally:
                await channel.close()


async def test_vault_secrets_of_aws_are_unsealed(short_tmp: Path, tmp_path: Path) -> None:
    async with world(short_tmp, tmp_path) as hub:
        for provider in ("aws", "AWS"):
            assert await hub.unseal(hub.vault("test_secret", provider)) == "the secret ✓".encode()
        named = {"version_id": "", "version_stage": "AWSPREVIOUS"}
        assert await hub.unseal(hub.vault("test_secret", **named)) == b"the older value"
        assert await hub.unseal(hub.vault("binary")) == b"\0\xffbytes"
        asked = len(hub.cloud.requests)
        for wrong in ({"version_id": 1}, {"version_stage": None}):
            with pytest.raises(GuestError, match=FAILED):
                await hub.unseal(hub.vault("test_secret", **wrong))
        assert len(hub.cloud.requests) == asked
        with pytest.raises(GuestError, match=FAILED):
            await hub.unseal(hub.vault("another"))
        with pytest.raises(GuestError, match=FAILED):
            await hub.unseal(hub.vault("test_secret", "ehsm"))


async def test_a_secret_that_is_sealed_and_handed_to_aws_in_one_step_is_unsealed(
    short_tmp: Path, tmp_path: Path
) -> None:
    async with world(short_tmp, tmp_path) as hub:
        for content in (b"canary one", b"canary two \0\xff"):
            done = await hub.keep("app/password", content, secret="/dev/stdin")
            assert done.status == 0, done.err
            assert done.err.splitlines()[-1] == "provisioned: app/password"
            assert "must be provisioned" not in done.err
            assert "canary" not in done.out + done.err
            assert await hub.unseal(done.out.encode()) == content
        (tmp_path / "sealed").write_text(done.out)
        shown = json.loads(
            (await run_tool("secret_main", "inspect", "-f", tmp_path / "sealed")).out
        )
        assert shown["annotations"] == {"version_id": "", "version_stage": ""}
        assert shown["provider_settings"] == AWS_SETTINGS
        pinned = ("-a", '{"version_stage":"AWSPREVIOUS"}')
        done = await hub.keep("app/password", b"canary three", *pinned, secret="/dev/stdin")
        assert await hub.unseal(done.out.encode()) == b"canary two \0\xff"


async def test_where_a_secret_cannot_be_handed_to_aws_nothing_is_sealed(
    short_tmp: Path, tmp_path: Path
) -> None:
    async with world(short_tmp, tmp_path) as hub:
        asked = len(hub.cloud.requests)
        for words, more, secret in (
            ("/nonexistent/F cannot be read", (), "/nonexistent/F"),
            ("Unsupported provider: kbs", ("-p", "kbs"), "/dev/stdin"),
            ("AWS KMS error: ", ("--provider-settings", "{}"), "/dev/stdin"),
            ("--annotations is no JSON object", ("-a", "[]"), "/dev/stdin"),
        ):
            done = await hub.keep("app/password", b"canary", *more, secret=secret)
            assert (done.status, done.out) == (1, "")
            assert words in done.err
        assert len(hub.cloud.requests) == asked
        for content, words in ((b"", "a secret has 1 to 65536 bytes"), (b"canary", "Invalid name")):
            done = await hub.keep("no name", content, secret="/dev/stdin")
            assert (done.status, done.out) == (1, "")
            assert words in done.err
            assert "canary" not in done.err
        del hub.cloud.store.access_keys[aws_world.ACCESS_KEY]
        done = await hub.keep("app/password", b"canary", secret="/dev/stdin")
        assert (done.status, done.out) == (1, "")
        assert "app/password" not in hub.cloud.store.secrets


async def test_an_envelope_of_aws_is_unsealed(short_tmp: Path, tmp_path: Path) -> None:
    async with world(short_tmp, tmp_path) as hub:
        credential = json.dumps(aws_world.CREDENTIAL)
        service = ("aws", "-r", aws_world.REGION)
        sealed = await hub.envelope(aws_world.KEK_ID, *service, credential=credential)
        assert await hub.unseal(sealed) == b"canary plaintext"
        by_hand = await hub.unseal_by_hand(sealed, "credential.json", credential)
        assert by_hand == b"canary plaintext"
        hub.cloud.store.keys[aws_world.KEK_ID] = bytes(32)
        with pytest.raises(GuestError, match=FAILED):
            await hub.unseal(sealed)


async def test_an_envelope_of_an_ehsm_is_unsealed(short_tmp: Path, tmp_path: Path) -> None:
    async with world(short_tmp, tmp_path) as hub:
        credential = json.dumps(ehsm_world.CREDENTIAL)
        service = ("ehsm", "-e", hub.server.endpoint)
        sealed = await hub.envelope(ehsm_world.KEY_ID, *service, credential=credential)
        assert await hub.unseal(sealed) == b"canary plaintext"
        name = f"credential_{ehsm_world.APP_ID}.json"
        assert await hub.unseal_by_hand(sealed, name, credential) == b"canary plaintext"
        hub.server.apps.clear()
        with pytest.raises(GuestError, match=FAILED):
            await hub.unseal(sealed)


async def test_layer_keys_of_both_are_unwrapped(short_tmp: Path, tmp_path: Path) -> None:
    options = b'{"symkey":"canary"}'
    async with world(short_tmp, tmp_path) as hub:
        site = aws_world.aws_world(tmp_path / "aws")
        async with site as owner:
            owner.cloud.store.keys[aws_world.KEK_ID] = hub.cloud.store.keys[aws_world.KEK_ID]
            wrapped = await owner.seal(options)
        packet = AnnotationPacket(
            kid=aws_world.KEK_ID,
            wrapped_data=wrapped,
            provider="aws",
            version="0.2.0",
            provider_settings=AWS_SETTINGS,
        )
        assert await hub.unwrap(packet) == encode_unwrap_output(options)
        async with ehsm_world.ehsm_world(tmp_path / "ehsm") as other:
            wrapped = await other.seal(options)
        packet = AnnotationPacket(
            kid=ehsm_world.KEY_ID,
            wrapped_data=wrapped,
            provider="ehsm",
            provider_settings={"app_id": ehsm_world.APP_ID, "endpoint": hub.server.endpoint},
        )
        assert await hub.unwrap(packet) == encode_unwrap_output(options)
        with pytest.raises(GuestError, match=r"Decrypt Image \(UnwrapKey\) failed"):
            await hub.unwrap(AnnotationPacket(kid="k", wrapped_data=b"x", provider="ehsm"))
