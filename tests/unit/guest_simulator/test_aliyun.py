"""The simulated Alibaba Cloud refuses whatever is not exactly as specified and signed."""

import hashlib
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import pytest

from cdh.kms.aliyun import instance, openapi
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.settings import SecretVersion
from guest.protos import dkms_pb2
from guest.secret import Secret
from guest_simulator.kms.aliyun.cloud import AliyunCloud
from support.aliyun_world import KEY_ID, REGION, ROLE, client_key, fill

Headers = dict[str, str]
REQUEST = instance.get_secret_request("test_secret", SecretVersion())


def signed(moment: datetime | None = None, key_id: str = KEY_ID) -> Headers:
    now = moment or datetime.now(UTC)
    key = client_key()
    return dict(REQUEST.headers(key_id, now, key.sign(REQUEST.string_to_sign(key_id, now))))


async def post(
    cloud: AliyunCloud, url: str, headers: Headers, body: bytes = b""
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cadata=cloud.ca.decode())
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            aiohttp.ClientSession(skip_auto_headers=("Content-Type",))
        )
        answer = await stack.enter_async_context(
            client.post(url, headers=headers, data=body, proxy=cloud.proxy, ssl=context)
        )
        return answer.status, await answer.read()


async def ask_instance(cloud: AliyunCloud, headers: Headers, body: bytes = REQUEST.body) -> int:
    url = f"https://{instance.host('kst-1')}/"
    return (await post(cloud, url, headers, body))[0]


async def test_the_instance_takes_a_signed_request_and_no_changed_one() -> None:
    async with AliyunCloud() as cloud:
        fill(cloud)
        assert await ask_instance(cloud, signed()) == 200
        for name in signed():
            broken = signed()
            broken[name] = broken[name][:-1] + ("A" if broken[name][-1] != "A" else "B")
            assert await ask_instance(cloud, broken) in (400, 401, 403), name
            del broken[name]
            assert await ask_instance(cloud, broken) in (400, 401, 403), name
        other = instance.get_secret_request("other", SecretVersion()).body
        assert await ask_instance(cloud, signed(), other) == 400
        digest = hashlib.sha256(other).hexdigest().upper()
        assert await ask_instance(cloud, signed() | {"Content-Sha256": digest}, other) == 401
        assert await ask_instance(cloud, signed() | {"x-kms-more": "x"}) == 401
        assert await ask_instance(cloud, signed(key_id="KAAP.unknown")) == 403
        late = datetime.now(UTC) - timedelta(minutes=16)
        assert await ask_instance(cloud, signed(late)) == 400


async def test_the_instance_answers_with_an_error_message_of_its_own() -> None:
    async with AliyunCloud() as cloud:
        status, body = await post(cloud, f"https://{instance.host('kst-1')}/", {})
        error = dkms_pb2.Error.FromString(body)
        assert (status, error.StatusCode, error.ErrorCode) == (400, 400, "InvalidParameter")


def kms_url(cloud: AliyunCloud, moment: datetime | None = None) -> str:
    key = next(iter(cloud.store.access_keys.values()))
    access = AccessKey(
        key_id=key.key_id, secret=Secret(key.secret.encode()), token=Secret(key.token.encode())
    )
    nonce = hashlib.sha256(str(datetime.now(UTC)).encode()).hexdigest()
    request = openapi.get_secret_request(
        REGION, "test_secret", SecretVersion(), key=access, nonce=nonce,
        now=moment or datetime.now(UTC),
    )  # fmt: skip
    return request.url.reveal().decode()


HEADERS = {"x-acs-version": "2016-01-20", "x-acs-action": "GetSecretValue"}


def lengthen(name: str, parameters: dict[str, str]) -> None:
    parameters[name] += "x"


def drop(name: str, parameters: dict[str, str]) -> None:
    del parameters[name]


def changed(url: str, change: Callable[[dict[str, str]], None]) -> str:
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    change(parameters)
    return f"https://{parts.netloc}/?{urlencode(parameters)}"


async def test_the_shared_gateway_takes_a_signed_request_once_and_no_changed_one() -> None:
    async with AliyunCloud() as cloud:
        fill(cloud)
        cloud.store.issue()
        url = kms_url(cloud)
        assert (await post(cloud, url, HEADERS))[0] == 200
        status, body = await post(cloud, url, HEADERS)
        assert (status, b"SignatureNonceUsed" in body) == (400, True)
        names = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        for name in names:
            broken = changed(kms_url(cloud), partial(lengthen, name))
            assert (await post(cloud, broken, HEADERS))[0] >= 400, name
            broken = changed(kms_url(cloud), partial(drop, name))
            assert (await post(cloud, broken, HEADERS))[0] == 400, name
        assert (await post(cloud, kms_url(cloud) + "&Action=x", HEADERS))[0] == 400
        assert (await post(cloud, kms_url(cloud), {}))[0] == 400
        assert (await post(cloud, kms_url(cloud), HEADERS, b"body"))[0] == 400
        old = kms_url(cloud, datetime.now(UTC) - timedelta(minutes=16))
        assert (await post(cloud, old, HEADERS))[0] == 400
        cloud.store.clock.offset = 3601
        late = kms_url(cloud, datetime.now(UTC) + timedelta(seconds=3601))
        assert b"InvalidSecurityToken.Expired" in (await post(cloud, late, HEADERS))[1]


async def test_hosts_of_nobody_are_misdirected_and_their_certificate_is_not_good() -> None:
    async with AliyunCloud() as cloud:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await post(cloud, "https://evil.example/", {})
        headers = {"Host": "evil.example"}
        assert (await post(cloud, f"https://{instance.host('x')}/", headers))[0] == 421


async def test_the_metadata_server_wants_its_token() -> None:
    async with AliyunCloud() as cloud, aiohttp.ClientSession() as client:
        fill(cloud)
        url = f"{cloud.metadata_url}/latest/meta-data/ram/security-credentials/{ROLE}"
        async with client.get(url) as answer:
            assert answer.status == 403
        async with client.put(f"{cloud.metadata_url}/latest/api/token") as answer:
            assert answer.status == 400
