"""`fewshot run RECIPE [section.key=value ...] [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from fsl.config import load_recipe
from pipelines.credentials import without_credentials
from pipelines.quiet import configure_logging, prepare_environment, release_logging
from pipelines.runner import PipelineConfig, StageEvent, plan, run_planned
from pipelines.stage import PlannedStage, StageResult

SHOWN_METRICS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", type=Path, help="YAML file, e.g. recipes/smoke.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings to change, e.g. stages.distill.optim.epochs=5 or run_dir=/data/runs",
    )
    parser.add_argument(
        "--check", action="store_true", help="validate everything, print the plan, run nothing"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also print all settings, as YAML"
    )


def main(args: argparse.Namespace) -> int:
    """Run the recipe, or check it."""
    prepare_environment()
    config = load(args.recipe, args.overrides)
    planned = plan(config)
    if args.verbose:
        print(as_yaml(config))
    if args.check:
        print(table(planned))
        return 0
    log = configure_logging(config.root)
    try:
        _note(f"{args.recipe} -> {config.root}")
        _note(f"logs of libraries: {log}")
        results = run_planned(config, planned, Progress(planned))
    finally:
        release_logging()
    for result in results.values():
        page = result.path / "report.html"
        if result.gives == "report" and page.exists():
            print(f"report: {page}")
    return 0


def load(recipe: Path, overrides: Sequence[str]) -> PipelineConfig:
    """Return the recipe's settings; without a `name` the run is called like the file."""
    config = load_recipe(recipe, PipelineConfig, overrides)
    if "name" not in config.model_fields_set:
        config = config.model_copy(update={"name": recipe.stem})
    return config


class Progress:
    """Prints one line per stage: what begins to stderr, what came out of it to stdout."""

    def __init__(self, planned: Mapping[str, PlannedStage]) -> None:
        self.width = max(len(label) for label in planned)

    def __call__(self, event: StageEvent) -> None:
        """Print the line of one event."""
        label = f"{event.stage.label:<{self.width}}"
        if event.state in ("started", "continued"):
            verb = "starts" if event.state == "started" else "continues where it was interrupted"
            _note(f"{label}  {verb}")
        elif event.state == "waiting":
            _note(f"{label}  waits for another run that is at work on it")
        elif event.state in ("failed", "stopped"):
            _note(f"{label}  {event.state} after {duration(event.seconds)}")
        elif event.result is not None:
            state = (
                f"skipped, done {event.stage.finished}"
                if event.state == "skipped"
                else f"done in {duration(event.seconds)}"
            )
            parts = [label, state, metrics_text(event.result), str(event.result.path)]
            print("  ".join(part for part in parts if part), flush=True)


def table(planned: Mapping[str, PlannedStage]) -> str:
    """Return the plan as aligned columns: stage, kind, key, state, directory."""
    states = {"done": "done {}", "continue": "continue", "run": "run"}
    rows = [("stage", "kind", "key", "state", "directory")]
    for item in planned.values():
        state = states[item.state].format(item.finished)
        rows.append((item.label, item.config.kind, item.key[:12], state, str(item.path)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def metrics_text(result: StageResult) -> str:
    """Return the first numbers of a stage; the rest are in its result.json."""
    shown = list(result.metrics.items())[:SHOWN_METRICS]
    return " ".join(f"{name}={_short(value)}" for name, value in shown)


def _short(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return "4.2 s", "3 min 5 s" or "2 h 7 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def as_yaml(config: PipelineConfig) -> str:
    """Return every setting but credentials, defaults included, as a recipe."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return without_credentials(text)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
