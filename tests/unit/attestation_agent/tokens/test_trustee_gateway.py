"""A gateway before the Trustee: its address, its key, what a caller adds; off by default."""

import json
from pathlib import Path

import pytest

from attestation_agent.config import AaConfig, CocoAsConfig, KbsConfig, TokenConfigs, with_gateway
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError
from guest.http import HttpClient
from guest.kbs.client import TokenClient
from guest.protos import aa_pb2, methods
from guest.resource_uri import ResourceUri
from guest_simulator.attestation_service import AttestationService
from guest_simulator.kbs.server import Kbs
from support.agents import config_of, make_agent, running
from support.kbs_world import AttestingSource, http_client, rcar_client, soon


def test_without_variables_nothing_changes() -> None:
    config = AaConfig(token_configs=TokenConfigs(kbs=KbsConfig(url="http://a")))
    assert with_gateway(config, {"TRUSTEE_URL": "", "TRUSTEE_API_KEY": ""}) == config
    assert (
        with_gateway(AaConfig(), {"TRUSTEE_API_KEY": "k", "COCO_AS_POLICY_ID": "p"}) == AaConfig()
    )


def test_the_gateway_takes_the_place_of_both_services() -> None:
    config = AaConfig(
        token_configs=TokenConfigs(
            kbs=KbsConfig(url="http://a", fallback_urls=("http://b",), cert="pem"),
            coco_as=CocoAsConfig(url="http://c", timeout=3),
        )
    )
    variables = {
        "TRUSTEE_URL": "https://gate/x/",
        "TRUSTEE_API_KEY": "key",
        "COCO_AS_POLICY_ID": "p,q,",
    }
    found = with_gateway(config, variables).token_configs
    assert found.kbs == KbsConfig(url="https://gate/x", cert="pem", api_key="key")
    assert found.coco_as == CocoAsConfig(
        url="https://gate/x/attestation-service", timeout=3, policy_ids=("p", "q"), api_key="key"
    )
    alone = with_gateway(AaConfig(), {"TRUSTEE_URL": "https://gate"}).token_configs
    assert alone.kbs == KbsConfig(url="https://gate")
    assert alone.coco_as == CocoAsConfig(url="https://gate/attestation-service")


async def test_the_key_is_on_every_request_and_the_token_moves_aside() -> None:
    async with Kbs() as kbs, rcar_client(kbs.url, api_key="the-key") as client:
        kbs.put_resource("default/key/1", b"value")
        async with http_client() as http:
            tokens = TokenClient((kbs.url,), http, AttestingSource(client), api_key="the-key")
            with pytest.raises(GuestError):
                # This KBS knows no gateway: it takes the key for a token.
                await tokens.fetch_resource(ResourceUri.parse("kbs:///default/key/1"), soon())
        records = list(kbs.requests)
        assert {record.headers["authorization"] for record in records} == {"Bearer the-key"}
        assert {record.path.rpartition("/")[2] for record in records} == {"auth", "attest", "1"}
        token = [
            record.headers.get("attestation") for record in records if "resource" in record.path
        ]
        assert all(text and text.count(".") == 2 for text in token)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "\u00e9"])
def test_a_key_that_is_no_header_text_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key of the Trustee gateway") as caught:
        TokenClient(("http://a",), HttpClient(user_agent="x"), object(), api_key=key)  # type: ignore[arg-type]  # never asked
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("given", [None, "", '{"a":1}'])
async def test_a_caller_s_data_is_passed_on_only_where_that_is_configured(
    short_tmp: Path, accepted: bool, given: str | None
) -> None:
    async with AttestationService() as service:
        tables = {"url": service.url, "additional_data": accepted, "api_key": "the-key"}
        config = config_of(token_configs={"coco_as": tables})
        async with running(make_agent(short_tmp, config)) as channel:
            request = aa_pb2.GetTokenRequest(TokenType="coco_as", AdditionalData=given)
            await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
    (body,) = service.bodies
    (individual,) = json.loads(body)["verification_requests"]
    assert individual.get("additional_data") == (given if accepted else None)
    (record,) = service.requests.matching("POST", "/attestation")
    assert record.headers["authorization"] == "Bearer the-key"
