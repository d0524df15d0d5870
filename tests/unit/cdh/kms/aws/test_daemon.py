"""The whole way: the command `confidential-data-hub` among planted credentials, and AWS behind."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from cdh.secrets import seal
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import cdh_pb2
from guest.protos.methods import UNSEAL_SECRET
from guest.ttrpc.channel import TtrpcChannel
from guest.wire import encode_base64
from guest_simulator.kms.aws.cloud import AwsCloud
from guest_simulator.kms.aws.store import AccessKey
from support.agents import SECONDS, agent_command, environment
from support.aws_world import ACCESS_KEY, CREDENTIAL, REGION, fill

KID = "kbs:///default/signing-key/1"


def plant(home: Path) -> dict[str, str]:
    """Credentials, profile and endpoint wherever the vendor's tools would look."""
    (home / ".aws").mkdir(parents=True)
    text = "[default]\naws_access_key_id = AKPLANTED\naws_secret_access_key = planted\n"
    (home / ".aws" / "credentials").write_text(text)
    (home / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    return {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "AKPLANTED",
        "AWS_SECRET_ACCESS_KEY": "planted",
        "AWS_SESSION_TOKEN": "planted",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }


def write_config(folder: Path, cloud: AwsCloud, signer: Es256Key) -> Path:
    """A guest without a KBS; the directory of its credentials comes from the environment."""
    resources = {"default/signing-key/1": encode_base64(signer.public_jwk("x"))}
    (folder / "resources.json").write_text(json.dumps(resources))
    document = {
        "socket": f"unix://{folder}/cdh.sock",
        "kbc": {"name": "offline_fs_kbc", "offline_files": [f"{folder}/resources.json"]},
        "kms": {"aws": {"extra_root_certificates": [cloud.ca.decode()]}},
        "log": {"level": "trace"},
    }
    (folder / "cdh.json").write_text(json.dumps(document))
    return folder / "cdh.json"


async def unseal(channel: TtrpcChannel, signer: Es256Key, name: str) -> bytes:
    pointer = seal.vault(name, "aws", {"region": REGION}, {})
    request = cdh_pb2.UnsealSecretInput(secret=seal.seal(pointer, KID, signer))
    answer = await channel.call(UNSEAL_SECRET, request, deadline=Deadline.after(SECONDS))
    return answer.plaintext


async def test_a_daemon_uses_its_file_and_logs_no_secret(short_tmp: Path) -> None:
    async with AwsCloud() as cloud:
        fill(cloud)
        cloud.store.access_keys["AKPLANTED"] = AccessKey(secret="planted", token="planted")
        signer = Es256Key.generate()
        keys = short_tmp / "keys"
        keys.mkdir()
        file = keys / "credential.json"
        file.write_text(json.dumps(CREDENTIAL))
        variables = environment(
            HTTPS_PROXY=cloud.proxy, AWS_IN_GUEST_KEY_PATH=str(keys), **plant(short_tmp / "home")
        )
        config = str(write_config(short_tmp, cloud, signer))
        command = agent_command(
            "-c", config, "--runtime-dir", f"{short_tmp}/rt", "--metrics-dir", "", module="cdh.main"
        )
        with (short_tmp / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        channel = TtrpcChannel(f"unix://{short_tmp}/cdh.sock")
        try:
            async with asyncio.timeout(SECONDS):
                while not (short_tmp / "cdh.sock").exists():
                    assert process.returncode is None, (short_tmp / "log").read_text()
                    await asyncio.sleep(0.01)
            assert await unseal(channel, signer, "test_secret") == "the secret ✓".encode()
            asked = len(cloud.requests)
            file.unlink()
            with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Unseal Secret failed"):
                await unseal(channel, signer, "test_secret")
            assert len(cloud.requests) == asked
        finally:
            await channel.close()
            if process.returncode is None:
                process.terminate()
            await process.wait()
    text = (short_tmp / "log").read_text()
    assert "no credential file credential.json" in text, "the cause is logged"
    for secret in ("canary", "the secret", "planted", ACCESS_KEY):
        assert secret not in text
