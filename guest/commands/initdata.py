"""`guest initdata ...`: the document that an owner hands over at launch, made and looked at.

Source: docs/spec/attestation-agent.md 6; docs/spec/podvm-image.md 5.5 and 5.7.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import unified_diff
from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

from guest.commands.initdata_files import Form, load, read_text, save
from guest.crypto.digest import HashAlgorithm
from guest.errors import ConfigError, DecodeError, GuestError
from guest.initdata import InitData, fit
from guest.initdata_budget import CHANNELS, Budget, budgets
from guest.initdata_build import ALGORITHMS, VERSION, build
from guest.initdata_form import pack
from guest.wire import encode_base64

KNOWN: Final = ("aa.toml", "cdh.toml", "policy.rego")
"""What a guest reads; other names are carried and read by nobody."""

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")

DIFFERENT: Final = 1
TROUBLE: Final = 2

EXAMPLES: Final = """\
FILE is a document, its annotation form (base64 of gzip), a block device image of it, or - for
standard input. Examples:
  guest initdata build --aa aa.toml --cdh cdh.toml --policy policy.rego -o initdata.toml
  guest initdata build --aa aa.toml --form annotation --for alibaba
  guest initdata digest initdata.toml --as tdx
  guest initdata inspect annotation.txt
  guest initdata diff old.toml new.toml
Exit status: 0 done, 1 a failure, 2 a wrong command line; diff: 0 same, 1 different, 2 trouble."""


def _pcr(digest: bytes) -> str:
    return sha256(bytes(32) + fit(digest, 32)).hexdigest()


def _rtmr(digest: bytes) -> str:
    return sha384(bytes(48) + fit(digest, 48)).hexdigest()


FIELDS: Final[Mapping[str, tuple[str, Callable[[bytes], str]]]] = {
    "hex": ("the digest", bytes.hex),
    "base64": ("for attestation-agent --initdata-digest", encode_base64),
    "tdx": ("MRCONFIGID", lambda digest: fit(digest, 48).hex()),
    "snp": ("HOST_DATA", lambda digest: fit(digest, 32).hex()),
    "cca": ("personalisation value", lambda digest: fit(digest, 64).hex()),
    "sgx": ("CONFIGID", lambda digest: fit(digest, 64).hex()),
    "pcr8": ("PCR 8, SHA-256 bank, of a pod VM", _pcr),
    "rtmr3": ("RTMR 3, extended once", _rtmr),
}
"""Where a digest shows up: name to meaning and value."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `initdata` and what is below it."""
    parser = commands.add_parser(
        "initdata",
        allow_abbrev=False,
        help="build and inspect init data",
        description="Init data: the configuration and policy that a guest is launched with.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_inspect(actions)
    _add_digest(actions)
    differ = _action(actions, "diff", "what differs between two documents", _diff)
    differ.add_argument("first", metavar="FILE")
    differ.add_argument("second", metavar="FILE")


def run(options: argparse.Namespace) -> int:
    """Do what was parsed; exit status 0, 1 or 2."""
    action: Callable[[argparse.Namespace], int] = options.run_action
    try:
        return action(options)
    except GuestError as error:
        sys.stderr.write(f"guest initdata {options.action}: {': '.join(error.causes())}\n")
        return TROUBLE if action is _diff else 1


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    action: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        allow_abbrev=False,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run_action=action)
    return parser


def _add_build(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _action(actions, "build", "make a document from files", _build)
    parser.add_argument("--aa", metavar="PATH", help="aa.toml: the attestation agent's")
    parser.add_argument("--cdh", metavar="PATH", help="cdh.toml: the data hub's")
    parser.add_argument("--policy", metavar="PATH", help="policy.rego: kata-agent's")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="another file, or one of those by name; may be repeated",
    )
    parser.add_argument(
        "-a",
        "--algorithm",
        choices=[algorithm.value for algorithm in ALGORITHMS],
        default=HashAlgorithm.SHA384.value,
        help="of the digest (default: %(default)s; vTPM guests need sha256, CCA sha512)",
    )
    parser.add_argument(
        "--form",
        choices=[form.value for form in Form],
        default=Form.TOML.value,
        help="what is written (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", default="-", metavar="PATH", help="where to")
    _add_channel(parser)


def _add_inspect(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _action(actions, "inspect", "say what a document holds, and what room it takes", _show)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--extract", metavar="NAME", help="print one of its files and nothing else")
    _add_channel(parser)


def _add_digest(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _action(actions, "digest", "print a document's digest", _digest)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--as",
        dest="field",
        choices=[*FIELDS, "all"],
        default="hex",
        help="in hexadecimal, in base64, or as a TEE's field or register holds it (default: hex)",
    )


def _add_channel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        dest="channels",
        action="append",
        choices=[channel.name for channel in CHANNELS],
        default=[],
        help="fail if it does not fit there; may be repeated",
    )


