"""The simulated metadata services answer as the clouds' own do, to a client of the test's own."""

import base64

import aiohttp
import pytest
from yarl import URL

from guest_simulator.faults import Fault
from guest_simulator.metadata import Cloud, Metadata, Tokens

DOCUMENT = b"#cloud-config\n"
AZURE = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
GCP = "/computeMetadata/v1/instance/attributes/user-data"


async def ask(server: Metadata, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session:
        async with session.request(
            method, URL(server.url + path, encoded=True), headers=named, allow_redirects=False
        ) as answer:
            return answer.status, await answer.read()


async def test_azure_wants_its_header_and_version_and_serves_base64() -> None:
    async with Metadata(Cloud.AZURE, DOCUMENT) as server:
        assert await ask(server, "GET", AZURE) == (400, b"")
        assert (await ask(server, "GET", AZURE.partition("?")[0], Metadata="true"))[0] == 400
        assert (await ask(server, "GET", "/other", Metadata="true"))[0] == 404
        status, body = await ask(server, "GET", AZURE, Metadata="true")
        assert (status, base64.b64decode(body)) == (200, DOCUMENT)
        server.user_data = None
        assert await ask(server, "GET", AZURE, Metadata="true") == (200, b"")


async def test_google_wants_its_flavor_redirects_directories_and_serves_base64() -> None:
    async with Metadata(Cloud.GCP, DOCUMENT) as server:
        assert (await ask(server, "GET", GCP))[0] == 403
        status, body = await ask(server, "GET", GCP, Metadata_Flavor="Google")
        assert (status, base64.b64decode(body)) == (200, DOCUMENT)
        directory = "/computeMetadata/v1/instance"
        assert (await ask(server, "GET", directory, Metadata_Flavor="Google"))[0] == 301
        assert (await ask(server, "GET", f"{directory}/", Metadata_Flavor="Google"))[0] == 200
        server.user_data = None
        assert (await ask(server, "GET", GCP, Metadata_Flavor="Google"))[0] == 404


@pytest.mark.parametrize(
    ("cloud", "header", "refused"),
    [
        (Cloud.AWS, "x-aws-ec2-metadata-token", 401),
        (Cloud.ALIBABA, "x-aliyun-ecs-metadata-token", 403),
    ],
)
async def test_session_tokens_are_given_checked_and_required_as_told(
    cloud: Cloud, header: str, refused: int
) -> None:
    async with Metadata(cloud, DOCUMENT) as server:
        assert await ask(server, "GET", "/latest/user-data") == (200, DOCUMENT)
        life = f"{header}-ttl-seconds"
        for wrong in ("0", "21601", "x"):
            assert (await ask(server, "PUT", "/latest/api/token", **{life: wrong}))[0] == 400
        status, token = await ask(server, "PUT", "/latest/api/token", **{life: "60"})
        assert (status, server.lives) == (200, [60])
        server.tokens = Tokens.REQUIRED
        assert (await ask(server, "GET", "/latest/user-data"))[0] == refused
        assert (await ask(server, "GET", "/latest/user-data", **{header: "x"}))[0] == refused
        with_token = {header: token.decode()}
        assert await ask(server, "GET", "/latest/user-data", **with_token) == (200, DOCUMENT)
        assert (await ask(server, "GET", "/latest/other", **with_token))[0] == 404
        server.tokens = Tokens.ABSENT
        assert (await ask(server, "PUT", "/latest/api/token", **{life: "60"}))[0] == 404


async def test_faults_hit_metadata_like_everything_else() -> None:
    async with Metadata(Cloud.AWS, DOCUMENT) as server:
        server.faults.add(Fault(path="user-data", status=503, times=1))
        assert (await ask(server, "GET", "/latest/user-data"))[0] == 503
        assert (await ask(server, "GET", "/latest/user-data"))[0] == 200
        assert server.requests.count("GET") == 2
