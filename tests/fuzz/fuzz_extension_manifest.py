"""Manifests of extension images, which whoever builds or mounts one hands over."""

from podvm.errors import ImageError
from podvm.extension import VARIABLES, decode

SEEDS = (
    (
        b'schema_version = 1\n[paths]\n"pause-bundle" = "pause_bundle"\n[[process]]\nid = "aa"\n'
        b'level = 1\npath = "usr/bin/aa"\nargs = ["-a", "${aa_attestation_uri}"]\nconfig = "/c"\n'
    ),
    (
        b'schema_version = 1\n[[process]]\nid = "x"\nlevel = 3\nselect = "${attester_variant}"\n'
        b'optional_args = [{ when = "cdh_socket", args = ["-t"] }]\n[process.variants.default]\n'
        b'path = "a"\nenv = { A = "b" }\n'
    ),
)


def one_input(data: bytes) -> None:
    """A manifest that its own text gives again, and what it launches; or an ImageError."""
    try:
        manifest = decode(data.decode("utf-8", "replace"))
    except ImageError:
        return
    assert decode(manifest.encode()) == manifest
    values = dict.fromkeys(VARIABLES, "") | {"extension_root": "/root"}
    try:
        launches = manifest.launches(3, values, lambda _: True)
    except ImageError:
        return
    assert all(launch.path.startswith("/root/") for launch in launches)
