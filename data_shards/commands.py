"""`fewshot shards write|index|check|describe`."""

from __future__ import annotations

import argparse
import logging

from data_shards.check import check_shards
from data_shards.describe import describe, write_contact_sheet
from data_shards.features import FeatureSet
from data_shards.foreign import index_foreign
from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, ShardSet
from data_shards.sources import SOURCES
from data_shards.writer import write_shards
from fsl.config import build, parse_overrides
from fsl.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_write(actions.add_parser("write", help="pack the images of a source into shards"))

    index = actions.add_parser("index", help="make an index for tars that others wrote")
    index.add_argument("directory", help="directory with a sub-directory of tars per split")
    index.add_argument(
        "--split", default="base", help="split of tars directly in the directory (%(default)s)"
    )
    index.set_defaults(action_main=_index)

    check = actions.add_parser("check", help="read every byte and report every damage")
    check.add_argument("directory", help="shard set: a directory or an s3:// address")
    check.add_argument("--fast", action="store_true", help="checksums only, decode no image")
    check.add_argument("--quiet", action="store_true", help="no progress bar")
    check.set_defaults(action_main=_check)

    show = actions.add_parser("describe", help="print what shards or feature tables hold")
    show.add_argument(
        "directory", help="shard set or feature tables: a directory or an s3:// address"
    )
    show.add_argument("--picture", metavar="FILE", help="also write a contact sheet (PNG)")
    show.add_argument("--seed", type=int, default=0, help="which images the sheet shows")
    show.set_defaults(action_main=_describe)


def main(args: argparse.Namespace) -> int:
    """Run one subcommand."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    status: int = args.action_main(args)
    return status


def _add_write(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="folder, csv, domains, omniglot, cifar, svhn, flowers102, strokes, compositions, "
        "a plug-in's …",
    )
    parser.add_argument("destination", help="directory or s3:// address")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of the source, e.g. size=28"
    )
    parser.add_argument(
        "--shard-mb", type=float, default=128, help="largest shard in MB (%(default)s)"
    )
    parser.add_argument(
        "--max-samples", type=int, default=2000, help="most images per shard (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished shard set")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action_main=_write)


def _write(args: argparse.Namespace) -> int:
    config_class = SOURCES.get(args.source).Config
    tree = {"name": args.source}
    config = build(config_class, tree, parse_overrides(args.settings), origin=args.source)
    shard_set = write_shards(
        config,
        Location.parse(args.destination),
        shard_mb=args.shard_mb,
        max_samples=args.max_samples,
        seed=args.seed,
        progress=not args.quiet,
        overwrite=args.overwrite,
    )
    print(describe(shard_set))
    return 0


def _index(args: argparse.Namespace) -> int:
    print(describe(index_foreign(Location.parse(args.directory), args.split)))
    return 0


def _check(args: argparse.Namespace) -> int:
    place = Location.parse(args.directory)
    report = check_shards(place, deep=not args.fast, progress=not args.quiet)
    print(report)
    return 0 if report.ok else 1


def _describe(args: argparse.Namespace) -> int:
    place = Location.parse(args.directory)
    if _holds_features(place):
        return _describe_features(place, args.picture)
    shard_set = ShardSet.open(place)
    print(describe(shard_set))
    if args.picture:
        write_contact_sheet(shard_set, Location.parse(args.picture), args.seed)
        print(f"contact sheet: {args.picture}")
    return 0


def _describe_features(place: Location, picture: str | None) -> int:
    if picture:
        raise ConfigError(
            f"--picture: {place} holds feature vectors and no images to draw; leave it out, or "
            "name the shard set they were computed from"
        )
    print(FeatureSet.open(place).describe())
    return 0


def _holds_features(place: Location) -> bool:
    """Return whether there are tables and, beside them, no index of shards."""
    if not place.is_dir() or (place / INDEX_NAME).exists():
        return False
    return any(file.name.endswith(".parquet") for file in place.list())
