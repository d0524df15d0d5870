"""The simulated AWS believes the vendor's own SDK, and nobody who signs otherwise."""

import asyncio
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from guest_simulator.kms.aws.cloud import AwsCloud
from guest_simulator.kms.aws.store import AccessKey

KEY_ID = "alias/k"


def client(cloud: AwsCloud, folder: Path, service: str, secret: str = "secret") -> Any:
    """The SDK with explicit credentials, its proxy leading here."""
    (folder / "ca.pem").write_bytes(cloud.ca)
    return boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="AKID",
        aws_secret_access_key=secret,
        aws_session_token="token",
        verify=str(folder / "ca.pem"),
        config=Config(proxies={"https": cloud.proxy}, retries={"max_attempts": 1}),
    )


def use_sdk(cloud: AwsCloud, folder: Path) -> tuple[bytes, str, bytes]:
    """Runs in a thread: the SDK blocks."""
    kms = client(cloud, folder, "kms")
    context = {"a": "b"}
    blob = kms.encrypt(KeyId=KEY_ID, Plaintext=b"key", EncryptionContext=context)["CiphertextBlob"]
    opened = kms.decrypt(KeyId=KEY_ID, CiphertextBlob=blob, EncryptionContext=context)
    manager = client(cloud, folder, "secretsmanager")
    text = manager.get_secret_value(SecretId="text", VersionStage="AWSPREVIOUS")
    return (
        opened["Plaintext"],
        text["SecretString"],
        manager.get_secret_value(SecretId="bytes")["SecretBinary"],
    )


def keep_secrets(cloud: AwsCloud, folder: Path) -> tuple[str, bytes]:
    """The same: a new secret, its name once more, a second version."""
    manager = client(cloud, folder, "secretsmanager")
    manager.create_secret(Name="kept", SecretBinary=b"first")
    with pytest.raises(ClientError) as caught:
        manager.create_secret(Name="kept", SecretBinary=b"second")
    manager.put_secret_value(SecretId="kept", SecretBinary=b"second")
    kept = manager.get_secret_value(SecretId="kept")["SecretBinary"]
    return str(caught.value.response["Error"]["Code"]), kept


def refused_code(cloud: AwsCloud, folder: Path, **changes: str) -> str:
    """The code of a refusal, as the SDK reads it."""
    with pytest.raises(ClientError) as caught:
        client(cloud, folder, "kms", **changes).decrypt(KeyId=KEY_ID, CiphertextBlob=b"x")
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.blocks_loop
async def test_the_vendors_sdk_is_served(tmp_path: Path) -> None:
    async with AwsCloud() as cloud:
        cloud.store.access_keys["AKID"] = AccessKey(secret="secret", token="token")
        cloud.store.keys[KEY_ID] = bytes(32)
        for value in ("older", "newer"):
            cloud.store.put_secret("text", value)
        cloud.store.put_secret("bytes", b"\0\1")
        found = await asyncio.to_thread(use_sdk, cloud, tmp_path)
        assert found == (b"key", "older", b"\0\1")
        kept = await asyncio.to_thread(keep_secrets, cloud, tmp_path)
        assert kept == ("ResourceExistsException", b"second")
        assert await asyncio.to_thread(refused_code, cloud, tmp_path) == (
            "InvalidCiphertextException"
        )
        wrong = await asyncio.to_thread(refused_code, cloud, tmp_path, secret="wrong")
        assert wrong == "InvalidSignatureException"
        cloud.store.clock.offset = 301
        late = await asyncio.to_thread(refused_code, cloud, tmp_path)
        assert late == "InvalidSignatureException"
