"""What stands behind every door of CDH, built from its configuration: the daemon's and the tools'.

Source: docs/spec/confidential-data-hub.md 3.
"""

from functools import partial
from pathlib import Path

import msgspec

from cdh.agent import AgentClient
from cdh.config import DEFAULT_GRPC_SOCKET, DEFAULT_SOCKET, CdhConfig, verify_urls
from cdh.hub import DataHub
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter, open_resource_client
from cdh.kms.base import ResourceClient
from cdh.kms.site import KmsSite
from cdh.pulling import LatePuller, ProviderFile
from cdh.secrets import keys as secret_keys
from cdh.secrets.unseal import SecretUnsealer
from cdh.storage import open_mounts
from cdh.storage.base import StorageSite
from cdh.storage.keys import VolumeKeys
from cdh.storage.mounts import SecureMounts
from guest.process import DEFAULT_PATH
from guest.rpc.method import Channel
from image_pull.config import ImageConfig
from image_pull.observer import PullObserver, Unobserved


class Assembly(msgspec.Struct, frozen=True):
    """The parts of one hub.

    Attributes:
        hub: the use cases.
        unsealer: opens sealed secrets; part of `hub`.
        resources: where resources come from; its `run` is for whoever serves long.
        site: what the key management services share.
        puller: made at the first pull.
        mounts: the volumes that are mounted here.
        aa: leads to the attestation agent.
    """

    hub: DataHub
    unsealer: SecretUnsealer
    resources: ResourceClient
    site: KmsSite
    puller: LatePuller
    mounts: SecureMounts
    aa: Channel

    async def close(self) -> None:
        """Stop pulls, let go of connections."""
        await self.puller.close()
        await self.mounts.close()
        await self.site.close()
        await self.resources.close()
        await self.aa.close()


def assemble(
    config: CdhConfig,
    aa: Channel,
    runtime_dir: Path,
    pulls: PullObserver = Unobserved(),  # noqa: B008  # has no state
    path: str = DEFAULT_PATH,
    *,
    grpc: bool = False,
) -> Assembly:
    """Construct everything; connect to nothing, import nothing heavy.

    Args:
        config: what `cdh.config.effective` gave.
        aa: leads to the attestation agent; the assembly closes it.
        runtime_dir: the keys of sealed secrets and the credentials of services lie below it.
        pulls: told of image pulls.
        path: where programs are looked for.
        grpc: whether the hub listens with gRPC.

    Raises:
        ConfigError: there is no source of resources of that name, or an address in the
            configuration can never be reached.
    """
    verify_urls(config)
    agent = AgentClient(aa, required_by_pulls=config.aa.required_by_pulls)
    resources = open_resource_client(config, agent)
    site = KmsSite(config, runtime_dir, agent)
    opener = partial(open_decrypter, site=site)
    keys = LayerKeys(resources, opener)
    providers = _provider_file(config, grpc=grpc)
    puller = LatePuller(config.image or ImageConfig(), resources, keys, pulls, providers)
    unsealer = SecretUnsealer(
        resources,
        secret_keys.VerificationKeys(resources, runtime_dir / secret_keys.FOLDER),
        opener,
        site=site,
        skip_verification=config.skip_sealed_secret_verification,
    )
    mounts = open_mounts(
        StorageSite(runtime_dir=runtime_dir, path=path),
        VolumeKeys(resources, unsealer, config.storage.key_file_dirs),
        unmount_at_exit=config.storage.unmount_at_exit,
    )
    hub = DataHub(
        resources=resources,
        keys=keys,
        unsealer=unsealer,
        open_puller=puller.get,
        measurer=agent,
        mounts=mounts,
    )
    return Assembly(hub, unsealer, resources, site, puller, mounts, aa)


def _provider_file(config: CdhConfig, *, grpc: bool) -> ProviderFile | None:
    """The file that says whom to ask for layer keys, where somebody named one."""
    path = config.ocicrypt_keyprovider_config
    if path is None:
        return None
    own = config.socket or (DEFAULT_GRPC_SOCKET if grpc else DEFAULT_SOCKET)
    return ProviderFile(path=Path(path), own_address=own, grpc=grpc)
