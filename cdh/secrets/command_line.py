"""The command line of `secret`.

Source: docs/spec/confidential-data-hub.md 1.5.
"""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

PROGRAM: Final = "secret"

EPILOG: Final = """\
examples:
  secret keygen --kid sealed-signing
  secret seal --signing-kid kbs:///default/signing-key/app \\
      --signing-jwk-path sealed-signing-private.json \\
      vault --resource-uri kbs:///default/app/password --provider kbs
  secret seal --signing-kid kbs:///default/signing-key/app \\
      --signing-jwk-path sealed-signing-private.json \\
      vault --resource-uri app/password --provider aws \\
      --provider-settings '{"region":"us-east-1"}' -f password -c credential.json
  secret unseal --file-path password.sealed --aa-kbc-params cc_kbc::https://kbs.example:8080
  secret verify --file-path password.sealed --jwk-path sealed-signing-public.json

exit status: 0 done, 1 failed, 2 wrong command line
"""

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def make_parser() -> argparse.ArgumentParser:
    """The whole of it."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Seal secrets for confidential guests, open them, make keys for them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_seal(commands)
    _add_unseal(commands)
    _add_keygen(commands)
    inspect = commands.add_parser("inspect", help="print what a sealed secret says, unverified")
    inspect.add_argument("-f", "--file-path", type=Path, required=True, help="sealed secret")
    verify = commands.add_parser("verify", help="check the signature of a sealed secret")
    verify.add_argument("-f", "--file-path", type=Path, required=True, help="sealed secret")
    verify.add_argument("--jwk-path", type=Path, required=True, help="public key of its signer")
    return parser


def _add_keygen(commands: _Commands) -> None:
    keygen = commands.add_parser("keygen", help="make a signing key")
    keygen.add_argument(
        "--kid", default="sealed-signing", help="key id, a file name (default: %(default)s)"
    )
    keygen.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="gets <kid>-private.json and <kid>-public.json (default: here)",
    )
    keygen.add_argument(
        "--register",
        metavar="URI",
        help="store the public key in the KBS too, under kbs:///repo/type/tag; without success no "
        "file is left",
    )
    keygen.add_argument("--kbs", metavar="URL", help="with --register: base URL of the KBS")
    keygen.add_argument(
        "--auth-private-key",
        type=Path,
        metavar="PATH",
        help="with --register: Ed25519 private key (PKCS#8 PEM) of an administrator of the KBS",
    )
    keygen.add_argument(
        "--kbs-cert", type=Path, metavar="PATH", help="PEM file of the KBS's authority"
    )
    for claim in ("role", "issuer", "audience"):
        keygen.add_argument(f"--{claim}", help=f"claim {claim} of the admin token")


def _add_seal(commands: _Commands) -> None:
    parser = commands.add_parser("seal", help="print a new sealed secret")
    parser.add_argument(
        "--signing-kid",
        required=True,
        help="where guests find the public key: kbs:///repo/type/tag, or a file name",
    )
    parser.add_argument(
        "--signing-jwk-path", type=Path, required=True, help="private P-256 key as JWK"
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_envelope(kinds)
    vault = kinds.add_parser("vault", help="point to a secret that a provider keeps")
    vault.add_argument("-r", "--resource-uri", required=True, metavar="NAME", help="of the secret")
    vault.add_argument("-p", "--provider", required=True, help="kbs, aliyun or aws")
    vault.add_argument("--provider-settings", default="{}", metavar="JSON", help="for the provider")
    vault.add_argument("-a", "--annotations", default="{}", metavar="JSON", help="for the provider")
    vault.add_argument(
        "-f",
        "--file-path",
        type=Path,
        help="the plaintext: hand it to the provider first, as a new secret or a new version "
        "(aws alone; /dev/stdin for a pipe)",
    )
    vault.add_argument(
        "-c",
        "--credential-file-path",
        type=Path,
        help="with --file-path: the owner's credential.json",
    )


def _add_envelope(kinds: _Commands) -> None:
    envelope = kinds.add_parser("envelope", help="encrypt a secret with a key of a KMS")
    envelope.add_argument("-k", "--key-id", required=True, help="the KMS's key")
    envelope.add_argument("-f", "--file-path", type=Path, required=True, help="the plaintext")
    services = envelope.add_subparsers(dest="kms", required=True, metavar="KMS")
    ali = services.add_parser("ali", help="Alibaba Cloud KMS instance")
    ali.add_argument("-p", "--password-file-path", type=Path, required=True)
    ali.add_argument("--cert-path", type=Path, required=True)
    ali.add_argument("-k", "--kms-instance-id", required=True)
    ali.add_argument("--client-key-file-path", type=Path, required=True)
    aws = services.add_parser("aws", help="AWS KMS")
    aws.add_argument("-r", "--region", required=True)
    aws.add_argument("-c", "--credential-file-path", type=Path, required=True)
    ehsm = services.add_parser("ehsm", help="Intel eHSM-KMS")
    ehsm.add_argument("-c", "--credential-file-path", type=Path, required=True)
    ehsm.add_argument("-e", "--endpoint", required=True)


def _add_unseal(commands: _Commands) -> None:
    parser = commands.add_parser(
        "unseal", help="write the plaintext to <file>.unsealed", allow_abbrev=False
    )
    parser.add_argument("-f", "--file-path", type=Path, required=True, help="sealed secret")
    parser.add_argument(
        "-k",
        "--key-path",
        type=Path,
        metavar="DIR",
        help="credentials of the KMS; needed unless the provider is kbs",
    )
    parser.add_argument(
        "-a",
        "--aa-kbc-params",
        metavar="KBC::URL",
        help="where resources come from (cc_kbc::<url of the KBS> through the agent at AA_SOCKET, "
        "or offline_fs_kbc::); needed for provider kbs unless AA_KBC_PARAMS is set",
    )
    parser.add_argument(
        "-s", "--skip-verification", action="store_true", help="do not check the signature"
    )
