"""Builds the image puller from its configuration and those who answer for keys and resources."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from guest.http import HttpClient
from guest.proxies import Proxies
from guest.secret import Secret
from image_pull.config import ImageConfig, ImagePullProxy
from image_pull.fetch import ArtifactFetcher
from image_pull.layer_fetch import Keys
from image_pull.layers.merge import merge_layers
from image_pull.layers.pipeline import LayerPipeline
from image_pull.layers.privileged import apply_privileged
from image_pull.layers.record import LayerRecord
from image_pull.manifest import GO_ARCHITECTURES
from image_pull.observer import PullObserver, Unobserved
from image_pull.ocicrypt.protocol import KeyUnwrapper
from image_pull.puller import ImagePuller
from image_pull.sources import ResourceFetcher, Sources
from image_pull.users import user_of
from image_pull.workshop import LazyWorkshop, RegistryPool

DISK_THREADS: Final = 4
"""Threads that mount, copy and remove; the layers' computing has one for each core."""

USER_AGENT: Final = "coco-guest"


def build_puller(
    config: ImageConfig,
    *,
    resources: ResourceFetcher,
    keys: KeyUnwrapper | None,
    private_keys: Sequence[Secret] = (),
    observer: PullObserver = Unobserved(),  # noqa: B008  # has no state
) -> ImagePuller:
    """A puller that touches nothing before its first pull.

    Args:
        config: the `[image]` table, after `config.with_environment`.
        resources: answers for `kbs://`.
        keys: unwraps layer keys; None where there is no key provider.
        private_keys: PEM texts for JWE-wrapped layer keys.
        observer: told of pulls, layers and the jail.
    """
    pool = ThreadPoolExecutor(max_workers=DISK_THREADS, thread_name_prefix="image-disk")
    cores = len(os.sched_getaffinity(0))
    compute = ThreadPoolExecutor(cores, thread_name_prefix="image-compute")
    registries = RegistryPool(partial(_http, config))
    machine = os.uname().machine
    return ImagePuller(
        config,
        workshops=LazyWorkshop(
            config,
            sources=Sources(resources),
            registries=registries,
            keys=Keys(unwrapper=keys, private_keys=tuple(private_keys)),
            pool=pool,
            compute=compute,
            pipeline=LayerPipeline(
                pool=compute,
                cores=cores,
                max_bytes=config.max_unpacked_bytes,
                observer=observer,
            ),
            observer=observer,
            finish=_finish,
            merge=merge_layers,
        ),
        registries=registries,
        pool=pool,
        architecture=GO_ARCHITECTURES.get(machine, machine),
        user_of=user_of,
        observer=observer,
    )


def build_fetcher(
    config: ImageConfig,
    *,
    resources: ResourceFetcher,
    keys: KeyUnwrapper | None,
    private_keys: Sequence[Secret] = (),
) -> ArtifactFetcher:
    """A fetcher of artifacts; arguments as `build_puller` has them."""
    machine = os.uname().machine
    return ArtifactFetcher(
        config,
        sources=Sources(resources),
        registries=RegistryPool(partial(_http, config)),
        keys=Keys(unwrapper=keys, private_keys=tuple(private_keys)),
        pool=ThreadPoolExecutor(max_workers=DISK_THREADS, thread_name_prefix="artifact-disk"),
        architecture=GO_ARCHITECTURES.get(machine, machine),
    )


def _http(config: ImageConfig) -> HttpClient:
    return HttpClient(
        user_agent=USER_AGENT,
        extra_roots=config.extra_root_certificates,
        proxies=proxies_of(config.image_pull_proxy),
    )


def proxies_of(table: ImagePullProxy | None) -> Proxies:
    """The HTTP client's proxies; `no_proxy` entries with a port or `*.` match nothing here."""
    if table is None:
        return Proxies()
    entries = [entry.strip() for entry in (table.no_proxy or "").split(",")]
    return Proxies(
        https=_proxy_url(table.https_proxy),
        http=_proxy_url(table.http_proxy),
        no_proxy=",".join(entry for entry in entries if not _matches_nothing(entry)),
    )


def _matches_nothing(entry: str) -> bool:
    if entry.startswith("*."):
        return True
    host, colon, port = entry.rpartition(":")
    return bool(colon) and port.isdigit() and (":" not in host or host.endswith("]"))


def _proxy_url(value: str | None) -> str:
    if not value:
        return ""
    return value if "://" in value else f"http://{value}"


def _finish(record: LayerRecord, tree: Path, below: Sequence[Path]) -> None:
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        apply_privileged(record, descriptor, below)
    finally:
        os.close(descriptor)
