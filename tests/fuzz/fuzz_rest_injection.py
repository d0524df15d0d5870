"""Bodies, answers and routes of resource injection over HTTP."""

import json
from contextlib import suppress

from api_server_rest.config import Feature
from api_server_rest.injection import NonceDocument, ResourceDocument, encode_prepared
from api_server_rest.routing import Route, find_route
from guest.errors import DecodeError
from guest.protos import cdh_pb2

SEEDS = (
    b'{"nonce":"bm9uY2U"}',
    b'{"session_id":"s","encrypted_resource":{"protected":"e30","tag":"YQ"}}',
    b'{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"xxx","y":"yyy"}',
    b"/cdh/resource-injection/prepare/a/b/c",
    b"/cdh/resource-injection/commit/../%2e%2e//c",
)


def one_input(data: bytes) -> None:
    """Every body is read or refused; what is kept of it fits a message; a path is kept whole."""
    with suppress(DecodeError):
        nonce = NonceDocument.decode(data).nonce
        cdh_pb2.PrepareResourceInjectionRequest(Nonce=nonce).SerializeToString()
    with suppress(DecodeError):
        document = ResourceDocument.decode(data)
        assert isinstance(json.loads(bytes(document.encrypted_resource)), dict)
        cdh_pb2.CommitResourceInjectionRequest(SessionId=document.session_id).SerializeToString()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    with suppress(DecodeError):
        answer = cdh_pb2.PrepareResourceInjectionResponse(TeePubKey=text, Evidence=data)
        assert isinstance(json.loads(encode_prepared(answer))["tee_pubkey"], dict)
    route = find_route("POST", text, Feature.ALL, has_injection=True)
    if isinstance(route, Route) and route.action.is_injection:
        assert text.endswith("/" + route.resource)
    assert find_route("GET", text, Feature.ALL) == find_route(
        "GET", text, Feature.ALL, has_injection=text.startswith("/cdh/resource/")
    )
