"""Manifests, indexes and image configurations, which a registry sends."""

from guest.errors import DecodeError, UnsupportedError
from image_pull.image_config import check_runs_here, parse_image_config
from image_pull.manifest import Index, choose_platform, parse_document
from image_pull.plan import plan_layers
from image_pull.runtime_spec import runtime_spec

DESCRIPTOR = b'{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":5}'
BLOB = DESCRIPTOR % (b"ab" * 32)
SEEDS = (
    b'{"schemaVersion":2,"config":' + BLOB + b',"layers":[' + BLOB + b"]}",
    b'{"schemaVersion":2,"manifests":['
    + BLOB[:-1]
    + b',"platform":{"os":"linux","architecture":"amd64"}}]}',
    b'{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"User":"a:b","Labels":{"a":"b"}'
    b',"Volumes":{"/x":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:' + b"ab" * 32 + b'"]}}',
)
MANIFEST = parse_document(SEEDS[0])


def one_input(data: bytes) -> None:
    """A document that can be planned and specified, or a DecodeError."""
    try:
        document = parse_document(data)
        if isinstance(document, Index):
            choose_platform(document, "amd64")
    except DecodeError:
        pass
    try:
        config = parse_image_config(data)
        runtime_spec(config)
        assert not isinstance(MANIFEST, Index)
        plan_layers(MANIFEST, check_runs_here(config, MANIFEST, "amd64"))
    except (DecodeError, UnsupportedError):
        pass
