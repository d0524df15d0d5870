"""The whole way: the command `confidential-data-hub`, its socket, and Alibaba Cloud behind it."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from guest.wire import encode_base64
from guest_simulator.kms.aliyun.cloud import AliyunCloud
from support.agents import SECONDS, agent_command, environment
from support.aliyun_world import (
    CLIENT_KEY_SETTINGS,
    INSTANCE,
    KEK_ID,
    KEY_ID,
    ROLE,
    VECTORS,
    fill,
)
from support.cdh_tools import run_tool

SIGNER: Final = "kbs:///default/signing-key/1"
OPTIONS: Final = b'{"symkey":"canary"}'


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running hub.

    Attributes:
        cloud: behind it.
        channel: to its socket.
        folder: of its files.
        variables: its environment.
        signer: whose secrets it believes.
    """

    cloud: AliyunCloud
    channel: Channel
    folder: Path
    variables: Mapping[str, str]
    signer: Es256Key

    async def unwrap(self, packet: AnnotationPacket) -> bytes:
        request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=encode_unwrap_input(packet.encode_v2())
        )
        answer = await self.channel.call(UNWRAP_KEY, request, deadline=Deadline.after(SECONDS))
        return answer.KeyProviderKeyWrapProtocolOutput

    async def unseal(self, sealed: bytes) -> bytes:
        request = cdh_pb2.UnsealSecretInput(secret=sealed)
        answer = await self.channel.call(UNSEAL_SECRET, request, deadline=Deadline.after(SECONDS))
        return answer.plaintext

    def vault(self, **settings: object) -> bytes:
        pointer = seal.vault("test_secret", "Aliyun", settings or CLIENT_KEY_SETTINGS, {})
        return seal.seal(pointer, SIGNER, self.signer)


def write_config(folder: Path, cloud: AliyunCloud, signer: Es256Key) -> Path:
    """A guest without a KBS: its credentials come from a file, as they would from the KBS."""
    given = VECTORS["client_key"]
    role = json.dumps({"ecs_ram_role_name": ROLE, "region_id": "cn-beijing"})
    files: dict[str, bytes] = {
        f"clientKey_{KEY_ID}.json": given["document"].encode(),
        f"password_{KEY_ID}.json": given["password"].encode(),
        f"PrivateKmsCA_{INSTANCE}.pem": cloud.ca,
        "ecsRamRole.json": role.encode(),
    }
    resources = {"default/signing-key/1": encode_base64(signer.public_jwk("x"))}
    credentials = []
    for number, (name, content) in enumerate(files.items()):
        resources[f"default/aliyun/{number}"] = encode_base64(content)
        path = f"{folder}/rt/kbs/kms-credential/aliyun/{name}"
        credentials.append({"resource_uri": f"kbs:///default/aliyun/{number}", "path": path})
    (folder / "resources.json").write_text(json.dumps(resources))
    document = {
        "socket": f"unix://{folder}/cdh.sock",
        "kbc": {"name": "offline_fs_kbc", "offline_files": [f"{folder}/resources.json"]},
        "credentials": credentials,
        "kms": {"aliyun": {"metadata_url": cloud.metadata_url}},
        "log": {"level": "trace"},
    }
    config = folder / "cdh.json"
    config.write_text(json.dumps(document))
    return config


@asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[Daemon]:
    async with AliyunCloud() as cloud:
        fill(cloud)
        roots = folder / "roots.pem"
        roots.write_bytes(cloud.ca)
        variables = environment(HTTPS_PROXY=cloud.proxy, SSL_CERT_FILE=str(roots))
        signer = Es256Key.generate()
        options = ("-c", str(write_config(folder, cloud, signer)), "--runtime-dir", f"{folder}/rt")
        command = agent_command(*options, "--metrics-dir", "", module="cdh.main")
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            channel = TtrpcChannel(f"unix://{folder}/cdh.sock")
            try:
                async with asyncio.timeout(SECONDS):
                    while not (folder / "cdh.sock").exists():
                        assert process.returncode is None, (folder / "log").read_text()
                        await asyncio.sleep(0.01)
                yield Daemon(cloud, channel, folder, variables, signer)
            finally:
                await channel.close()
                if process.returncode is None:
                    process.terminate()
                await process.wait()


