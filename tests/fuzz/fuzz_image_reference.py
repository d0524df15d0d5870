"""Image references, which the host chooses, through registry rules."""

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.registry.mirrors import pull_tasks
from image_pull.registry.rules import MirrorTable, RegistriesTable, RegistryTable

SEEDS = (
    b"quay.io:443/a/b_c__d/e-f:tag@sha256:" + b"ab" * 32,
    b"busybox",
    b"example.com/foo/image:tag",
    b"a.b.wild.org/x",
)

RULES = RegistriesTable(
    unqualified_search_registries=("docker.io", "example1.com"),
    registry=(
        RegistryTable(
            prefix="example.com/foo",
            location="q.io/bar",
            mirror=(MirrorTable(location="m.io/x", insecure=True),),
        ),
        RegistryTable(prefix="*.wild.org", location="w.local"),
        RegistryTable(location="quay.io:443", blocked=True),
    ),
)


def one_input(data: bytes) -> None:
    """A reference that prints as it is read, and its places, or a DecodeError."""
    try:
        reference = ImageReference.parse(data.decode("utf-8", "replace"))
    except DecodeError:
        return
    assert ImageReference.parse(str(reference)) == reference
    try:
        pull_tasks(reference, RULES)
    except DecodeError:
        return
