"""The command `secret` as a process."""

import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from guest_simulator.kbs.admin import AdminMode, AdminRules
from support.cdh_tools import Done, run_tool, tool_world
from support.sealed_world import load_vectors

V = load_vectors()


async def secret(
    *arguments: object, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> Done:
    return await run_tool("secret_main", *arguments, cwd=cwd, variables=variables)


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    path = tmp_path / "signer.json"
    path.write_text(V["signing_jwk"])
    return path


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "sealed"
    path.write_text(V["vault_sealed"] + "\n")
    return path


def vault(signer: Path, *more: object) -> tuple[object, ...]:
    return (
        "seal", "--signing-kid", V["vault_kid"], "--signing-jwk-path", signer,
        "vault", "--resource-uri", "kbs:///default/sealed-secret/test", "-p", "kbs", *more,
    )  # fmt: skip


@pytest.mark.spec("confidential-data-hub", 25)
async def test_seal_prints_the_published_secret_and_warns_on_standard_error(signer: Path) -> None:
    done = await secret(*vault(signer))
    assert (done.status, done.out) == (0, V["vault_sealed"] + "\n")
    assert "Warning: Secrets must be provisioned to provider separately." in done.err


async def test_settings_and_annotations_go_into_the_payload(signer: Path, tmp_path: Path) -> None:
    done = await secret(*vault(signer, "--provider-settings", '{"a":1}', "-a", '{"b":[2]}'))
    (tmp_path / "s").write_text(done.out)
    shown = json.loads((await secret("inspect", "-f", tmp_path / "s")).out)
    assert (shown["provider_settings"], shown["annotations"]) == ({"a": 1}, {"b": [2]})
    assert (await secret(*vault(signer, "-a", "[]"))).status == 1


async def test_a_plaintext_for_the_provider_needs_credentials_and_the_reverse(signer: Path) -> None:
    for flag in ("-f", "-c"):
        done = await secret(*vault(signer, flag, signer))
        assert (done.status, done.out) == (1, "")
        assert "--file-path and --credential-file-path need each other" in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("aws -r us-east-1 -c /nonexistent/F", "/nonexistent/F cannot be read"),
        ("aws -r ../x -c /nonexistent/F", "AWS KMS error: region '../x' is none"),
        ("ehsm -c /nonexistent/F -e https://h:9000", "/nonexistent/F cannot be read"),
        ("ehsm -c /nonexistent/F -e http://h", "eHSM-KMS error: endpoint 'http://h' is no https"),
    ],
)
async def test_an_envelope_whose_flags_lead_nowhere_is_refused(
    signer: Path, flags: str, words: str
) -> None:
    done = await secret(
        "seal", "--signing-kid", "k", "--signing-jwk-path", signer,
        "envelope", "-k", "alias/x", "-f", signer, *flags.split(),
    )  # fmt: skip
    assert (done.status, done.out) == (1, "")
    assert words in done.err


async def test_a_signer_without_private_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "public.json"
    path.write_text(V["kata_jwk"])
    done = await secret(*vault(path))
    assert (done.status, done.out) == (1, "")
    assert "no private P-256 JWK" in done.err
    assert (await secret(*vault(tmp_path / "none"))).status == 1


async def test_keys_made_seal_what_their_public_part_verifies(tmp_path: Path) -> None:
    done = await secret("keygen", "--kid", "mine", "--output-dir", tmp_path)
    assert (done.status, done.out) == (0, "")
    private = tmp_path / "mine-private.json"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    text = (await secret(*vault(private))).out
    (tmp_path / "s").write_text(text)
    good = await secret("verify", "-f", tmp_path / "s", "--jwk-path", tmp_path / "mine-public.json")
    assert (good.status, good.out) == (0, f"good signature, kid {V['vault_kid']}\n")
    (tmp_path / "other.json").write_text(V["kata_jwk"])
    bad = await secret("verify", "-f", tmp_path / "s", "--jwk-path", tmp_path / "other.json")
    assert (bad.status, bad.out) == (1, "")
    again = await secret("keygen", "--kid", "mine", "--output-dir", tmp_path)
    assert again.status == 1
    assert "is there already" in again.err


async def test_keygen_writes_here_unless_told_and_refuses_a_path_as_kid(tmp_path: Path) -> None:
    assert (await secret("keygen", cwd=tmp_path)).status == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sealed-signing-private.json", "sealed-signing-public.json"}
    assert (await secret("keygen", "--kid", "../x", cwd=tmp_path)).status == 1


@pytest.mark.parametrize("by_flag", [True, False])
async def test_unseal_fetches_key_and_secret_and_writes_a_private_file(
    short_tmp: Path, sealed: Path, by_flag: bool
) -> None:
    """The key is a resource too: what the flag says rules before the signature is checked."""
    async with tool_world(short_tmp) as world:
        world.kbs.put_resource("default/signing-key/sealed-secret", V["signing_jwk"].encode())
        world.kbs.put_resource("default/sealed-secret/test", b"the value\n")
        names = {"AA_SOCKET": world.aa_socket}
        flags = ["-a", world.variables["AA_KBC_PARAMS"]]
        if not by_flag:
            names, flags = world.variables, []
        done = await secret("unseal", "-f", sealed, *flags, variables=names)
        assert (done.status, done.out) == (0, "")
        target = sealed.with_name("sealed.unsealed")
        assert target.read_bytes() == b"the value\n"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert world.agent.tokens == 1
        again = await secret("unseal", "-f", sealed, *flags, variables=names)
        assert again.status == 1
        assert "is there already" in again.err
        assert world.agent.tokens == 1