def packet_of(cloud: AliyunCloud, **changes: object) -> AnnotationPacket:
    """A version 2 packet that an owner wrapped at the instance."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    iv = bytes(range(12))
    members: dict[str, object] = {
        "kid": KEK_ID,
        "wrapped_data": AESGCM(cloud.store.keys[KEK_ID]).encrypt(iv, OPTIONS, None),
        "provider": "aliyun",
        "version": "0.2.0",
        "provider_settings": CLIENT_KEY_SETTINGS,
        "annotations": {"iv": encode_base64(iv)},
    }
    return AnnotationPacket(**(members | changes))  # type: ignore[arg-type]  # as a test says


async def test_a_layer_key_of_a_version_2_packet_is_unwrapped_over_the_socket(
    short_tmp: Path,
) -> None:
    async with daemon(short_tmp) as hub:
        assert await hub.unwrap(packet_of(hub.cloud)) == encode_unwrap_output(OPTIONS)
        assert await hub.unwrap(packet_of(hub.cloud, provider="ALIYUN")) == (
            encode_unwrap_output(OPTIONS)
        )
        refused = len(hub.cloud.requests)
        wrong: tuple[dict[str, object], ...] = (
            {"provider_settings": {}},
            {"provider_settings": {"client_type": "ecs_ram_role"}},
            {"provider_settings": dict(CLIENT_KEY_SETTINGS) | {"kms_instance_id": "../x"}},
            {"annotations": {}},
            {"provider": "vault"},
        )
        for changes in wrong:
            with pytest.raises(GuestError) as caught:
                await hub.unwrap(packet_of(hub.cloud, **changes))
            text = "[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed"
            assert str(caught.value).startswith(text)
        assert len(hub.cloud.requests) == refused
        with pytest.raises(GuestError, match="UnwrapKey"):
            await hub.unwrap(packet_of(hub.cloud, kid="no-key"))
    log = (short_tmp / "log").read_text()
    assert "Forbidden.KeyNotFound" in log, "the cause is logged"
    for secret in ("canary", VECTORS["client_key"]["password"], "MIIDJwIBAz"):
        assert secret not in log


async def test_vault_secrets_of_an_instance_and_of_a_role_are_unsealed_over_the_socket(
    short_tmp: Path,
) -> None:
    async with daemon(short_tmp) as hub:
        expected = "the secret ✓".encode()
        assert await hub.unseal(hub.vault()) == expected
        assert await hub.unseal(hub.vault(client_type="ecs_ram_role")) == expected
        elsewhere = {"client_type": "sts_token", "token_path": "/etc/x", "region_id": "cn-beijing"}
        with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Unseal Secret failed"):
            await hub.unseal(hub.vault(**elsewhere))
    log = (short_tmp / "log").read_text()
    assert "outside /run/confidential-containers" in log
    for secret in ("the secret", "CAIS+", VECTORS["client_key"]["password"]):
        assert secret not in log


async def test_what_the_command_secret_seals_at_the_instance_daemon_and_command_unseal(
    short_tmp: Path,
) -> None:
    async with daemon(short_tmp) as hub:
        given = VECTORS["client_key"]
        files = {
            "key": given["document"].encode(),
            "password": given["password"].encode(),
            "ca": hub.cloud.ca,
            "plain": b"canary plaintext",
        }
        for name, content in files.items():
            (short_tmp / name).write_bytes(content)
        with hub.signer.private_jwk("x") as jwk:
            (short_tmp / "jwk").write_bytes(jwk.reveal())
        done = await run_tool(
            "secret_main",
            "seal", "--signing-kid", SIGNER, "--signing-jwk-path", short_tmp / "jwk",
            "envelope", "--key-id", KEK_ID, "--file-path", short_tmp / "plain",
            "ali", "--password-file-path", short_tmp / "password",
            "--cert-path", short_tmp / "ca", "--kms-instance-id", INSTANCE,
            "--client-key-file-path", short_tmp / "key",
            variables=hub.variables,
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "canary" not in done.out
        assert await hub.unseal(done.out.encode()) == b"canary plaintext"
        (short_tmp / "sealed").write_text(done.out)
        opened = await run_tool(
            "secret_main",
            "unseal", "--file-path", short_tmp / "sealed", "--aa-kbc-params", "offline_fs_kbc::",
            "--key-path", short_tmp / "rt" / "kbs" / "kms-credential" / "aliyun",
            variables={
                "HTTPS_PROXY": hub.cloud.proxy,
                "OFFLINE_FS_KBC_EXTRA_FILE_PATH": f"{short_tmp}/resources.json",
            },
        )  # fmt: skip
        assert opened.status == 0, opened.err
        assert (short_tmp / "sealed.unsealed").read_bytes() == b"canary plaintext"
