"""`fewshot compare RUN RUN ...`: tables, pictures and sentences about finished runs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import PurePosixPath

from fsl.errors import ConfigError, did_you_mean
from pipelines.compare import compare

SUFFIXES = (".html", ".png", ".md", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directories (runs/NAME), or directories of evaluate or classify stages",
    )
    parser.add_argument("--ways", type=_numbers, default=(), help="only these, e.g. 5 or 5,20")
    parser.add_argument("--shots", type=_numbers, default=(), help="only these, e.g. 1 or 1,5")
    parser.add_argument(
        "--labels", type=_words, default=(), help="only these models, e.g. distill,pixels"
    )
    parser.add_argument(
        "--protocol", type=_words, default=(), help="only these, e.g. method or prototype"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="hold the others against this method, not the best"
    )
    parser.add_argument(
        "--by",
        choices=["method", "seed"],
        default="method",
        help="average runs that differ in their seed (method), or show each (seed)",
    )
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write {', '.join(SUFFIXES)}; may be given several times",
    )


def main(args: argparse.Namespace) -> int:
    """Compare, print, and write the files asked for."""
    for name in args.out:
        _check_suffix(name)
    comparison = compare(
        args.runs,
        ways=args.ways,
        shots=args.shots,
        labels=args.labels,
        protocols=args.protocol,
        baseline=args.baseline,
        by=args.by,
    )
    # pyarrow, torch and matplotlib are not imported for --help
    from data_shards.location import Location  # noqa: PLC0415
    from pipelines.compare.files import write  # noqa: PLC0415
    from pipelines.compare.table import text  # noqa: PLC0415

    print(text(comparison, min(120, shutil.get_terminal_size().columns)))
    for name in args.out:
        write(comparison, Location.parse(name))
        print(f"written: {name}", file=sys.stderr)
    return 0


def _check_suffix(name: str) -> None:
    path = name.partition("?")[0] if "://" in name else name
    suffix = PurePosixPath(path).suffix
    if suffix not in SUFFIXES:
        near = did_you_mean(suffix, SUFFIXES)
        raise ConfigError(f"--out {name}: the name must end in {', '.join(SUFFIXES)}{near}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,5") from None


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