async def test_unseal_says_what_is_missing(tmp_path: Path, sealed: Path) -> None:
    done = await secret("unseal", "-f", sealed)
    assert (done.status, "needs --aa-kbc-params" in done.err) == (1, True)
    envelope = tmp_path / "envelope"
    envelope.write_text(V["envelope_sealed"])
    done = await secret("unseal", "-f", envelope)
    assert (done.status, "needs --key-path" in done.err) == (1, True)
    done = await secret("unseal", "-f", envelope, "-k", tmp_path, "-s")
    assert done.status == 1
    assert not list(tmp_path.glob("*.unsealed"))


async def test_a_file_that_is_no_sealed_secret_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xff\x00 nothing")
    for command in ("unseal", "inspect"):
        done = await secret(command, "-f", path)
        assert (done.status, done.out) == (1, "")
        assert "no sealed secret" in done.err


async def test_unsigned_secrets_open_with_the_flag_only(short_tmp: Path, tmp_path: Path) -> None:
    path = tmp_path / "unsigned"
    path.write_text(V["vault_unsigned"])
    async with tool_world(short_tmp) as world:
        world.kbs.put_resource("default/sealed-secret/test", b"the value\n")
        assert (await secret("unseal", "-f", path, variables=world.variables)).status == 1
        assert (await secret("unseal", "-s", "-f", path, variables=world.variables)).status == 0
    assert path.with_name("unsigned.unsealed").read_bytes() == b"the value\n"


async def test_inspect_shows_an_envelope_without_its_ciphertexts(tmp_path: Path) -> None:
    path = tmp_path / "envelope"
    path.write_text(V["envelope_sealed"])
    done = await secret("inspect", "-f", path)
    shown = json.loads(done.out)
    assert (shown["kid"], shown["type"], shown["verified"]) == ("sealed-signing", "envelope", False)
    assert "CZHoNjqs" not in done.out
    path.write_text(V["vault_unsigned"])
    assert (
        "Failed to parse JWS" in json.loads((await secret("inspect", "-f", path)).out)["unusable"]
    )


@pytest.mark.parametrize("arguments", [(), ("seal",), ("keygen", "--no-such"), ("unseal",)])
async def test_a_wrong_command_line_is_status_two(arguments: tuple[str, ...]) -> None:
    assert (await secret(*arguments)).status == 2


def owner(tmp_path: Path) -> tuple[Path, AdminRules]:
    """An administrator's key file, and the rules of a KBS that knows it."""
    key = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "admin.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, AdminRules(mode=AdminMode.AUTHENTICATED, keys=(key.public_key(),))


async def test_keygen_registers_the_public_key_in_one_step(short_tmp: Path, tmp_path: Path) -> None:
    path, rules = owner(tmp_path)
    kid = "kbs:///default/signing-key/mine"
    async with tool_world(short_tmp) as world:
        world.kbs.behaviour.admin = rules
        flags = ("--kbs", world.kbs.url, "--auth-private-key", path, "--role", "admin")
        done = await secret("keygen", "--register", kid, *flags, cwd=tmp_path)
        assert (done.status, done.out) == (0, ""), done.err
        sealed = await secret(
            "seal", "--signing-kid", kid, "--signing-jwk-path", "sealed-signing-private.json",
            "vault", "-r", "kbs:///default/key/1", "-p", "kbs", cwd=tmp_path,
        )  # fmt: skip
        (tmp_path / "s").write_text(sealed.out)
        done = await secret("unseal", "-f", tmp_path / "s", variables=world.variables)
        assert (done.status, (tmp_path / "s.unsealed").read_bytes()) == (0, b"the secret"), done.err


async def test_a_key_that_cannot_be_registered_is_not_left_behind(
    short_tmp: Path, tmp_path: Path
) -> None:
    path, rules = owner(tmp_path)
    stranger, _ = owner(short_tmp)
    uri = "kbs:///default/signing-key/mine"
    async with tool_world(short_tmp) as world:
        world.kbs.behaviour.admin = rules
        for flags in (
            ("--register", uri),
            ("--register", uri, "--kbs", world.kbs.url),
            ("--register", "file:///x", "--kbs", world.kbs.url, "--auth-private-key", path),
            ("--register", uri, "--kbs", world.kbs.url, "--auth-private-key", stranger),
        ):
            done = await secret("keygen", *flags, cwd=tmp_path)
            assert (done.status, done.out) == (1, "")
    assert [found.name for found in tmp_path.iterdir()] == ["admin.pem"]
