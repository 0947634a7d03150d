"""`fewshot`: the command line's root. It imports only the subcommand that was chosen.

Exit status: 0 done, 1 the command itself says no (damaged shards), 2 something the user can mend
(one message, no traceback), 130 interrupted. Bugs keep their traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from fsl.errors import FewShotError, did_you_mean

COMMANDS = {
    "run": ("pipelines.commands", "run a recipe's stages, skipping finished ones"),
    "shards": ("data_shards.commands", "write, index, check and describe WebDataset shards"),
    "methods": ("fsl.commands", "list methods, backbones and heads, or describe one"),
    "compare": ("pipelines.compare.commands", "say which of several finished runs is better"),
    "tune": ("tuning.commands", "search a recipe's hyper-parameters on a Ray cluster"),
}
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one subcommand, return the process's exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-") and argv[0] not in commands():
        near = did_you_mean(argv[0], commands())
        print(
            f"fewshot: unknown command {argv[0]!r}{near}; commands: {', '.join(commands())}",
            file=sys.stderr,
        )
        return 2
    try:
        args = _parse(argv)
    except SystemExit as end:  # argparse printed its message or the help
        return int(end.code or 0)
    try:
        status: int = args.main(args)
        sys.stdout.flush()
    except FewShotError as error:
        print(f"fewshot {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def commands() -> dict[str, tuple[str, str]]:
    """Return the commands that are installed."""
    return {name: entry for name, entry in COMMANDS.items() if _is_there(entry[0])}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fewshot",
        description="Few-shot vision models: pretrain, distil, evaluate and tune on Ray.",
        epilog="`fewshot COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in commands().items():
        sub = choices.add_parser(
            name,
            help=summary,
            description=summary[:1].upper() + summary[1:] + ".",
            allow_abbrev=False,
        )
        if argv[:1] == [name]:  # only the chosen one is imported: --help must not wait for torch
            command = importlib.import_module(module)
            command.add_arguments(sub)
            sub.set_defaults(main=command.main)
    args, rest = parser.parse_known_args(argv)
    # argparse refuses positional arguments after an option: `run recipe --check key=value`
    pairs = next((name for name in ("overrides", "settings", "runs") if hasattr(args, name)), "")
    if rest and (not pairs or any(item.startswith("-") for item in rest)):
        unknown = next((item for item in rest if item.startswith("-")), rest[0])
        choices.choices[args.command].error(f"unrecognized argument: {unknown}")
    if rest:
        setattr(args, pairs, [*getattr(args, pairs), *rest])
    return args


class _Version(argparse.Action):
    """Looks the version up only when asked: that takes longer than the rest of `--help`."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"fewshot {version('fewshot-ray')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
