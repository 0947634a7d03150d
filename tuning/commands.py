"""`fewshot tune STUDY [key=value ...] [--check | --report | --dashboard]`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuning.config import StudyConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="YAML file, e.g. recipes/studies/smoke.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings to change, e.g. budget.trials=40 or study_dir=/data/studies/mine",
    )
    does = parser.add_mutually_exclusive_group()
    does.add_argument(
        "--check", action="store_true", help="validate everything, print what is searched"
    )
    does.add_argument(
        "--report", action="store_true", help="write the report of what there is, run nothing"
    )
    does.add_argument(
        "--dashboard", action="store_true", help="show the study in optuna-dashboard (an extra)"
    )
    parser.add_argument("--port", type=int, default=8080, help="of --dashboard, on 127.0.0.1")


def main(args: argparse.Namespace) -> int:
    """Search, or show what was found."""
    from pipelines.quiet import (  # noqa: PLC0415 - not for --help
        configure_logging,
        prepare_environment,
        release_logging,
    )
    from tuning.config import load_study  # noqa: PLC0415

    prepare_environment()
    config = load_study(args.study, args.overrides)
    if args.check:
        return _check(config)
    if args.report:
        return _report(config)
    if args.dashboard:
        from tuning.dashboard import serve  # noqa: PLC0415

        serve(config.root, args.port)
        return 0
    from tuning.space import build_space  # noqa: PLC0415

    space = build_space(config)
    log = configure_logging(config.root)
    try:
        print(f"{args.study} -> {config.root}", file=sys.stderr)
        print(f"logs of libraries: {log}", file=sys.stderr)
        from tuning.study import run_study  # noqa: PLC0415

        print(run_study(config, space, _width()))
    finally:
        release_logging()
    return 0


def _check(config: StudyConfig) -> int:
    from tuning.finalists import check_finalists  # noqa: PLC0415
    from tuning.space import build_space, describe  # noqa: PLC0415

    space = build_space(config)
    space.check_plans()
    check_finalists(space, config)
    print(describe(space))
    return 0


def _report(config: StudyConfig) -> int:
    from tuning.report.page import write_report  # noqa: PLC0415

    print(f"report: {write_report(config.root)}")
    return 0


def _width() -> int:
    return min(120, shutil.get_terminal_size().columns)
