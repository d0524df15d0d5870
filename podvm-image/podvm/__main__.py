"""The command line of the image build: `python -m podvm build|lock`."""

import argparse
import sys
from pathlib import Path
from typing import Final

from podvm import children
from podvm.boot import Machine, boot
from podvm.build import VARIANTS, Options, build, relock
from podvm.errors import ImageError
from podvm.places import OUTPUT

REPORT_DONE: Final = "PODVM-REPORT-DONE"
MARKS: Final = ("BdsDxe", "Welcome to", "Started attestation-agent.service", REPORT_DONE)


def main() -> int:
    """Do what is asked; 1 when it fails."""
    parser = argparse.ArgumentParser(prog="podvm", description="The pod VM image.")
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build a variant")
    builder.add_argument("--variant", choices=VARIANTS, default="production")
    builder.add_argument("--output", type=Path, default=OUTPUT)
    builder.add_argument("--binaries", type=Path, help="directory with kata-agent and the like")
    builder.add_argument(
        "--authorized-keys", type=Path, metavar="FILE", help="who may log in by ssh (debug only)"
    )
    commands.add_parser("lock", help="resolve packages.toml anew")
    booter = commands.add_parser("boot", help="boot the debug variant and show its report")
    booter.add_argument("--seconds", type=float, default=300.0, help="until it is killed")
    tester = commands.add_parser("image-test", help="boot the built images and assert S1 to S20")
    tester.add_argument(
        "--only",
        help="steps, by comma: variant,build,contents,tampered,cloud,disk,plain,production",
    )
    tester.add_argument("--seconds", type=float, default=600.0, help="until a boot is killed")
    words = parser.parse_args()
    try:
        if words.command == "lock":
            relock()
        elif words.command == "boot":
            return show(words.seconds)
        elif words.command == "image-test":
            return test(words.only, words.seconds)
        else:
            options = Options(
                variant=words.variant,
                output=words.output,
                binaries=words.binaries,
                authorized_keys=words.authorized_keys,
            )
            print(build(options))
    except ImageError as error:
        print(f"podvm: {error}", file=sys.stderr)
        return 1
    return 0


def test(only: str | None, seconds: float) -> int:
    """Run the smoke test, or some of its steps.

    Raises:
        ImageError: no such step, or something is missing.
    """
    from podvm.smoke.run import STEPS, image_test

    steps = only.split(",") if only else STEPS
    if unknown := set(steps) - set(STEPS):
        raise ImageError(f"no step {', '.join(sorted(unknown))}")
    return image_test(steps, seconds=seconds)


def show(seconds: float) -> int:
    """Boot the debug variant, print what its report says; 1 when it did not come."""
    directory = OUTPUT / "debug"
    machine = Machine(disk=directory / "podvm.raw", serial=directory / "serial.log", memory=1536)
    outcome = children.run_until_signal(
        children.in_thread(
            lambda stop: boot(machine, deadline=seconds, marks=MARKS, until=REPORT_DONE, stop=stop)
        )
    )
    print(machine.serial.read_text("utf-8", "replace"))
    for mark, after in outcome.seen.items():
        print(f"{after:7.1f} s  {mark}")
    return 0 if REPORT_DONE in outcome.seen else 1


if __name__ == "__main__":
    sys.exit(main())