def _build(options: argparse.Namespace) -> int:
    named = {"aa.toml": options.aa, "cdh.toml": options.cdh, "policy.rego": options.policy}
    paths = {name: path for name, path in named.items() if path is not None}
    for text in options.file:
        name, mark, path = text.partition("=")
        if not (name and mark and path) or name in paths:
            raise ConfigError(f"--file {text}: expected NAME=PATH with a new name")
        paths[name] = path
    if not paths:
        raise ConfigError("no file is given")
    files = {name: read_text(path) for name, path in paths.items()}
    try:
        document = build(HashAlgorithm(options.algorithm), files)
    except DecodeError as error:
        raise ConfigError("these files cannot be made into init data") from error
    _verify_toml(document)
    _warn(document)
    _verify_budget(document, options.channels)
    save(document, Form(options.form), options.output)
    return 0


def _show(options: argparse.Namespace) -> int:
    document = load(options.file)
    if options.extract is not None:
        if options.extract not in document.data:
            raise ConfigError(f"{options.file} holds no {options.extract}")
        sys.stdout.write(document.data[options.extract])
        return 0
    if options.json:
        sys.stdout.write(json.dumps(_summary(document), indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(document)))
    _warn(document)
    _verify_budget(document, options.channels)
    return 0


def _digest(options: argparse.Namespace) -> int:
    value = load(options.file).digest().value
    if options.field == "all":
        for name, (meaning, field) in FIELDS.items():
            sys.stdout.write(f"{name:<7} {field(value)}  {meaning}\n")
        return 0
    sys.stdout.write(f"{FIELDS[options.field][1](value)}\n")
    return 0


def _diff(options: argparse.Namespace) -> int:
    first, second = load(options.first), load(options.second)
    if first.content == second.content:
        return 0
    sys.stdout.write("".join(_differences(first, second)))
    return DIFFERENT


def _differences(first: InitData, second: InitData) -> Iterator[str]:
    for name, old, new in (
        ("digest", str(first.digest()), str(second.digest())),
        ("version", _printable(first.version), _printable(second.version)),
        ("algorithm", first.algorithm.value, second.algorithm.value),
    ):
        if old != new:
            yield f"{name}: {old} -> {new}\n"
    if first.data == second.data:
        yield "the files are the same; only their spelling in the document differs\n"
    for name in sorted(first.data.keys() | second.data.keys()):
        yield from _file_differences(name, first.data.get(name), second.data.get(name))


def _file_differences(name: str, old: str | None, new: str | None) -> Iterator[str]:
    shown = _printable(name)
    if old is None or new is None:
        yield f"only in the {'second' if old is None else 'first'}: {shown}\n"
    for line in unified_diff(
        _LINE.findall(old or ""),
        _LINE.findall(new or ""),
        fromfile="/dev/null" if old is None else f"a/{shown}",
        tofile="/dev/null" if new is None else f"b/{shown}",
    ):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _summary(document: InitData) -> dict[str, object]:
    value = document.digest().value
    return {
        "version": document.version,
        "algorithm": document.algorithm.value,
        "digest": {name: field(value) for name, (_, field) in FIELDS.items()},
        "bytes": len(document.content),
        "packed": len(pack(document.content)),
        "files": {name: len(text.encode()) for name, text in document.data.items()},
        "budget": {
            found.channel.name: {"used": found.used, "room": found.room, "fits": found.is_kept}
            for found in budgets(document.content)
        },
    }


def _lines(document: InitData) -> Iterator[str]:
    yield f"version    {_printable(document.version)}"
    yield f"digest     {document.digest()}"
    yield f"size       {len(document.content)} bytes, packed {len(pack(document.content))}"
    for name, text in document.data.items():
        yield f"file       {_printable(name)}, {len(text.encode())} bytes"
    for found in budgets(document.content):
        yield f"budget     {_told(found)}"


def _printable(text: str) -> str:
    """A document's own words on a terminal: nothing that would steer it."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])


def _told(found: Budget) -> str:
    verdict = "fits" if found.is_kept else "DOES NOT FIT"
    return f"{found.channel.name:<10} {found.used:>7} of {found.room} bytes, {verdict}"


def _verify_budget(document: InitData, channels: list[str]) -> None:
    for found in budgets(document.content):
        if found.channel.name in channels and not found.is_kept:
            raise ConfigError(f"does not fit: {_told(found)}")


def _verify_toml(document: InitData) -> None:
    """A slip in a configuration is found here, not by a guest that does not start."""
    import tomllib

    for name, text in document.data.items():
        if Path(name).suffix == ".toml":
            try:
                tomllib.loads(text)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{name} is not TOML: {error}") from error


def _warn(document: InitData) -> None:
    for name in document.data:
        if name not in KNOWN:
            sys.stderr.write(f"warning: {_printable(name)}: no guest reads a file of this name\n")
    if document.version != VERSION:
        sys.stderr.write(
            f"warning: version {_printable(document.version)}: kata takes {VERSION} only\n"
        )
    if document.algorithm not in ALGORITHMS:
        sys.stderr.write(f"warning: algorithm {document.algorithm}: kata does not take it\n")
