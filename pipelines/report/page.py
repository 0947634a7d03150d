"""From finished stages to one HTML file without anything outside it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.accuracies import Setting
from pipelines.report.charts import class_chart, curves, interval_chart
from pipelines.report.episode import ShownEpisode
from pipelines.report.history import StageRecord
from pipelines.report.patches import MaskedView, PatchMatch

PROTOCOLS = {
    "method": "each method's own classifier",
    "prototype": "nearest class mean (cosine)",
    "nearest_mean": "nearest class mean (Euclidean)",
    "classifier": "cosine classifier trained on each support set",
    "ridge": "ridge regression",
    "logistic": "logistic regression",
}

ACROSS_CLASSES = {
    "±": "±: jackknife over classes",
    "≤": "≤: a bound from the classes' own accuracies, where every episode has all classes",
    "—": "—: cannot be told, some class is in every episode",
}
"""What the signs before an interval over classes mean."""


@dataclass
class Page:
    """What the page shows. Pieces that are missing become a sentence in `left_out`."""

    title: str
    summaries: Sequence[Mapping[str, Any]]
    stages: Mapping[str, StageRecord]
    episode: ShownEpisode | None = None
    masks: list[MaskedView] = field(default_factory=list)
    mask_model: str = ""
    match: PatchMatch | None = None
    match_model: str = ""
    match_class: str = ""
    left_out: list[str] = field(default_factory=list)

    def render(self) -> str:
        """Return the HTML."""
        environment = Environment(
            loader=PackageLoader("pipelines", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html.j2").render(
            page=self,
            evaluations=[evaluation(summary) for summary in self.summaries],
            trained=[trained(stage) for stage in self.stages.values() if stage.kind == "train"],
            manifest=manifest(self.stages),
            reproduce=reproduce(self.stages),
            made=time.strftime("%Y-%m-%d %H:%M"),
        )


def evaluation(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation in words, rows and charts."""
    results = summary["results"]
    settings = list(dict.fromkeys(_setting(entry) for entry in results))
    blocks = []
    for setting in settings:
        chosen = [entry for entry in results if _setting(entry) == setting]
        rows = [
            (e["model"], 100 * e["mean"], 100 * e["half_width"], _percent(e["class_half_width"]))
            for e in chosen
        ]
        blocks.append(
            {
                "setting": str(setting),
                "chance": 100 / setting.ways,
                "rows": rows,
                "at_most": [entry["class_at_most"] for entry in chosen],
                "chart": Markup(interval_chart(rows)),
                "differences": [d for d in summary["differences"] if _setting(d) == setting],
            }
        )
    whole = [entry for entry in results if entry["tasks"] == summary["tasks"]]
    best = max(whole, key=lambda entry: entry["mean"])  # a race drops others half-way
    per_class = {
        name: 100 * value
        for name, value in zip(summary["classes"], best["per_class"], strict=True)
        if value is not None
    }
    return {
        "protocol": protocol_words(summary),
        "blocks": blocks,
        "class_chart": Markup(class_chart(list(per_class), list(per_class.values()))),
        "class_chart_of": f"{best['model']}, {_setting(best)}",
        "split": summary["split"],
        "class_count": len(_asked(results)),
        "unasked": unasked_words(len(summary["classes"]) - len(per_class)),
        "across": across_words(results),
        "races": [race["words"] for race in summary.get("races", [])],
    }


def across_words(results: Sequence[Mapping[str, Any]]) -> str:
    """Say how the intervals over classes that are shown were made."""
    ways = {
        "—" if entry["class_half_width"] is None else "≤" if entry["class_at_most"] else "±"
        for entry in results
    }
    return "; ".join(words for sign, words in ACROSS_CLASSES.items() if sign in ways)


def unasked_words(classes: int) -> str:
    """Say why so many classes are not in the chart."""
    if not classes:
        return ""
    others = "1 class of the split is" if classes == 1 else f"{classes} classes of the split are"
    return f"{others} not shown: too few images for these episodes, or never drawn"


def protocol_words(summary: Mapping[str, Any]) -> str:
    """Say how the numbers were measured."""
    queries = (
        "all remaining images as queries (at most 600 per class)"
        if summary["queries"] == "all"
        else f"{summary['queries']} queries per class"
    )
    used = dict.fromkeys(entry["protocol"] for entry in summary["results"])
    protocols = " and ".join(PROTOCOLS.get(name, name) for name in used)
    return (
        f"{protocols[0].upper()}{protocols[1:]}; {queries}; "
        f"the same {summary['tasks']} episodes for every model (seed {summary['seed']}); "
        f"{summary['which']} checkpoint of each train stage"
    )


def trained(stage: StageRecord) -> dict[str, Any]:
    """Return a train stage's curves."""
    charts = [(title, Markup(svg)) for title, svg in curves(stage.series())]
    method = stage.config.get("method", {}).get("name", "")
    return {"label": stage.label, "method": method, "seconds": stage.seconds, "charts": charts}


def manifest(stages: Mapping[str, StageRecord]) -> list[dict[str, Any]]:
    """Return what made each stage."""
    return [
        {
            "label": stage.label,
            "kind": stage.kind,
            "key": stage.key,
            "directory": stage.path.name,
            "needs": ", ".join(stage.needs) or "nothing",
            "duration": duration(stage.seconds),
            "settings": yaml.safe_dump(stage.config, sort_keys=False, allow_unicode=True),
            "facts": facts(stage.provenance),
            "metrics": stage.result.get("metrics", {}),
        }
        for stage in stages.values()
    ]


def facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the provenance as name -> words."""
    if not provenance:
        return {}
    git, packages = provenance.get("git", {}), provenance.get("packages", {})
    state = git.get("commit") or "not a git checkout"
    found = {
        "code": state + (" with uncommitted changes" if git.get("dirty") else ""),
        "started": provenance.get("started", ""),
        "machine": f"{provenance.get('platform', '')}, {provenance.get('cpus', '?')} CPUs",
        "python": provenance.get("python", ""),
        "packages": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "seeds": json.dumps(provenance.get("seeds", {})),
    }
    return {name: str(value) for name, value in found.items() if value}


def reproduce(stages: Mapping[str, StageRecord]) -> list[str]:
    """Return the shell lines that make the same run again."""
    known = [stage.provenance for stage in stages.values() if stage.provenance]
    if not known:
        return []
    commit = known[-1].get("git", {}).get("commit")
    command = [str(part) for part in known[-1].get("command", [])]
    if command:
        command[0] = command[0].rpartition("/")[2]
    lines = [f"git checkout {commit}"] if commit else []
    return [*lines, shlex.join(command)]


def duration(seconds: float) -> str:
    """Return a time as a reader says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _setting(entry: Mapping[str, Any]) -> Setting:
    return Setting(entry["protocol"], entry["ways"], entry["shots"])


def _asked(results: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the classes that any episode asked for."""
    numbered = (enumerate(entry["per_class"]) for entry in results)
    return {number for values in numbered for number, value in values if value is not None}


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
