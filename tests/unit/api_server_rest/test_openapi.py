"""The interface's description lists what the specification lists."""

import json
from pathlib import Path
from typing import Any

import pytest

PARAMETERS = {
    "/aa/additional-evidence": [("runtime_data", True), ("encoding", False)],
    "/aa/evidence": [("runtime_data", True), ("encoding", False)],
    "/aa/token": [("token_type", True)],
}

OPERATIONS = {
    ("/aa/aael", "post"): ("_aael", "200 400 403 405"),
    ("/aa/additional-evidence", "get"): ("_additional_evidence", "200 400 403 404 405"),
    ("/aa/evidence", "get"): ("_evidence", "200 400 403 404 405"),
    ("/aa/token", "get"): ("_token", "200 400 403 404 405"),
    ("/cdh/resource/{repository}/{type}/{tag}", "get"): ("_resource", "200 403 404 405"),
    ("/info", "get"): ("_version", "200 403 404 405"),
}


@pytest.fixture
def document(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        (repository / "api_server_rest" / "openapi.json").read_text()
    )
    return loaded


@pytest.mark.spec("api-server-rest", 37)
def test_paths_ids_parameters_and_schemas_are_the_specified_ones(
    document: dict[str, Any],
) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"] == "CoCo RESTful API"
    assert document["info"]["version"] == "0.1.0"
    assert document["info"]["license"]["name"] == "Apache-2.0"
    assert [server["url"] for server in document["servers"]] == ["http://127.0.0.1:8006"]
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            codes = " ".join(operation["responses"])
            found[path, method] = (operation["operationId"], codes)
            named = [(p["name"], p["required"]) for p in operation.get("parameters", [])]
            assert named == PARAMETERS.get(path, [])
            for parameter in operation.get("parameters", []):
                assert parameter["in"] == "query"
                assert parameter["schema"] == {"type": "string"}
            content = operation["responses"]["200"].get("content")
            if path == "/aa/aael":
                assert content is None
                body = operation["requestBody"]
                schema = body["content"]["application/json"]["schema"]
                assert body["required"]
                assert schema == {"$ref": "#/components/schemas/AaelEvent"}
            elif path == "/info":
                schema = {"$ref": "#/components/schemas/VersionInfo"}
                assert content == {"application/json": {"schema": schema}}
            else:
                assert content == {"application/octet-stream": {"schema": {"type": "string"}}}
    assert found == OPERATIONS
    schemas = document["components"]["schemas"]
    assert schemas["AaelEvent"]["required"] == ["domain", "operation", "content"]
    for name in ("domain", "operation", "content"):
        assert schemas["AaelEvent"]["properties"][name]["type"] == "string"
    info = schemas["VersionInfo"]
    assert info["required"] == ["version", "additional_tees", "feature"]
    assert info["properties"]["tee"]["type"] == ["string", "null"]
    assert info["properties"]["additional_tees"]["items"] == {"type": "string"}
